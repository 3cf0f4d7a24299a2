"""UniPC, PNDM and iPNDM: the published formulas written out, orders, both ends of time."""

import math
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch

from scoresde import VP, Count, RectifiedFlow, encode, grids, sample
from scoresde.samplers import DDIM, DEIS, IPNDM, PNDM, UniPC
from scoresde.samplers.quadrature import clock
from tests.problems import MAIN, NAMES, PROCESSES, exact_flow, gaussian, mixture, name, slope
from tests.test_exponential import even, rms, starts


def unipc(model, x, times, order, variant, prediction):
    """Zhao et al. (2023), algorithms 1 and 2: predict, correct with the call at the new point, go on from there."""
    process, data = model.process, prediction == "x0"
    past, last = [], None
    for i, (t, s) in enumerate([*pairwise(times), (times[-1], None)]):
        if s is None:
            return x
        past.append((clock(process, t), model.predict(prediction, x, t)))
        if last is not None:  # UniC through the new prediction and those that the predictor used
            y, t0, used = last
            x = unified(process, y, t0, t, past[-1 - used : -1], variant, data, past[-1])
        used = min(order, i + 1)
        last = (x, t, used)
        x = unified(process, x, t, s, past[-used:], variant, data, None)


def unified(process, x, t, s, past, variant, data, new):
    h = clock(process, s) - clock(process, t)
    z = -h if data else h
    place, first = past[-1]
    points = [((p - place) / h, (value - first) / ((p - place) / h)) for p, value in past[-2::-1]]
    points += [(1.0, new[1] - first)] if new else []
    bh = z if variant == "bh1" else math.expm1(z)
    scale = process.at("alpha" if data else "sigma", s)
    keep = process.at("sigma" if data else "alpha", s) / process.at("sigma" if data else "alpha", t)
    rest = torch.zeros_like(x)
    if len(points) == 1:
        rest = points[0][1] / 2
    elif points:
        n = len(points)
        phi, right = math.expm1(z) / z - 1, []
        for k in range(1, n + 1):
            right.append(phi * math.factorial(k) / bh)
            phi = phi / z - 1 / math.factorial(k + 1)
        matrix = torch.tensor([[r**k for r, _ in points] for k in range(n)], dtype=torch.float64)
        rho = torch.linalg.solve(matrix, torch.tensor(right, dtype=torch.float64))
        rest = sum(float(w) * d for w, (_, d) in zip(rho, points))
    return keep * x - scale * math.expm1(z) * first - scale * bh * rest


@pytest.mark.parametrize("process", [VP(), RectifiedFlow()], ids=name)
@pytest.mark.parametrize("prediction", ["x0", "noise"])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_as_published(order, variant, prediction, process):
    model, times = mixture().model(process, "v"), even(process, 7)
    x = starts(process, times[0])
    got = sample(model, x=x, sampler=UniPC(order, variant, prediction), grid=times)
    assert (got - unipc(model, x, times, order, variant, prediction)).abs().max() < 1e-10


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize(("order", "shown"), [(1, 2), (2, 3), (3, 3)])
def test_unipcs_strong_order(order, variant, shown):
    """One above p, but for p = 3, where the start allows 3: the rest, of order 4, may hide its error for long."""
    process, target = VP(), gaussian()
    model, counts, errors = target.model(process, "v"), (80, 160) if order < 3 else (500, 1000), []
    for n in counts:
        times = even(process, n)
        x = starts(process, times[0])
        end = exact_flow(target, process, x, times[0], times[-1])
        errors.append(rms(sample(model, x=x, sampler=UniPC(order, variant), grid=times) - end))
    assert -0.2 < slope(errors, counts) - shown < (0.2 if order < 3 else 1.2), errors


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_finite_on_every_grid(process):
    inside = [process.t_max * u for u in (0.99, 0.5, 0.2, 0.1)]
    for sampler in (UniPC(2, "bh1"), UniPC(3), UniPC(3, prediction="noise"), PNDM(), IPNDM()):
        for prediction in NAMES if sampler == UniPC(3) else ("v",):
            model = mixture().model(process, prediction)
            for steps, grid in ((1, None), (2, None), (3, inside), (9, grids.uniform), (9, grids.graded)):
                assert torch.isfinite(sample(model, (2, 2), sampler, steps, grid, seeds=range(2))).all()
            assert sample(model, (16, 2), sampler, 60, seeds=range(16)).abs().max() < 5.0, (sampler, prediction)


# --- pseudo numerical methods ----------------------------------------------------------------------------------


