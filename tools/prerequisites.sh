#!/bin/sh
# Look for what pip cannot install. libp2p pins fastecdsa, which has no wheel: it compiles against GMP, so a C compiler, the
# Python headers and gmp.h must be there. What is missing is installed with apt-get where we may, else one line says what to run.
# Usage: prerequisites.sh PYTHON
set -u
python=$1

fail() {
    echo "p2pfl: error: $1" >&2
    echo "p2pfl: hint: $2" >&2
    exit 1
}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "no python 3.11 or newer found (tried '$python')" "install one, or run: make PYTHON=/path/to/python3.11 <target>"

missing=
compiler=
for candidate in cc gcc clang; do
    if command -v "$candidate" >/dev/null 2>&1; then compiler=$candidate; break; fi
done
[ -n "$compiler" ] || missing="$missing gcc libc6-dev"
headers=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
[ -f "$headers/Python.h" ] || missing="$missing python3-dev"
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
if [ -n "$compiler" ]; then
    printf '#include <gmp.h>\n' | "$compiler" -E - >/dev/null 2>&1 || missing="$missing libgmp-dev"
else
    missing="$missing libgmp-dev"
fi
[ -n "$missing" ] || exit 0

line="apt-get update && apt-get install --yes --no-install-recommends$missing"
command -v apt-get >/dev/null 2>&1 ||
    fail "missing on this machine:$missing (names of the Debian packages)" "install their equivalents with your package manager and run make again"
[ "$(id -u)" -eq 0 ] || fail "missing on this machine:$missing" "run: sudo sh -c '$line'   and then make again"
echo "p2pfl: installing$missing" >&2
sh -c "$line" >/dev/null || fail "could not install$missing" "run by hand: $line"
