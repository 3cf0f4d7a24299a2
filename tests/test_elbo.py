"""elbo against exact densities and the closed forms of linear models, right and wrong."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp

from scoresde import VE, VP, Cosine, Model, RectifiedFlow, networks, targets
from scoresde.likelihood import continuous as module
from scoresde.likelihood.continuous import elbo, squared_errors
from scoresde.model import Count
from tests.problems import LIMIT, NAMES, PROCESSES, gaussian, mixture, name


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def line(m, s, process, prediction="noise"):
    """The exact model of N(m, s²) in one dimension."""
    return targets.Gaussian(torch.tensor([m], dtype=torch.float64), s**2).model(process, prediction)


def log_normal(x, m, variance):
    return -0.5 * (math.log(2 * math.pi * variance) + (x - m) ** 2 / variance)


@pytest.mark.parametrize("later", [False, True], ids=["data", "x_t"])
@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_a_gaussian_is_exact_with_two_times(process, later):
    target, t = gaussian(), float(process.time(2.0)) if later else 0.0
    exact = target.marginal(process, t) if later else target
    x = exact.sample(20)
    result = elbo(target.model(process), x, 2, t=t)
    assert torch.allclose(result.value, exact.log_prob(x), atol=1e-10)
    assert (result.standard_error < 1e-10).all() and result.nfe == 2


def test_it_depends_on_neither_prediction_nor_process():
    """VP and rectified flow from one seed: the same noise levels but for the ends, which differ by e⁻⁵ in α."""
    target, x = mixture(), mixture().sample(50, generator())
    one = elbo(target.model(VP()), x, generator=generator(1)).value
    for prediction in NAMES:
        assert torch.allclose(elbo(target.model(VP(), prediction), x, generator=generator(1)).value, one, atol=1e-9)
    flow = elbo(target.model(RectifiedFlow()), x, 512, generator=generator(1))
    vp = elbo(target.model(VP()), x, 512, generator=generator(2))
    score = (flow.value - vp.value) / torch.hypot(flow.standard_error, vp.standard_error)
    assert abs(float(score.mean())) < LIMIT / math.sqrt(50)


def expected_gap(target, process, n=200_000):
    """Mean and standard error of log p(x₀ | y₀)/decoder(x₀ | y₀) + log p(y_T)/prior(y_T), x₀ from the target."""
    x, normal, total = target.sample(n, generator(7)), target.moments, torch.zeros(n, dtype=torch.float64)
    for t in (process.t_min, process.t_max):
        alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
        x_t, noise = process.perturb(x, t, generator=generator(8))
        marginal = target.marginal(process, t).log_prob(x_t)
        variance = alpha**2 * normal[1] + sigma**2 * torch.eye(target.dim)
        if t == process.t_max:
            total += marginal - targets.Gaussian(alpha * normal[0], variance).log_prob(x_t)
            continue
        posterior = target.log_prob(x) - 0.5 * noise.square().sum(1) - marginal
        posterior -= 0.5 * target.dim * math.log(2 * math.pi * sigma**2)
        spread = sigma**2 * normal[1] @ torch.linalg.inv(variance)
        decoder = targets.Gaussian(torch.zeros_like(normal[0]), (spread + spread.mT) / 2)
        total += posterior - decoder.log_prob(x - target.model(process).predict("x0", x_t, t))
    return float(total.mean()), float(total.std()) / math.sqrt(n)


@pytest.mark.parametrize("process", [*PROCESSES, VE(0.3, 2.0), VP(0.1, 3.0)], ids=name)
def test_an_exact_models_gap_is_that_of_prior_and_decoder(process):
    """1e-4 nats where a process begins at σ/α = 1e-3; half a nat for the chain of six steps, whose first is 1/3."""
    target = mixture()
    x = target.sample(4000, generator())
    result = elbo(target.model(process), x, 32, generator=generator(1))
    gap, (known, rough) = target.log_prob(x) - result.value, expected_gap(target, process)
    error = math.hypot(math.sqrt(float(result.standard_error.square().mean()) / 4000), rough)
    assert known > -LIMIT * rough and error < 0.02
    if known > 0.1:  # where gaps differ from sample to sample
        error = math.hypot(error, float(gap.std()) / math.sqrt(4000))
    assert abs(float(gap.mean()) - known) < LIMIT * error


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_the_density_of_x_t_is_bounded_too(process):
    target, t = mixture(), float(process.time(2.0))
    exact = target.marginal(process, t)
    x = exact.sample(4000, generator())
    result = elbo(target.model(process), x, 32, t=t, generator=generator(1))
    error = math.sqrt(float(result.standard_error.square().mean()) / len(x))
    assert abs(float((exact.log_prob(x) - result.value).mean())) < LIMIT * error < 0.06


def joint_normals(x, process, a, c, m, s):
    """Means and covariances of (y₀, y_T), y at the least and greatest σ/α, by the noising of x and by the model.

    The model: y_T ~ N(m, s² + ρ_T²), the exact reverse SDE of N(a, c²) to y₀, the decoder to x; conditioned on x.
    """
    low, high = (float(process.sigma(t) / process.alpha(t)) for t in (process.t_min, process.t_max))
    high = min(high, 1000 * s)
    noising = np.array([x, x]), np.array([[low**2, low**2], [low**2, high**2]])
    back = (c**2 + low**2) / (c**2 + high**2)  # y₀ = a + back (y_T − a) + rest
    rest = (c**2 + low**2) * (1 - back)
    var_t = s**2 + high**2
    gain, decoder = c**2 / (c**2 + low**2), s**2 * low**2 / (s**2 + low**2)  # x = a + gain (y₀ − a) + decoder
    maps = np.array([[back], [1.0], [gain * back]])  # of y_T − a on (y₀, y_T, x) − a
    covariance = var_t * maps @ maps.T
    covariance += rest * np.outer([1, 0, gain], [1, 0, gain]) + decoder * np.outer([0, 0, 1], [0, 0, 1])
    mean = a + maps[:, 0] * (m - a)
    slope = covariance[:2, 2] / covariance[2, 2]
    given = mean[:2] + slope * (x - mean[2]), covariance[:2, :2] - np.outer(slope, covariance[2, :2])
    return noising, given, log_normal(x, mean[2], covariance[2, 2])


def divergence(first, second):
    """KL(first ‖ second) of normal distributions (mean, covariance)."""
    inverse, apart = np.linalg.inv(second[1]), second[0] - first[0]
    log_ratio = np.linalg.slogdet(second[1])[1] - np.linalg.slogdet(first[1])[1]
    return 0.5 * (np.trace(inverse @ first[1]) + apart @ inverse @ apart - len(apart) + log_ratio)


@pytest.mark.parametrize("process", [VP(0.1, 3.0), VE(0.3, 2.0), VP(), RectifiedFlow()], ids=name)
def test_a_wrong_scores_gap_is_the_divergence_of_the_paths(process):
    """The score of N(0.4, 0.8²), prior and decoder of N(−0.2, 0.5²): between y₀ and y_T both laws are Brownian bridges,
    so that log p − bound = KL(q(y₀, y_T | x) ‖ p(y₀, y_T | x)), and all is normal."""
    a, c, m, s = 0.4, 0.8, -0.2, 0.5
    model = replace(line(a, c, process), moments=(m, s))
    for x in (-1.0, 0.2, 1.5):
        noising, given, log_p = joint_normals(x, process, a, c, m, s)
        result = elbo(model, torch.full((20000, 1), x, dtype=torch.float64), 16, generator=generator())
        error = float(result.value.std()) / math.sqrt(20000)
        gap = divergence(noising, given)
        assert gap > 0 and error < 0.01
        assert abs(log_p - gap - float(result.value.mean())) < LIMIT * error


def test_a_shrunk_noise_lies_below_its_own_density():
    """ε̂ = half of N(0, 1)'s: its linear reverse SDE solved to log p, its bound by quadrature."""
    process, factor, x = VE(0.2, 3.0), 0.5, 0.7
    low, high = 0.2, 3.0
    model = replace(line(0.0, 1.0, process).wrap(lambda model, x, t: factor * model(x, t)), moments=None)

    def missed(rho):  # E(ε − ε̂)², ε̂ = factor ρ (x + ρ ε)/(1 + ρ²)
        shrink = factor * rho / (1 + rho**2)
        return (1 - shrink * rho) ** 2 + (shrink * x) ** 2

    def slope(rho, state):  # dy = 2 ε̂ dρ + √(2ρ) dW, backwards
        rate = factor * rho / (1 + rho**2)
        return [2 * rate * state[0], 4 * rate * state[1] - 2 * rho]

    mean, variance = solve_ivp(slope, (high, low), [0.0, 1 + high**2], rtol=1e-10, atol=1e-12).y[:, -1]
    decoder = low**2 / (1 + low**2)
    gain = 1 - factor * low**2 / (1 + low**2)  # x₀ = y − ρ ε̂
    log_p = log_normal(x, gain * mean, gain**2 * variance + decoder)
    prior = 0.5 * (math.log((1 + high**2) / high**2) + (high**2 + x**2) / (1 + high**2) - 1)
    path = quad(lambda v: missed(math.exp(v)), math.log(low), math.log(high))[0]
    bound = -prior - path - 0.5 * math.log(2 * math.pi * decoder) - 0.5 * low**2 * missed(low) / decoder
    result = elbo(model, torch.full((20000, 1), x, dtype=torch.float64), 16, generator=generator())
    error = float(result.value.std()) / math.sqrt(20000)
    assert abs(float(result.value.mean()) - bound) < LIMIT * error
    assert bound < log_p - 10 * error


