"""Scaled and Preconditioned: EDM's coefficients, on every process and for every row."""

import math

import pytest
import torch

from scoresde import EDM, PREDICTIONS, VE, VP, Model, RectifiedFlow, convert, ddpm, networks, targets
from tests.problems import PROCESSES, name


def edm(rho, s):
    """Karras et al. (2022), table 1: c_skip, c_out, c_in of noise level ρ and data of deviation s."""
    return s**2 / (rho**2 + s**2), rho * s / (rho**2 + s**2).sqrt(), 1 / (rho**2 + s**2).sqrt()


@pytest.mark.parametrize("process", [EDM(), VE(), VP(), RectifiedFlow(), ddpm()], ids=name)
@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_preconditioning_is_edms(process, scale):
    seen = []

    def inner(x, place, k):
        seen.append((x, place))
        return torch.sin(x) + k

    t = torch.tensor([0.02, 0.3, 0.9], dtype=torch.float64) * process.t_max
    alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
    x = torch.randn(3, 4, dtype=torch.float64)
    found = networks.Preconditioned(inner, process, scale)(x, t, k=2.0)
    skip, out, enter = edm(sigma / alpha, scale)
    y = x / alpha
    assert torch.allclose(found, skip * y + out * (torch.sin(enter * y) + 2), rtol=1e-12, atol=1e-12)
    place = (sigma / alpha).log()[:, 0].clamp(-math.log(1000), math.log(1000)) / (2 * math.log(1000)) + 0.5
    assert torch.allclose(seen[0][0], enter * y, rtol=1e-12) and torch.allclose(seen[0][1], place, rtol=1e-12)


@pytest.mark.parametrize("process", PROCESSES, ids=name)
@pytest.mark.parametrize("wrapper", [networks.Scaled, networks.Preconditioned])
def test_places_lie_in_the_unit_interval_and_rise_with_the_noise(wrapper, process):
    places = []
    net = wrapper(lambda x, place: places.append(place) or x, process)
    t = torch.linspace(0, 1, 50, dtype=torch.float64) * process.t_max
    net(torch.zeros(50, 1, dtype=torch.float64), t)
    (place,) = places
    assert bool((place.diff() >= 0).all()) and 0 <= float(place[0]) < 0.5 < float(place[-1]) <= 1
    assert float(place[-1]) == 1.0 or float(process.alpha(process.t_max)) > 0


@pytest.mark.parametrize("process", [EDM(), VP(), RectifiedFlow()], ids=name)
def test_what_a_preconditioned_network_learns_is_a_row(process):
    """F is the row (σ/(s h), −s α/h): the same model by `Scaled` and that prediction, without cancellation."""
    scale = 0.5

    def row(process, t):
        alpha, sigma = process.alpha(t), process.sigma(t)
        size = torch.hypot(scale * alpha, sigma)
        return sigma / (scale * size), -scale * alpha / size

    def inner(x, place):
        return torch.sin(2 * x) * place[:, None]

    x, t = torch.randn(4, 3, dtype=torch.float64), 0.3 * process.t_max
    estimate = Model(networks.Preconditioned(inner, process, scale), process, "x0")(x, t)
    raw = Model(networks.Scaled(inner, process, scale), process, row)(x, t)
    assert torch.allclose(convert(raw, x, t, process, row, "x0"), estimate, rtol=1e-10, atol=1e-12)
    a, b = row(process, torch.linspace(0.01, 1, 9, dtype=torch.float64) * process.t_max)
    assert torch.allclose(a**2 * scale**2 + b**2, torch.ones(9, dtype=torch.float64))  # unit targets


@pytest.mark.parametrize("prediction", list(PREDICTIONS))
@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_without_a_network_every_row_is_the_best_linear_estimate_and_finite(process, prediction):
    """With F = 0: E[a x₀ + b ε | x_t] of N(0, s²) data, exactly; and a number at both ends of time, in float32."""
    scale, row = 0.7, PREDICTIONS[prediction]
    net = networks.Preconditioned(lambda x, t: torch.zeros_like(x), process, scale, row)
    exact = targets.Gaussian([0.0, 0.0], scale**2).model(process, prediction)
    x = torch.randn(64, 2, dtype=torch.float64)
    t = torch.linspace(0.01, 0.99, 64, dtype=torch.float64) * process.t_max
    assert torch.allclose(Model(net, process, prediction)(x, t), exact(x, t), rtol=1e-10, atol=1e-12)
    noisy = networks.Preconditioned(lambda x, t: x, process, scale, row)
    ends = torch.tensor([0.0, process.t_min, process.t_max])
    assert bool(torch.isfinite(noisy(torch.randn(3, 2), ends)).all())
