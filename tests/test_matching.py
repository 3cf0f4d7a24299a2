"""Implicit and sliced score matching are the denoising loss less one: values and gradients, by exact quadrature."""

import math

import numpy as np
import pytest
import torch

from scoresde import EDM, VP, Model, RectifiedFlow, SubVP, loss, networks, targets
from scoresde.training import LossAware, implicit_loss, sliced_loss
from tests.problems import NAMES, gaussian, name

Z, W = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(12))


class Cubic(torch.nn.Module):
    """A network whose answer is a polynomial of third order in x: squares and divergences are integrated exactly."""

    def __init__(self, dim):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        draw = lambda *shape: torch.nn.Parameter(0.3 * torch.randn(*shape, generator=generator, dtype=torch.float64))  # noqa: E731
        self.shift, self.line, self.square, self.cube = draw(dim), draw(dim, dim), draw(dim, dim, dim), draw(dim)

    def forward(self, x, t):
        flat = x.flatten(1)
        curve = torch.einsum("ijk,bj,bk->bi", self.square, flat, flat)
        return (self.shift + flat @ self.line.mT + curve + t[:, None] * self.cube * flat**3).reshape(x.shape)


def nodes(dim):
    """(x₀, ε) and weights for N(m, C) data in one or two dimensions, exact for polynomials up to degree 23."""
    target = gaussian() if dim == 2 else targets.Gaussian(torch.tensor([0.5], dtype=torch.float64), 0.3)
    k = 12 if dim == 1 else 5  # degree 9 covers squares of cubics, degree 6
    z, w = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(k))
    grid = torch.cartesian_prod(*[z] * 2 * dim)
    weight = torch.cartesian_prod(*[w] * 2 * dim).prod(1) / w.sum() ** (2 * dim)
    mean, covariance = target.moments
    return mean + grid[:, :dim] @ torch.linalg.cholesky(covariance).mT, grid[:, dim:], weight


def both(function, net, process, prediction, dim, t, **options):
    """The expectation of a loss, and its gradient."""
    x0, noise, weight = nodes(dim)
    value = weight @ function(Model(net, process, prediction), x0, t, noise, **options)
    return float(value.detach()), torch.autograd.grad(value, list(net.parameters()))


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("prediction", NAMES)
@pytest.mark.parametrize("process", [VP(), SubVP(), EDM(), RectifiedFlow()], ids=name)
def test_the_implicit_loss_is_the_denoising_loss_less_one(process, prediction, dim):
    """Value and gradient to 1e-9: polynomials of degree six under normal noise, nodes exact to degree nine."""
    t, net = float(process.time(torch.tensor(1.0, dtype=torch.float64))), Cubic(dim)
    known, slope = both(loss, net, process, prediction, dim, t, weighting="simple")
    value, got = both(implicit_loss, net, process, prediction, dim, t)
    assert value == pytest.approx(known - 1, rel=1e-9, abs=1e-9)
    for a, b in zip(got, slope):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9 * float(b.abs().max() + 1))


def test_it_is_hyvarinens():
    """For normal data and their exact score, σ² E[‖s‖² + 2∇·s]/D = −σ² tr (α²C + σ²)⁻¹/D, at any number of times."""
    target, process = gaussian(), VP()
    x0, noise, weight = nodes(2)
    for t in (0.1, 0.5, 1.0):
        alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
        known = -float((sigma**2 / (alpha**2 * target.variances + sigma**2)).mean())
        for prediction in NAMES:
            value = weight @ implicit_loss(target.model(process, prediction), x0, t, noise)
            assert float(value) == pytest.approx(known, rel=1e-9)


@pytest.mark.parametrize("plant", ["half the divergence", "sigma", "not centred"])
def test_planted_errors_are_seen(plant, monkeypatch):
    import scoresde.training.matching as module

    real = module.Probes.of
    wrong = {
        "half the divergence": lambda self, field, z: (lambda e, d: (e, d / 2))(*real(self, field, z)),
        "sigma": lambda self, field, z: (lambda e, d: (e, 1.001 * d))(*real(self, field, z)),
        "not centred": lambda self, field, z: (lambda e, d: (e + 1e-3, d))(*real(self, field, z)),
    }[plant]
    monkeypatch.setattr(module.Probes, "of", wrong)
    with pytest.raises(AssertionError):
        test_the_implicit_loss_is_the_denoising_loss_less_one(VP(), "noise", 2)


