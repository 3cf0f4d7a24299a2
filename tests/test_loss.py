"""The loss of an exact model is the known optimum at every log-SNR: one number from all predictions, by quadrature."""

import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import scoresde.training.weighting as weightings
from scoresde import VP, Cosine, Model, RectifiedFlow, SubVP, loss, targets
from scoresde.training.loss import coefficients
from scoresde.training.weighting import WEIGHTINGS
from tests.problems import NAMES, PROCESSES, gaussian, name

HERMITE = [torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(3)]
TOLERANCE = 1e-9  # relative; double precision leaves 1e-12 at |λ| = 15
GRID = torch.linspace(-15, 15, 13, dtype=torch.float64)
EXTRA = [weightings.min_snr(1.0), weightings.sigmoid(-3.0), weightings.p2(0.5, 2.0), weightings.edm(1.5), None]
EVERY = [*WEIGHTINGS, *EXTRA[:-1]]


def seen(process):
    """Times on the process at λ from −15 to 15, or as far as it goes, and what λ they have."""
    t = process.time(GRID).unique()
    return t[(t > 0) & torch.isfinite(process.logsnr(t))]


def gauss_nodes(target):
    """(x₀, ε) and weights that integrate squares of linear functions exactly."""
    z, w = HERMITE
    grid = torch.cartesian_prod(*[z] * 4)
    weight = torch.cartesian_prod(*[w] * 4).prod(1) / w.sum() ** 4
    mean, covariance = target.moments
    return mean + grid[:, :2] @ torch.linalg.cholesky(covariance).mT, grid[:, 2:], weight


def expected(model, t, weighting, nodes):
    """E loss at the time t."""
    x0, noise, weight = nodes
    return float(weight @ loss(model, x0, t, noise, weighting=weighting))


def weight_at(weighting, logsnr):
    u = WEIGHTINGS[weighting] if isinstance(weighting, str) else weighting
    return float(u(torch.tensor(logsnr, dtype=torch.float64)))


def gaussian_optimum(logsnr, variances):
    """Σ Var(v | x_t)/D = mean of s²/(ᾱ² s² + σ̄²), ᾱ² + σ̄² = 1, at any λ from −∞ to ∞."""
    high, low = (float(torch.tensor(k, dtype=torch.float64).sigmoid()) for k in (logsnr, -logsnr))
    return float((variances / (high * variances + low)).mean())


def check_gaussian(process, prediction):
    target = gaussian()
    model, nodes = target.model(process, prediction), gauss_nodes(target)
    for t in seen(process).tolist():
        logsnr = float(process.logsnr(t))
        best = gaussian_optimum(logsnr, target.variances)
        for weighting in EVERY:
            known = weight_at(weighting, logsnr) * best
            assert expected(model, t, weighting, nodes) == pytest.approx(known, rel=TOLERANCE, abs=0.0)


@pytest.mark.parametrize("prediction", NAMES)
@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_an_exact_models_loss_is_the_posteriors_variance(process, prediction):
    """For normal data, in closed form: every process, prediction and weighting, −15 ≤ λ ≤ 15."""
    check_gaussian(process, prediction)


def mixture_problem():
    return targets.GaussianMixture([0.3, 0.7], torch.tensor([[-1.0], [1.2]], dtype=torch.float64), [[0.09], [0.25]])


def mixture_nodes(target, alpha, sigma):
    """(x₀, ε) of each component, turned so that one axis is x_t (trapezoid rule), the other its complement."""
    w1 = torch.linspace(-9, 9, 901, dtype=torch.float64)
    density = torch.exp(-(w1**2) / 2) * (w1[1] - w1[0]) / math.sqrt(2 * math.pi)
    w1, w2 = torch.cartesian_prod(w1, HERMITE[0]).T
    weight = torch.cartesian_prod(density, HERMITE[1] / HERMITE[1].sum()).prod(1)
    points = []
    for share, mean, variance in zip(target.weights, target.means, target.variances):
        s = float(variance.sqrt())
        h = math.hypot(alpha * s, sigma)
        x0, noise = mean + s * (alpha * s * w1 + sigma * w2) / h, (sigma * w1 - alpha * s * w2) / h
        points.append((x0, noise, share * weight))
    x0, noise, weight = (torch.cat(part) for part in zip(*points))
    return x0[:, None], noise[:, None], weight


