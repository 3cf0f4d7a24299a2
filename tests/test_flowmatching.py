"""Samplers of flow matching, churn and restarts: orders, laws by exact propagation, identities."""

import math
from itertools import count, pairwise

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline

from scoresde import EDM, VE, VP, Cosine, Count, RectifiedFlow, grids, sample, targets
from scoresde.flow import ratio
from scoresde.samplers import DDIM, Adams, Adaptive, Euler, EulerMaruyama, FlowSDE, Heun, Midpoint, Restart
from scoresde.samplers.euler import MOST_CHURN, renoise
from tests.problems import MAIN, exact_flow, gaussian, mixture, name, slope

PATHS = [RectifiedFlow(), VP(), EDM()]
WS = ["process", "sigma", "constant", lambda process, t: process.at("sigma", t) / process.t_max**0.5]


def between(process, steps, ratios=(8.0, 0.05)):
    """A grid between two noise levels, equal in √t."""
    first, last = (float(process.time(-2 * math.log(r))) for r in ratios)
    return torch.linspace(first**0.5, last**0.5, steps + 1, dtype=torch.float64).square()


def normal():
    return targets.Gaussian(torch.tensor([0.7], dtype=torch.float64), 0.3)


def law(sampler, process, times):
    """Mean and variance of the result on a normal target, from the exact start: the run is affine in x and its draws.

    Row 0 starts from 0 and row 1 from 1 without noise; row k + 2 starts from 0, and its k-th draw is 1.
    """
    model, times = normal().model(process, "v"), [float(t) for t in times]

    def run(rows):
        draws = count()

        def randn(shape):
            k = next(draws)
            counted.append(k)
            return (torch.arange(rows) == k + 2).double()[:, None]

        counted = []
        x = (torch.arange(rows) == 1).double()[:, None]
        *_, x = sampler.run(model, x, times, randn)
        return x[:, 0], len(counted)

    asked = run(2)[1]
    out, _ = run(asked + 2)
    start, gain = normal().marginal(process, times[0]), out[1] - out[0]
    mean = gain * start.moments[0] + out[0]
    return float(mean), float(gain**2 * start.moments[1] + (out[2:] - out[0]).square().sum())


def law_error(sampler, process, times):
    mean, variance = law(sampler, process, times)
    right = normal().marginal(process, float(times[-1]))
    v = float(right.moments[1])
    return math.hypot((mean - float(right.moments[0])) / math.sqrt(v), variance / v - 1)


# --- flows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", [*PATHS, VE()], ids=name)
@pytest.mark.parametrize(("sampler", "order"), [(Euler(), 1), (Midpoint(), 2), (Heun(), 2)], ids=repr)
def test_orders_of_flow_samplers(sampler, order, process):
    """On the mixture. (On a Gaussian the midpoint rule is of order 3 along EDM's and the straight path, by luck.)"""
    target, errors, steps = mixture(), [], [64, 128, 256]
    model = target.model(process, "velocity" if isinstance(process, RectifiedFlow) else "v")
    t, s = (float(process.time(-2 * math.log(r))) for r in (8.0, 0.05))
    x = target.marginal(process, t).sample(40, torch.Generator().manual_seed(0))
    exact = sample(model, x=x, sampler=Adaptive(1e-9, 1e-9), grid=[t, s])
    for n in steps:
        end = sample(model, x=x, sampler=sampler, grid=between(process, n))
        errors.append(float((end - exact).norm(dim=1).median()))
    assert abs(slope(errors, steps) - order) < 0.2, errors


def test_midpoint_calls_twice_a_step_and_goes_all_the_way():
    count = Count()
    sample(mixture().model(RectifiedFlow(), "velocity").wrap(count), (4, 2), Midpoint(), 10)
    assert count.calls == 19


# --- the SDE of a flow -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", PATHS, ids=name)
@pytest.mark.parametrize("w", WS, ids=lambda w: w if isinstance(w, str) else "function")
@pytest.mark.parametrize("order", [1, 2])
def test_weak_orders_of_the_flows_sde(w, order, process):
    """Mean and variance against the exact marginal's, without Monte Carlo, for every coefficient of the noise."""
    steps = [50, 100, 200]
    errors = [law_error(FlowSDE(w, order), process, between(process, n)) for n in steps]
    assert abs(slope(errors, steps) - order) < 0.25, errors
    assert errors[-1] < (0.05 if order == 1 else 2e-3)


