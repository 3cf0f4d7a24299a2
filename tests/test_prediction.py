"""Conversions, drawn by hypothesis: process, pair of predictions, t over the whole interval, shape and values."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from scoresde import PREDICTIONS, VP, Model, RectifiedFlow, convert
from scoresde.prediction import row_at, weights
from tests.problems import NAMES, PROCESSES, name

processes = st.sampled_from(PROCESSES)
predictions = st.sampled_from(NAMES)
shapes = st.lists(st.integers(1, 3), min_size=1, max_size=4).map(tuple)
interior = st.floats(-12, 12).map(lambda u: 1 / (1 + math.exp(-u)))


def draw(process, u, shape, seed, per_sample, dtype=torch.float64):
    """x, and the truth of every prediction, at times around u·t_max: scalar, or one for each sample."""
    generator = torch.Generator().manual_seed(seed)
    x0, noise = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    t = torch.tensor(u * process.t_max, dtype=torch.float64)
    if per_sample:
        t = t * (1 - 0.5 * torch.rand(shape[0], generator=generator, dtype=torch.float64))
    wide = t.reshape(-1, *[1] * (len(shape) - 1)) if per_sample else t
    truth = {}
    for prediction in NAMES:
        a, b = PREDICTIONS[prediction](process, wide)
        truth[prediction] = (a * x0 + b * noise).to(dtype)
    x = (process.alpha(wide) * x0 + process.sigma(wide) * noise).to(dtype)
    return x, (t if per_sample else float(t)), truth


def conditioning(process, t, source, target, x, y, truth):
    """|u x| + |w y| against the size of the answer: by how much the conversion amplifies rounding in x and y."""
    u, w = (torch.as_tensor(c).reshape(-1, *[1] * (x.ndim - 1)).double() for c in weights(process, t, source, target))
    terms = (u * x).abs() + (w * y).abs()
    return terms.amax() / truth.abs().amax().clamp_min(1e-300)


@given(processes, predictions, predictions, interior, shapes, st.integers(0, 2**31), st.booleans())
def test_conversion_agrees_with_the_definition(process, source, target, u, shape, seed, per_sample):
    x, t, truth = draw(process, u, shape, seed, per_sample)
    got = convert(truth[source], x, t, process, source, target)
    factor = conditioning(process, t, source, target, x, truth[source], truth[target])
    error = (got - truth[target]).abs().amax() / truth[target].abs().amax().clamp_min(1e-300)
    # 1e-10, where the conversion itself does not amplify rounding beyond 1e5; else that many roundings
    assert error < max(1e-10, 8 * torch.finfo(torch.float64).eps * factor)


@given(processes, predictions, predictions, predictions, interior, shapes, st.integers(0, 2**31), st.booleans())
def test_round_trips_and_three_way_cycles(process, a, b, c, u, shape, seed, per_sample):
    x, t, truth = draw(process, u, shape, seed, per_sample)
    y, path, factor = truth[a], [a, b, c, a], 1.0
    for source, target in pairwise(path):
        factor = (
            max(factor, float(conditioning(process, t, source, target, x, y, truth[target])))
            if y is truth[a]
            else (factor * max(1.0, float(conditioning(process, t, source, target, x, y, truth[target]))))
        )
        y = convert(y, x, t, process, source, target)
    assume(factor < 1e5)  # a cycle through x0 at tiny noise has lost the digits that 1e-10 would need
    assert (y - truth[a]).abs().amax() / truth[a].abs().amax() < 1e-10


@given(processes, predictions, predictions, st.floats(-7, 7), shapes, st.integers(0, 2**31), st.booleans())
def test_float32_to_its_rounding_times_the_conditioning(process, source, target, u, shape, seed, per_sample):
    x, t, truth = draw(process, 1 / (1 + math.exp(-u)), shape, seed, per_sample, torch.float32)
    got = convert(truth[source], x, t, process, source, target)
    assert got.dtype == torch.float32
    factor = conditioning(process, t, source, target, x.double(), truth[source].double(), truth[target].double())
    error = (got - truth[target]).double().abs().amax() / truth[target].double().abs().amax()
    # each of x, y, u, w, the two products and the sum is rounded once: at most 4 half-ulps of each term
    assert error < 4 * torch.finfo(torch.float32).eps * max(1.0, float(factor))


@given(processes, predictions, predictions, st.sampled_from([0.0, 1.0]))
def test_at_both_ends_exact_or_refused(process, source, target, u):
    """At the ends a conversion either has its limit, or says that there is none; never NaN or infinity."""
    x0 = torch.tensor([[0.5, -1.0]], dtype=torch.float64)
    noise = torch.tensor([[0.3, 0.8]], dtype=torch.float64)
    t = u * process.t_max
    near = abs(t - 1e-9 * process.t_max)
    x = process.alpha(t) * x0 + process.sigma(t) * noise
    a, b = PREDICTIONS[source](process, torch.tensor(t, dtype=torch.float64))
    y = a * x0 + b * noise
    infinite = not torch.isfinite(y).all()  # the source itself has no value there
    y = torch.ones_like(x) if infinite else y
    try:
        got = convert(y, x, t, process, source, target)
    except ValueError as error:
        assert "undetermined" in str(error)
        u_near, w_near = weights(process, near, source, target)
        assert infinite or max(abs(u_near), abs(w_near)) > 1e3  # it does blow up towards the end
    else:
        assert torch.isfinite(got).all()


def test_limits_at_zero_noise():
    x, score = torch.tensor([[2.0]], dtype=torch.float64), torch.tensor([[-3.0]], dtype=torch.float64)
    assert float(convert(score, x, 0.0, VP(), "score", "x0")) == pytest.approx(2.0)
    assert float(convert(score, x, 0.0, VP(), "score", "noise")) == pytest.approx(0.0, abs=1e-100)
    # the probability flow at t = 0: −β/2 (x + score), β = 0.1
    assert float(convert(score, x, 0.0, VP(), "score", "velocity")) == pytest.approx(-0.05 * (2.0 - 3.0))
    with pytest.raises(ValueError, match="undetermined"):
        convert(x, x, 0.0, VP(), "x0", "noise")
    with pytest.raises(ValueError, match="undetermined"):
        convert(x, x, 1.0, RectifiedFlow(), "noise", "x0")


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_numbers_and_tensors_of_times_have_the_same_weights(process):
    """In float64 whatever the times are in, at both ends as inside; where there are none, both say so."""
    times = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64) * process.t_max
    for source in NAMES:
        for target in (*NAMES, (0.3, -0.7)):
            for t in times:
                try:
                    numbers = weights(process, float(t), source, target)
                except ValueError:
                    with pytest.raises(ValueError, match="undetermined"):
                        weights(process, t[None], source, target)
                    continue
                assert all(isinstance(c, float) for c in numbers)
                for dtype in (torch.float32, torch.float64) if t in (0.0, process.t_max) else (torch.float64,):
                    tensors = weights(process, t.to(dtype)[None], source, target)
                    assert all(c.dtype == torch.float64 and c.shape == (1,) for c in tensors)
                    assert torch.cat(tensors).tolist() == pytest.approx(numbers, rel=1e-12, abs=1e-200)


def test_at_pure_noise_noise_says_what_the_state_does():
    """x = ε there: noise and score are multiples of each other, and v = −x₀ is not determined by them."""
    for t in (1.0, torch.tensor([1.0, 1.0])):
        u, w = weights(RectifiedFlow(), t, "score", "noise")
        assert float(torch.as_tensor(u).sum()) == 0.0 and (torch.as_tensor(w) == -1.0).all()
        assert (torch.as_tensor(weights(RectifiedFlow(), t, "noise", "score")[1]) == -1.0).all()
        u, w = (float(torch.as_tensor(c).mean()) for c in weights(RectifiedFlow(), t, lambda p, t: (0.0, 4.0), "noise"))
        assert (u, w) == (0.0, 0.25)
        for target in ("x0", "v", (1.0, 1.0)):
            with pytest.raises(ValueError, match="infinite or undetermined by noise at t = 1 of"):
                weights(RectifiedFlow(), t, "noise", target)


def test_what_is_undetermined_is_named_with_its_first_time():
    def state(process, t):  # x_t itself, which says nothing of its parts
        return process.alpha(t), process.sigma(t)

    for t in (0.25, torch.tensor([0.25, 0.5]), torch.tensor(0.25)):
        with pytest.raises(ValueError, match=r"x0 is infinite or undetermined by the prediction at t = 0\.25 of VP\("):
            weights(VP(), t, state, "x0")
        with pytest.raises(ValueError, match="undetermined"):  # as is what predicts nothing
            weights(VP(), t, lambda process, t: (0.0, 0.0), "x0")
        assert float(torch.as_tensor(weights(VP(), t, "x0", state)[0]).mean()) == 1.0
    with pytest.raises(ValueError, match="what this step needs is infinite or undetermined by x0 at t = 0 of"):
        weights(VP(), torch.tensor([0.5, 0.0]), "x0", (0.0, 1.0))
    with pytest.raises(ValueError, match=r"at t = 0 of .*keep t inside \(9\.99\S*e-06, 1\), or predict 'v'"):
        weights(VP(), 0.0, "x0", "noise")


@pytest.mark.parametrize("pair", [(1.0, 0.0, 0.0), (1.0,), [1.0, 0.0], 1.0])
def test_a_row_is_a_pair(pair):
    for t in (0.5, torch.tensor([0.5])):
        with pytest.raises(TypeError, match=r"prediction must return a row \(a, b\)"):
            weights(VP(), t, lambda process, t: pair, "x0")


def test_wrong_input_is_named():
    x = torch.ones(2, 3)
    for wrong, error, match in (
        ({"y": x[:1]}, ValueError, "y must have the shape of x"), ({"y": x / 0}, ValueError, "y must be finite"),
        ({"x": x / 0}, ValueError, "x must be finite"), ({"x": x.long()}, TypeError, "x must have a floating dtype"),
        ({"y": x.long()}, TypeError, "y must have a floating dtype"), ({"t": 1.5}, ValueError, "t must lie in"),
        ({"t": torch.full((3,), 0.5)}, ValueError, "t must have shape"), ({"process": VP}, TypeError, "process must"),
        ({"source": "eps"}, ValueError, "unknown source 'eps'"), ({"target": "eps"}, ValueError, "unknown target"),
        ({"source": 3}, TypeError, "source must be a name or a function"), ({"target": None}, TypeError, "target must"),
        ({"y": x * 1e38, "source": "score", "t": 0.9, "x": 1e38 * x}, ValueError, "in torch.float32 is not finite"),
    ):  # fmt: skip
        given = {"y": x, "x": x, "t": 0.5, "process": VP(), "source": "noise", "target": "x0"} | wrong
        with pytest.raises(error, match=match):
            convert(**given)


def test_rows_of_built_in_processes_are_computed_once(monkeypatch):
    calls = []

    def counted(process, t):
        calls.append(t)
        return 1.0, 0.5

    monkeypatch.setitem(PREDICTIONS, "counted", counted)
    process = VP()
    assert [row_at("counted", process, t) for t in (0.3, 0.3, 0.4)] == [(1.0, 0.5)] * 3 and len(calls) == 2
    assert calls[0].dtype == torch.float64
    assert [row_at(counted, process, 0.3) for _ in range(2)] == [(1.0, 0.5)] * 2 and len(calls) == 4  # anybody's
    monkeypatch.setitem(PREDICTIONS, "counted", lambda process, t: (0.0, 2.0))
    assert row_at("counted", process, 0.3) == (0.0, 2.0)


@given(processes, predictions, predictions, interior)
def test_gradients_flow_through(process, source, target, u):
    t = u * process.t_max
    y, x = torch.randn(2, 3, 2, dtype=torch.float64).requires_grad_()
    weight_x, weight_y = weights(process, t, source, target)
    grad_y, grad_x = torch.autograd.grad(convert(y, x, t, process, source, target).sum(), (y, x))
    assert torch.allclose(grad_x, torch.full_like(x, weight_x), rtol=1e-12)
    assert torch.allclose(grad_y, torch.full_like(y, weight_y), rtol=1e-12)


def test_gradient_in_time():
    x, y = torch.randn(2, 3, 2, dtype=torch.float64)
    t = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: convert(y, x, t, VP(), "noise", "v"), (t,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_its_dtype(dtype):
    x, y = torch.randn(2, 4, 3, dtype=dtype)
    got = convert(y, x, torch.tensor([0.1, 0.4, 0.6, 1.0], dtype=dtype), VP(), "noise", "x0")
    assert got.dtype == dtype and torch.isfinite(got).all()


def test_your_own_prediction_is_one_line(monkeypatch):
    def edm(process, t):  # x₀ = c_skip x + c_out F for α = 1, data of deviation ½, as a row
        s, sigma = 0.5, process.sigma(t)
        skip, out = s**2 / (s**2 + sigma**2), sigma * s / torch.hypot(sigma, torch.tensor(s).double())
        return (1 - skip) / out, -skip * sigma / out

    from scoresde import EDM

    x0, noise = torch.randn(2, 5, 2, dtype=torch.float64)
    x, _ = EDM().perturb(x0, 1.3, noise)
    s, sigma = 0.5, 1.3
    skip, out = s**2 / (s**2 + sigma**2), sigma * s / math.hypot(s, sigma)
    raw = (x0 - skip * x) / out
    assert torch.allclose(convert(raw, x, 1.3, EDM(), edm, "x0"), x0, rtol=1e-12)
    monkeypatch.setitem(PREDICTIONS, "edm", edm)
    assert torch.allclose(Model(lambda x, t: raw, EDM(), "edm").predict("noise", x, 1.3), noise, rtol=1e-10)