def mixture_optimum(target, alpha, sigma):
    """E Var(v | x_t) from the posterior's variances, integrated over the density of x_t."""
    scale = math.hypot(alpha, sigma)
    total = alpha**2 * target.variances[:, 0] + sigma**2
    low, high = ((alpha * target.means[:, 0] + sign * 12 * total.sqrt()) for sign in (-1, 1))
    x = torch.linspace(float(low.min()), float(high.max()), 40001, dtype=torch.float64)
    apart = x[:, None] - alpha * target.means[:, 0]
    joint = target.weights * torch.exp(-(apart**2) / (2 * total)) / (2 * math.pi * total).sqrt()
    density, share = joint.sum(1), joint / joint.sum(1, keepdim=True).clamp_min(1e-300)
    # v = (α ε − σ x₀)/scale, given component and x_t
    variance = scale**2 * target.variances[:, 0] / total
    mean = (alpha * sigma * (1 - target.variances[:, 0]) * apart / total - sigma * target.means[:, 0]) / scale
    center = (share * mean).sum(1, keepdim=True)
    spread = (share * (variance + (mean - center) ** 2)).sum(1)
    return float((density * spread).sum() * (x[1] - x[0]))


def check_mixture(process, prediction):
    target = mixture_problem()
    model = target.model(process, prediction)
    for t in seen(process).tolist():
        alpha, sigma, logsnr = (float(f(t)) for f in (process.alpha, process.sigma, process.logsnr))
        nodes, best = mixture_nodes(target, alpha, sigma), mixture_optimum(target, alpha, sigma)
        for weighting in ("simple", "x0", "v", "elbo", "min_snr"):
            known = weight_at(weighting, logsnr) * best
            assert expected(model, t, weighting, nodes) == pytest.approx(known, rel=TOLERANCE, abs=0.0)


@pytest.mark.parametrize("prediction", NAMES)
@pytest.mark.parametrize("process", [VP(), SubVP(), Cosine(), RectifiedFlow()], ids=name)
def test_so_it_is_for_a_mixture(process, prediction):
    check_mixture(process, prediction)


PLANTS = ["factor", "determinant", "weighting", "model", "times"]


@pytest.mark.parametrize("plant", PLANTS)
def test_errors_of_a_thousandth_are_seen(plant, monkeypatch):
    import sys

    module = sys.modules["scoresde.training.loss"]
    if plant in ("factor", "determinant"):
        real = module.factor
        wrong = {
            "factor": lambda *a: 1.001 * real(*a),
            "determinant": lambda w, alpha, sigma, a, b: real(w, alpha, 1.001 * sigma, a, b),
        }[plant]
        monkeypatch.setattr(module, "factor", wrong)
    elif plant == "weighting":
        real = WEIGHTINGS["min_snr"]
        monkeypatch.setitem(WEIGHTINGS, "min_snr", lambda logsnr: real(logsnr + 0.001))
        monkeypatch.setitem(
            globals(), "weight_at", lambda w, at, known=weight_at: known(real if w == "min_snr" else w, at)
        )
    else:
        scale, shift = (1.001, 1.0) if plant == "model" else (1.0, 1.001)
        real = targets.GaussianMixture.model

        def off(self, process, prediction):
            model = real(self, process, prediction)
            return model.wrap(lambda model, x, t: scale * model.net(x, (shift * t).clamp_max(process.t_max)))

        monkeypatch.setattr(targets.GaussianMixture, "model", off)
    for check in (check_gaussian, check_mixture):
        with pytest.raises(AssertionError):
            check(VP(), "v")


@pytest.mark.parametrize("prediction", NAMES)
@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_at_the_ends_of_time_the_loss_is_its_limit_or_refused(process, prediction):
    """λ = ±∞ where the process reaches it, with an exact model: u(λ) Var(v | x_t)/D."""
    target = gaussian()
    model, nodes, finite = target.model(process, prediction), gauss_nodes(target), 0
    for t in (0.0, process.t_max):
        logsnr = float(process.logsnr(t))
        for weighting in EVERY:
            try:
                value = expected(model, t, weighting, nodes)
            except ValueError as error:
                assert math.isinf(logsnr) and "counts infinitely" in str(error)
                continue
            if t == 0.0 and prediction in ("score", "velocity") and math.isinf(logsnr):
                continue  # 1/σ and σ̇ may be infinite, and so the network's output
            finite += 1
            known = weight_at(weighting, logsnr) * gaussian_optimum(logsnr, target.variances)
            assert value == pytest.approx(known, rel=1e-9, abs=1e-12), (t, weighting)
    assert finite or prediction in ("score", "velocity")


def test_v_is_finite_at_both_ends_under_every_weighting_in_single_precision():
    x0, noise = torch.randn(2, 64, 3)
    for process in (Cosine(), RectifiedFlow(), VP()):
        model = Model(lambda x, t: torch.zeros_like(x), process, "v")
        for t in (0.0, process.t_max, 1e-9):
            for weighting in EVERY:
                value = loss(model, x0, t, noise, weighting=weighting)
                wide = loss(model, x0.double(), t, noise.double(), weighting=weighting)
                assert torch.allclose(value.double(), wide, rtol=1e-5, atol=1e-12)