@pytest.mark.parametrize("order", [1, 2])
def test_a_wrong_factor_of_the_score_is_seen(order):
    """A planted error: w² ∇log p for ½ w² ∇log p, as if the noise had twice its variance."""

    class Wrong(FlowSDE):
        def step(self, model, x, t, s, memory, randn):
            return super().step(model, x, t, s, memory, lambda shape: randn(shape) / math.sqrt(2))

    assert law_error(Wrong(order=order), RectifiedFlow(), between(RectifiedFlow(), 400)) > 0.2


@pytest.mark.parametrize("order", [1, 2])
def test_the_flows_sde_on_a_mixture_by_kolmogorovs_equation(order):
    """E φ(x_s) carried backwards, step by step, by quadrature over the noise and a spline in x: no Monte Carlo."""
    target = targets.GaussianMixture([0.35, 0.65], torch.tensor([[-0.9], [0.8]]).double(), [0.1, 0.2])
    process, sampler, errors, steps = RectifiedFlow(), FlowSDE(order=order), [], [20, 40, 80]
    model = target.model(process, "velocity")
    nodes, shares = np.polynomial.hermite_e.hermegauss(11)
    shares = shares / shares.sum()
    lattice = np.linspace(-9.0, 9.0, 500)

    def functions(x):
        return np.stack([x, x**2, np.cos(2 * x)], -1)

    def expected(t, values):
        at, total = target.marginal(process, t), 0.0
        points, weights = np.polynomial.hermite_e.hermegauss(60)
        for w, m, v in zip(at.weights.tolist(), at.means[:, 0].tolist(), at.variances[:, 0].tolist()):
            total = total + w * (weights / weights.sum()) @ values(m + math.sqrt(v) * points)
        return total

    for n in steps:
        times, values = between(process, n).tolist(), functions
        for t, s in list(pairwise(times))[::-1]:
            x = torch.as_tensor(lattice).repeat(len(nodes))[:, None]
            noise = torch.as_tensor(nodes).repeat_interleave(len(lattice))[:, None]
            moved, _ = sampler.step(model, x, t, s, None, lambda shape, noise=noise: noise)
            carried = np.tensordot(shares, values(moved[:, 0].numpy()).reshape(len(nodes), len(lattice), -1), 1)
            values = CubicSpline(lattice, carried)
        errors.append(float(np.abs(expected(times[0], values) - expected(times[-1], functions)).max()))
    assert abs(slope(errors, steps) - order) < 0.3, errors


@pytest.mark.parametrize("process", MAIN, ids=name)
def test_the_flows_sde_contains_its_neighbours(process):
    """w = g is the reverse SDE by Euler–Maruyama; w = 0 is Euler's and Heun's methods."""
    model, grid = mixture().model(process, "v"), between(process, 12)
    x = torch.randn(5, 2, dtype=torch.float64)
    for one, two in (
        (FlowSDE("process"), EulerMaruyama()),
        (FlowSDE(lambda process, t: 0.5 * process.at("diffusion", t)), EulerMaruyama(0.5)),
        (FlowSDE(lambda process, t: 0.0), Euler()),
        (FlowSDE(lambda process, t: 0.0, order=2), Heun()),
    ):
        ends = [sample(model, x=x, sampler=part, grid=grid, seeds=range(5)) for part in (one, two)]
        assert torch.allclose(*ends, rtol=1e-11, atol=1e-11)


def test_coefficients_on_the_straight_path():
    process, t = RectifiedFlow(), 0.3
    for w, squared in (("process", 2 * t / (1 - t)), ("sigma", 2 * t), ("constant", 1.0)):
        assert abs(FlowSDE(w).coefficient(process, t) ** 2 - squared) < 1e-12
    assert math.isinf(FlowSDE("process").coefficient(process, 1.0))
    assert abs(FlowSDE("sigma").coefficient(process, 1.0) ** 2 - 2) < 1e-12
    assert FlowSDE().grid(mixture().model(process, "velocity"), 5)[0] == 1.0
    assert FlowSDE("process").grid(mixture().model(process, "velocity"), 5)[0] < 1.0
    assert FlowSDE(noise="path").grid(mixture().model(process, "velocity"), 5)[0] < 1.0