@pytest.mark.parametrize(
    "target", [mixture(), targets.Empirical(torch.randn(20, 6, generator=generator(), dtype=torch.float64), 0.3)],
    ids=["mixture", "kernels"],
)  # fmt: skip
def test_the_interval_covers(target):
    """95 % intervals of 2000 points, each from its own times and noise, and the mean score."""
    x = target.sample(2000, generator())
    exact = target.log_prob(x)
    result = elbo(target.model(VP()), x, 256, generator=generator(1))
    low, high = result.interval()
    assert 0.93 <= float(((low < exact) & (exact < high)).double().mean()) <= 0.97
    off = result.value - exact
    assert abs(float(off.mean())) < LIMIT * float(off.std()) / math.sqrt(2000)
    assert float(result.standard_error.square().mean()) == pytest.approx(float(off.square().mean()), rel=0.1)


def test_the_standard_error_falls_and_the_control_variate_pays(monkeypatch):
    target = mixture()
    x, model = target.sample(500, generator()), target.model(VP())
    errors = [float(elbo(model, x, k, generator=generator(1)).standard_error.mean()) for k in (64, 256)]
    assert errors[1] == pytest.approx(errors[0] / 2, rel=0.1)
    monkeypatch.setattr(module, "share", lambda squares, control: torch.zeros_like(control))
    assert float(elbo(model, x, 64, generator=generator(1)).standard_error.mean()) > 1.2 * errors[0]


