"""Weightings as the papers write them, and those that integrate to the likelihood's bound."""

import math

import numpy as np
import pytest
import torch

import scoresde.training.weighting as weightings
from scoresde import VE, VP, Cosine, Discrete, Model, RectifiedFlow, SubVP, elbo, loss
from scoresde.training.weighting import WEIGHTINGS, Integrand, factor, is_integrand, weight_of
from tests.problems import NAMES, gaussian, name
from tests.test_loss import EVERY, expected, gauss_nodes


@pytest.mark.parametrize("weighting", EVERY, ids=lambda w: w if isinstance(w, str) else None)
def test_every_weighting_is_finite_and_not_negative_from_no_signal_to_no_noise(weighting):
    """The limits of the table in docs/theory, and no NaN on the way."""
    logsnr = torch.tensor([-math.inf, -1e4, -700.0, -50.0, 0.0, 50.0, 700.0, 1e4, math.inf], dtype=torch.float64)
    u = weight_of(weighting)(logsnr)
    assert torch.isfinite(u).all() and (u >= 0).all()
    limits = {"simple": (0, 1), "x0": (1, 0), "v": (1, 1), "velocity": (1, 1), "elbo": (0, 0.5), "sigmoid": (0, 0),
              "min_snr": (0, 0), "p2": (0, 0), "edm": (4, 1)}  # fmt: skip
    if isinstance(weighting, str):
        assert (float(u[0]), float(u[-1])) == limits[weighting]
    assert is_integrand(weighting) == (weighting in ("elbo", "sigmoid") or isinstance(weighting, Integrand))


def test_the_factor_has_its_limits():
    """√u √(α² + σ²)/|αb − σa| for noise at α = 0: 1 under `simple`, infinite under `v`; for x0 at σ = 0 likewise."""
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for alpha, sigma, a, b, good, bad in ((zero, one, 0.0, 1.0, "simple", "v"), (one, zero, 1.0, 0.0, "x0", "simple")):
        assert factor(good, alpha, sigma, a, b) == pytest.approx(1.0, rel=1e-12)
        assert factor(bad, alpha, sigma, a, b) == math.inf
    assert weightings.p2(1.0, 0.0)(torch.tensor(math.inf)) == 1.0
    assert torch.allclose(weightings.edm(1.0)(torch.linspace(-9, 9, 7)), torch.ones(7))


def test_published_forms():
    """The same weights as the papers write them, on ε, x₀ or v: an imperfect network, λ from −8 to 8."""
    process, (x0, noise) = VP(), torch.randn(2, 50, 3, dtype=torch.float64)
    t = process.time(torch.linspace(8, -8, 50, dtype=torch.float64))
    snr, rho = (process.alpha(t) / process.sigma(t)) ** 2, process.sigma(t) / process.alpha(t)
    for prediction in NAMES:
        model = Model(lambda x, t: torch.sin(x + t[:, None]), process, prediction)
        x, _ = process.perturb(x0, t, noise)
        v = process.alpha(t)[:, None] * noise - process.sigma(t)[:, None] * x0
        on = {
            kind: (model.predict(kind, x, t) - goal).square().mean(1)
            for kind, goal in (("noise", noise), ("x0", x0), ("v", v))
        }
        forms = {
            "simple": on["noise"], "x0": on["x0"], "v": on["v"], "elbo": on["noise"] / 2,
            "min_snr": snr.clamp_max(5) * on["x0"], "p2": on["noise"] / (1 + snr),
            "sigmoid": on["noise"] / (2 * (1 + snr)), "edm": (rho**2 + 0.25) / (0.5 * rho) ** 2 * on["x0"],
        }  # fmt: skip
        forms["velocity"] = loss(model.on(RectifiedFlow()), *on_the_straight_path(process, x0, t, noise))
        # the plain loss of the velocity is divided by a² + b² = 2
        if prediction == "velocity":
            forms["velocity"] *= 2
        else:
            del forms["velocity"]
        for weighting, known in forms.items():
            assert torch.allclose(loss(model, x0, t, noise, weighting=weighting), known, rtol=1e-9), weighting
        assert torch.allclose(  # γ on x₀, over SNR on ε, over SNR + 1 on v
            loss(model, x0, t, noise, weighting=weightings.min_snr(2.0)), snr.clamp_max(2) / (snr + 1) * on["v"]
        )


def on_the_straight_path(process, x0, t, noise):
    return x0, RectifiedFlow().time(process.logsnr(t)), noise


def nodes_of(process, low, high, n=120):
    """Gauss–Legendre times in λ, and their weights."""
    z, w = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(n))
    return process.time(low + (high - low) * (z + 1) / 2), w * (high - low) / 2


def diffusion_part(process, variances):
    """∫ ½ E‖ε − ε̂‖² dλ between the process's ends: E = Σ s²/(s² + ρ²), ρ² = e^{−λ}."""
    ends = (process.logsnr(t) for t in (process.t_max, process.t_min))
    low, high = (float(end) for end in ends)
    return sum(
        0.5 * (math.log1p(s * math.exp(high)) - math.log1p(s * math.exp(low))) for s in variances.flatten().tolist()
    )


