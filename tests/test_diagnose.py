"""The error budget: closed forms on Gaussians, the right culprit on mixtures, parts that add up."""

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch

from scoresde import EDM, VE, VP, Model, RectifiedFlow, fit, networks, targets
from scoresde.metrics import frechet_gaussians
from scoresde.samplers import DDIM, DDPM, Adams, Adaptive, DPMSolverPP, Euler, EulerMaruyama, Heun, LangevinCorrector
from scoresde.testing import diagnose
from scoresde.testing.budget import ADVICE, Budget, Part
from tests.problems import gaussian, mixture

LIMIT = 1e-6
"""What extrapolation to the limit of many steps leaves of squared distances of about 0.1: measured, 2e-7 at most."""


def normal(mean, variance):
    return targets.Gaussian(torch.tensor([mean], dtype=torch.float64), variance)


def apart(one, two):
    """W₂² of two normal laws on the line, (mean, variance) each."""
    return (one[0] - two[0]) ** 2 + (math.sqrt(one[1]) - math.sqrt(two[1])) ** 2


def adds_up(budget):
    total = budget.total.value
    return math.isclose(math.fsum(p.value for p in budget.parts), total, rel_tol=1e-12, abs_tol=1e-12 * budget.size)


def linear_model(process, prediction, gain, offset):
    """A network linear in x, the same at all times."""
    return Model(lambda x, t: gain * x + offset, process, prediction)


@pytest.mark.parametrize("sampler", [Heun(), Euler(), EulerMaruyama()], ids=lambda s: type(s).__name__)
def test_truncation_is_the_law_at_the_end_of_the_grid(sampler):
    target, process = gaussian(), VP()
    mean, covariance = target.moments
    alpha, sigma = process.at("alpha", 0.2), process.at("sigma", 0.2)
    right = frechet_gaussians(alpha * mean, alpha**2 * covariance + sigma**2 * torch.eye(2), mean, covariance)
    budget = diagnose(target.model(process), sampler, 40, target, grid=torch.linspace(1, 0.2, 41).double())
    assert budget["truncation"].value == pytest.approx(right, abs=LIMIT)
    assert budget.exact and budget.culprit == "truncation" and not budget.more_steps_help and adds_up(budget)


@pytest.mark.parametrize("known", [True, False])
def test_prior_mismatch_is_the_prior_carried_along_the_flow(known):
    """x₀ = m + s (x − m)/√(s² + T²) for x ~ N(μ, v + T²), μ and v the moments the model believes in (0 and 1)."""
    m, s2, last = 0.7, 0.3, 2.0
    target = normal(m, s2)
    model = replace(target.model(EDM(sigma_max=last)), moments=(-1.0, 0.5) if known else None)
    mu, v = (-1.0, 0.25) if known else (0.0, 1.0)
    shrink = math.sqrt(s2 / (s2 + last**2))
    right = apart((m + shrink * (mu - m), shrink**2 * (v + last**2)), (m, s2))
    budget = diagnose(model, Heun(), 20, target)
    assert budget["prior mismatch"].value == pytest.approx(right, abs=LIMIT)
    assert budget["truncation"].value == pytest.approx(0.0, abs=LIMIT)
    assert budget.culprit == "prior mismatch" and adds_up(budget)
    assert not budget.more_steps_help and not budget.better_network_helps


def test_score_error_is_what_the_models_own_flow_comes_to():
    """An exact model of another Gaussian, begun with that one's prior: its samples have that law."""
    target, other = gaussian(), targets.Gaussian(torch.tensor([1.2, -0.4]).double(), torch.tensor([0.6, 0.2]).double())
    for process in (VP(), RectifiedFlow()):
        budget = diagnose(other.model(process), Heun(), 30, target)
        right = frechet_gaussians(*other.moments, *target.moments)
        assert budget.more_steps.value == pytest.approx(right, abs=LIMIT)
        assert budget["score error"].value == pytest.approx(right, abs=1e-4)  # the priors differ by α_T, 0.007 on VP
        assert budget.culprit == "score error" and adds_up(budget)
        assert budget.better_network_helps and not budget.more_steps_help


def ddim(process, times, start, m, v):
    """Mean and variance after DDIM on N(m, v), by hand: x' = α' x̂₀ + σ' ε̂, both linear in x."""
    mean, variance = start
    for t, s in pairwise(times):
        (a, b), (a2, b2) = ((process.at("alpha", u), process.at("sigma", u)) for u in (t, s))
        total = a * a * v + b * b
        gain = (a2 * a * v + b2 * b) / total  # of x − αm
        mean, variance = a2 * m + gain * (mean - a * m), gain**2 * variance
    return mean, variance


