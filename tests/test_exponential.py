"""The exponential stepper: its weights, identities, strong and weak orders, both ends of time, there and back."""

import math
from dataclasses import replace
from itertools import pairwise

import mpmath
import pytest
import torch

from scoresde import VE, VP, Count, Model, RectifiedFlow, encode, sample, targets
from scoresde.prediction import weights
from scoresde.samplers import DDIM, DDPM, DEIS, DPMSolver, DPMSolverPP, Exponential, SASolver, grids
from scoresde.samplers.exponential import Stepper
from scoresde.samplers.quadrature import Node, ask, clock, lagrange, moments
from tests.problems import MAIN, NAMES, PROCESSES, mixture, name, slope


def starts(process, t, n=10):
    """Points spread as the noised data are."""
    z = torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return math.hypot(process.at("alpha", t), process.at("sigma", t)) * z


def even(process, steps, high=8.0, low=0.1):
    """Equal steps in λ between two σ/α."""
    return process.time(-2 * torch.linspace(math.log(high), math.log(low), steps + 1, dtype=torch.float64)).tolist()


def rms(x):
    return float(x.square().mean().sqrt())


# --- weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("z", [1e-9, 0.3, -0.3, 1.99, 2.01, -1.99, -2.01, 8.0, -8.0, 40.0, -30.0])
def test_moments_against_quadrature(z):
    """∫₀¹ e^{z(u−1)} u^k du to 13 digits, on both sides of the place where the series gives way."""
    for k, value in enumerate(moments(z, 5)):
        with mpmath.workdps(40):
            truth = float(mpmath.quad(lambda u, k=k: mpmath.e ** (z * (u - 1)) * u**k, mpmath.linspace(0, 1, 9)))
        assert abs(value - truth) < 2e-13 * abs(truth), k


@pytest.mark.parametrize("prediction", ["x0", "noise"])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_factors_are_the_integrals_of_lagranges_polynomials(prediction, eta):
    process, zero = VP(), torch.zeros(())
    s, a = 0.31, clock(process, 0.37)
    b = clock(process, s)
    nodes = [Node(clock(process, t), 1.0, zero) for t in (0.55, 0.45, 0.41, 0.37)]
    found = Exponential(prediction, 4, eta).factors(process, a, s, nodes)
    for i, node in enumerate(nodes):
        others = [n.place for j, n in enumerate(nodes) if j != i]

        def integrand(x, node=node, others=others):
            value = math.prod((x - o) / (node.place - o) for o in others)
            if prediction == "x0":
                return (1 + eta**2) * process.at("alpha", s) * mpmath.e ** ((1 + eta**2) * (x - b)) * value
            return -(1 + eta**2) * process.at("sigma", s) * mpmath.e ** (b - x) * value

        assert abs(found[i] - float(mpmath.quad(integrand, [a, b]))) < 1e-13


