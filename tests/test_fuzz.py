"""Wrong calls, thousands of them: each is refused by a ValueError or TypeError that names the argument."""

import inspect
import time

import pytest
import torch
from hypothesis import strategies as st

import scoresde
from scoresde import data, guidance, metrics, networks, samplers, targets, testing, training
from tests import fuzz_core, fuzz_kit, fuzz_parts
from tests.fuzz import EACH, fault, number, throw

CALLS = {**fuzz_core.CALLS, **fuzz_parts.CALLS, **fuzz_kit.CALLS}
MODULES = [scoresde, samplers, guidance, targets, networks, metrics, training, data, testing]
LEFT_OUT = {
    "PREDICTIONS", "NETWORKS", "TIMES", "WEIGHTINGS", "METRICS", "EXAMPLES", "NAMES", "PROPERTIES",  # tables
    "Process", "Sampler", "Dynamics", "Target", "Recorded",  # abstract
    "Euler", "Midpoint", "PNDM", "RectifiedFlow", "Count",  # of no arguments
    "Tilted", "Features", "Record", "Report", "Estimate",  # made by what is called
    "Budget", "Case", "Certificate", "Finding", "Property", "Unfinished", "DamagedError",
    "Integrand",  # any function, called later
    "ScoreDensity",  # in test_estimator, by scikit-learn's own checks
    "inception_features",  # a file of weights
    "dequantized",  # a function that calls `dequantize`
}  # fmt: skip
UNCHECKED = {
    "device",  # torch's own words, for what it has not
    "name", "label of Metric", "ideal", "largest", "classes of Data", "measured", "rate", "rows",  # notes
    "note", "estimate", "noise of Forward", "noise of Langevin", "validate_args", "multipliers",
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_every_wrong_argument_is_refused_by_name(name):
    function, arguments = CALLS[name]
    if name not in fuzz_kit.CHECKS:
        function(**{name: valid for name, (valid, _) in arguments.items()})  # else there is no telling
    assert throw(CALLS[name]) >= 0.9 * EACH * len(arguments)  # a kind of few values may be exhausted before


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_more_of_them(name):
    throw(CALLS[name], each=3 * EACH)


def test_they_are_thousands():
    assert 0.9 * EACH * sum(len(arguments) for _, arguments in CALLS.values()) >= 2000


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_argument_of_every_public_name_is_thrown_at(module):
    thrown = {}
    for name, (_, arguments) in CALLS.items():
        thrown.setdefault(name.replace("data.", "").split()[0].split(".")[0], set()).update(arguments)
        thrown.setdefault(name.split()[0], set()).update(arguments)
    for name in module.__all__:
        public = getattr(module, name)
        if name in LEFT_OUT or inspect.ismodule(public):
            continue
        assert name in thrown, name
        for p in inspect.signature(public).parameters.values():
            optional = p.kind is p.VAR_KEYWORD or p.name in UNCHECKED or f"{p.name} of {name}" in UNCHECKED
            assert optional or p.name in thrown[name], (name, p.name)


PLANTS = {
    "accepted": lambda a: a,
    "without its name": lambda a: float("x"),
    "RuntimeError": lambda a: torch.zeros(2).reshape(3),
    "AttributeError": lambda a: a.nothing,
    "Hung": lambda a: time.sleep(2),
    "UserWarning": lambda a: torch.tensor(a),
}


@pytest.mark.parametrize("message", PLANTS)
def test_a_planted_fault_is_found(message):
    wrong = torch.ones(2) if message == "UserWarning" else None
    assert message in (fault(PLANTS[message], {}, "a", wrong, seconds=0.2) or "")


def refuse(a):
    raise ValueError(f"a must be 1, got {a!r}")


def test_a_right_refusal_is_none_and_one_plant_among_many_values_is_found():
    assert fault(refuse, {}, "a", None) is None
    assert throw((refuse, {"a": (1, st.integers())})) == EACH

    def careless(a):
        return refuse(a) if a is None or isinstance(a, float) else a

    with pytest.raises(AssertionError, match="accepted"):
        throw((careless, {"a": (1, number())}))