def euler_maruyama(process, times, start, m, v):
    """Mean and variance after x' = x + h (f x − g² score) + g √|h| ξ, h = s − t."""
    mean, variance = start
    for t, s in pairwise(times):
        a, b, f, g = (process.at(name, t) for name in ("alpha", "sigma", "drift", "diffusion"))
        total, h = a * a * v + b * b, s - t
        gain = 1 + h * (f + g * g / total)
        mean, variance = gain * mean - h * g * g * a * m / total, gain**2 * variance + g * g * abs(h)
    return mean, variance


@pytest.mark.parametrize("sampler", [DDIM(), EulerMaruyama()], ids=lambda s: type(s).__name__)
def test_discretisation_is_what_the_steps_leave(sampler):
    m, v, process, by_hand = 0.7, 0.3, VP(), euler_maruyama if sampler.stochastic else ddim
    target, times = normal(m, v), torch.linspace(1, 0.02, 13, dtype=torch.float64).tolist()
    (a, b), (a2, b2) = ((process.at("alpha", t), process.at("sigma", t)) for t in (times[0], times[-1]))
    right = apart(by_hand(process, times, (a * m, a * a * v + b * b), m, v), (m, v))
    budget = diagnose(target.model(process), sampler, 12, target, grid=times)
    assert budget.total.value == pytest.approx(right, rel=1e-9)
    assert budget.exact_network.value == pytest.approx(right, rel=1e-9)
    left = apart((a2 * m, a2 * a2 * v + b2 * b2), (m, v))
    assert budget["discretisation"].value == pytest.approx(right - left, rel=1e-3 if sampler.stochastic else 1e-6)
    assert budget.steps == 12 and budget.culprit == "discretisation" and adds_up(budget)
    assert budget.more_steps_help and not budget.better_network_helps


def test_all_four_at_once_add_up():
    target, other = gaussian(), targets.Gaussian(torch.tensor([1.1, -0.5]).double(), 0.5)
    model = replace(other.model(EDM(sigma_max=3.0)), moments=None)
    for sampler in (DDIM(), DDPM(), DPMSolverPP()):
        budget = diagnose(model, sampler, 6, target, grid=[3.0, 2.0, 1.0, 0.5, 0.2])
        assert budget.exact and adds_up(budget) and all(abs(part.value) > 1e-4 for part in budget.parts)
        assert [part.name for part in budget.parts] == list(ADVICE)


def test_nothing_is_seen_where_nothing_is_wrong():
    """Adams is exact on Gaussians whose moments are known: what is left is rounding, and nothing is accused."""
    budget = diagnose(gaussian().model(VP()), Adams(), 5, gaussian())
    assert budget.total.value < 1e-12 and budget.culprit == "" and "No error is seen above rounding" in str(budget)
    assert "%" not in str(budget)
    assert not budget.more_steps_help and not budget.better_network_helps


def test_a_linear_network_of_no_law_at_all_is_exact_too():
    """In one Euler step from T to t: x − (T − t) ε̂, ε̂ = (x + 0.1)/2 on EDM."""
    target, last, first = normal(0.0, 1.0), 2.0, 0.5
    model = linear_model(EDM(sigma_max=last), "noise", 0.5, 0.05)
    budget = diagnose(model, Euler(), 1, target, grid=[last, first])
    gain = 1 - 0.5 * (last - first)
    law = (-0.05 * (last - first), gain**2 * (1 + last**2))
    assert budget.exact and budget.total.value == pytest.approx(apart(law, (0.0, 1.0)), rel=1e-9)


def twice(target):
    """The same normal law as a mixture of two, which is not known to be normal."""
    return targets.GaussianMixture([0.5, 0.5], target.means.expand(2, -1), target.covariances.expand(2, -1, -1))


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [DDIM(), EulerMaruyama(), LangevinCorrector()], ids=lambda s: type(s).__name__)
def test_samples_tell_what_is_exact(sampler):
    """On the line sliced W₂ is W₂: every part within 4 standard errors, and 3 % for what 4000 samples' laws lack."""
    target, other = normal(0.7, 0.3), normal(0.9, 0.4)
    model, grid = replace(other.model(EDM(sigma_max=2.0)), moments=None), [2.0, 1.5, 1.0, 0.5, 0.2]
    exact = diagnose(model, sampler, 4, target, grid=grid, many=400)
    drawn = diagnose(model, sampler, 4, twice(target), grid=grid, samples=4000, many=400)
    assert exact.exact and not drawn.exact and adds_up(drawn)
    for one, two in zip((*exact.parts, exact.total), (*drawn.parts, drawn.total)):
        assert two.value == pytest.approx(one.value, abs=4 * two.standard_error + 0.03 * exact.total.value), one.name


