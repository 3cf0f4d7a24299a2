"""What must hold of a process's coefficients α and σ, at all times."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from scoresde.process import Process
from scoresde.testing.kit import Examples, apart, short, stating

COEFFICIENTS = ("alpha", "sigma", "alpha_dot", "sigma_dot", "drift", "diffusion", "logsnr")


def inner(process: Process) -> list[float]:
    """Times inside the interval: halves, quarters, ... 1/32, and then ever nearer to both ends."""
    halves = [(2 * k + 1) / 2**level for level in range(1, 6) for k in range(2 ** (level - 1))]
    ends = [10.0**-k for k in range(2, 10)] + [1 - 10.0**-k for k in range(2, 6)]
    return [share * process.t_max for share in halves + ends]


def times(process: Process) -> Examples:
    """Inside, and then both ends."""
    return [(f"t = {t!r}", t) for t in [*inner(process), 0.0, process.t_max]]


def inside(process: Process) -> Examples:
    return [(f"t = {t!r}", t) for t in inner(process)]


def neighbours(process: Process) -> Examples:
    """Pairs of times: both ends, halves, ..., 1/32, and then ever nearer to both ends."""
    shares = [(k / 2**level, (k + 1) / 2**level) for level in range(6) for k in range(2**level)]
    near, far = [0.0, *(10.0**-k for k in range(9, 1, -1))], [*(1 - 10.0**-k for k in range(2, 6)), 1.0]
    for low, high in [*shares, *pairwise(near), *pairwise(far)]:
        t, s = low * process.t_max, high * process.t_max
        yield f"t = {t!r}, then {s!r}", (t, s)


def each_end(process: Process) -> Examples:
    for end in (0.0, process.t_max):
        for coefficient in COEFFICIENTS:
            yield f"{coefficient}({end!r})", (coefficient, end)


def each(names: tuple[str, ...], where: tuple[str, ...] = ()):
    """Examples: one for each coefficient, at each time inside if `where` says so."""

    def examples(process: Process) -> Iterator[tuple[str, tuple[str, float]]]:
        for t in inner(process) if where else [math.nan]:
            for name in names:
                yield (f"{name}({t!r})" if where else name), (name, t)

    return examples


def _kinds(process: Process) -> Examples:
    """A number, and tensors of every shape and dtype, for each coefficient."""
    T = process.t_max
    yield from ((f"{name}({0.5 * T!r})", (name, 0.5 * T)) for name in COEFFICIENTS)
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        for shares in (0.5, [0.5], [0.25, 0.5, 0.75], []):
            t = torch.tensor(shares, dtype=torch.float64).mul(T).to(dtype)
            for name in COEFFICIENTS:
                yield f"{name}(t), t of shape {tuple(t.shape)} in {dtype}", (name, t)


@stating(
    "has an interval of time",
    "t runs from 0 (data) to t_max (noise), and networks are asked from t_min on: 0 <= t_min < t_max < ∞.",
    proof="read off",
    change="Let t_max return a positive number, and t_min one below it (by default where σ/α = 1/1000).",
    examples=lambda process: [("t_max, t_min", None)],
)
def interval(process: Process, _: None) -> str | None:
    last, first = process.t_max, process.t_min
    return None if 0 <= first < last < math.inf else f"t_min = {short(first)}, t_max = {short(last)}"


@stating(
    "answers numbers and tensors",
    "A coefficient takes a number, or times of shape () or (B,) in any floating dtype, and answers in that shape "
    "and dtype (float64 for a number); each time's answer is its own, whatever is asked beside it.",
    proof="shape and dtype at t_max/4, /2, 3/4, alone and together; values against those at single numbers",
    change="Write alpha and sigma with tensor operations on t (torch.exp, torch.where), not math.exp, if or float.",
    examples=_kinds,
    raised=None,
)
def answers(process: Process, asked: tuple[str, float | Tensor]) -> str | None:
    name, t = asked
    value = getattr(process, name)(t)
    shape, dtype = (t.shape, t.dtype) if isinstance(t, Tensor) else (torch.Size([]), torch.float64)
    if not isinstance(value, Tensor):
        return f"returns {type(value).__name__}, not a tensor"
    if value.shape != shape or value.dtype != dtype:
        return f"returns shape {tuple(value.shape)} in {value.dtype}"
    if isinstance(t, Tensor):
        alone = torch.tensor([float(getattr(process, name)(float(u))) for u in t.flatten()], dtype=torch.float64)
        eps = torch.finfo(dtype).eps
        if not torch.allclose(value.flatten().double(), alone, rtol=4 * eps, atol=4 * eps, equal_nan=True):
            i, shown = apart(value, alone)
            return f"together and alone it is {shown}, at t = {float(t.flatten()[i]):.17g}"
    return None


@stating(
    "begins at the data",
    "x_0 is the data: α(0) = 1, and σ(0) is 0 or small, a tenth of σ(t_max) at most.",
    proof="at t = 0; α to 1e-12",
    change="Divide alpha by alpha(0); subtract what sigma has at 0, or let it begin lower.",
    examples=lambda process: [("t = 0", 0.0)],
    needs=(answers,),
)
def begins(process: Process, t: float) -> str | None:
    alpha, sigma, last = process.at("alpha", t), process.at("sigma", t), process.at("sigma", process.t_max)
    if not abs(alpha - 1) < 1e-12:
        return f"α = {short(alpha)}"
    return None if 0 <= sigma <= 0.1 * last else f"σ = {short(sigma)}, at t_max {short(last)}"


@stating(
    "alpha falls",
    "α is the data's share of x_t, which never grows again, nor changes its sign: 0 <= α(s) <= α(t) for s > t.",
    proof="between neighbours among 64 times, halves first, crowded at both ends",
    change="Check the direction of time (data at t = 0, noise at t_max), and where alpha turns.",
    examples=neighbours,
    needs=(answers,),
)
def falls(process: Process, pair: tuple[float, float]) -> str | None:
    before, after = (process.at("alpha", t) for t in pair)
    return None if 0 <= after <= before * (1 + 1e-12) else f"α goes from {short(before)} to {short(after)}"


@stating(
    "ends at noise",
    "x_T is all but noise, so that samples can begin from the prior: σ/α at t_max is 3 or more, for data of deviation "
    "one a tenth of the variance at most.",
    proof="at t_max",
    change="Let the process go on for longer: more noise (a larger beta_max, sigma_max), or less of the data at t_max.",
    examples=lambda process: [(f"t = {process.t_max!r}", process.t_max)],
    needs=(answers, falls),
)
def ends(process: Process, t: float) -> str | None:
    alpha, sigma = process.at("alpha", t), process.at("sigma", t)
    return None if alpha >= 0 and 3 * alpha <= sigma < math.inf else f"α = {short(alpha)}, σ = {short(sigma)}"


@stating(
    "sigma/alpha rises",
    "Time only adds noise: σ/α rises strictly, so that each log-SNR belongs to one time (and g² >= 0).",
    proof="between neighbours among 64 times, halves first, crowded at both ends",
    change="Check sigma. If it only fails next to t = 0, digits cancel there: write 1 − α² as −expm1(2 log α).",
    examples=neighbours,
    needs=(answers,),
)
def rises(process: Process, pair: tuple[float, float]) -> str | None:
    (a, s), (b, r) = ((process.at("alpha", t), process.at("sigma", t)) for t in pair)
    return None if r * a > s * b else f"σ/α goes from {_quotient(s, a)} to {_quotient(r, b)}"


def _quotient(sigma: float, alpha: float) -> str:
    return short(sigma / alpha) if alpha else f"{short(sigma)}/0"


def _cells(process: Process) -> Examples:
    for name in ("alpha", "sigma"):
        for k in range(32):
            low, high = (max(k - 0.25, 0.032) / 32 * process.t_max, min(k + 1.25, 31.968) / 32 * process.t_max)
            yield f"{name} between t = {low:.6g} and {high:.6g}", (name, low, high)


@stating(
    "is smooth",
    "α and σ have no jump and no kink: f and g², made of their slopes, are continuous, and solvers keep their order.",
    proof="the greatest change of slope in each of 32 cells, followed by magnification to 1/1e7 of t_max, must vanish",
    change="Smooth alpha or sigma there: a cubic between the pieces (as Discrete has), not a straight line or a clamp.",
    examples=_cells,
    needs=(answers,),
)
def smooth(process: Process, cell: tuple[str, float, float]) -> str | None:
    name, low, high = cell
    for points in (65, 33, 33, 33, 33):
        t = torch.linspace(low, high, points, dtype=torch.float64)
        value = getattr(process, name)(t)
        slopes = value.diff() / t.diff()
        size = torch.maximum(slopes[1:].abs(), slopes[:-1].abs()) + value.abs().max() / process.t_max
        i = int(((slopes[1:] - slopes[:-1]).abs() / size).argmax())
        step = high - low
        step /= points - 1
        low, high = max(float(t[i]) - step, low), min(float(t[i + 2]) + step, high)
    before, after = float(slopes[i]), float(slopes[i + 1])
    apart = abs(after - before) <= 1e-3 * float(size[i])
    return None if apart else f"its slope goes from {short(before)} to {short(after)} at t = {short(float(t[i + 1]))}"


PROPERTIES = (interval, answers, begins, ends, falls, rises, smooth)
