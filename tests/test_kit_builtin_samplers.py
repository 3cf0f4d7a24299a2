"""Every built-in sampler through the kit, as `scoresde certify` has it: one row of each class, and the others slow.

Orders are measured here for the quick rows; tests/test_certify.py does so for all of them, by the same `certify`.
"""

import pytest

from scoresde import samplers
from scoresde.samplers import Sampler
from scoresde.testing import claims, properties


def items():
    seen, found = set(), []
    for row in claims.CLAIMS:
        family = row.name.split("(")[0]
        for case in properties(row.sampler, "sampler", order=row.order, **row.more):
            order = str(case) == "has its order"
            if order and row.name not in claims.QUICK:
                continue
            slow = family in seen and not order
            found.append(pytest.param(case, id=f"{row.name}-{case}", marks=[pytest.mark.slow] if slow else []))
        seen.add(family)
    return found


@pytest.mark.parametrize("case", items())
def test_samplers(case):
    finding = case.find()
    if finding.reason:
        pytest.skip(finding.reason)
    assert finding.passed, f"{case.part}: {finding}"


def test_all_samplers_are_there():
    public = {c for c in vars(samplers).values() if isinstance(c, type) and issubclass(c, Sampler)} - {Sampler}
    given = [row.sampler for row in claims.CLAIMS]
    assert public == {type(each if isinstance(each, Sampler) else each(40)) for each in given}