@pytest.mark.parametrize("projections", [1, 3])
def test_the_sliced_loss_is_the_implicit_one_in_the_mean(projections):
    """Means over 20,000 draws of the directions at the same points; the spread falls with the number of directions."""
    net, x0, noise = Cubic(2), torch.randn(1, 2).double(), torch.randn(1, 2).double()
    model, n = Model(net, VP(), "noise"), 20_000
    exact = float(implicit_loss(model, x0, 0.5, noise).detach())
    generator = torch.Generator().manual_seed(0)
    many = sliced_loss(model, x0.expand(n, 2), 0.5, noise.expand(n, 2), generator, projections=projections).detach()
    error = float(many.std()) / math.sqrt(n)
    assert abs(float(many.mean()) - exact) < 4 * error
    assert abs(float(many.mean()) - 1.05 * exact) > 4 * error  # 5 % off would be seen
    one = sliced_loss(model, x0.expand(n, 2), 0.5, noise.expand(n, 2), generator).detach()
    assert float(many.std()) == pytest.approx(float(one.std()) / math.sqrt(projections), rel=0.05)


def test_in_one_dimension_signs_are_exact():
    net, x0, noise = Cubic(1), *torch.randn(2, 5, 1, dtype=torch.float64)
    model = Model(net, EDM(), "x0")
    assert torch.allclose(sliced_loss(model, x0, 2.0, noise), implicit_loss(model, x0, 2.0, noise), rtol=1e-12)


@pytest.mark.parametrize("function", [implicit_loss, sliced_loss])
def test_networks_of_ours_train_by_them(function):
    """Gradients reach every parameter, through forward mode inside reverse mode; conditions are handed on."""
    net = networks.MLP((2, 2), width=16, blocks=1)
    torch.nn.init.normal_(net.leave.weight, std=0.1)
    function(Model(net, VP(), "v"), torch.randn(6, 2, 2)).mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    given = Model(lambda x, t, scale: scale * x, VP(), "noise")
    x0, noise = torch.randn(2, 3, 2)
    assert torch.equal(function(given, x0, 0.5, noise, scale=0.0), torch.zeros(3))


def test_drawn_times_and_weights():
    x0, aware = torch.randn(64, 2), LossAware(bins=4, warm_up=1)
    model = Model(lambda x, t: 0.5 * x, VP(), "noise")
    for i in range(5):
        t, _ = aware.draw(VP(), 64, torch.Generator().manual_seed(i))
        aware.update(t, 1 + t)
    t, weight = aware.draw(VP(), 64, torch.Generator().manual_seed(9))
    values = implicit_loss(model, x0, generator=torch.Generator().manual_seed(9), times=aware)
    generator = torch.Generator().manual_seed(9)
    aware.draw(VP(), 64, generator)
    noise = torch.randn(64, 2, generator=generator)
    assert torch.allclose(values, weight.float() * implicit_loss(model, x0, t, noise), rtol=1e-5)


X, MODEL = torch.zeros(3, 2), Model(lambda x, t: x, VP(), "noise")


@pytest.mark.parametrize("function", [implicit_loss, sliced_loss])
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f(MODEL, X, 0.0), "noise in x_t"),
        (lambda f: f(MODEL, X, torch.tensor([0.5, 0.0, 0.1])), "noise in x_t"),
        (lambda f: f(MODEL, X, 2.0), "t must lie"),
        (lambda f: f(MODEL, X * math.nan), "x0 must be finite"),
        (lambda f: f(MODEL, X, times="none"), "unknown times"),
        (lambda f: f(None, X), "model must be"),
        (lambda f: f(Model(lambda x, t: x * math.inf, VP()), X + 1), "not finite"),
        (lambda f: sliced_loss(MODEL, X, projections=0), "projections must be"),
    ],
)
def test_bad_input(function, call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call(function)