@pytest.mark.slow
def test_strong_order_along_a_path():
    """With additive noise Heun's method has strong order 1 too, for its area is not drawn; the flow's SDE follows."""
    model = mixture().model(RectifiedFlow(), "velocity")
    x = 0.9 * torch.randn(200, 2, dtype=torch.float64)
    for order in (1, 2):
        sampler, steps = FlowSDE(order=order, noise="path"), [64, 128, 256]
        ends = [sample(model, x=x, sampler=sampler, grid=between(RectifiedFlow(), n), seeds=range(200)) for n in steps]
        gaps = [float((a - b).norm(dim=1).median()) for a, b in pairwise(ends)]
        assert 0.75 < math.log2(gaps[0] / gaps[1]) < 1.3


# --- churn -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", [EDM(), VP(), RectifiedFlow(), Cosine()], ids=name)
def test_churn_keeps_heuns_weak_order(process):
    steps = [24, 48, 96]
    errors = [law_error(Heun(churn=5.0), process, between(process, n)) for n in steps]
    assert 1.75 < slope(errors, steps) < 2.3, errors


def test_other_noise_than_its_own_would_be_seen():
    process = EDM()
    assert law_error(Heun(churn=5.0, churn_noise=1.02), process, between(process, 128)) > 0.005
    assert law_error(Heun(churn=5.0), process, between(process, 128)) < 0.002


def test_churn_is_karrass_algorithm():
    """Written out as in the paper's algorithm 2, on EDM's process and grid, from the same noise."""
    model, n, churn, inflate = mixture().model(EDM(), "x0"), 18, 4.0, 1.007
    times = grids.karras(EDM(), n).tolist()
    times[0] = 60.0  # so that the first step may be raised within the process
    noises, x = torch.randn(n, 6, 2, dtype=torch.float64), 60 * torch.randn(6, 2, dtype=torch.float64)
    draws = iter(noises)
    sampler = Heun(churn=churn, churn_noise=inflate, churn_range=(0.05, 50.0), rule="published")
    *_, got = sampler.run(model, x, times, lambda shape: next(draws))
    draws = iter(noises)
    for t, s in pairwise(times):
        gamma = min(churn / n, math.sqrt(2) - 1) if 0.05 <= t <= 50 else 0.0
        hat = t + gamma * t
        if gamma:
            x = x + math.sqrt(hat**2 - t**2) * inflate * next(draws)
        d = (x - model(x, hat)) / hat
        x_next = x + (s - hat) * d
        if s:
            x_next = x + (s - hat) * (d + (x_next - model(x_next, s)) / s) / 2
        x = x_next
    assert torch.allclose(got, x, rtol=1e-9, atol=1e-9)


def test_churn_stays_within_the_process_and_its_range():
    levels = []

    def watch(inner, x, t):
        levels.append(float(t[0]))
        return inner(x, t)

    model = mixture().model(EDM(), "x0").wrap(watch)
    sample(model, (2, 2), Heun(churn=1e9, churn_range=(1.0, 30.0)), grid=[80.0, 40.0, 20.0, 0.5, 0.1])
    assert np.allclose(levels, [80, 40, 40, 20, 20 * (1 + MOST_CHURN), 0.5, 0.5, 0.1])
    levels.clear()
    sample(model, (2, 2), Heun(churn=1e9), grid=[80.0, 70.0, 0.5])
    assert np.allclose(levels, [80, 70, 80, 0.5])
    assert Heun().stochastic is False and Heun(churn=1.0).stochastic is True


def test_published_and_exact_endings():
    """The published ending is the denoiser's, of first order; both cost one call."""
    model = gaussian().model(EDM(), "x0")
    x = torch.randn(4, 2, dtype=torch.float64)
    published, _ = Heun(rule="published").step(model, x, 0.3, 0.0, None, None)
    assert torch.allclose(published, model(x, 0.3))
    exact, _ = Heun().step(model, x, 0.3, 0.0, None, None)
    flow = exact_flow(gaussian(), EDM(), x, 0.3, 0.0)
    assert (exact - flow).abs().max() < 0.2 * (published - flow).abs().max()


def test_noise_is_raised_by_the_forward_process():
    for process in (VP(), RectifiedFlow(), VE()):
        t, u = 0.3 * process.t_max, 0.6 * process.t_max
        ones = torch.ones(1, 1, dtype=torch.float64)
        here, there = normal().marginal(process, t), normal().marginal(process, u)
        gain = renoise(process, ones, t, u, torch.zeros)
        noise = renoise(process, 0 * ones, t, u, torch.ones)
        assert torch.allclose(gain * here.moments[0], there.moments[0])
        assert torch.allclose(gain**2 * here.moments[1] + noise**2, there.moments[1])