@pytest.mark.parametrize("prediction", ["x0", "noise"])
@pytest.mark.parametrize(
    ("method", "order"), [*(("multistep", p) for p in (1, 2, 3, 4)), ("singlestep", 2), ("singlestep", 3)]
)
def test_exact_where_the_prediction_is_a_polynomial_in_lambda(prediction, method, order):
    """Of degree order − 1; one degree more is not, and neither is a linear one by the published rule."""
    process, (t, s) = VP(), (0.6, 0.4)

    def error(degree, rule="exact"):
        def polynomial(t):
            return (clock(process, float(t)) + 0.3) ** degree

        model = Model(lambda x, t: torch.full_like(x, polynomial(t[0])), process, prediction)
        x = torch.full((1, 1), 0.7, dtype=torch.float64)
        sampler = Exponential(prediction, order, method=method, rule=rule)
        past = tuple(Node(clock(process, u), 1.0, torch.full_like(x, polynomial(u))) for u in (0.9, 0.8, 0.7))
        memory = (None, 0.0, past[-order + 1 :]) if method == "multistep" and order > 1 else None
        got = float(sampler.step(model, x, t, s, memory, None)[0])
        a, b = clock(process, t), clock(process, s)
        if prediction == "x0":
            rest = mpmath.quad(lambda v: mpmath.e ** (v - b) * (v + 0.3) ** degree, [a, b]) * process.at("alpha", s)
            return abs(got - process.at("sigma", s) / process.at("sigma", t) * 0.7 - float(rest))
        rest = mpmath.quad(lambda v: mpmath.e ** (b - v) * (v + 0.3) ** degree, [a, b]) * process.at("sigma", s)
        return abs(got - process.at("alpha", s) / process.at("alpha", t) * 0.7 + float(rest))

    assert all(error(degree) < 1e-13 for degree in range(order))
    assert error(order) > 1e-5
    if order == 2:
        assert error(1, "published") > 1e-4


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_the_linear_part_and_the_noise_are_those_of_the_sde(eta):
    """(σ_s/σ_t) e^{−η²h} and σ_s √(1 − e^{−2η²h}) for data predictions, α_s/α_t and η σ_s √(e^{2h} − 1) for noise."""
    process, t, s = VP(), 0.6, 0.4
    h = clock(process, s) - clock(process, t)
    alpha, sigma = process.at("alpha", s), process.at("sigma", s)
    x, xi = torch.tensor([[[2.0]], [[0.7]]], dtype=torch.float64)
    shrink = math.exp(-(eta**2) * h)
    for prediction, gain, deviation in (
        ("x0", sigma / process.at("sigma", t) * shrink, sigma * math.sqrt(1 - shrink**2)),
        ("noise", alpha / process.at("alpha", t), eta * sigma * math.sqrt(math.exp(2 * h) - 1)),
    ):  # fmt: skip
        sampler = Exponential(prediction, 2, eta)
        assert sampler.gain(process, t, s) == pytest.approx(gain, rel=1e-14)
        assert sampler.deviation(process, t, s) == pytest.approx(deviation, rel=1e-12)
        base = float(sampler.base(process, x, t, s, lambda shape: xi if shape == x.shape else None))
        assert base == pytest.approx(2 * gain + 0.7 * deviation, rel=1e-13)
        assert sampler.stochastic == (eta > 0)


@pytest.mark.parametrize("prediction", NAMES)
def test_a_node_is_the_prediction_asked_for(prediction):
    model, x = mixture().model(VP(), prediction), starts(VP(), 0.5)
    for kind in ("x0", "noise"):
        for t in (0.01, 0.5, 0.99):
            node = ask(model, kind, x, t)
            assert torch.allclose(node.scale * node.value, model.predict(kind, x, t), rtol=1e-9, atol=1e-12)
            assert node.place == pytest.approx(math.log(VP().alpha(t) / VP().sigma(t)), rel=1e-12)
            both = weights(VP(), t, prediction, (1.0, 0.0) if kind == "x0" else (0.0, 1.0))
            assert abs(node.scale) == max(map(abs, both))  # so that no weight is divided by a small one


def test_which_predictions_correct_a_step():
    """As many as the corrector wants and there are; without one, the trapezoid for the first step of order 3 and 4."""
    for sampler, counts in (
        (Exponential(order=2), [0, 0, 0, 0]), (Exponential(order=3), [0, 2, 0, 0]),
        (Exponential(order=4), [0, 2, 0, 0]),
        (Exponential(order=3, rule="published"), [0, 0, 0, 0]), (Exponential(order=2, corrector=3), [1, 2, 3, 3]),
        (Exponential(order=3, corrector=1), [1, 2, 1, 1]),
    ):  # fmt: skip
        assert [sampler.corrected(known) for known in (1, 2, 3, 4)] == counts


def test_what_a_subclass_does_not_declare_is_as_in_exponential():
    class Mine(Stepper):
        noise = "independent"

    one, two = Mine(), Exponential()
    one.__post_init__()
    assert all(
        getattr(one, k) == getattr(two, k) for k in ("prediction", "order", "eta", "method", "corrector", "rule")
    )
    assert (two.order, two.eta, two.corrector, one.orders, one.published) == (3, 0.0, 0, (1, 2, 3, 4), 3)