@pytest.mark.slow
@pytest.mark.parametrize("mean", [0.9, 1.0])
def test_standard_errors_are_of_the_size_of_the_errors(mean):
    """Of 20 draws 19 lie within 4 of them (of a normal law, and 3 % more, all do); with the mean 0.1 off, none does."""
    target, other, planted = normal(0.7, 0.3), normal(0.9, 0.4), normal(mean, 0.4)
    grid, inside = torch.linspace(1, 0, 6).double(), 0
    right = diagnose(planted.model(VP()), DDIM(), 5, target, grid=grid)["score error"].value
    for seed in range(20):
        source = torch.Generator().manual_seed(seed)
        part = diagnose(other.model(VP()), DDIM(), 5, twice(target), grid=grid, many=40, generator=source)[
            "score error"
        ]
        inside += abs(part.value - right) < 4 * part.standard_error + 0.03 * right
    assert inside >= 19 if mean == 0.9 else inside == 0


PLANTS = {
    "score error": (lambda: replace(moved().model(VP()), moments=mixture().moments), DPMSolverPP(), 20, None),
    "discretisation": (lambda: mixture().model(VP()), DDIM(), 6, None),
    "prior mismatch": (lambda: replace(mixture().model(EDM(sigma_max=2.0)), moments=None), Heun(), 20, None),
    "truncation": (lambda: mixture().model(VP()), Heun(), 20, torch.linspace(1, 0.1, 21).double()),
}


def moved():
    """The mixture, 8 % wider."""
    target = mixture()
    return targets.GaussianMixture(target.weights, 1.08 * target.means, 1.08**2 * target.covariances)


@pytest.mark.parametrize("culprit", PLANTS)
def test_the_culprit_is_named_on_a_mixture(culprit):
    model, sampler, steps, grid = PLANTS[culprit]
    budget = diagnose(model(), sampler, steps, mixture(), grid=grid)
    assert budget.culprit == culprit and budget[culprit].value > 0.9 * budget.total.value and adds_up(budget)
    assert budget.more_steps_help == (culprit == "discretisation")
    assert budget.better_network_helps == (culprit == "score error")
    assert f"% of it is {culprit}: {ADVICE[culprit]}" in budget.verdict


def test_stochastic_samplers_on_a_mixture():
    budget = diagnose(mixture().model(VP()), DDPM(), 5, mixture())
    assert budget.culprit == "discretisation" and budget.more_steps_help
    assert abs(budget["truncation"].value) < 1e-6 and budget["score error"].value == 0.0


@dataclass(frozen=True)
class Twice(DDPM):
    """DDPM with noise in two halves, which no one increment of a path gives."""

    def step(self, model, x, t, s, memory, randn):
        return super().step(model, x, t, s, memory, lambda shape: (randn(shape) + randn(shape)) / 2**0.5)


def test_samplers_that_follow_no_path_are_told_by_more_chance():
    path, none = (diagnose(mixture().model(VP()), s, 5, mixture(), samples=500) for s in (DDPM(), Twice()))
    assert path.culprit == "discretisation" and none.culprit in ("", "discretisation") and adds_up(none)
    one, two = path["discretisation"], none["discretisation"]
    assert two.standard_error > one.standard_error
    assert two.value == pytest.approx(one.value, abs=4 * two.standard_error)


@pytest.mark.slow
@pytest.mark.parametrize("process", [VP(), VE(), RectifiedFlow()], ids=lambda p: type(p).__name__)
def test_no_one_is_accused_on_a_mixture_where_nothing_is_wrong(process):
    """In 60 accurate steps, on three draws of samples: W₂² within chance each time."""
    model = mixture().model(process)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        budget = diagnose(model, Adams(), 60, mixture(), samples=500, many=240, generator=generator)
        assert budget.culprit == "" and "seen above chance; 2000 samples" in budget.verdict, str(budget)
        assert abs(budget.total.value) < 3 * budget.total.standard_error


@pytest.mark.slow
def test_a_trained_network_is_to_blame_with_a_good_sampler_and_not_with_a_bad_one():
    target = mixture()
    net = networks.Scaled(networks.MLP(2, 64, 2), VP())
    *_, record = fit(
        Model(net, VP(), "v"), target.sample(4000).float(), 400, generator=torch.Generator().manual_seed(0)
    )
    good, bad = (diagnose(record.model, s, n, target) for s, n in ((DPMSolverPP(), 30), (DDIM(), 4)))
    assert good.culprit == "score error" and good.better_network_helps and not good.more_steps_help
    assert bad.culprit == "discretisation" and bad.more_steps_help and not bad.better_network_helps
    assert not good.exact and adds_up(good) and adds_up(bad)


