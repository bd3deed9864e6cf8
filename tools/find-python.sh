#!/bin/sh
# Print the first interpreter that is Python 3.11 or newer; print python3 if there is none (the next step then says why not).
for candidate in python3 python3.11 python3.12 python3.13 python3.14; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "$candidate"
        exit 0
    fi
done
echo python3
