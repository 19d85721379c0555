# Source this in a POSIX shell: it defines the function `conda`, which can change the shell's own environment.
export CONDA_EXE='@PREFIX@/bin/conda'
export CONDA_PYTHON_EXE='@PREFIX@/bin/python'

__conda_in_shell() {
    __conda_code=$(PS1="${PS1-}" "$CONDA_EXE" shell.posix "$@") || return
    eval "$__conda_code"
    unset __conda_code
}

conda() {
    case ${1-} in
        activate | deactivate)
            __conda_in_shell "$@"
            ;;
        install | update | upgrade | remove | uninstall)
            "$CONDA_EXE" "$@" || return
            [ "${CONDA_SHLVL:-0}" = 0 ] || __conda_in_shell reactivate
            ;;
        *)
            "$CONDA_EXE" "$@"
            ;;
    esac
}

if [ -z "${CONDA_SHLVL+x}" ]; then
    export CONDA_SHLVL=0
    export PATH="@PREFIX@/condabin:${PATH-}"
fi
