"""What must hold of every prediction: a row (a, b) that says what y = a·x₀ + b·ε a network estimates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from scoresde import _checks
from scoresde.likelihood import log_prob
from scoresde.model import Model
from scoresde.prediction import PREDICTIONS, Prediction, convert, limit, row, weights
from scoresde.process import EDM, VE, VP, Cosine, Process, RectifiedFlow
from scoresde.process.base import spread
from scoresde.samplers import sample
from scoresde.testing.certificate import spelled
from scoresde.testing.exact import MIXTURE
from scoresde.testing.kit import LIMITED, Case, Examples, Report, apart, named, reported, short, stating

PROCESSES = (VP(), RectifiedFlow(), EDM(), VE(), Cosine())
"""Where a prediction is tried: bounded and unbounded noise, α constant and falling to 0, σ(0) = 0 and above."""

SHARES = (0.5, 0.25, 0.75, 0.05, 0.95, 1e-3, 0.999)


@dataclass(frozen=True)
class Subject:
    """A prediction, and the processes that it is for."""

    prediction: Prediction
    processes: Sequence[Process]


def check_prediction(prediction: Prediction, processes: Sequence[Process] = PROCESSES) -> Report:
    """Raise AssertionError, a table of what failed and why, unless a prediction is one; else return the report.

    Args:
        prediction: a row (process, t) -> (a, b), or a name in PREDICTIONS. processes: that it is for.
    Raises:
        AssertionError: some property does not hold. TypeError, ValueError: not a prediction.

    Example:
        >>> from scoresde import VP
        >>> from scoresde.testing import check_prediction
        >>> check_prediction(lambda process, t: (1.0, -1.0), processes=[VP()]).passed  # x₀ − ε
        True
    """
    __tracebackhide__ = True
    return reported(cases(prediction, processes)).raise_for_failures()


def cases(prediction: Prediction, processes: Sequence[Process] = PROCESSES) -> list[Case]:
    if isinstance(prediction, str):
        _checks.choice("prediction", prediction, PREDICTIONS)
    elif not callable(prediction):
        raise TypeError(f"prediction must be a name or a function (process, t) -> (a, b), got {prediction!r}")
    processes = _checks.several("processes", processes, Process, "VP()")
    name = prediction if isinstance(prediction, str) else named(prediction, "prediction")
    return [Case(each, name, Subject(prediction, processes)) for each in PROPERTIES]


def places(subject: Subject) -> Examples:
    """Times inside, on every process."""
    for share in SHARES:
        for process in subject.processes:
            t = share * process.t_max
            yield f"t = {t!r} of {spelled(process)}", (process, t)


def _at(subject: Subject, process: Process, t: float | Tensor) -> tuple[Tensor, Tensor]:
    """a and b as float64 tensors of t's shape."""
    t = torch.as_tensor(t, dtype=torch.float64)
    a, b = (torch.as_tensor(c, dtype=torch.float64).expand_as(t) for c in row(subject.prediction, process, t))
    return a, b


@stating(
    "is a row of numbers",
    "A row is a pair (a, b), of numbers or of tensors shaped like t, finite for 0 < t < t_max, of process and t alone.",
    proof="type, shape and value, at single times and at all of them together, twice",
    change="Return a tuple of two; use process.alpha(t), process.sigma(t) and torch functions of t, which is float64.",
    examples=lambda s: [*places(s), *((f"all times at once, of {spelled(p)}", (p, None)) for p in s.processes)],
    raised=f"{LIMITED} A row is a tuple of two, of torch functions of t.",
)
def is_row(subject: Subject, where: tuple[Process, float | None]) -> str | None:
    process, t = where
    given = [t] if t is not None else [share * process.t_max for share in SHARES]
    together = torch.stack(_at(subject, process, torch.tensor(given, dtype=torch.float64)))
    alone = torch.stack([torch.stack(_at(subject, process, each)) for each in given], 1)
    if not torch.isfinite(together).all():
        return f"(a, b) is ({short(together[0])}, {short(together[1])})"
    if torch.allclose(together, alone, rtol=1e-12, atol=1e-12):
        return None
    i, shown = apart(together, alone)
    return f"{'ab'[i // len(given)]}, for times together and alone, is {shown}, at t = {given[i % len(given)]:.6g}"


