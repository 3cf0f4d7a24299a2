"""Laws of times against their closed forms, their densities against their quantiles, and weights against integrals."""

import math

import pytest
import torch

from scoresde import EDM, VE, VP, Cosine, Discrete, Model, Process, RectifiedFlow, ddpm, loss
from scoresde.training import LossAware, draw_times
from scoresde.training.times import TIMES, Law, _derived, density, draw, log_normal, logit_normal, quantile
from tests.problems import PROCESSES, name


class Angle(Process):
    """A process of a user: α = cos, σ = sin; its inverse by bisection."""

    def alpha(self, t):
        return torch.cos(t * torch.pi / 2)

    def sigma(self, t):
        return torch.sin(t * torch.pi / 2)


ALL = [*PROCESSES, Angle()]
LAWS = {**TIMES, "narrow": log_normal(0.3, 0.4), "late": logit_normal(1.0, 0.5)}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def log_ratio(process, t):
    return (process.sigma(t) / process.alpha(t)).log()


def normal(z):
    return 0.5 * torch.special.erfc(-z / math.sqrt(2))


def cumulative(law, process, t):
    """The distribution function in closed form, from each law's definition."""
    ends = torch.tensor([process.t_min, process.t_max], dtype=torch.float64)
    if law == "uniform":
        return (t - ends[0]) / (ends[1] - ends[0])
    if law == "noise_level":
        clock = lambda t: process.sigma(t) / (process.alpha(t) + process.sigma(t))  # noqa: E731
    elif law == "logsnr":
        clock = lambda t: log_ratio(process, t).clamp_max(math.log(1000))  # noqa: E731
    else:
        mean, std = {"log_normal": (-1.2, 1.2), "logit_normal": (0, 1), "narrow": (0.3, 0.4), "late": (1, 0.5)}[law]
        clock = lambda t: normal((log_ratio(process, t) - mean) / std)  # noqa: E731
    low, high = clock(ends)
    return (clock(t) - low) / (high - low)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("process", ALL, ids=name)
def test_one_time_falls_in_each_nth_of_the_law(process, law):
    """Sorted, the k-th of n times has k/n to (k + 1)/n of the distribution function below it."""
    n = 1000
    t = draw_times(process, n, seeded(), times=LAWS[law])
    assert t.dtype == torch.float64 and t.shape == (n,)
    assert t.min() >= process.t_min and t.max() <= process.t_max
    share = cumulative(law, process, t).sort().values * n - torch.arange(n)
    assert share.min() > -1e-6 and share.max() < 1 + 1e-6


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("process", ALL, ids=name)
def test_the_density_is_the_quantiles_derivative(process, law):
    """p(λ) = |du/dλ|, by central differences of the quantile function, and none at times never drawn."""
    u = torch.linspace(0.01, 0.99, 41, dtype=torch.float64)
    t = quantile(LAWS[law], process, u)
    high, low = (process.logsnr(quantile(LAWS[law], process, u + h)) for h in (1e-6, -1e-6))
    known = -2e-6 / (high - low)
    assert torch.allclose(density(process, t, LAWS[law]), known, rtol=1e-5)  # h² and rounding/h leave 1e-6
    if process.t_min > 1e-12:
        assert density(process, torch.tensor([process.t_min / 2], dtype=torch.float64), LAWS[law]) == 0.0


@pytest.mark.parametrize("law", LAWS)
def test_the_density_integrates_to_one(law):
    """By the trapezoid rule over λ between the ends; nothing sits on the ends themselves."""
    for process in (VP(), VE(), EDM(), RectifiedFlow(), ddpm()):
        low = max(float(process.logsnr(process.t_max)), -30.0)
        logsnr = torch.linspace(low, float(process.logsnr(process.t_min)), 20001, dtype=torch.float64)[1:-1]
        p = density(process, process.time(logsnr), LAWS[law])
        assert float(p.sum() * (logsnr[1] - logsnr[0])) == pytest.approx(1.0, abs=2e-3)
        t = draw_times(process, 10_000, seeded(), times=LAWS[law])
        inside = (t > process.t_min) & (t < process.t_max)
        assert inside.sum() >= 9_999


def test_log_normal_and_logit_normal_are_what_they_are_called():
    """On EDM log σ is normal, on the straight path the logit of t: moments of stratified draws."""
    t = draw_times(EDM(1e-6, 1e6), 10_001, seeded(), times="log_normal").log()
    assert float(t.mean()) == pytest.approx(-1.2, abs=1e-3) and float(t.std()) == pytest.approx(1.2, abs=1e-3)
    t = draw_times(RectifiedFlow(), 10_001, seeded(), times="logit_normal").logit()
    assert float(t.mean()) == pytest.approx(0.0, abs=1e-3) and float(t.std()) == pytest.approx(1.0, abs=1e-3)


