#!/bin/sh
# @FILE@: a self-extracting Python @PYTHON@ with the lab's stand-in conda.
# It keeps the contract of Miniconda's installers, so that what installs the one installs the other.
# What follows the last line of this script is a gzipped tar archive.
set -eu

VERSION=@VERSION@
SHA256=@SHA256@
SIZE_KB=@SIZE_KB@
HEADER_BYTES=@HEADER_BYTES@
GLIBC_MINOR=@GLIBC_MINOR@
THIS=$0

die() {
    printf 'ERROR: %s\n' "$1" >&2
    exit 1
}

usage() {
    cat <<EOF
usage: $THIS [options]

Installs Labconda3 $VERSION, which is the lab's stand-in for Miniconda3.

-b           run in batch mode: no questions
-f           no error if the prefix already exists: reinstall on top of it
-h           print this message and exit with 2
-k           keep the package cache folder
-m           accepted, without effect: there are no shortcuts
-p PREFIX    install prefix, by default $PREFIX; must not contain spaces
-s           accepted, without effect: there are no pre- and post-install scripts
-u           update an existing installation; the same as -f
EOF
}

BATCH=0
FORCE=0
KEEP_PKGS=0
PREFIX=${HOME:-/opt}/labconda3
while getopts bfhkmp:su option; do
    case $option in
        b) BATCH=1 ;;
        f | u) FORCE=1 ;;
        h) usage; exit 2 ;;
        k) KEEP_PKGS=1 ;;
        p) PREFIX=$OPTARG ;;
        m | s) ;;
        *) printf "ERROR: did not recognize an option, please try -h\n" >&2; exit 1 ;;
    esac
done

unset LD_LIBRARY_PATH LD_PRELOAD LD_AUDIT PYTHONHOME PYTHONPATH CONDARC MAMBARC 2>/dev/null || :
case $(uname -s -m) in
    "Linux x86_64") ;;
    *) die "this installer is for Linux on x86_64, and this is $(uname -s -m)" ;;
esac
glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null || :)
case $glibc in
    "glibc 2."*)
        minor=${glibc#glibc 2.}
        [ "${minor%%.*}" -ge "$GLIBC_MINOR" ] || die "needs glibc 2.$GLIBC_MINOR, and this is $glibc"
        ;;
esac

if [ "$BATCH" = 0 ]; then
    printf '\nLabconda3 %s will now be installed into this location:\n%s\n' "$VERSION" "$PREFIX"
    printf '\n  - Press ENTER to confirm the location\n  - Or specify a different location below\n\n[%s] >>> ' "$PREFIX"
    read -r answer || die "no answer; use -b to install without questions"
    PREFIX=${answer:-$PREFIX}
fi
case $PREFIX in
    *[[:space:]]*) die "Cannot install into directories with spaces: '$PREFIX'" ;;
esac
if [ "$FORCE" = 0 ] && [ -e "$PREFIX" ]; then
    printf "ERROR: File or directory already exists: '%s'\n" "$PREFIX" >&2
    printf "If you want to update an existing installation, use the -u option.\n" >&2
    exit 1
fi

payload() {
    tail -c +$((HEADER_BYTES + 1)) "$THIS"
}

found=$(payload | sha256sum)
[ "${found%% *}" = "$SHA256" ] || die "$THIS is damaged: the sha256 of its payload is ${found%% *}, not $SHA256"

mkdir -p "$PREFIX" || die "could not create directory: '$PREFIX'"
PREFIX=$(cd "$PREFIX" && pwd)
printf 'PREFIX=%s\n' "$PREFIX"
# The columns of df -P are filesystem, blocks, used, available.
# shellcheck disable=SC2046
set -- $(df -Pk "$PREFIX" | tail -n 1)
if [ "$4" -lt "$SIZE_KB" ]; then
    rmdir "$PREFIX" 2>/dev/null || :
    die "'$PREFIX' has $4 KB free, and $SIZE_KB KB are needed"
fi

printf 'Unpacking payload ...\n'
payload | gzip -dc | tar -xf - -C "$PREFIX" --no-same-owner || die "could not unpack into '$PREFIX'"
printf 'Installing base environment...\n'
"$PREFIX/bin/python" -I -S -B "$PREFIX/install_tmp/finish.py" "$PREFIX" "$THIS" || die "could not install into '$PREFIX'"
if [ "$KEEP_PKGS" = 1 ]; then
    mkdir -p "$PREFIX/pkgs"
    touch "$PREFIX/pkgs/urls.txt"
fi
[ "$(id -u)" = 0 ] || touch "$PREFIX/.nonadmin"
printf 'installation finished.\n'
exit 0
