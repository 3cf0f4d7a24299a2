"""solve() against closed forms: the forward SDE's moments, the way back to a mixture, orders, grids and sources."""

import math
import warnings

import pytest
import torch

from scoresde import VE, VP, Count, Dynamics, Forward, Langevin, RectifiedFlow, Reverse, SubVP, solve
from scoresde.solve import ADAPTIVE, FIXED, ITO, STRATONOVICH
from tests.problems import LIMIT, deviations, exact_flow, gaussian, mixture, name, slope, worst

N = 40_000


class WrongNoise(Reverse):
    """A planted error: 2 % too much noise."""

    def diffusion(self, t, x):
        return 1.02 * super().diffusion(t, x)


class WrongDrift(Reverse):
    """A planted error: the probability flow with g 2 % too large."""

    def drift(self, t, x):
        score = self.model.predict("score", x, t)
        return super().drift(t, x) - 0.5 * (1.02**2 - 1) * float(self.model.process.diffusion(t)) ** 2 * score


class WrongForward(Forward):
    """A planted error: 2 % too much noise."""

    def diffusion(self, t, x):
        return 1.02 * super().diffusion(t, x)


def forward_scores(dynamics, process, t):
    """Standard errors of the mean and variance of x_t, from x₀ = (1, −2), against α x₀ and σ²."""
    x0 = torch.tensor([1.0, -2.0], dtype=torch.float64).expand(N, 2)
    generator = torch.Generator().manual_seed(3)
    x = solve(dynamics, x0, 0.0, t, "srk", steps=64, generator=generator)
    alpha, sigma = float(process.alpha(t)), float(process.sigma(t) ** 2 - process.sigma(0.0) ** 2) ** 0.5
    white = (x - alpha * x0) / sigma
    means = (white.mean(0) * math.sqrt(N)).tolist()
    variances = ((white.var(0) - 1) / math.sqrt(2 / N)).tolist()
    return {"mean": max(map(abs, means)), "variance": max(map(abs, variances))}


@pytest.mark.parametrize(("process", "t"), [(VP(), 0.5), (SubVP(), 0.5), (VE(), 0.5), (RectifiedFlow(), 0.7)], ids=name)
def test_the_forward_sde_has_the_closed_form_mean_and_covariance(process, t):
    assert worst(forward_scores(Forward(process), process, t)) < LIMIT
    assert worst(forward_scores(WrongForward(process), process, t)) > LIMIT  # 4 % of σ² is 5.7 standard errors


def back(dynamics, method, **options):
    """The deviations of N samples carried from the exact p_T of the mixture to t = 1e-4."""
    target, process = mixture(), dynamics.model.process
    start = float(process.time(-2 * math.log(100.0))) if isinstance(process, RectifiedFlow) else process.t_max
    x = target.marginal(process, start).sample(N, torch.Generator().manual_seed(1))
    end = max(process.t_min, 1e-4)
    x = solve(dynamics, x, start, end, method, generator=torch.Generator().manual_seed(2), **options)
    return deviations(x, target.marginal(process, end))


@pytest.mark.slow
@pytest.mark.parametrize("process", [VP(), SubVP(), VE(), RectifiedFlow()], ids=name)
def test_reverse_sde_and_ode_bring_the_prior_back_to_the_mixture(process):
    """Weights, means and covariances of all modes within 4 standard errors: see problems.deviations."""
    model = mixture().model(process, "v")
    ratio = torch.logspace(2, -3, 200, dtype=torch.float64).clamp(
        0, float(process.sigma(process.t_max) / process.alpha(1.0))
    )
    times = process.time(-2 * ratio.log())
    times = times[(times > max(process.t_min, 1e-4)) & (times < process.time(-2 * torch.tensor(100.0).double().log()))]
    start = float(process.time(-2 * math.log(100.0))) if isinstance(process, RectifiedFlow) else process.t_max
    grid = [start, *times.tolist(), max(process.t_min, 1e-4)]
    assert worst(back(Reverse(model, 1.0), "srk", grid=grid)) < LIMIT
    assert worst(back(Reverse(model, 0.0), "dopri5", rtol=1e-6, atol=1e-6)) < LIMIT