def test_pndm_as_published():
    """Liu et al. (2022), eq. 11 to 13, with φ as DDIM writes it: x̂₀ from a noise, then noised to s."""
    process, times = VP(), even(VP(), 7)
    model, x = mixture().model(process), starts(process, times[0])

    def phi(x, noise, t, s):
        data = (x - process.at("sigma", t) * noise) / process.at("alpha", t)
        return process.at("alpha", s) * data + process.at("sigma", s) * noise

    y, past = x, []
    for t, s in pairwise(times):
        middle, first = (t + s) / 2, model.predict("noise", y, t)
        past.append(first)
        if len(past) < 4:
            second = model.predict("noise", phi(y, first, t, middle), middle)
            third = model.predict("noise", phi(y, second, t, middle), middle)
            fourth = model.predict("noise", phi(y, third, t, s), s)
            y = phi(y, (first + 2 * second + 2 * third + fourth) / 6, t, s)
        else:
            y = phi(y, (55 * past[-1] - 59 * past[-2] + 37 * past[-3] - 9 * past[-4]) / 24, t, s)
    assert (sample(model, x=x, sampler=PNDM(), grid=times) - y).abs().max() < 1e-11

    y, past = x, []
    for t, s in pairwise(times):
        past.append(model.predict("noise", y, t))
        e = [*past[::-1], 0, 0, 0]
        sums = (e[0], (3 * e[0] - e[1]) / 2, (23 * e[0] - 16 * e[1] + 5 * e[2]) / 12)
        y = phi(y, (*sums, (55 * e[0] - 59 * e[1] + 37 * e[2] - 9 * e[3]) / 24)[min(len(past), 4) - 1], t, s)
    assert (sample(model, x=x, sampler=IPNDM(), grid=times) - y).abs().max() < 1e-11


@pytest.mark.parametrize(
    ("sampler", "order"), [(IPNDM(1), 1), (IPNDM(2), 2), (IPNDM(3), 2), (IPNDM(4), 2), (PNDM(), 2)]
)
def test_pseudo_methods_have_order_two_where_steps_change(sampler, order):
    process, counts = VP(), (160, 320)
    target, errors = gaussian(), []
    model = target.model(process, "v")
    for n in counts:
        times = even(process, n)
        x = starts(process, times[0])
        end = exact_flow(target, process, x, times[0], times[-1])
        errors.append(rms(sample(model, x=x, sampler=sampler, grid=times) - end))
    assert abs(slope(errors, counts) - order) < 0.2, errors


def test_pndm_has_order_two_to_the_data_on_its_own_grid():
    process, target, counts = VP(), gaussian(), (100, 200)
    model, x = target.model(process, "v"), starts(process, 1.0)
    end = exact_flow(target, process, x, 1.0, 0.0)
    errors = [rms(sample(model, x=x, sampler=PNDM(), steps=n) - end) for n in counts]
    assert abs(slope(errors, counts) - 2) < 0.2, errors


def test_a_planted_error_is_seen():
    @dataclass(frozen=True)
    class Wrong(UniPC):
        def integrals(self, z, n):
            exact = super().integrals(z, n)
            return (*exact[:-1], 1.5 * exact[-1]) if n == 3 else exact

    process, counts, target, errors = VP(), (80, 160), gaussian(), []
    for n in counts:
        times = even(process, n)
        x = starts(process, times[0])
        end = exact_flow(target, process, x, times[0], times[-1])
        errors.append(rms(sample(target.model(process, "v"), x=x, sampler=Wrong(2), grid=times) - end))
    assert slope(errors, counts) < 2.5


# --- identities, calls, there and back -------------------------------------------------------------------------


@pytest.mark.parametrize("process", MAIN, ids=name)
def test_ipndm_of_order_one_is_ddim(process):
    model, x = mixture().model(process, "v"), starts(process, 0.5)
    for t, s in ((0.9, 0.8), (0.5, 0.01), (0.2, 0.0), (0.1, 0.3), (0.0, 0.1)):
        t, s = t * process.t_max, s * process.t_max
        one, two = (part.step(model, x, t, s, None, None)[0] for part in (IPNDM(1), DDIM()))
        assert (one - two).abs().max() < 1e-11 * float(x.abs().max() + 1)


def test_calls_of_the_network():
    times = even(VP(), 10)
    for sampler, calls in ((UniPC(3), 10), (UniPC(2, "bh1"), 10), (IPNDM(), 10), (PNDM(), 19)):
        count = Count()
        sample(mixture().model(VP()).wrap(count), x=starts(VP(), times[0]), sampler=sampler, grid=times)
        assert count.calls == calls, sampler


@pytest.mark.parametrize("process", [VP(), RectifiedFlow()], ids=name)
@pytest.mark.parametrize("sampler", [UniPC(2), IPNDM(), PNDM()], ids=repr)
def test_encode_and_sample_are_inverse(sampler, process):
    model, x = mixture().model(process, "v"), mixture().sample(20, torch.Generator().manual_seed(0))
    back = sample(model, x=encode(model, x, sampler, 150), sampler=sampler, steps=150)
    assert rms(back - x) < 1e-2


def test_a_predictor_alone_of_order_three_is_deis():
    """UniP-3 has exact integrals, so that only its second step differs from DEIS's."""
    process = VP()
    model, times = mixture().model(process), even(process, 2)
    x = starts(process, times[0])
    one, two = (sample(model, x=x, sampler=part, grid=times[:2]) for part in (UniPC(3, prediction="noise"), DEIS(1)))
    assert (one - two).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UniPC(4), "order must be one of"),
        (lambda: UniPC(variant="bh3"), "bh1"),
        (lambda: UniPC(prediction="v"), "x0"),
        (lambda: IPNDM(5), "order must be 1, 2, 3 or 4"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