@pytest.mark.parametrize("prediction", ["noise", "v", "velocity"])
@pytest.mark.parametrize("process", [VP(), SubVP(), Cosine(), RectifiedFlow()], ids=name)
def test_the_likelihoods_weighting_integrates_to_the_bounds_diffusion_part(process, prediction):
    """By Gauss–Legendre nodes in λ, to 1e-9: nats, D times the loss."""
    target = gaussian()
    model, nodes = target.model(process, prediction), gauss_nodes(target)
    low, high = max(float(process.logsnr(process.t_max)), -60.0), float(process.logsnr(process.t_min))
    t, weight = nodes_of(process, low, high)
    total = 2 * sum(float(w) * expected(model, float(at), "elbo", nodes) for at, w in zip(t, weight))
    assert total == pytest.approx(diffusion_part(process, target.variances), rel=1e-9)


def test_so_it_is_the_diffusion_part_of_elbo():
    """−E elbo = KL(prior) + decoder + diffusion: what `elbo` says less the first two, which are closed forms here."""
    process, target = VP(), gaussian()
    x0 = target.sample(4000, torch.Generator().manual_seed(0))
    bound = elbo(target.model(process), x0, 2, generator=torch.Generator().manual_seed(1)).value
    mean, variances, axes = target.means[0], target.variances[0], target.axes[0]
    low, high = (float(process.sigma(t) / process.alpha(t)) for t in (process.t_min, process.t_max))
    z = ((x0 - mean) @ axes) ** 2
    prior = 0.5 * (torch.log1p(variances / high**2) + (z - variances) / (variances + high**2)).sum(1)
    decoder = variances * low**2 / (variances + low**2)
    # E over y of ((x − x̂₀)²/decoder + log 2π decoder)/2, x − x̂₀ = −ρ (ε − ε̂)
    missed = low**2 * (variances**2 + low**2 * z) / (variances + low**2) ** 2
    last = 0.5 * (missed / decoder + torch.log(2 * math.pi * decoder)).sum(1)
    path = -bound - prior - last
    known = diffusion_part(process, target.variances)
    error = float(path.std()) / math.sqrt(len(x0))
    assert abs(float(path.mean()) - known) < 4 * error < 0.02 * known


CHAIN = Discrete([0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("process", "times"),
    [(VP(), "noise_level"), (CHAIN, "uniform"), (VP(), "logsnr"), (VP(), lambda process, u: 1e-3 + (1 - 1e-3) * u**2),
     (VE(0.05, 5.0), "log_normal"), (CHAIN, "logit_normal")],
    ids=name,
)  # fmt: skip
def test_drawn_times_make_the_mean_the_integral(process, times):
    """∫ u(λ) dλ, at times drawn by any law: the network misses by one everywhere. Values f, that rise once and fall
    once, are off by at most 2 (max f − min f)/n, for times are one in each n-th (Koksma)."""
    model, n = Model(lambda x, t: torch.zeros_like(x), process, "noise"), 20_000
    ones = torch.ones(n, 1, dtype=torch.float64)
    values = loss(model, 0 * ones, None, ones, torch.Generator().manual_seed(1), weighting="elbo", times=times)
    start = 1e-3 if callable(times) else process.t_min
    known = 0.5 * float(process.logsnr(start) - process.logsnr(process.t_max))
    bound = 2 * float(values.max() - values.min()) / n + 1e-6
    assert abs(float(values.mean()) - known) < bound < 0.05 * known
    plain = loss(model, 0 * ones, None, ones, torch.Generator().manual_seed(1), weighting=plain_elbo, times=times)
    assert abs(float(plain.mean()) - 0.5) < 1e-12  # a plain function is not divided by the density
    off = loss(model, 0 * ones, None, ones, torch.Generator().manual_seed(1), times=times,
               weighting=Integrand(lambda logsnr: 0.5 * (logsnr + 0.2).sigmoid()))  # fmt: skip
    assert abs(float(off.mean()) - known) > bound


def plain_elbo(logsnr):
    return WEIGHTINGS["elbo"](logsnr)


def test_a_weighting_of_ones_own():
    x0 = torch.randn(5, 2)
    model = Model(lambda x, t: torch.zeros_like(x), VP(), "v")
    noise = torch.randn(5, 2)
    plain = loss(model, x0, 0.5, noise, weighting="v")
    assert torch.allclose(loss(model, x0, 0.5, noise, weighting=lambda logsnr: 3.0), 3 * plain)
    WEIGHTINGS["mine"] = lambda logsnr: 2 * torch.ones_like(logsnr)
    try:
        assert torch.allclose(loss(model, x0, 0.5, noise, weighting="mine"), 2 * plain)
    finally:
        del WEIGHTINGS["mine"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: weightings.min_snr(0.0), "gamma must be positive"),
        (lambda: weightings.p2(k=-1.0), "k must be positive"),
        (lambda: weightings.edm(math.nan), "sigma_data must be"),
        (lambda: weightings.sigmoid("2"), "bias must be a number"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
