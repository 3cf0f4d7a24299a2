"""Every built-in process, prediction, equation, guidance and likelihood through the kit that is shipped for yours."""

from functools import partial
from typing import get_args, get_type_hints

import pytest
import torch

from scoresde import PREDICTIONS, VE, VP, Dynamics, Forward, Langevin, Reverse, dynamics, guidance, log_prob, process
from scoresde.divergence import KINDS
from scoresde.samplers import ODE, Adams
from scoresde.targets import GaussianMixture, Labelled
from scoresde.testing import properties
from scoresde.testing.parts.guidance import CLASSES, time_of
from tests.problems import MAIN, PROCESSES, mixture, name

LABELS, WEIGHTS = torch.arange(6) % 2, torch.linspace(0, 4, 6, dtype=torch.float64)


def items(parts, kind=None):
    """(name, part, settings) -> one test item for each property; `slow` among the settings marks them."""
    found = []
    for label, part, given in parts:
        settings = {key: value for key, value in given.items() if key != "slow"}
        marks = [pytest.mark.slow] if "slow" in given else []
        for case in properties(part, kind, **settings):
            found.append(pytest.param(case, id=f"{label}-{case}", marks=marks))
    return found


def holds(case):
    finding = case.find()
    if finding.reason:
        pytest.skip(finding.reason)
    assert finding.passed, f"{case.part}: {finding}"


@pytest.mark.parametrize("case", items([(name(p), p, {}) for p in PROCESSES]))
def test_processes(case):
    holds(case)


def test_all_processes_are_there():
    classes = {getattr(process, n) for n in process.__all__} - {process.Process, process.ddpm}
    assert {type(p) for p in PROCESSES} == classes


@pytest.mark.parametrize("case", items([(each, each, {}) for each in PREDICTIONS]))
def test_predictions(case):
    holds(case)


def equations():
    """Every equation on every main process, from σ/α = 8 to 0.05, with the mixture's exact model and law."""
    for each in MAIN:
        first, last = time_of(each, 8.0), time_of(each, 0.05)
        model, law = mixture().model(each, "v"), partial(mixture().marginal, each)
        for eta in (0.0, 0.5, 1.0):
            yield f"Reverse({eta})-{name(each)[:8]}", Reverse(model, eta), {"t0": first, "t1": last, "law": law}
        yield f"Forward-{name(each)[:8]}", Forward(each), {"t0": last, "t1": first, "law": law}
        still = mixture().marginal(each, first)
        yield f"Langevin-{name(each)[:8]}", Langevin(model, first), {"t0": 0.0, "t1": 1.0, "law": lambda t, p=still: p}


@pytest.mark.parametrize("case", items(equations()))
def test_equations(case):
    holds(case)


def test_all_equations_are_there():
    public = {c for c in vars(dynamics).values() if isinstance(c, type) and issubclass(c, Dynamics)} - {Dynamics}
    assert public == {Forward, Reverse, Langevin}


def weak():
    """The classes blurred, on VP."""
    mixed = CLASSES.mixture
    blurred = GaussianMixture(mixed.weights, mixed.means, mixed.covariances + 0.3 * torch.eye(2))
    return Labelled(blurred, CLASSES.labels).model(VP(), "v").given(label=torch.tensor(0))


def by_classifier(model, weight):
    return guidance.classifier(model, CLASSES.classifier(model.process), LABELS, weight)


def within(model):
    low, high = time_of(model.process, 0.2), time_of(model.process, 5.0)
    return guidance.classifier_free(model, guidance.interval(3.0, low, high))


GUIDES = [
    ("classifier_free", guidance.classifier_free, {}),
    ("classifier_free-weights", lambda model: guidance.classifier_free(model, WEIGHTS), {}),
    ("classifier_free-schedule", lambda model: guidance.classifier_free(model, lambda t: 1 + t / (1 + t)), {"slow": 1}),
    ("classifier_free-interval", within, {"slow": 1}),
    ("classifier_free-rescale", lambda model: guidance.classifier_free(model, 3.0, rescale=0.7), {"slow": 1}),
    ("compose", lambda model: guidance.compose(model, [{"label": 0}, {"label": LABELS}], [1.5, WEIGHTS]), {}),
    ("autoguidance", lambda model, weight: guidance.autoguidance(model, weak(), weight), {}),
    ("classifier", by_classifier, {"neutral": 0.0, "toward": LABELS}),
    ("temperature", guidance.temperature, {}),
    ("threshold", lambda model: guidance.threshold(model, 0.7, 0.5), {}),
]


@pytest.mark.parametrize("case", items(GUIDES, "guidance"))
def test_guidance(case):
    holds(case)


def test_all_guidance_is_there():
    others = {"fit_classifier", "from_ho_salimans", "interval", "to_ho_salimans"}
    assert {label.split("-")[0] for label, *_ in GUIDES} == set(guidance.__all__) - others


def estimate(divergence, probes):
    """log_prob with probes from a seed, so that a failure can be seen again."""

    def function(model, x):
        generator = torch.Generator().manual_seed(0)
        most = x[:1].numel() if divergence == "orthogonal" else probes
        return log_prob(model, x, divergence=divergence, probes=min(probes, max(most, 1)), generator=generator)

    return function


FEW = {"processes": [VP(), VE()], "slow": 1}
LIKELIHOODS = [
    ("auto", log_prob, {}),
    ("hutchinson", estimate("hutchinson", 8), {}),
    ("gaussian", estimate("gaussian", 8), FEW),
    ("orthogonal", estimate("orthogonal", 2), FEW),
    ("hutch++", estimate("hutch++", 9), FEW),
    ("nodes", partial(log_prob, nodes=24), FEW),
    ("prior", partial(log_prob, prior="model"), FEW),
    ("ODE", partial(log_prob, solver=ODE("rk4"), steps=10), {"processes": [VP()], "tolerance": 5e-3, "slow": 1}),
]


@pytest.mark.parametrize("case", items(LIKELIHOODS, "likelihood"))
def test_likelihoods(case):
    holds(case)


def test_all_likelihoods_are_there():
    """Every divergence ("auto" is "exact" in few dimensions), and both kinds of solver."""
    assert {*KINDS} - {"exact"} <= {label for label, *_ in LIKELIHOODS}
    solvers = get_type_hints(log_prob)["solver"]
    assert set(get_args(solvers)) == {Adams, ODE}
