#!/bin/sh
# Look for what pip cannot install. libp2p pins fastecdsa, which has no wheel: it compiles against GMP, so a C compiler, the
# Python headers and gmp.h must be there. What is missing is installed with apt-get if we are root; else, and if that did not
# help, one line says what to run. Nothing asks for a password.
# Usage: prerequisites.sh PYTHON
set -u
python=$1

fail() {
    echo "p2pfl: error: $1" >&2
    echo "p2pfl: hint: $2" >&2
    exit 1
}

ask() { "$python" -c "import sys, sysconfig; print($1)"; }

# shellcheck disable=SC2086 # each of the three may hold several words
compiles() { printf '#include <%s>\n' "$1" | $compiler ${CPPFLAGS:-} ${CFLAGS:-} -E - >/dev/null 2>&1; }

# The Debian packages that lack, each with a space before it. The compiler is the one that this Python builds extensions with.
missing() {
    compiler=${CC:-$(ask 'sysconfig.get_config_var("CC") or "cc"')}
    command -v "${compiler%% *}" >/dev/null 2>&1 || printf ' gcc'
    compiles stdio.h || printf ' libc6-dev'
    compiles gmp.h || printf ' libgmp-dev'
    [ -f "$(ask 'sysconfig.get_paths()["include"]')/Python.h" ] || printf ' %s-dev' "$debian"
    "$python" -c 'import ensurepip, venv' 2>/dev/null || printf ' %s-venv' "$debian"
}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "no python 3.11 or newer found (tried '$python')" "install one, or run: make PYTHON=/path/to/python3.11 <target>"
debian=$(ask '"python%d.%d" % sys.version_info[:2]')

packages=$(missing)
[ -n "$packages" ] || exit 0
command -v apt-get >/dev/null 2>&1 ||
    fail "missing on this machine:$packages (names of the Debian packages)" "install their equivalents with your package manager and run make again"
line="apt-get update && apt-get install --yes --no-install-recommends$packages"
[ "$(id -u)" -eq 0 ] || fail "missing on this machine:$packages" "run: sudo sh -c '$line'   and then make again"

echo "p2pfl: installing$packages" >&2
DEBIAN_FRONTEND=noninteractive sh -c "$line" </dev/null >/dev/null || fail "could not install$packages" "run by hand: $line"
packages=$(missing)
[ -z "$packages" ] || fail "still missing for $python:$packages" \
    "run: apt-get install --yes$packages   or take another interpreter: make PYTHON=/usr/bin/python3 <target>"