@pytest.mark.slow
def test_two_percent_in_g_is_seen():
    model = mixture().model(VP(), "v")
    assert worst(back(WrongNoise(model, 1.0), "srk", steps=200)) > 1.5 * LIMIT
    assert worst(back(WrongDrift(model, 0.0), "dopri5", rtol=1e-6, atol=1e-6)) > 1.5 * LIMIT


@pytest.mark.parametrize("method", ADAPTIVE + FIXED)
def test_every_torchdiffeq_method_follows_the_exact_flow(method):
    target, process = gaussian(), VP()
    x = torch.randn(20, 2, dtype=torch.float64)
    options = {"rtol": 1e-6, "atol": 1e-6} if method in ADAPTIVE else {"steps": 500}
    got = solve(Reverse(target.model(process), 0.0), x, 1.0, 0.05, method, **options)
    # adaptive: 100 tolerances; at 500 steps: euler and explicit_adams (which starts at first order) 1e-2, the rest 1e-4
    limit = 2e-2 if method in ("euler", "explicit_adams") else 1e-4 if method in ADAPTIVE else 2e-4
    assert (got - exact_flow(target, process, x, 1.0, 0.05)).abs().max() < limit


def test_times_may_rise_or_decrease_and_come_back():
    model, x = gaussian().model(VP()), torch.randn(20, 2, dtype=torch.float64)
    tight = {"rtol": 1e-9, "atol": 1e-9}
    latent = solve(Reverse(model, 0.0), x, 1e-3, 1.0, **tight)
    assert (solve(Reverse(model, 0.0), latent, 1.0, 1e-3, **tight) - x).abs().max() < 1e-6


@pytest.mark.parametrize("method", [*ITO, *STRATONOVICH])
@pytest.mark.parametrize("brownian", ["light", "interval"])
def test_every_torchsde_method_has_the_closed_form_law(method, brownian):
    """The reverse SDE of N(0, I) under VP is stationary: mean 0 and variance 1, whatever the grid."""
    from scoresde import targets

    model = targets.Gaussian(torch.zeros(2, dtype=torch.float64), 1.0).model(VP(), "v")
    x = torch.randn(8000, 2, dtype=torch.float64)
    grid = torch.linspace(1, 0.1, 61, dtype=torch.float64) ** 2  # not uniform
    steps = 400 if method == "reversible_heun" else 60  # it is stable only for small steps
    options = {"steps": steps} if method == "reversible_heun" else {"grid": grid}
    got = solve(
        Reverse(model, 1.0),
        x,
        1.0,
        0.01,
        method,
        brownian=brownian,
        generator=torch.Generator().manual_seed(5),
        **options,
    )
    error = 1 / math.sqrt(16_000)
    assert abs(float(got.mean())) < LIMIT * error
    # a first-order method's variance is off by about half a step's decay, β dt/2 with β dt up to 0.6
    bias = 0.1 if method in ("euler", "milstein", "euler_heun", "reversible_heun") else 0.02
    assert abs(float(got.var()) - 1) < LIMIT * math.sqrt(2) * error + bias


