# Source this in tcsh, once: it makes `conda` an alias that sources this file again, with what the user wants.
if ("`alias conda`" == "") then
    setenv CONDA_EXE '@PREFIX@/bin/conda'
    setenv CONDA_PYTHON_EXE '@PREFIX@/bin/python'
    alias conda 'source @PREFIX@/etc/profile.d/conda.csh'
    setenv CONDA_SHLVL 0
    if (! $?prompt) set prompt=""
else
    switch ("${1}")
    case "activate":
    case "deactivate":
        set conda_code="`(setenv prompt '${prompt}'; '${CONDA_EXE}' shell.csh ${argv:q})`"
        set conda_status=$status
        if ($conda_status != 0) exit $conda_status
        eval "${conda_code}"
        rehash
        breaksw
    case "install":
    case "update":
    case "upgrade":
    case "remove":
    case "uninstall":
        $CONDA_EXE $argv:q
        if ($status != 0) exit $status
        set conda_code="`(setenv prompt '${prompt}'; '${CONDA_EXE}' shell.csh reactivate)`"
        eval "${conda_code}"
        rehash
        breaksw
    default:
        $CONDA_EXE $argv:q
        breaksw
    endsw
endif
