"""Samplers on exact problems: orders, laws, identities, the same end from every process, seeds and grids."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from scoresde import (
    VE,
    VP,
    Discrete,
    Model,
    RectifiedFlow,
    Reverse,
    Sigmoid,
    SubVP,
    ddpm,
    sample,
    solve,
    targets,
)  # fmt: skip
from scoresde.flow import Flow
from scoresde.samplers import (
    DDIM,
    DDPM,
    ODE,
    SDE,
    Adams,
    AnnealedLangevin,
    Euler,
    EulerMaruyama,
    Heun,
    LangevinCorrector,
    PredictorCorrector,
)  # fmt: skip
from tests.problems import LIMIT, MAIN, NAMES, deviations, exact_flow, gaussian, mixture, name, slope, worst


def start(model, n, ratio=None):
    """n states at the noise end (or at σ/α = ratio) that stand for the same point of the flow on every process."""
    t = model.process.t_max if ratio is None else float(model.process.time(-2 * math.log(ratio)))
    z = torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(11))
    return Flow.of(model, z).back(z, t), t


# --- the same points, whatever the process and the prediction --------------------------------------------------


@pytest.mark.parametrize("prediction", NAMES)
def test_every_process_ends_at_the_same_points_under_the_flow(prediction):
    """x/α at σ/α = 0.01, from the same x/α at σ/α = 40: the solver's tolerance apart, for every process."""
    ends = []
    for process in MAIN:
        model = mixture().model(process, prediction)
        t, s = (float(process.time(-2 * math.log(ratio))) for ratio in (40.0, 0.01))
        y = 40.0 * torch.randn(30, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        x = solve(Reverse(model, 0.0), float(process.alpha(t)) * y, t, s, rtol=1e-9, atol=1e-9)
        ends.append(x / float(process.alpha(s)))
    for end in ends[1:]:
        assert (end - ends[0]).abs().max() < 2e-6  # the worst sample's error of 1e-9 a step, over a flow that expands


@pytest.mark.parametrize("process", [*MAIN, Sigmoid(), ddpm()], ids=name)
@pytest.mark.parametrize("prediction", ["noise", "x0", "v", "score"])
def test_the_default_sampler_ends_at_the_same_points(process, prediction):
    reference_model = mixture().model(RectifiedFlow(), "v")
    x, _ = start(reference_model, 40, 39.0)
    truth = sample(reference_model, x=x, grid=_graded_from(reference_model, 39.0, 1500))
    model = mixture().model(process, prediction)
    x, _ = start(model, 40, 39.0)
    got = sample(model, x=x, grid=_graded_from(model, 39.0, 200))
    assert (got - truth).abs().max() < 2e-4  # order 3 at 200 steps; measured 3e-6, and 1e-4 from VE's last σ(0)


def _graded_from(model, ratio, steps):
    from scoresde import flow
    from scoresde.samplers.base import data_scale

    scale = data_scale(model)
    where = flow.places(model.process, steps, scale, start=float(model.process.time(-2 * math.log(ratio))))
    return [*flow.times(model.process, where, scale)[:-1], 0.0]


# --- orders ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", [VP(), SubVP(), RectifiedFlow()], ids=name)
@pytest.mark.parametrize(
    ("sampler", "order"), [(Euler(), 1), (Heun(), 2), (DDIM(), 1), (ODE("midpoint"), 2), (ODE("rk4"), 4)], ids=repr
)
def test_order_of_convergence_on_a_gaussian(process, sampler, order):
    """Against the closed-form flow, on equal steps in t inside the interval."""
    target = gaussian()
    model, counts = target.model(process, "v"), (20, 40, 80) if order > 2 else (100, 200, 400)
    x = torch.randn(50, 2, dtype=torch.float64)
    t, s = 0.9, 0.1
    errors = []
    for n in counts:
        got = sample(model, x=x, sampler=sampler, grid=torch.linspace(t, s, n + 1, dtype=torch.float64))
        errors.append(float((got - exact_flow(target, process, x, t, s)).square().mean().sqrt()))
    shown = slope(errors, counts)
    # on a Gaussian the error's leading term may vanish (the midpoint rule on the straight path shows 3)
    assert shown > order - 0.2 and (shown < order + 0.2 or not isinstance(process, VP))


@pytest.mark.parametrize("order", [2, 3, 4, 5])
@pytest.mark.parametrize("process", [VP(), RectifiedFlow()], ids=name)
def test_adams_has_its_order_on_a_mixture(process, order):
    model = mixture().model(process, "v")
    x, _ = start(model, 30)
    counts = (80, 160, 320)
    truth = sample(model, x=x, sampler=Adams(order=5), steps=1500)
    errors = [float((sample(model, x=x, sampler=Adams(order), steps=n) - truth).square().mean().sqrt()) for n in counts]
    assert abs(slope(errors, counts) - order) < 0.2


def test_adams_keeps_its_order_with_moments_that_are_wrong_or_unknown():
    """Then the slope at the noise end is not zero; it is asked, and the start is of fourth order."""
    exact = mixture().model(RectifiedFlow(), "v")
    x, _ = start(exact, 30)
    truth = sample(exact, x=x, sampler=Adams(order=5), steps=1500)
    wrong = (torch.tensor([0.3, -0.2], dtype=torch.float64), torch.tensor([0.7, 0.9], dtype=torch.float64))
    for moments in (None, wrong):
        model, counts = replace(exact, moments=moments), (80, 160, 320)
        errors = [float((sample(model, x=x, sampler=Adams(4), steps=n) - truth).square().mean().sqrt()) for n in counts]
        assert abs(slope(errors, counts) - 4) < 0.2


def test_adams_asks_at_the_noise_end_of_a_conditioned_model():
    """Its mean is another than the moments', which belong to all conditions together."""

    class Shifted(torch.nn.Module):
        def forward(self, x, t, shift):
            return mixture().model(RectifiedFlow(), "v").net(x - (1 - t)[:, None] * shift, t) - t[:, None] * shift

    model = Model(Shifted(), RectifiedFlow(), "v", mixture().moments).given(shift=torch.ones(2, dtype=torch.float64))
    x = torch.randn(20, 2, dtype=torch.float64)
    plain = sample(mixture().model(RectifiedFlow(), "v"), x=x, steps=1000)
    assert (sample(model, x=x, steps=400) - plain - 1).abs().max() < 1e-5
    error = float((sample(model, x=x, steps=20) - plain - 1).abs().mean())
    assert error < 1e-3  # measured 1e-4; with the slope there taken to be zero, 2e-2


def test_adams_is_exact_in_one_step_for_a_gaussian_it_knows():
    for process in MAIN:
        model = gaussian().model(process, "v")
        x, t = start(model, 20)
        got = sample(model, x=x, steps=1)
        # VE stops at σ = 0.01 and goes the last stretch by `to_data`, right to O(σ³)
        mean, axes = gaussian().moments[0], gaussian().axes[0]
        alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
        deviation = (alpha**2 * gaussian().variances[0] + sigma**2).sqrt()
        truth = mean + (((x - alpha * mean) @ axes) / deviation * gaussian().variances[0].sqrt()) @ axes.mT
        assert (got - truth).abs().max() < (1e-6 if isinstance(process, VE) else 1e-12), process


def propagate(sampler, model, times):
    """Mean and variance of a linear sampler's result on N(m, s²) data in one dimension, exactly: no Monte Carlo."""
    process, (mean, covariance) = model.process, model.moments
    alpha, sigma = float(process.alpha(times[0])), float(process.sigma(times[0]))
    m, v = alpha * float(mean), alpha**2 * float(covariance) + sigma**2
    for t, s in pairwise(times):

        def at(x, xi, t=t, s=s):
            state = torch.tensor([[x]], dtype=torch.float64)
            return float(sampler.step(model, state, t, s, None, lambda shape: torch.full(tuple(shape), xi).double())[0])

        origin = at(0.0, 0.0)
        gain, noise = at(1.0, 0.0) - origin, at(0.0, 1.0) - origin
        m, v = gain * m + origin, gain**2 * v + noise**2
    return m, v


@pytest.mark.parametrize("process", [VP(), SubVP(), VE()], ids=name)
@pytest.mark.parametrize(
    "sampler", [EulerMaruyama(), EulerMaruyama(eta=0.5), DDPM(), DDPM(variance="beta"), DDIM(eta=0.5)], ids=repr
)
def test_weak_order_one_by_exact_propagation(process, sampler):
    model, counts, errors = (
        targets.Gaussian(torch.tensor([0.7], dtype=torch.float64), 0.4).model(process, "v"),
        (100, 200, 400),
        [],
    )
    for n in counts:
        m, v = propagate(sampler, model, torch.linspace(1.0, 0.1, n + 1, dtype=torch.float64).tolist())
        alpha, sigma = float(process.alpha(0.1)), float(process.sigma(0.1))
        errors.append(abs(m - alpha * 0.7) + abs(v - alpha**2 * 0.4 - sigma**2))
    shown = slope(errors, counts)
    assert shown > 0.8 and (shown < 1.2 or isinstance(process, VE))  # on VE Euler–Maruyama's first term vanishes


def test_weak_order_sees_a_planted_error():
    class Wrong(EulerMaruyama):
        def step(self, model, x, t, s, memory, randn):
            return super().step(model, x, t, s, memory, lambda shape: 1.02 * randn(shape))

    model, counts, errors = (
        targets.Gaussian(torch.tensor([0.7], dtype=torch.float64), 0.4).model(VP(), "v"),
        (100, 200, 400),
        [],
    )
    for n in counts:
        _, v = propagate(Wrong(), model, torch.linspace(1.0, 0.1, n + 1, dtype=torch.float64).tolist())
        errors.append(abs(v - float(VP().alpha(0.1)) ** 2 * 0.4 - float(VP().sigma(0.1)) ** 2))
    assert slope(errors, counts) < 0.5


# --- identities ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", MAIN, ids=name)
def test_ddim_with_eta_one_is_ddpms_posterior_step(process):
    model, x = mixture().model(process, "v"), torch.randn(20, 2, dtype=torch.float64)
    noise = torch.randn(20, 2, dtype=torch.float64)
    for t, s in ((0.9, 0.8), (0.5, 0.01), (0.2, 0.19)):
        t, s = t * process.t_max, s * process.t_max
        one = DDIM(eta=1.0).step(model, x, t, s, None, lambda shape: noise)[0]
        two = DDPM().step(model, x, t, s, None, lambda shape: noise)[0]
        alpha = float(process.alpha(t) / process.alpha(s))  # the posterior q(x_s | x_t, x̂₀), written out
        step = float(process.sigma(t)) ** 2 - alpha**2 * float(process.sigma(s)) ** 2
        x0 = model.predict("x0", x, t)
        sigma2, tau2 = float(process.sigma(s)) ** 2, float(process.sigma(t)) ** 2
        mean = alpha * sigma2 / tau2 * x + float(process.alpha(s)) * step / tau2 * x0
        posterior = mean + math.sqrt(step * sigma2 / tau2) * noise
        size = float(posterior.abs().max())
        assert (one - two).abs().max() < 1e-12 * size
        assert (two - posterior).abs().max() < 1e-12 * size * max(1.0, tau2 / step / 10)  # `step` cancels digits


@pytest.mark.parametrize("process", MAIN, ids=name)
def test_ddim_is_eulers_method_in_x_over_alpha_against_sigma_over_alpha(process):
    model, x = mixture().model(process, "v"), torch.randn(20, 2, dtype=torch.float64)
    for t, s in ((0.9, 0.8), (0.5, 0.01), (0.2, 0.0)):
        t, s = t * process.t_max, s * process.t_max
        got = DDIM().step(model, x, t, s, None, None)[0]
        (a, r), (b, q) = ((float(process.alpha(u)), float(process.sigma(u) / process.alpha(u))) for u in (t, s))
        euler = b * (x / a + (q - r) * model.predict("noise", x, t))
        assert (got - euler).abs().max() < 1e-12 * max(1.0, float(x.abs().max() / a))


def test_ddpm_is_ancestral_sampling_of_the_chain():
    """On the chain's own steps, against Ho et al.'s algorithm 2 written with β, ᾱ and the index."""
    chain = Discrete(torch.linspace(0.01, 0.3, 12, dtype=torch.float64))
    model = mixture().model(chain, "noise")
    betas = torch.tensor(chain.betas, dtype=torch.float64)
    bars = (1 - betas).cumprod(0)
    for variance in ("posterior", "beta"):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(9, 2, dtype=torch.float64)
        got = sample(model, x=x, sampler=DDPM(variance), steps=12, generator=torch.Generator().manual_seed(0))
        for k in range(11, -1, -1):
            mean = (x - betas[k] / (1 - bars[k]).sqrt() * model(x, (k + 1) / 12)) / (1 - betas[k]).sqrt()
            before = bars[k - 1] if k else torch.ones(())
            var = betas[k] if variance == "beta" else betas[k] * (1 - before) / (1 - bars[k])
            x = mean + (var.sqrt() * torch.randn(9, 2, dtype=torch.float64, generator=generator) if k else 0.0)
        assert (got - x).abs().max() < 1e-11


def test_a_corrector_of_no_steps_leaves_the_predictor():
    model = mixture().model(VP())
    for predictor in (EulerMaruyama(), DDIM(), Adams()):
        both = PredictorCorrector(predictor, LangevinCorrector(inner=0))
        one, two = (sample(model, (6, 2), part, 8, seeds=range(6)) for part in (predictor, both))
        assert torch.equal(one, two)


def test_euler_maruyama_with_eta_zero_is_euler():
    model = mixture().model(VP())
    x, grid = torch.randn(5, 2, dtype=torch.float64), torch.linspace(1, 0.05, 20)
    one, two = (sample(model, x=x, sampler=part, grid=grid) for part in (Euler(), EulerMaruyama(eta=0.0)))
    assert torch.allclose(one, two, rtol=1e-14)


@pytest.mark.parametrize("process", [VP(), VE(), RectifiedFlow()], ids=name)
def test_torchsdes_euler_is_our_euler_maruyama(process):
    model = mixture().model(process, "v")
    x, noises = torch.randn(5, 2, dtype=torch.float64), torch.randn(30, 5, 2, dtype=torch.float64)
    grid = torch.linspace(0.9, 0.1, 31, dtype=torch.float64)
    ends = []
    for sampler in (EulerMaruyama(), SDE("euler")):
        draws = iter(noises)
        *_, end = sampler.run(model, x, grid.tolist(), lambda shape, draws=draws: next(draws))
        ends.append(end)
    assert torch.allclose(ends[0], ends[1], rtol=1e-12, atol=1e-12)


# --- laws ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("process", MAIN, ids=name)
@pytest.mark.parametrize(
    ("sampler", "steps"),
    [
        (Adams(), 40), (EulerMaruyama(), 600), (DDPM(), 600), (DDPM(variance="beta"), 600), (DDIM(eta=0.5), 600),
        (SDE("srk"), 150),
    ],
    ids=repr,
)  # fmt: skip
def test_samplers_draw_the_mixture(process, sampler, steps):
    """From the library's own prior to data: weights, means and covariances of 20,000 samples within the limits.

    Beyond the 4 standard errors of chance, first-order methods keep a bias of about 1/steps in relative
    variance, 1/600 against a standard error of 1/141 for the pooled one.
    """
    x = sample(mixture().model(process), (20_000, 2), sampler, steps, generator=torch.Generator().manual_seed(5))
    assert worst(deviations(x, mixture())) < LIMIT + (0.0 if isinstance(sampler, (Adams, SDE)) else 0.7)


@pytest.mark.slow
@pytest.mark.parametrize("process", [VP(), VE()], ids=name)
def test_langevin_samplers_draw_a_gaussian(process):
    """Langevin steps of relative size c leave a variance too large by c/4 or so, in the directions that σ governs."""
    target = gaussian()
    for sampler, steps, bias in (
        (AnnealedLangevin(inner=100, step_size=0.2), 60, 0.05),
        (PredictorCorrector(), 400, 0.03),
        (PredictorCorrector(DDIM(), LangevinCorrector(snr=0.1)), 400, 0.03),
    ):
        x = sample(target.model(process), (8000, 2), sampler, steps, generator=torch.Generator().manual_seed(1))
        mean, covariance = target.moments
        assert ((x.mean(0) - mean).abs() < LIMIT * (covariance.diagonal() / 8_000).sqrt() + 0.01).all()
        white = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), (x - mean).mT, upper=False)
        assert (white @ white.mT / 8_000 - torch.eye(2)).abs().max() < LIMIT * math.sqrt(2 / 8_000) + bias


def test_the_corrector_leaves_its_level_invariant():
    target, process = gaussian(), VP()
    x = target.marginal(process, 0.2).sample(40_000, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    corrector = LangevinCorrector(snr=0.1, inner=20)
    x, _ = corrector.step(
        target.model(process), x, 0.2, 0.2, None, lambda s: torch.randn(tuple(s), generator=generator).double()
    )
    assert worst(deviations(x, target.marginal(process, 0.2))) < LIMIT + 1.0  # its step's bias, 0.01 σ²/variance


def test_ddims_dial_scales_the_deviation():
    model, x, ones = (
        mixture().model(VP()),
        torch.zeros(3, 2, dtype=torch.float64),
        torch.ones(3, 2, dtype=torch.float64),
    )

    def noise(eta):
        drawn, none = (DDIM(eta).step(model, x, 0.6, 0.4, None, lambda s, k=k: k * ones)[0] for k in (1.0, 0.0))
        return drawn - none

    assert torch.allclose(noise(0.5), 0.5 * noise(1.0), rtol=1e-12)
