"""Targets against numbers computed another way: torch.distributions, autograd and quadrature."""

import math

import pytest
import torch

from scoresde import VP, RectifiedFlow, targets
from tests.problems import MAIN, NAMES, gaussian, mixture, name

TOYS = ["moons", "rings", "checkerboard", "swiss_roll", "pinwheel"]


def kernel_density():
    return targets.Empirical(torch.randn(40, 2, dtype=torch.float64), 0.3)


TARGETS = {"gaussian": gaussian, "mixture": mixture, "empirical": kernel_density}
every_target = pytest.mark.parametrize("target", [make() for make in TARGETS.values()], ids=list(TARGETS))


def reference(target):
    """The same density by torch.distributions."""
    if isinstance(target, targets.Empirical):
        means = target.center + target.data
        covariances = target.bandwidth**2 * torch.eye(2, dtype=torch.float64).expand(len(means), 2, 2)
        weights = torch.ones(len(means), dtype=torch.float64)
    else:
        weights, means, covariances = target.weights, target.means, target.covariances
    parts = torch.distributions.MultivariateNormal(means, covariances)
    return torch.distributions.MixtureSameFamily(torch.distributions.Categorical(weights), parts)


@every_target
def test_log_prob_and_moments(target):
    x = 2 * torch.randn(200, 2, dtype=torch.float64)
    known = reference(target)
    assert torch.allclose(target.log_prob(x), known.log_prob(x), rtol=1e-11, atol=1e-11)
    mean, covariance = target.moments
    assert torch.allclose(mean, known.mean) and torch.allclose(covariance.diagonal(), known.variance)
    draws = target.sample(40_000, torch.Generator().manual_seed(0))
    error = 4 * (covariance.diagonal() / 40_000).sqrt()
    assert ((draws.mean(0) - mean).abs() < error).all()
    assert torch.allclose(draws.mT.cov(), covariance, atol=0.05)


@pytest.mark.parametrize("process", MAIN, ids=name)
@every_target
def test_every_prediction_is_the_exact_one(target, process):
    """The score is the gradient of the marginal's log-density; the others follow from it by Tweedie's formula."""
    for u in (0.05, 0.4, 0.9):
        t = float(process.time(-2 * math.log(0.03 * 1000**u)))  # σ/α from 0.04 to 15
        alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
        x = (alpha * torch.randn(20, 2, dtype=torch.float64) + sigma * torch.randn(20, 2).double()).requires_grad_()
        marginal = target.marginal(process, t)
        (score,) = torch.autograd.grad(reference(marginal).log_prob(x).sum(), x)
        x = x.detach()
        exact = {"score": score, "noise": -sigma * score, "x0": (x + sigma**2 * score) / alpha}
        exact["v"] = alpha * exact["noise"] - sigma * exact["x0"]
        f, g2 = float(process.drift(t)), float(process.diffusion(t)) ** 2
        exact["velocity"] = f * x - 0.5 * g2 * score
        for asked in NAMES:
            for kind in NAMES:
                got = target.model(process, kind).predict(asked, x, t)
                scale = exact[asked].abs().max()
                assert (got - exact[asked]).abs().max() < 1e-9 * max(1.0, float(scale)), (asked, kind, t)


@every_target
def test_each_sample_may_have_its_own_time(target):
    model = target.model(VP(), "noise")
    x, t = torch.randn(5, 2, dtype=torch.float64), torch.linspace(0.1, 1, 5, dtype=torch.float64)
    together = model.predict("score", x, t)
    for i in range(5):
        assert torch.allclose(together[i : i + 1], model.predict("score", x[i : i + 1], float(t[i])), rtol=1e-12)


def test_the_score_at_time_zero_is_the_datas_own():
    target, x = mixture(), torch.randn(10, 2, dtype=torch.float64, requires_grad=True)
    (score,) = torch.autograd.grad(reference(target).log_prob(x).sum(), x)
    for process in (VP(), RectifiedFlow()):
        got = target.model(process, "score").predict("score", x.detach(), 0.0)
        assert torch.allclose(got, score, rtol=1e-9)


def test_answers_come_in_the_inputs_dtype_and_shape():
    target = targets.Empirical(torch.rand(30, 4, 4), 0.1)
    model = target.model(VP(), "x0")
    for dtype in (torch.float32, torch.float64):
        assert model(torch.zeros(5, 4, 4, dtype=dtype), 0.5).dtype == dtype
    assert model(torch.zeros(5, 4, 4), 0.5).shape == (5, 4, 4)
    assert targets.Gaussian([0.0], 1.0).sample(3).dtype == torch.get_default_dtype()
    assert mixture().sample(3).dtype == torch.float64


def test_large_batches_go_in_pieces(monkeypatch):
    target, x = kernel_density(), torch.randn(50, 2, dtype=torch.float64)
    t = torch.rand(50, dtype=torch.float64)
    whole = target.log_prob(x), target.model(VP()).predict("x0", x, t), target.model(VP()).predict("x0", x, 0.4)
    monkeypatch.setattr(targets.empirical, "ENTRIES", 300)
    pieces = target.log_prob(x), target.model(VP()).predict("x0", x, t), target.model(VP()).predict("x0", x, 0.4)
    for one, two in zip(whole, pieces):
        assert torch.allclose(one, two, rtol=1e-12)


@pytest.mark.parametrize("toy", TOYS)
def test_toys_are_centred_data_of_about_unit_spread(toy):
    make = getattr(targets, toy)
    data = make(5000, torch.Generator().manual_seed(0))
    assert data.shape == (5000, 2) and data.dtype == torch.float32
    assert data.mean(0).abs().max() < 0.1 and 0.4 < float(data.std()) < 1.4
    assert torch.equal(data, make(5000, torch.Generator().manual_seed(0)))


def test_toys_have_the_shape_of_their_names():
    generator = torch.Generator().manual_seed(0)
    board = targets.checkerboard(4000, generator)
    assert ((board.floor().sum(1) % 2) == 0).all() and board.abs().max() <= 2
    rings = targets.rings(3000, generator, noise=0.0).norm(dim=1)
    assert (rings[:, None] - torch.tensor([0.5, 1.0, 1.5])).abs().min(1).values.max() < 1e-5
    counts = [int((rings.sub(r).abs() < 1e-4).sum()) for r in (0.5, 1.0, 1.5)]
    for count, share in zip(counts, (1 / 6, 1 / 3, 1 / 2)):  # equal density along each circle
        assert abs(count / 3000 - share) < 4 * math.sqrt(share * (1 - share) / 3000)
