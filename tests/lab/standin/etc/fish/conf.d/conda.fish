# Source this in fish: it defines the function `conda`, which can change the shell's own environment.
set -gx CONDA_EXE '@PREFIX@/bin/conda'
set -gx CONDA_PYTHON_EXE '@PREFIX@/bin/python'

function conda --inherit-variable CONDA_EXE
    switch "$argv[1]"
        case activate deactivate
            set -l code ($CONDA_EXE shell.fish $argv)
            or return
            eval $code
        case install update upgrade remove uninstall
            $CONDA_EXE $argv
            and eval ($CONDA_EXE shell.fish reactivate)
        case '*'
            $CONDA_EXE $argv
    end
end

if not set -q CONDA_SHLVL
    set -gx CONDA_SHLVL 0
    set -gx PATH '@PREFIX@/condabin' $PATH
end
