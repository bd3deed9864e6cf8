"""Labels keep purposes apart: distinct, of one form, and free of the byte that ends them."""

import re

from p2pfl.crypto import labels

LABELS = {name: value for name, value in vars(labels).items() if name.isupper()}


def test_all_are_distinct() -> None:
    assert len(set(LABELS.values())) == len(LABELS) > 25


def test_each_says_its_purpose_and_version() -> None:
    for name, value in LABELS.items():
        assert re.fullmatch(rb"p2pfl/[a-z]+(-[a-z]+)*/v[1-9]", value), name
        assert value.split(b"/")[1].decode() == name.lower().replace("_", "-")