def test_the_uniform_law_in_logsnr_is_the_importance_of_g2_over_sigma2():
    """dt ∝ σ²/g² is uniform in λ: p(t) g²/σ² is constant (VP reaches σ/α = 152, so nothing is cut)."""
    process, u = VP(), torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    t, later = (quantile("logsnr", process, u + h) for h in (-1e-7, 1e-7))
    p_t = 2e-7 / (later - t)
    ratio = p_t / (process.diffusion(t) / process.sigma(t)) ** 2
    assert float(ratio.max() / ratio.min()) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("process", [Cosine(), RectifiedFlow(), Angle()], ids=name)
def test_logsnr_is_cut_at_a_thousand_where_the_process_has_no_end(process):
    t = draw_times(process, 1000, seeded(), times="logsnr")
    assert float(log_ratio(process, t).max()) == pytest.approx(math.log(1000), abs=0.02)
    assert density(process, process.time(torch.tensor([-14.0, -13.0])).double(), "logsnr")[0] == 0.0


def test_a_law_of_ones_own_gets_its_density():
    """t = u² on the straight path: p(λ) = 1/(2√t |dλ/dt|), |dλ/dt| = 2/(t(1 − t))."""
    process = RectifiedFlow()
    t = torch.tensor([0.01, 0.3, 0.9], dtype=torch.float64)
    known = t * (1 - t) / (4 * t.sqrt())
    assert torch.allclose(density(process, t, lambda process, u: u**2), known, rtol=1e-7)
    for law in ("noise_level", "uniform", "log_normal", "logsnr"):
        exact, found = TIMES[law].density(process, t), _derived(TIMES[law], process, t)
        assert torch.allclose(exact, found, rtol=1e-6)
    TIMES["mine"] = Law(lambda process, u: 0.25 + 0.5 * u, lambda process, t: t)
    try:
        assert draw_times(VP(), 10, times="mine").min() >= 0.25
    finally:
        del TIMES["mine"]


@pytest.mark.parametrize("low_discrepancy", [True, False])
def test_draws_repeat_and_leave_the_global_generator_alone(low_discrepancy):
    state = torch.get_rng_state()
    one, two = (draw("uniform", VP(), 50, seeded(3), low_discrepancy=low_discrepancy)[0] for _ in range(2))
    assert torch.equal(one, two) and torch.equal(state, torch.get_rng_state())
    assert draw_times(VP(), 0).shape == (0,)


def test_low_discrepancy_keeps_each_samples_time_uniform_and_lowers_the_variance():
    """The first of n times alone is as uniform as any; the mean over a batch is not as random as independent ones."""
    first = torch.stack([draw_times(RectifiedFlow(), 8, seeded(i))[0] for i in range(2000)]).sort().values
    assert (first - torch.linspace(0, 1, 2000)).abs().max() < 1.95 / math.sqrt(2000)  # Kolmogorov, 0.1 %
    even, free = (
        torch.stack([draw_times(RectifiedFlow(), 8, seeded(i), low_discrepancy=low).mean() for i in range(500)]).std()
        for low in (True, False)
    )
    assert float(even) == pytest.approx(1 / (8 * math.sqrt(12)), rel=0.1)  # the lattice's shift
    assert float(free) == pytest.approx(1 / math.sqrt(8 * 12), rel=0.1)


def squares(t):
    """A loss that depends on the time: large where there is little noise."""
    return 0.1 + torch.exp(-8 * t)


def taught(process, times="noise_level", rounds=30, **options):
    aware = LossAware(times, bins=16, **options)
    for i in range(rounds):
        t, _ = aware.draw(process, 256, seeded(i))
        aware.update(t, squares(t))
    return aware


@pytest.mark.parametrize("base", ["noise_level", "uniform", "logsnr"])
@pytest.mark.parametrize("process", [VP(), RectifiedFlow(), EDM(), Discrete([0.1, 0.2, 0.3])], ids=name)
def test_loss_aware_times_keep_the_objective(process, base):
    """The weighted mean of any f is that under the base law, within (total variation)/n as times are stratified."""
    aware, n = taught(process, base), 100_000
    t, weight = aware.draw(process, n, seeded(99))
    exact = draw_times(process, n, seeded(1), times=base)
    for f in (torch.ones_like, squares, lambda t: (t < 0.3).double()):
        values, order = weight * f(t), t.argsort()
        bound = (float(values[order].diff().abs().sum()) + 4) / n
        off = float(values.mean()) - float(f(exact).mean())
        assert abs(off) < bound
    assert weight.max() <= 1 / aware.uniform + 1e-12
    off = float(squares(t).mean() - squares(exact).mean())
    assert abs(off) > (float(squares(t).max()) + 4) / n  # without weights it is another objective