# --- restarts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", PATHS, ids=name)
def test_restarts_keep_the_law_to_second_order(process):
    steps = [8, 16, 32]
    errors = [
        law_error(Restart(inner_steps=n, repeats=3, low=0.2, high=2.0), process, between(process, 8 * n)) for n in steps
    ]
    assert 1.7 < slope(errors, steps) < 2.3, errors


def test_restarts_contract_earlier_errors():
    """A start that is off by a standard deviation: what is left of it falls with every repeat."""
    process, left = VP(), []
    model, times = normal().model(process, "v"), between(process, 100, (8.0, 0.3)).tolist()
    for repeats in (0, 1, 2, 3):
        sampler = Restart(low=0.3, high=3.0, repeats=repeats, inner_steps=50)
        *_, one = sampler.run(model, torch.zeros(1, 1).double(), times, torch.zeros)
        *_, two = sampler.run(model, torch.ones(1, 1).double(), times, torch.zeros)
        left.append(float(two - one))
    v = 0.3
    kept = math.sqrt((v + 0.3**2) / (v + 3.0**2))  # what the flow from high to low makes of a distance in y
    for one, two in pairwise(left):
        assert abs(two / one - kept) < 0.01


def test_restart_visits_its_interval_and_counts():
    for process in (VP(), RectifiedFlow(), VE()):
        levels, count = [], Count()

        def watch(inner, x, t, levels=levels, process=process):
            levels.append(round(ratio(process, float(t[0])), 9))
            return inner(x, t)

        model = mixture().model(process, "v").wrap(watch).wrap(count)
        sampler = Restart(DDIM(), low=0.1, high=1.0, repeats=3, inner_steps=4)
        path = sample(model, (2, 2), sampler, 10, seeds=[0, 1], trajectory=True)
        assert path.shape == (11, 2, 2)
        assert levels.count(1.0) == 3 and levels.count(0.1) == 1  # from low the way goes on once; DDIM asks where it is
        assert count.calls == 10 + 3 * 4 + (process.at("sigma", 0.0) > 0)


def test_a_restart_of_no_repeats_is_its_sampler_and_grids_may_miss_it():
    model = mixture().model(VP(), "v")
    for inner in (Heun(), Adams(), DDIM()):
        grid = Restart(inner).grid(model, 9)
        one, two = (
            sample(model, (4, 2), part, grid=grid, seeds=range(4)) for part in (inner, Restart(inner, repeats=0))
        )
        assert (one - two).abs().max() < (1e-12 if not isinstance(inner, Adams) else 0.2)  # whose memory starts afresh
    high = [1.0, 0.8, 0.6]
    x = torch.randn(4, 2, dtype=torch.float64)
    assert torch.equal(sample(model, x=x, sampler=Restart(), grid=high), sample(model, x=x, sampler=Heun(), grid=high))
    apart = sample(model, x=x, sampler=Restart(), grid=[1.0, 0.5, 0.0], trajectory=True, seeds=range(4))
    assert apart.shape == (3, 4, 2)  # low is a stop between the grid's times


# --- refusals --------------------------------------------------------------------------------------------------


def test_refusals():
    for make, match in (
        (lambda: FlowSDE("sigmas"), "Did you mean 'sigma'"), (lambda: FlowSDE(order=3), "1 or 2"),
        (lambda: FlowSDE(noise="pth"), "noise"), (lambda: Heun(churn=-1.0), "churn"),
        (lambda: Heun(churn_range=(2.0, 1.0)), "low < high"), (lambda: Heun(churn_range=3.0), "low, high"),
        (lambda: Heun(rule="euler"), "rule"), (lambda: Heun(churn_noise=math.nan), "churn_noise"),
        (lambda: Restart(DDIM(1.0)), "deterministic"), (lambda: Restart(low=2.0, high=1.0), "low < high"),
        (lambda: Restart(low=0.0), "low"), (lambda: Restart(high=math.inf), "high"),
        (lambda: Restart(repeats=-1), "repeats"), (lambda: Restart(inner_steps=0), "inner_steps"),
        (lambda: Restart("Heun"), "inner"),
    ):  # fmt: skip
        with pytest.raises((ValueError, TypeError), match=match):
            make()
    model = mixture().model(VE())
    with pytest.raises(ValueError, match="sigma/alpha at t = 0"):
        sample(model, (2, 2), Restart(high=60.0), 5)
    with pytest.raises(ValueError, match="diffusion must be 0 or more"):
        sample(model, (2, 2), FlowSDE(lambda process, t: -1.0), 5)
