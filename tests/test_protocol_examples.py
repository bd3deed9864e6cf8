"""docs/protocol.md against the code: its examples are recomputed. Its tables: test_protocol_tables.py.

An example is a fenced block ``example <name>`` of lines ``key = value``; a line that begins with a space goes
on with the one before. Some of the values are what the example starts from, the code computes the others, and
no line may be neither. What computes them is in tests/protocol/.
"""

import pytest
from given import EXAMPLES, Given
from model_examples import MODEL_EXAMPLES
from record_examples import RECORD_EXAMPLES
from sum_examples import SUM_EXAMPLES

from p2pfl.crypto.identity import PeerId

COMPUTED = {**RECORD_EXAMPLES, **SUM_EXAMPLES, **MODEL_EXAMPLES}


@pytest.mark.parametrize("name", COMPUTED)
def test_an_example_is_what_the_code_computes(name: str) -> None:
    given = Given(EXAMPLES[name])
    computed = COMPUTED[name](given)
    assert {key: given.lines.get(key) for key in computed} == computed
    assert set(given.lines) == given.read | set(computed)


def test_every_example_is_checked() -> None:
    assert set(EXAMPLES) == set(COMPUTED)


def test_the_readies_signature_verifies_without_this_code() -> None:
    """Straight from the page and libsodium: what an implementation elsewhere would do first."""
    from nacl.signing import VerifyKey

    ready, identity = EXAMPLES["ready"], EXAMPLES["identity"]
    signed_bytes = b"p2pfl/ready/v1\x00" + bytes.fromhex(ready["body"])
    VerifyKey(bytes.fromhex(identity["public key"])).verify(signed_bytes, bytes.fromhex(ready["signature"]))


def test_peer_ids_in_the_examples_are_the_identity_of_the_first_example() -> None:
    assert EXAMPLES["ticket"]["peer"] == PeerId(EXAMPLES["identity"]["peer id"])