def test_loss_aware_shares_follow_the_root_mean_square_and_lower_the_variance():
    process = RectifiedFlow()
    aware = taught(process, rounds=60, uniform=0.1)
    edges = torch.linspace(0, 1, 17, dtype=torch.float64)
    fine = edges[:-1, None] + torch.linspace(0, 1 / 16, 200, dtype=torch.float64)
    root = squares(fine).square().mean(1).sqrt()
    known = 0.1 / 16 + 0.9 * root / root.sum()
    assert torch.allclose(aware.shares(), known, rtol=0.03)
    t, weight = aware.draw(process, 10_000, seeded(7), low_discrepancy=False)
    plain = squares(draw_times(process, 10_000, seeded(8), low_discrepancy=False))
    assert (weight * squares(t)).std() < 0.4 * plain.std()


def test_loss_aware_waits_until_every_bin_has_been_seen():
    aware = LossAware(bins=4, warm_up=10)
    t, weight = aware.draw(VP(), 16, seeded())
    aware.update(t, squares(t))
    assert torch.equal(aware.shares(), torch.full((4,), 0.25, dtype=torch.float64)) and torch.all(weight == 1)
    for i in range(3):
        t, _ = aware.draw(VP(), 16, seeded(i))
        aware.update(t, squares(t))
    assert aware.count.min() >= 10 and aware.shares().std() > 0


def test_loss_aware_resumes_to_the_last_bit():
    one = taught(VP(), rounds=5, warm_up=5)
    two = LossAware(bins=16, warm_up=5)
    two.load_state_dict(one.state_dict())
    for i in range(5):
        (t, w), (s, v) = one.draw(VP(), 64, seeded(i)), two.draw(VP(), 64, seeded(i))
        assert torch.equal(t, s) and torch.equal(w, v)
        one.update(t, squares(t))
        two.update(s, squares(s))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values()))
    assert all(isinstance(value, torch.Tensor) for value in one.state_dict().values())


def test_loss_aware_of_an_integral():
    """Weights are divided by the base's density, and so is what is learnt: f is flat in λ, shares follow 1/p."""
    process = VE(0.1, 10.0)
    aware = LossAware("logit_normal", bins=8, warm_up=1)
    for i in range(20):
        t, weight = aware.draw(process, 500, seeded(i), integral=True)
        aware.update(t, torch.ones(500))
    assert float(weight.mean()) == pytest.approx(2 * math.log(100), rel=1e-2)  # ∫ dλ
    fine = quantile("logit_normal", process, (torch.arange(8000) + 0.5) / 8000)
    root = (1 / density(process, fine, "logit_normal")).reshape(8, -1).square().mean(1).sqrt()
    assert torch.allclose(aware.shares(), 0.1 / 8 + 0.9 * root / root.sum(), rtol=0.1)


def test_loss_draws_by_loss_aware_times_and_multiplies_its_weights():
    """A network that misses by one everywhere: every loss is its weight."""
    model, aware = Model(lambda x, t: torch.zeros_like(x), VP(), "noise"), taught(VP())
    ones = torch.ones(2000, 1, dtype=torch.float64)
    values = loss(model, 0 * ones, None, ones, seeded(5), times=aware)
    assert torch.allclose(values, aware.draw(VP(), 2000, seeded(5))[1])
    assert float(values.mean()) == pytest.approx(1.0, abs=0.01) and values.std() > 0.3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: draw_times("VP", 3), "process must be"),
        (lambda: draw_times(VP(), -1), "n must be at least 0"),
        (lambda: draw_times(VP(), 3, times="loguniform"), "unknown times"),
        (lambda: draw_times(VP(), 3, times=0.5), "times must be a name"),
        (lambda: draw_times(VP(), 3, times=lambda process, u: 2 * u), "t must lie in"),
        (lambda: draw_times(VP(), 3, times=lambda process, u: u.sum()), "one t for each u"),
        (lambda: draw_times(VP(), 3, times=log_normal(50.0)), "less than a millionth"),
        (lambda: draw_times(VP(), 3, generator=1), "generator must be"),
        (lambda: log_normal(std=0.0), "std must be positive"),
        (lambda: density(VP(), torch.tensor([2.0])), "t must lie in"),
        (lambda: LossAware(uniform=0.0), "uniform must be above 0"),
        (lambda: LossAware(bins=0), "bins must be at least 1"),
        (lambda: LossAware(memory=1.0), "memory must be"),
        (lambda: LossAware("late"), "unknown times"),
        (lambda: LossAware().update(torch.ones(2), torch.ones(2)), "times that were drawn"),
        (lambda: taught(VP(), rounds=1).update(torch.ones(2), torch.ones(3)), "loss must have the shape of t"),
        (lambda: LossAware().load_state_dict({"square": torch.ones(3)}), "of shape"),
        (lambda: LossAware(bins=1).load_state_dict({"square": -torch.ones(1), "count": torch.ones(1)}), "at least 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