def without_decoder(model, frame, x, t, last, *rest):
    return tuple(e.masked_fill(last, 0.0) for e in squared_errors(model, frame, x, t, last, *rest))


PLANTS = {
    "a draw's own say in its control variate": ("share", lambda squares, control: (squares / control).clamp(0, 1)),
    "no decoder": ("squared_errors", without_decoder),
    "a path that ends early": ("NEGLIGIBLE", 0.3),
    "times of another density": ("CELLS", -1),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_planted_errors_fail_the_tests_above(plant, monkeypatch):
    if plant == "times of another density":
        real = module.draw_cells

        def draw(masses, *rest):
            cell, within, weight = real(masses, *rest)
            return cell, within, torch.full_like(weight, len(masses))

        monkeypatch.setattr(module, "draw_cells", draw)
    else:
        monkeypatch.setattr(module, *PLANTS[plant])
    with pytest.raises(AssertionError):
        test_an_exact_models_gap_is_that_of_prior_and_decoder(VE(0.05, 50.0))
        test_a_wrong_scores_gap_is_the_divergence_of_the_paths(VE(0.3, 2.0))


def test_a_tenth_more_noise_costs_what_it_should():
    """½ ∫ 0.1² E‖ε̂‖² dλ, which is second order: for N(0, 1), ε̂² = ρ²/(1 + ρ²) in the mean over x."""
    process = VP()
    model = line(0.0, 1.0, process).wrap(lambda model, x, t: 1.1 * model(x, t))
    x = torch.randn(20000, 1, generator=generator(), dtype=torch.float64)
    result = elbo(model, x, 16, generator=generator(1))
    gap = targets.Gaussian(torch.zeros(1, dtype=torch.float64), 1.0).log_prob(x) - result.value
    low, high = (float(process.sigma(t) / process.alpha(t)) for t in (process.t_min, 1.0))
    path = 0.01 * 0.5 * math.log((1 + high**2) / (1 + low**2))
    last = 0.5 * (1 + low**2) * 0.01 * low**2 / (1 + low**2)
    assert abs(float(gap.mean()) - path - last) < LIMIT * float(gap.std()) / math.sqrt(20000) < 0.2 * path


def test_pieces_shapes_and_counts(monkeypatch):
    """Rows in pieces are the same to rounding; the calls are counted at the network."""
    target = targets.Empirical(torch.rand(30, 3, 4, generator=generator()).double(), 0.3)
    x, count = target.sample(6).reshape(6, 3, 4), Count()
    model = target.model(VP()).wrap(count)
    whole = elbo(model, x, 31, generator=generator(1))
    assert count.calls == 1 and whole.nfe == 32
    pieces = elbo(model, x, 31, generator=generator(1), chunk=13)
    assert count.calls == 17  # two draws of six rows a call
    assert torch.allclose(pieces.value, whole.value, rtol=1e-12)
    alone = elbo(model, x.flatten(1), 31, generator=generator(1))
    assert torch.allclose(alone.value, whole.value, rtol=1e-12)
    assert elbo(model, x[:0], 4).value.shape == (0,)


def test_a_networks_bound_lies_below_its_own_reverse_sdes_entropy():
    """In float32, by a network: finite, reproducible, without a trace in the global random state."""
    net = networks.Scaled(networks.MLP((3, 3), width=16), Cosine())
    x, before = torch.randn(4, 3, 3), torch.get_rng_state()
    one, two = (elbo(Model(net, Cosine(), "v"), x, generator=generator(1)) for _ in range(2))
    assert torch.equal(one.value, two.value) and torch.equal(torch.get_rng_state(), before)
    assert one.value.dtype == torch.float32 and not one.value.requires_grad
    assert (one.standard_error > 0).all() and (one.degrees >= 1).all()


def test_conditions_of_single_samples_stay_with_them():
    shifts = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
    base = gaussian().model(VP(), "x0")

    def moved(model, x, t, shift):
        return shift + model(x - VP().alpha(t)[:, None] * shift, t)

    model, x = replace(base.wrap(moved).given(shift=shifts), moments=None), gaussian().sample(9) + shifts
    result = elbo(model, x, 500, generator=generator(1))
    off = (result.value - gaussian().log_prob(x - shifts)) / result.standard_error
    assert off.abs().max() < LIMIT


def test_gradients():
    """Exact for a Gaussian; for a mixture the mean over draws is the score."""
    x = gaussian().sample(5).requires_grad_()
    (got,) = torch.autograd.grad(elbo(gaussian().model(VP()), x, 4).value.sum(), x)
    (score,) = torch.autograd.grad(gaussian().log_prob(x).sum(), x)
    assert torch.allclose(got, score, atol=1e-10)
    x = mixture().sample(1, generator()).expand(4000, 2).clone().requires_grad_()
    (got,) = torch.autograd.grad(elbo(mixture().model(VP()), x, 32, generator=generator(1)).value.sum(), x)
    (score,) = torch.autograd.grad(mixture().log_prob(x).sum(), x)
    assert ((got - score).mean(0).abs() < LIMIT * got.std(0) / math.sqrt(4000)).all()


X = torch.zeros(3, 2, dtype=torch.float64)
MODEL = mixture().model(VP())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: elbo(None, X), "model must"),
        (lambda: elbo(MODEL, [0.0]), "x must be a torch.Tensor"),
        (lambda: elbo(MODEL, X.long()), r"x must be continuous.*vlb\(model, x, levels=256\)"),
        (lambda: elbo(MODEL, X * math.nan), "x must be finite"),
        (lambda: elbo(MODEL, X[0, 0]), "x must have shape"),
        (lambda: elbo(MODEL, X[:, :1]), "moments"),
        (lambda: elbo(MODEL, X, 0), "samples must be at least 1"),
        (lambda: elbo(MODEL, X, 1.5), "samples must be a whole number"),
        (lambda: elbo(MODEL, X, chunk=0), "chunk"),
        (lambda: elbo(MODEL, X, generator=3), "generator"),
        (lambda: elbo(MODEL, X, t=2.0), "t must"),
        (lambda: elbo(MODEL, X, t=1.0), "t must"),
        (lambda: elbo(mixture().model(Cosine()), X, t=1.0), "t must be before the end"),
        (lambda: elbo(MODEL, X, 4).interval(1.5), "level"),
        (lambda: elbo(Model(lambda x, t: x * math.nan, VP()), X), "not finite"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
