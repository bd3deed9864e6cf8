"""Domain-separation labels: one constant for every purpose a key, a hash or a signature is used for.

A signature covers ``label || 0x00 || payload``, a digest is SHA-256 of the same, and a derived key has the
label as its HKDF salt. No two purposes share a label, so bytes made for one can never be taken for another.
A label names its version: whatever changes the meaning of the bytes under it gets a new one.
"""

from typing import Final

# Federation
MANIFEST_DIGEST: Final = b"p2pfl/manifest-digest/v1"
TICKET: Final = b"p2pfl/ticket/v1"
REVOCATION: Final = b"p2pfl/revocation/v1"
SUCCESSION: Final = b"p2pfl/succession/v1"
SUCCESSION_ACCEPTANCE: Final = b"p2pfl/succession-acceptance/v1"

# Epochs
PRESENCE: Final = b"p2pfl/presence/v1"
PRESENCE_NONCE: Final = b"p2pfl/presence-nonce/v1"
PRESENCE_COMMITMENT: Final = b"p2pfl/presence-commitment/v1"
EPOCH_ROSTER_DIGEST: Final = b"p2pfl/epoch-roster-digest/v1"
BEACON: Final = b"p2pfl/beacon/v1"

# One round
READY: Final = b"p2pfl/ready/v1"
PROPOSAL: Final = b"p2pfl/proposal/v1"
ROSTER_DIGEST: Final = b"p2pfl/roster-digest/v1"
BUNDLE_KEY: Final = b"p2pfl/bundle-key/v1"
BUNDLE: Final = b"p2pfl/bundle/v1"
SELF_MASK_COMMITMENT: Final = b"p2pfl/self-mask-commitment/v1"
PAIRWISE_MASK: Final = b"p2pfl/pairwise-mask/v1"
SELF_MASK: Final = b"p2pfl/self-mask/v1"
ACK: Final = b"p2pfl/ack/v1"
MASKED: Final = b"p2pfl/masked/v1"
MASKED_DIGEST: Final = b"p2pfl/masked-digest/v1"
PLEDGE: Final = b"p2pfl/pledge/v1"
HELD: Final = b"p2pfl/held/v1"
PLAN: Final = b"p2pfl/plan/v1"
PART: Final = b"p2pfl/part/v1"
PART_DIGEST: Final = b"p2pfl/part-digest/v1"
PARTS_DIGEST: Final = b"p2pfl/parts-digest/v1"
CHECK: Final = b"p2pfl/check/v1"
CHALLENGE: Final = b"p2pfl/challenge/v1"
CHECK_SEED: Final = b"p2pfl/check-seed/v1"
SURVIVORS: Final = b"p2pfl/survivors/v1"
REVEAL: Final = b"p2pfl/reveal/v1"
RESULT: Final = b"p2pfl/result/v1"
RESULT_DIGEST: Final = b"p2pfl/result-digest/v1"

# One node
LEDGER_CHAIN: Final = b"p2pfl/ledger-chain/v1"
STATE_DIGEST: Final = b"p2pfl/state-digest/v1"
INITIAL_PARAMETERS: Final = b"p2pfl/initial-parameters/v1"
RECEIPT: Final = b"p2pfl/receipt/v1"
TERM: Final = b"p2pfl/term/v1"
HELD_OUT: Final = b"p2pfl/held-out/v1"

# Finding each other: names that do not give the federation's id away
LOCAL_NAME: Final = b"p2pfl/local-name/v1"
RENDEZVOUS_KEY: Final = b"p2pfl/rendezvous-key/v1"

# Trying out two machines with each other
EXAMINATION: Final = b"p2pfl/examination/v1"

# Inside this package
SEAL_NONCE: Final = b"p2pfl/seal-nonce/v1"