@pytest.mark.parametrize(("method", "order"), [("euler", 1.0), ("srk", 1.5)])
def test_strong_orders_on_one_brownian_path(method, order):
    """The forward SDE from 1, at ever fewer steps of one path: additive noise gives Euler order 1, and SRK 1.5."""
    finest, count = 1024, 400
    fine = torch.randn(finest, count, 1, dtype=torch.float64) / math.sqrt(finest)  # increments of W on [0, 1]

    def path(steps):
        """W and ∫W over each of `steps` spans, as the normal numbers that a light source would have drawn."""
        h, part = 1 / steps, fine.reshape(steps, finest // steps, count, 1)
        w = part.sum(1)
        area = (part.cumsum(1) - part / 2).sum(1) / finest  # the trapezoidal rule along the fine path
        for i in range(steps):
            yield w[i] / math.sqrt(h)
            if method == "srk":
                yield (area[i] / h - w[i] / 2) / math.sqrt(h / 12)

    def run(steps):
        draws = path(steps)
        return solve(
            Forward(VP()), torch.ones(count, 1).double(), 0.0, 1.0, method, steps=steps, noise=lambda s: next(draws)
        )

    truth, counts = run(finest), (16, 32, 64)
    errors = [float((run(steps) - truth).square().mean().sqrt()) for steps in counts]
    assert slope(errors, counts) > order - 0.15


def test_adaptive_torchsde_reaches_the_law():
    model = gaussian().model(VP())
    x = gaussian().marginal(VP(), 1.0).sample(3000, torch.Generator().manual_seed(0))
    got = solve(
        Reverse(model, 1.0), x, 1.0, 1e-2, "srk", adaptive=True, rtol=1e-2, atol=1e-2,
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    marginal = gaussian().marginal(VP(), 1e-2)
    assert worst(deviations(got, marginal)) < LIMIT + 1  # 1: the tolerance's own bias, in standard errors


def test_langevin_leaves_its_level_invariant():
    target, process = gaussian(), VP()
    x = target.marginal(process, 0.3).sample(N, torch.Generator().manual_seed(0))
    for method in ("euler", "srk"):
        got = solve(
            Langevin(target.model(process), 0.3),
            x,
            0.0,
            1.0,
            method,
            steps=200,
            generator=torch.Generator().manual_seed(1),
        )
        assert worst(deviations(got, target.marginal(process, 0.3))) < LIMIT + 1  # bias of step 0.005/variance/2


def test_steps_cost_what_they_should():
    x = torch.randn(4, 2, dtype=torch.float64)
    calls = {}
    for method in [*ITO, *STRATONOVICH]:
        count = Count()
        solve(Reverse(mixture().model(VP(), "v").wrap(count), 1.0), x, 1.0, 0.1, method, steps=10)
        calls[method] = count.calls
    assert calls == {
        "euler": 10, "milstein": 10, "srk": 20, "heun": 20, "midpoint": 20, "euler_heun": 10, "log_ode": 20,
        "reversible_heun": 11,
    }  # fmt: skip


def test_the_worst_sample_meets_the_tolerance_in_any_batch():
    model = mixture().model(VP(), "v")
    hard = torch.tensor([[0.02, -0.4]], dtype=torch.float64)
    easy = torch.zeros(255, 2, dtype=torch.float64) + 3.0
    exact = solve(Reverse(model, 0.0), hard, 1.0, 1e-3, "dopri8", rtol=1e-11, atol=1e-11)
    alone = solve(Reverse(model, 0.0), hard, 1.0, 1e-3, rtol=1e-5, atol=1e-5)
    among = solve(Reverse(model, 0.0), torch.cat([hard, easy]), 1.0, 1e-3, rtol=1e-5, atol=1e-5)[:1]
    assert (among - exact).abs().max() < 3 * max(1e-5, float((alone - exact).abs().max()))


@pytest.mark.parametrize("shape", [(3,), (3, 1), (2, 3, 4, 5)])
def test_any_state_shape_and_trajectory(shape):
    x = torch.randn(shape)
    path = solve(Forward(VP()), x, 0.0, 0.5, "euler", grid=[0.0, 0.1, 0.3, 0.5], trajectory=True)
    assert path.shape == (4, *shape) and torch.equal(path[0], x)
    flat = torch.randn(shape, dtype=torch.float64)
    model = gaussian().model(VP())
    if flat[0:1].numel() == 2:
        assert solve(Reverse(model, 0.0), flat, 1.0, 0.1, "rk4", steps=5).shape == shape


def test_generators_repeat_and_leave_the_global_one_alone():
    x, before = torch.zeros(5, 2), torch.get_rng_state()
    for brownian in ("light", "interval"):
        runs = [
            solve(
                Forward(VP()),
                x,
                0.0,
                1.0,
                "srk",
                steps=20,
                brownian=brownian,
                generator=torch.Generator().manual_seed(s),
            )
            for s in (7, 7, 8)
        ]
        assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    assert torch.equal(torch.get_rng_state(), before)
    first, second = (solve(Forward(VP()), x, 0.0, 1.0, "euler", steps=20) for _ in range(2))
    assert not torch.equal(first, second)  # without a generator, the global one moves on


def test_light_increments_have_the_joint_law_of_path_and_area():
    """Cov(W, U) = h²/2 and Var U = h³/3 for U = ∫ W."""
    from scoresde.solve import _Increments, _Interval

    like, h = torch.zeros(200_000, 1, dtype=torch.float64), 0.5
    for source in (
        _Increments(like.shape, like, "space-time", lambda s: torch.randn(tuple(s), dtype=torch.float64)),
        _Interval(like, 1, "space-time", lambda s: torch.randn(tuple(s), dtype=torch.float64)),
    ):
        w, u = source(0.0, h, return_U=True)
        for got, exact, fourth in (
            ((w * w).mean(), h, 2 * h**2),
            ((w * u).mean(), h**2 / 2, h**3 * h * 7 / 12),
            ((u * u).mean(), h**3 / 3, 2 * h**6 / 9),
        ):
            assert abs(float(got) - exact) < LIMIT * math.sqrt(fourth / 200_000)


def test_your_own_equation_with_noise_that_depends_on_x():
    """Geometric Brownian motion: Itô and Stratonovich readings of one drift differ, and each method knows its own."""

    class Geometric(Dynamics):
        def drift(self, t, x):
            return 0.1 * x

        def diffusion(self, t, x):
            return 0.5 * x

    x, generator = torch.ones(N, 1, dtype=torch.float64), torch.Generator().manual_seed(0)
    spread = math.exp(2 * 0.1 + 0.25) - math.exp(2 * 0.1)  # the variance under Itô
    for method in ITO:
        got = solve(Geometric(), x, 0.0, 1.0, method, steps=64, generator=generator)
        assert abs(float(got.detach().mean()) - math.exp(0.1)) < LIMIT * math.sqrt(spread / N) + 1e-3
    with pytest.raises(ValueError, match="interpretation='stratonovich'"):
        solve(Geometric(), x, 0.0, 1.0, "heun", steps=8)
    got = solve(Geometric(), x, 0.0, 1.0, "heun", steps=64, interpretation="stratonovich", generator=generator)
    mean = math.exp(0.1 + 0.125)
    assert abs(float(got.detach().mean()) - mean) < LIMIT * mean * math.sqrt((math.exp(0.25) - 1) / N) + 1e-3


def test_a_new_drift_is_the_one_that_is_solved():
    class Slower(Forward):
        def drift(self, t, x):
            return 0.5 * super().drift(t, x)

    x, zeros = torch.ones(1, 1, dtype=torch.float64), lambda shape: torch.zeros(tuple(shape), dtype=torch.float64)
    got = solve(Slower(VP()), x, 0.0, 1.0, "euler", steps=4000, noise=zeros)
    assert float(got) == pytest.approx(float(VP().alpha(1.0)) ** 0.5, rel=5e-3)


def test_a_method_that_cannot_proceed_says_where():
    class Explosion(Dynamics):
        noise = "none"

        def drift(self, t, x):
            return x**2

    with pytest.raises(ValueError, match=r"'dopri5' cannot proceed at t = (0\.99|1)"):
        solve(Explosion(), torch.tensor([[0.1], [1.0]], dtype=torch.float64), 0.0, 2.0)
    with pytest.raises(ValueError, match=r"not finite|cannot proceed"):
        solve(Explosion(), torch.ones(1, 1), 0.0, 9.0, "euler", steps=40)

    class Stiff(Dynamics):
        def drift(self, t, x):
            return -1e7 * x

        def diffusion(self, t, x):
            return torch.ones_like(x)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="cannot proceed"):
            solve(Stiff(), torch.ones(2, 1), 0.0, 1.0, "euler", adaptive=True, rtol=1e-9, atol=1e-9)