def test_the_same_source_gives_the_same_budget_and_the_global_one_is_left_alone():
    state, model = torch.get_rng_state(), mixture().model(VP())
    one, two = (diagnose(model, Adaptive(), 5, mixture(), samples=100) for _ in range(2))
    assert one == two and torch.equal(torch.get_rng_state(), state)


def test_samples_of_any_shape():
    target = targets.Gaussian(torch.zeros(4).double(), torch.tensor([1.0, 0.5, 0.2, 0.1]).double())
    model = target.model(VP())
    flat, square = (diagnose(model, DDIM(), 5, target, shape=shape) for shape in (None, (1, 2, 2)))
    assert flat.total.value == pytest.approx(square.total.value, rel=1e-12)


def test_a_run_that_leaves_the_finite_numbers_has_an_infinite_error():
    target = gaussian()
    model = Model(lambda x, t: x * torch.where(t < 0.5, torch.inf, 1.0)[:, None], VP(), "noise")
    budget = diagnose(model, DDIM(), 5, target, samples=100)
    assert math.isinf(budget.total.value) and "infinite" in str(budget)


def test_the_table_is_readable():
    budget = diagnose(gaussian().model(VP()), DDIM(), 10, gaussian())
    lines = str(budget).splitlines()
    assert lines[0] == "W₂² of samples after 10 steps to the target (exact)"
    assert [line.split("  ")[1] for line in lines[1:6]] == [*ADVICE, "total"]
    assert lines[4].endswith(" 100 %") and lines[6].startswith("  W₂ = ") and max(map(len, lines)) <= 100
    assert "More steps would help: W₂ falls from" in " ".join(lines)
    parts = tuple(Part(name, value) for name, value in zip(ADVICE, (0.0, 0.0, 2.0, -1.0)))
    cancelled = Budget(parts, Part("", 1.0), Part("", 2.0), Part("", 0.1), 10, 100, 0, 1.0)
    assert "More than all of it, some being cancelled, is score error" in cancelled.verdict
    assert cancelled.better_network_helps and not cancelled.more_steps_help and not cancelled.both_needed
    assert "More steps would make it worse: W₂ rises from 1 to 1.41 in the limit." in cancelled.verdict
    parts = tuple(Part(name, value) for name, value in zip(ADVICE, (0.0, 0.01, 0.59, 0.4)))
    aligned = Budget(parts, Part("", 1.0), Part("", 0.7), Part("", 0.8), 10, 100, 0, 1.0)
    assert aligned.both_needed and not aligned.more_steps_help and not aligned.better_network_helps
    assert aligned.verdict.endswith("with the exact score. Both would help: W₂ falls from 1 to 0.1.")
    assert "-100 %" in str(cancelled)
    parts = tuple(Part(name, value) for name, value in zip(ADVICE, (0.0, -1e-3, 1.0, 0.0)))
    assert "-0 %" not in str(Budget(parts, *[Part("", 1.0)] * 3, 10, 100, 0, 1.0))
    with pytest.raises(KeyError, match="no part 'scores'; the parts are 'truncation', 'prior mismatch', 'score error'"):
        cancelled["scores"]


def test_wrong_arguments_are_refused():
    model, target = gaussian().model(VP()), gaussian()
    for call, message in (
        (lambda: diagnose(model.net, DDIM(), 5, target), "model must"),
        (lambda: diagnose(model, DDIM, 5, target), "sampler must"),
        (lambda: diagnose(model, DDIM(), 0, target), "steps must"),
        (lambda: diagnose(model, DDIM(), 5, torch.zeros(3, 2)), "target must"),
        (lambda: diagnose(model, DDIM(), 5, target, shape=(3,)), "shape must be of 2 numbers"),
        (lambda: diagnose(model, DDIM(), 5, target, samples=3), "samples must"),
        (
            lambda: diagnose(model, DDIM(), 5, targets.Gaussian(torch.zeros(3), 1.0)),
            "target must be of the model's data",
        ),
        (lambda: diagnose(model, DDIM(), 5, target, many=3), "many must"),
        (lambda: diagnose(model, DDIM(), 5, target, grid=[0.0, 1.0]), "grid must"),
        (lambda: diagnose(model, DDIM(), 5, target, grid=[2.0, 1.0]), "t must"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            call()
