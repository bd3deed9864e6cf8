"""The mutants of `make mutants` can be made: the code that each one breaks is there, once."""

import mutants
import pytest


@pytest.mark.parametrize("part", mutants.PARTS)
def test_every_mutant_fits_the_code(part: str) -> None:
    unfit = {f"{one.module}: {one.breaks}": mutants.unapplied(one) for one in mutants.mutants([part], [])}
    assert not {breaks: why for breaks, why in unfit.items() if why}
