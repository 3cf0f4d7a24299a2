"""Optimal pairs against every permutation, and what the dependence leaves right: the flow, not the score."""

import itertools
import math

import pytest
import torch

from scoresde import EDM, VP, Model, RectifiedFlow, log_prob, sample
from scoresde.likelihood import elbo
from scoresde.samplers import DDIM, ODE, EulerMaruyama, Heun
from scoresde.training import couple
from scoresde.training.coupling import KINDS


def cost(x0, noise):
    return float((x0 - noise).square().sum())


@pytest.mark.parametrize("shape", [(6, 1), (6, 3), (6, 2, 2, 2)])
def test_the_optimal_pairs_are_the_best_of_all_permutations(shape):
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        x0, noise = torch.randn(2, *shape, generator=generator)
        found = couple(x0, noise, "optimal")
        best = min(cost(x0, noise[list(order)]) for order in itertools.permutations(range(6)))
        assert cost(x0, found) == pytest.approx(best, rel=1e-6)
        assert torch.equal(found.flatten(1).sort(0).values, noise.flatten(1).sort(0).values)  # a permutation


def test_in_one_dimension_it_sorts():
    x0, noise = torch.randn(2, 200, 1, dtype=torch.float64)
    assert torch.equal(couple(x0, noise, "optimal")[x0[:, 0].argsort()], noise.sort(0).values)


def test_independent_pairs_are_left_alone():
    x0, noise = torch.randn(2, 5, 3)
    assert couple(x0, noise) is noise
    assert couple(x0[:1], noise[:1], "optimal") is not None and couple(x0[:0], noise[:0], "optimal").shape == (0, 3)


def test_labels_exchange_noise_among_themselves_only():
    x0, noise, label = torch.randn(30, 2), torch.randn(30, 2), torch.randint(0, 3, (30,))
    found = couple(x0, noise, "optimal", label)
    for k in range(3):
        mine = label == k
        assert torch.equal(found[mine], couple(x0[mine], noise[mine], "optimal"))
    assert cost(x0, couple(x0, noise, "optimal")) < cost(x0, found) < cost(x0, noise)


def paired(process, mean, s):
    """The exact model of N(m, s²) with the optimal pairs x₀ = m + s ε: then x_t = α m + (α s + σ) ε, one ε a point."""

    def velocity(x, t):
        a, b = process.alpha(t)[:, None], process.sigma(t)[:, None]
        noise = (x - a * mean) / (a * s + b)
        return process.alpha_dot(t)[:, None] * (mean + s * noise) + process.sigma_dot(t)[:, None] * noise

    return Model(velocity, process, "velocity")


@pytest.mark.parametrize("process", [RectifiedFlow(), VP()], ids=repr)
def test_samples_of_the_ode_are_right(process):
    """Samplers carry ε to m + s ε, the optimal map. ε is the same all along a path, which DDIM follows exactly; others
    correct the last step, from σ/α = 0.001, for independent pairs: 0.001 ε/2 with ε up to 2."""
    mean, s = 1.5, 0.3
    model = paired(process, mean, s)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    end = float(process.alpha(1.0))
    known = mean + s * (x - end * mean) / (end * s + float(process.sigma(1.0)))
    for sampler, steps, off in ((DDIM(), 1000, 1e-9), (Heun(), 400, 1.1e-3), (ODE(rtol=1e-8, atol=1e-8), 1, 1.1e-3)):
        assert (sample(model, x=x, sampler=sampler, steps=steps) - known).abs().max() < off


def test_likelihoods_of_the_ode_are_right():
    """On the straight path x_T = ε whatever the pairs, and the prior must be it. The last step's density changes by
    −D ρ/s + …: 0.001/0.3 (1 + ε²) at most."""
    mean, s = 1.5, 0.3
    x = torch.linspace(0.8, 2.2, 7, dtype=torch.float64)[:, None]
    known = -0.5 * (((x - mean) / s) ** 2 + math.log(2 * math.pi * s**2))[:, 0]
    result = log_prob(paired(RectifiedFlow(), mean, s), x, steps=40, prior="standard")
    assert ((result.value - known).abs() < 0.0034 * (1 + ((x[:, 0] - mean) / s) ** 2)).all()


def test_scores_bounds_and_stochastic_samples_are_not():
    """As documented: −ε/σ is off by (α s + σ)/σ, an SDE draws another deviation, and `elbo` is no bound."""
    process, mean, s = RectifiedFlow(), 0.0, 0.5
    model, t = paired(process, mean, s), 0.5
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    true = -x / (0.5 * s + 0.5) ** 2
    assert torch.allclose(model.predict("score", x, t), true * (0.5 * s + 0.5) / 0.5)
    n = 4000
    drawn = sample(model, (n, 1), EulerMaruyama(), 400, generator=torch.Generator().manual_seed(0))
    assert abs(float(drawn.std()) - s) > 10 * s / math.sqrt(2 * n)
    flow = sample(model, (n, 1), Heun(), 40, generator=torch.Generator().manual_seed(0))
    assert abs(float(flow.std()) - s) < 4 * s / math.sqrt(2 * n)
    x = s * torch.randn(500, 1, dtype=torch.float64)
    known = -0.5 * ((x / s) ** 2 + math.log(2 * math.pi * s**2))[:, 0]
    bound = elbo(model, x, 64, generator=torch.Generator().manual_seed(0))
    assert float((bound.value - known).abs().mean()) > 0.05


def test_straighter_paths():
    """What it is for: with pairs of a batch of 256, half the transport cost of independent ones in the plane."""
    x0, noise = torch.randn(256, 2), torch.randn(256, 2)
    assert cost(x0, couple(x0, noise, "optimal")) < 0.1 * cost(x0, noise)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: couple(torch.zeros(2, 1), torch.zeros(2, 1), "ot"), "unknown coupling"),
        (lambda: couple(torch.zeros(2, 1), torch.zeros(3, 1), "optimal"), "noise must have the shape of x0"),
        (lambda: couple(torch.zeros(2, 1) / 0, torch.zeros(2, 1), "optimal"), "x0 must be finite"),
        (lambda: couple(torch.zeros(2, 1), torch.zeros(2, 1).long(), "optimal"), "noise must have a floating"),
        (lambda: couple(torch.zeros(2, 1), torch.zeros(2, 1), "optimal", torch.zeros(3)), "label must have shape"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_kinds_are_those_of_the_docstring():
    assert KINDS == ("independent", "optimal") and EDM().t_max == 80.0