@pytest.mark.parametrize("process", [VP(), VE(), RectifiedFlow()], ids=name)
@pytest.mark.parametrize("steps", [1, 2, 5, 15, 60])
def test_the_grid_is_as_described(process, steps):
    """Equal steps in w, σ/α = A (w/(1 − w))^q, and one from t_min to the data where equal ones would pass it."""
    target = targets.Gaussian(torch.zeros(2, dtype=torch.float64), 0.36)
    model = target.model(process, "v")
    for sampler, order in (
        (Exponential(order=2), 2), (Exponential(order=3), 3), (Exponential("noise", 2), 2),
        (Exponential("noise", 4), 4),
        (Exponential(order=2, corrector=3), 3), (Exponential(order=3, eta=0.5), 2), (Exponential("noise", 3, 1.0), 2),
    ):  # fmt: skip
        times = sampler.grid(model, steps).tolist()
        q, front = order / 2 + 1 / 4, 0.6
        if sampler.prediction == "x0" and process.at("sigma", 0.0) == 0.0:
            q, front = min(q, max(1.0, steps / 10)), 0.3
        w = []
        for t in [process.t_max, *times[1:-1], process.t_min, 0.0]:
            alpha, root = process.at("alpha", t), process.at("sigma", t) ** (1 / q)
            w.append(root / (root + (front * alpha) ** (1 / q)))
        first, *inner, least, last = w
        crowded = last == 0.0 and steps > 1 and first / steps < least
        count, end = (steps - 1, least) if crowded else (steps, last)
        expected = [first + (end - first) * i / count for i in range(1, steps)]
        assert inner == pytest.approx(expected, rel=1e-7) and times[-1] == 0.0
        assert times[0] == process.t_max or (sampler.stochastic and process.at("alpha", process.t_max) == 0.0)
    for sampler, other in (
        (Exponential(order=1), grids.graded(process, steps, 0.6)), (DEIS(3, "published"), grids.logsnr(process, steps)),
    ):  # fmt: skip
        assert torch.equal(sampler.grid(model, steps)[1:], other[1:])


