"""Conversions, drawn by hypothesis: process, pair of predictions, t over the whole interval, shape and values."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from scoresde import PREDICTIONS, VP, Model, RectifiedFlow, convert
from scoresde.prediction import weights
from tests.problems import NAMES, PROCESSES

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