def test_conditions_shapes_and_dtypes():
    def net(x, t, label, shift=0.0):
        return x * label.reshape(-1, *[1] * (x.ndim - 1)) + shift

    for shape in ((7,), (7, 3), (7, 1, 4, 4)):
        for dtype in (torch.float32, torch.float64):
            x0 = torch.randn(shape, dtype=dtype)
            for weighting in (None, "min_snr"):
                value = loss(
                    Model(net, VP(), "v"), x0, weighting=weighting, label=torch.ones(7, dtype=dtype), shift=1.0
                )
                assert value.shape == (7,) and value.dtype == dtype
    assert loss(Model(net, VP(), "v"), torch.randn(0, 3), label=torch.ones(0)).shape == (0,)


def test_gradients_are_those_of_the_formula():
    net = torch.nn.Linear(2, 2).double()
    model = Model(lambda x, t: net(x), VP(), "x0")
    x0, noise = torch.randn(2, 6, 2, dtype=torch.float64)
    t = torch.rand(6, dtype=torch.float64) * 0.8 + 0.1
    (got,) = torch.autograd.grad(loss(model, x0, t, noise, weighting="simple").sum(), net.weight)
    alpha, sigma = VP().alpha(t)[:, None], VP().sigma(t)[:, None]
    error = alpha / sigma * (net(alpha * x0 + sigma * noise) - x0)
    (known,) = torch.autograd.grad(error.square().mean(1).sum(), net.weight)
    assert torch.allclose(got, known, rtol=1e-10)


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_the_plain_loss_is_cheap():
    """Two values read back (in the inverse of λ, and at the end), and at most 85 operations beside the network's."""
    model, x0 = Model(lambda x, t: x, VP(), "v"), torch.randn(64, 8)
    loss(model, x0)
    with Operations() as count:
        loss(model, x0)
    assert sum("_local_scalar_dense" in n for n in count.names) <= 2
    assert len(count.names) <= 85
    with Operations() as count:
        loss(model, x0, weighting="min_snr")
    assert sum("_local_scalar_dense" in n for n in count.names) <= 2


def test_coefficients_are_computed_once_and_exactly():
    t = torch.tensor([1e-12, 0.3, 1.0], dtype=torch.float64)
    alpha, sigma, c, a, b = coefficients(Model(lambda x, t: x, VP(), "v"), t)
    assert torch.equal(alpha, VP().alpha(t)) and torch.equal(sigma, VP().sigma(t))
    assert torch.allclose(torch.stack([c, a, b]), torch.stack([torch.ones(3), -sigma, alpha]), rtol=1e-15)


X = torch.zeros(3, 2)
MODEL = Model(lambda x, t: x, VP(), "v")
FLOW = Model(lambda x, t: x, RectifiedFlow(), "noise")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: loss(None, X), "model must"),
        (lambda: loss(MODEL, X.long()), "x0 must have a floating dtype"),
        (lambda: loss(MODEL, X[0, 0]), "x0 must have shape"),
        (lambda: loss(MODEL, X * math.nan), "x0 must be finite"),
        (lambda: loss(MODEL, X, 0.5, X * math.inf), "noise must be finite"),
        (lambda: loss(MODEL, X, 0.5, X[:2]), "noise must have the shape"),
        (lambda: loss(MODEL, X, 1.5), "t must lie in"),
        (lambda: loss(MODEL, X, generator=1), "generator must be"),
        (lambda: loss(MODEL, X, torch.full((2,), 0.5)), "t must have shape"),
        (lambda: loss(MODEL, X, weighting="min-snr"), "unknown weighting.*Did you mean 'min_snr'"),
        (lambda: loss(MODEL, X, weighting=3.0), "weighting must be a name or a function"),
        (lambda: loss(MODEL, X, weighting=lambda logsnr: -logsnr.exp()), "finite numbers of at least 0"),
        (lambda: loss(MODEL, X, weighting=lambda logsnr: logsnr[:2]), "one number for each"),
        (lambda: loss(MODEL, X, times="lognormal"), "unknown times.*Did you mean 'log_normal'"),
        (lambda: loss(FLOW, X, 1.0, weighting="v"), "prediction 'noise' counts infinitely under the weighting 'v'"),
        (lambda: loss(Model(lambda x, t: x, VP(), "x0"), X, 0.0, weighting="v"), "counts infinitely"),
        (lambda: loss(Model(lambda x, t: x * math.nan, VP()), X), "the loss is not finite"),
        (lambda: loss(Model(lambda x, t: x, VP(), lambda process, t: (0.0, 0.0)), X, 0.5), "zero or infinite"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
