#!/bin/sh
# Make the directories of a federation of four hospitals under DIRECTORY, on the data that p2pfl ships with: what docs/own-servers.md
# does by hand, for compose.yaml to run. Hospitals find each other by their names, on port 4001. Does nothing the second time.
# Usage: setup.sh DIRECTORY
set -eu
umask 077
cd "$1"
hospitals="cleveland hungarian switzerland va"
if [ -e organiser/done ]; then
    echo "the federation is there already"
    exit
fi

for name in organiser $hospitals; do
    mkdir -p "$name"
    p2pfl init "$name" > "$name/peer.id"
done

python - "$(cat organiser/peer.id)" $hospitals <<'END'
import sys
from pathlib import Path
from p2pfl.heart_disease import FEDERATION_TOML, write_hospital
text = FEDERATION_TOML.read_text(encoding="utf-8").replace("ISSUER", sys.argv[1])
Path("organiser/hearts.toml").write_text(text, encoding="utf-8")
for name in sys.argv[2:]:
    write_hospital(Path(name), name)
END
federation=$(p2pfl federation create organiser/hearts.toml)

for name in $hospitals; do
    p2pfl federation invite "$(cat "$name/peer.id")" --federation organiser/hearts.manifest \
        --identity organiser/identity.key --days 365 --out "$name/ticket.txt"
    cat > "$name/node.toml" <<END
identity = "identity.key"
state = "state"

[federation]
id = "$federation"
ticket = "ticket.txt"

[network]
listen = ["/ip4/0.0.0.0/tcp/4001"]
announce = ["/dns4/$name/tcp/4001"]
bootstrap = ["/dns4/cleveland/tcp/4001/p2p/$(cat cleveland/peer.id)"]

[data]
train = "train.csv"
test = "test.csv"
END
done
# One member has the manifest itself; the others ask for it by its id.
cp organiser/hearts.manifest cleveland/
sed -i -e 's/^id = .*/id = "hearts.manifest"/' -e '/^bootstrap/d' cleveland/node.toml
touch organiser/done