@stating(
    "determines x0 and noise",
    "x_t = α x₀ + σ ε and y = a x₀ + b ε are two equations for x₀ and ε, with one solution where αb − σa is not zero.",
    proof="αb − σa, relative to the sizes of both rows, is above 1e-12 and has one sign at all times inside",
    change="Check the signs of a and b; a row is nowhere to be a multiple of (α, σ): near there, digits are lost.",
    examples=lambda s: [(f"0 < t < {p.t_max!r} of {spelled(p)}", p) for p in s.processes],
    needs=(is_row,),
)
def determines(subject: Subject, process: Process) -> str | None:
    shares = torch.linspace(-9, 9, 400, dtype=torch.float64).sigmoid()
    t = shares * process.t_max
    a, b = _at(subject, process, t)
    alpha, sigma = process.alpha(t), process.sigma(t)
    sine = (alpha * b - sigma * a) / (torch.hypot(alpha, sigma) * torch.hypot(a, b))
    for u, first in zip(t.tolist(), sine.tolist()):
        if not abs(first) > 1e-12:
            return f"at t = {short(u)} the row is a multiple of (α, σ), which x_t itself is"
    for (u, first), (v, second) in pairwise(zip(t.tolist(), sine.tolist())):
        if first * second < 0:
            return f"αb − σa changes its sign between t = {short(u)} and {short(v)}"
    return None


def _with_each(subject: Subject) -> Examples:
    for where, (process, t) in places(subject):
        for name in PREDICTIONS:
            yield f"{name} at {where}", (process, t, name)


def _pair() -> tuple[Tensor, Tensor]:
    x0, noise = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x0, noise


@stating(
    "converts to and from the others",
    "From x_t and y, every other prediction's value follows, and y from it.",
    proof="on drawn x₀ and ε, both ways, to 1e-10 and what the conversion itself makes of rounding",
    change="As for 'determines x0 and noise'; a row may depend on nothing but process and t.",
    examples=_with_each,
    needs=(is_row, determines),
)
def converts(subject: Subject, where: tuple[Process, float, str]) -> str | None:
    process, t, name = where
    x0, noise = _pair()
    x = process.at("alpha", t) * x0 + process.at("sigma", t) * noise
    (a, b), (p, q) = ((float(a), float(b)) for a, b in (_at(subject, process, t), _named(name, process, t)))
    mine, other = a * x0 + b * noise, p * x0 + q * noise
    for source, target, y, right in (
        (subject.prediction, name, mine, other),
        (name, subject.prediction, other, mine),
    ):
        got = convert(y, x, t, process, source, target)
        u, w = (float(c) for c in weights(process, t, source, target))
        slack = 16 * torch.finfo(torch.float64).eps * float(((u * x).abs() + (w * y).abs()).max())
        error, way = float((got - right).abs().max()), "from it" if source is name else "to it"
        if not error <= 1e-10 * float(right.abs().max()) + slack:
            return f"{way}: off by {short(error)}, where the values are up to {short(float(right.abs().max()))}"
    return None


def _named(name: str, process: Process, t: float) -> tuple[Any, Any]:
    return PREDICTIONS[name](process, torch.tensor(t, dtype=torch.float64))


@stating(
    "is affine",
    "Means of predictions, with weights of sum one, are the same in every prediction, so that guidance is.",
    proof="2.5 y − 1.5 y' converted, against 2.5 and −1.5 times both converted; to 1e-9 of the terms",
    change="As for 'is a row of numbers': a row that draws numbers, or counts its calls, is none.",
    examples=_with_each,
    needs=(is_row, determines, converts),
)
def affine(subject: Subject, where: tuple[Process, float, str]) -> str | None:
    process, t, name = where
    y, other = _pair()
    x = (y + other).roll(1)
    one, two, both = (
        convert(each, x, t, process, subject.prediction, name) for each in (y, other, 2.5 * y - 1.5 * other)
    )
    error, size = float((both - 2.5 * one + 1.5 * two).abs().max()), float((one.abs() + two.abs()).max())
    return None if error <= 1e-9 * size else f"they differ by {short(error)}"