# --- identities ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", MAIN, ids=name)
def test_order_one_is_ddim_in_either_prediction(process):
    """To the data and away from it as well, and DDPM's posterior step with η = 1; DDIM's dial is a dial of ours."""
    model, x = mixture().model(process, "v"), starts(process, 0.5)
    xi = torch.randn(10, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for t, s in ((0.9, 0.8), (0.5, 0.01), (0.2, 0.0), (0.1, 0.3), (0.0, 0.1)):
        t, s = t * process.t_max, s * process.t_max
        truth = DDIM().step(model, x, t, s, None, None)[0]
        for prediction in ("x0", "noise"):
            got = Exponential(prediction, 1).step(model, x, t, s, None, None)[0]
            assert (got - truth).abs().max() < 1e-11 * float(x.abs().max() + 1)
        if t > s:
            one = DPMSolverPP(1, 1.0).step(model, x, t, s, None, lambda shape: xi)[0]
            two = DDPM().step(model, x, t, s, None, lambda shape: xi)[0]
            assert (one - two).abs().max() < 1e-11 * float(x.abs().max() + 1)
        if t > s > 0:
            h = clock(process, s) - clock(process, t)
            dial = math.sqrt(-math.log1p(0.49 * math.expm1(-2 * h)) / (2 * h))
            one = Exponential(order=1, eta=dial).step(model, x, t, s, None, lambda shape: xi)[0]
            two = DDIM(0.7).step(model, x, t, s, None, lambda shape: xi)[0]
            assert (one - two).abs().max() < 1e-11 * float(x.abs().max() + 1)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("process", [VP(), VE(), RectifiedFlow()], ids=name)
def test_published_dpm_solver_pp_as_published(process, eta):
    """2M: D = (1 + 1/2r) x̂₀ − 1/2r x̂₀ before. 3M: its second difference without the factor 2. x̂₀ at the end."""
    model, times = mixture().model(process, "v"), [*even(process, 6), 0.0]
    x = starts(process, times[0])
    noises = torch.randn(7, 10, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    lam = [clock(process, t) for t in times]
    if process.at("sigma", 0.0) > 0:
        times.pop()
    for order in (2, 3):
        draws = iter(noises)
        *_, got = DPMSolverPP(order, eta, rule="published").run(model, x, times, lambda shape, d=draws: next(d))
        y, past = x, []
        for i, (t, s) in enumerate(pairwise(times)):
            past.append(model.predict("x0", y, t))
            if s == 0.0:
                y = past[-1]
                break
            h, k = lam[i + 1] - lam[i], (1 + eta**2) * (lam[i + 1] - lam[i])
            grow = process.at("alpha", s) * -math.expm1(-k)
            move = process.at("sigma", s) / process.at("sigma", t) * math.exp(-(eta**2) * h) * y + grow * past[-1]
            if i == 1 or (order == 2 and i):
                r = (lam[i] - lam[i - 1]) / h
                move = move + grow / (2 * r) * (past[-1] - past[-2])
            elif i > 1:
                r, q = (lam[i] - lam[i - 1]) / h, (lam[i - 1] - lam[i - 2]) / h
                near, far = (past[-1] - past[-2]) / r, (past[-2] - past[-3]) / q
                first, second = near + r / (r + q) * (near - far), (near - far) / (r + q)
                phi2 = math.expm1(-k) / k + 1
                move = move + process.at("alpha", s) * (phi2 * first - (phi2 / k - 0.5) * second)
            y = move + process.at("sigma", s) * math.sqrt(-math.expm1(-2 * eta**2 * h)) * noises[i]
        assert (got - y).abs().max() < 1e-11 * float(x.abs().max() + 1)


def test_published_dpm_solver_2_and_3_as_published():
    """Lu et al. (2022), algorithms 1 and 2, in their notation."""
    process = VP()
    model, t, s = mixture().model(process), 0.5, 0.4
    x, (a, b) = starts(process, t), (clock(process, t), clock(process, s))

    def at(share):
        u = float(process.time(2 * (a + share * (b - a))))
        return u, process.at("alpha", u) / process.at("alpha", t), process.at("sigma", u)

    h, (_, grow, sigma), e0 = b - a, at(1.0), model.predict("noise", x, t)
    u, grow1, sigma1 = at(0.5)
    e1 = model.predict("noise", grow1 * x - sigma1 * math.expm1(h / 2) * e0, u)
    got = DPMSolver(2, rule="published").step(model, x, t, s, None, None)[0]
    assert (got - (grow * x - sigma * math.expm1(h) * e1)).abs().max() < 1e-12
    u, grow1, sigma1 = at(1 / 3)
    e1 = model.predict("noise", grow1 * x - sigma1 * math.expm1(h / 3) * e0, u)
    u, grow2, sigma2 = at(2 / 3)
    lift = math.expm1(2 * h / 3) / (2 * h / 3) - 1
    e2 = model.predict("noise", grow2 * x - sigma2 * math.expm1(2 * h / 3) * e0 - 2 * sigma2 * lift * (e1 - e0), u)
    end = grow * x - sigma * math.expm1(h) * e0 - 1.5 * sigma * (math.expm1(h) / h - 1) * (e2 - e0)
    got = DPMSolver(3, rule="published").step(model, x, t, s, None, None)[0]
    assert (got - end).abs().max() < 1e-12


def test_published_deis_differs_by_its_start_and_end():
    """Its integrals are exact, so that only the first step of order 3 and the last to the data are others."""
    process = VP()
    model, times = mixture().model(process), even(process, 5)
    x = starts(process, times[0])
    one, two = (sample(model, x=x, sampler=DEIS(2, rule), grid=times) for rule in ("exact", "published"))
    assert torch.equal(one, two)
    one, two = (sample(model, x=x, sampler=DEIS(3, rule), grid=times[:3]) for rule in ("exact", "published"))
    three = sample(model, x=x, sampler=DEIS(2), grid=times[:3])
    assert torch.equal(two, three) and (one - two).abs().max() > 1e-4
    end = DEIS(2, "published").step(model, x, times[-1], 0.0, None, None)[0]
    assert torch.allclose(end, model.predict("x0", x, times[-1]), rtol=1e-12)


# --- the ends, there and back, calls ---------------------------------------------------------------------------

EVERY = [
    DPMSolverPP(3), DEIS(4), DPMSolver(3), SASolver(), DPMSolverPP(2, rule="published"),
    DPMSolverPP(2, 1.0, "singlestep"),
]  # fmt: skip


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_every_process_and_prediction(process):
    """40 steps put samples where the data are; fewer, on any grid, end at finite numbers."""
    inside = [process.t_max * u for u in (0.99, 0.5, 0.2, 0.1)]
    for sampler in EVERY:
        for prediction in NAMES if sampler == EVERY[0] else ("v",):
            model = mixture().model(process, prediction)
            assert sample(model, (16, 2), sampler, 40, seeds=range(16)).abs().max() < 4.5, (sampler, prediction)
            for steps, grid in ((1, None), (2, None), (5, None), (3, inside)):
                assert torch.isfinite(sample(model, (2, 2), sampler, steps, grid, seeds=range(2))).all()


def test_the_grid_decreases_from_noise_to_data():
    for process in PROCESSES:
        model = mixture().model(process, "v")
        for sampler in (*EVERY, Exponential(order=4), Exponential("noise", 2)):
            for steps in (1, 2, 3, 7, 20, 333):
                times = sampler.grid(model, steps)
                assert times.shape == (steps + 1,) and (times.diff() < 0).all() and times[-1] == 0.0
                assert sampler.stochastic or times[0] == process.t_max


@pytest.mark.parametrize("process", [VP(), RectifiedFlow(), VE()], ids=name)
@pytest.mark.parametrize("sampler", [DPMSolverPP(2), DPMSolverPP(3), DEIS(3), DPMSolver(3), DEIS(4)], ids=repr)
def test_encode_and_sample_are_inverse(sampler, process):
    model = mixture().model(process, "v")
    x = mixture().sample(20, torch.Generator().manual_seed(0))
    errors = [rms(sample(model, x=encode(model, x, sampler, n), sampler=sampler, steps=n) - x) for n in (60, 120)]
    assert errors[-1] < 5e-3 and slope(errors, (60, 120)) > 1.5, errors


def test_the_end_rows_are_exact_for_normal_data():
    """From pure noise, to pure noise and to the data, for a Gaussian of one standard deviation in all directions."""
    target = targets.Gaussian(torch.tensor([0.7, -0.2], dtype=torch.float64), 0.3)
    process = RectifiedFlow()
    model, x = target.model(process, "v"), torch.randn(5, 2, dtype=torch.float64)
    mean, deviation = target.moments[0], math.sqrt(0.3)
    for sampler in (DPMSolverPP(2), DEIS(2)):
        for t, s in ((1.0, 0.9), (0.4, 0.0), (0.9, 1.0), (0.0, 0.1)):
            level = [math.hypot((1 - u) * deviation, u) for u in (t, s)]
            truth = (1 - s) * mean + level[1] / level[0] * (x - (1 - t) * mean)
            assert (sampler.step(model, x, t, s, None, None)[0] - truth).abs().max() < 1e-12, (t, s)


def test_calls_of_the_network():
    times = even(VP(), 10)
    for sampler, calls in (
        (DPMSolverPP(2), 10), (DPMSolverPP(3), 10), (DEIS(4), 12), (SASolver(), 10), (DPMSolver(2), 20),
        (DPMSolver(3), 30), (DPMSolverPP(2, 1.0, "singlestep"), 20), (SASolver(3, 3, 0.0), 10),
    ):  # fmt: skip
        count = Count()
        model = mixture().model(VP()).wrap(count)
        sample(model, x=starts(VP(), times[0]), sampler=sampler, grid=times, generator=torch.Generator().manual_seed(0))
        assert count.calls == calls, sampler


def test_a_path_of_noise_is_one_draw_a_step():
    model = mixture().model(VP(), "v")
    for sampler in (SASolver(), DPMSolverPP(2, 1.0), DPMSolverPP(2, 1.0, "singlestep")):
        sampler = replace(sampler, noise="path")
        four, two = (sample(model, (n, 2), sampler, 30, seeds=range(n)) for n in (4, 2))
        assert (four[:2] - two).abs().max() < 1e-12 and four.abs().max() < 4.5


def test_single_precision_is_kept():
    model = mixture().model(VP(), "noise")
    x = starts(VP(), 1.0)
    for sampler in (DPMSolverPP(3), DEIS(3)):
        short = sample(model, x=x.float(), sampler=sampler, steps=20)
        assert short.dtype == torch.float32
        assert (short.double() - sample(model, x=x, sampler=sampler, steps=20)).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Exponential("eps"), "prediction"),
        (lambda: Exponential(order=5), "order must be one of"),
        (lambda: DPMSolverPP(4), "order must be one of"),
        (lambda: Exponential(order=4, rule="published"), "at most 3"),
        (lambda: DPMSolverPP(3, 1.0, "singlestep"), "at most 2"),
        (lambda: DPMSolver(2, "single"), "singlestep"),
        (lambda: Exponential(method="singlestep", corrector=2), "corrector"),
        (lambda: SASolver(eta=-1.0), "eta"),
        (lambda: Exponential(corrector=-1), "corrector"),
        (lambda: Exponential(order=0), "order must be at least 1"),
        (lambda: DPMSolverPP(3, 0.5, "singlestep"), "2 with eta > 0, 3 with eta = 0"),
        (lambda: Exponential(order=4, method="singlestep"), "at most 2 with eta > 0, 3 with eta = 0"),
        (lambda: SASolver(noise="brownian"), "noise"),
        (lambda: DPMSolverPP(rule="paper"), "rule"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_lagrange_weights_of_equal_steps_are_adams():
    assert lagrange((-1.0, 0.0), moments(0.0, 2)) == pytest.approx((-1 / 2, 3 / 2), abs=1e-14)
    assert lagrange((-2.0, -1.0, 0.0), moments(0.0, 3)) == pytest.approx((5 / 12, -16 / 12, 23 / 12), abs=1e-14)