@stating(
    "has ends or says so",
    "At t = 0 and t_max a conversion has its limit, or there is none and it is refused by a ValueError; never NaN.",
    proof="to and from every prediction, at both ends",
    change="If something else is raised: the row is asked at times down to 1e-300; let it return its limit there.",
    examples=lambda s: [
        (f"{name} at t = {t!r} of {spelled(process)}", (process, t, name))
        for process in s.processes
        for t in (0.0, process.t_max)
        for name in PREDICTIONS
    ],
    needs=(is_row,),
    raised=None,
)
def has_ends(subject: Subject, where: tuple[Process, float, str]) -> str | None:
    process, t, name = where
    y, x = _pair()
    for source, target in ((subject.prediction, name), (name, subject.prediction)):
        try:
            got = convert(y, x, t, process, source, target)
        except ValueError:
            continue
        if not torch.isfinite(got).all():
            return f"{'from' if source is name else 'to'} it: {short(got)}"
    return None


@stating(
    "serves in every dtype",
    "Conversions keep the dtype of x, also where the row is made of float64 tensors.",
    proof="float32, bfloat16 and float16, where α = σ, with one time and with one each",
    change="Return a and b as they come out of process.alpha(t) and the like; if numbers overflow, scale the row so "
    "that y is of about one where x is.",
    examples=lambda s: [
        (f"{dtype} on {spelled(process)}", (process, dtype))
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
        for process in s.processes
    ],
    needs=(is_row, determines),
    raised=None,
)
def serves(subject: Subject, where: tuple[Process, torch.dtype]) -> str | None:
    process, dtype = where
    y, x = (each.to(dtype) for each in _pair())
    middle = float(process.time(0.0))
    for t in (middle, torch.full((4,), middle, dtype=dtype)):
        got = convert(y, x, t, process, subject.prediction, "v")
        if got.dtype != dtype or not torch.isfinite(got).all():
            return f"{got.dtype}: {short(got)}"
    return None


class _Seen(torch.nn.Module):
    """The exact mixture's answers in a row that is worked out here, not by the target."""

    def __init__(self, subject: Subject, process: Process) -> None:
        super().__init__()
        self.subject, self.process, self.exact = subject, process, MIXTURE.target(2).model(process, "v")

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        at = limit(t)
        x0, noise = (self.exact.predict(name, x, t) for name in ("x0", "noise"))
        a, b = (
            torch.as_tensor(c, dtype=torch.float64).expand_as(at)
            for c in row(self.subject.prediction, self.process, at)
        )
        return spread(a, x) * x0 + spread(b, x) * noise


@stating(
    "serves samples and likelihoods",
    "A network that is exact in this prediction samples, and has the likelihood, of one that is exact in v.",
    proof="8 samples in 12 steps and their log p, by exact models of a mixture; to 1e-6",
    change="Where α or σ is 0 the row may leave the score undetermined: then predict 'v', or say so by a ValueError.",
    examples=lambda s: [(spelled(process), process) for process in s.processes],
    needs=(is_row, determines, converts),
)
def samples(subject: Subject, process: Process) -> str | None:
    right = MIXTURE.target(2).model(process, "v")
    mine = Model(_Seen(subject, process), process, subject.prediction, right.moments)
    first = float(process.time(-2 * math.log(20.0)))
    grid = [float(process.time(-2 * math.log(20.0 * 0.6**k))) for k in range(1, 12)]
    start = MIXTURE.starts(process, first)[:8]
    ends = [sample(model, x=start, grid=[first, *grid]) for model in (mine, right)]
    if not (error := float((ends[0] - ends[1]).abs().max())) < 1e-6:
        return f"samples differ by {short(error)}"
    values = [log_prob(model, start[:2] / 20, 10, t=grid[-1]).value for model in (mine, right)]
    error = float((values[0] - values[1]).abs().max())
    return None if error < 1e-6 else f"log p differs by {short(error)}"


PROPERTIES = (is_row, determines, converts, affine, has_ends, serves, samples)
"""What `check_prediction` checks."""
