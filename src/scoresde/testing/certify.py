"""Certificates: the order of convergence that a sampler shows on exact problems, beside the one it declares."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from scoresde import _checks
from scoresde.model import Count
from scoresde.process import VP, Process
from scoresde.samplers import Sampler, encode, sample
from scoresde.testing.certificate import Certificate, Check, Kind, spelled
from scoresde.testing.exact import GAUSSIAN, MIXTURE, Problem, interior
from scoresde.testing.orders import bias, strong_error, weak_error

SLACK = {"strong": 0.2, "weak": 0.3, "bias": 0.3, "rtol": 0.3}
"""How far a measured order may be from the declared one; to the data, half an order below and any above."""

COUNTS = {"strong": (32, 1024, 2), "weak": (16, 256, 2), "bias": (2, 16, 2), "rtol": (100, 100_000_000, 100)}
"""The first and the largest n, and the factor from one to the next, until two slopes in a row agree."""

INSIDE, ENDING = 1e-11, 2e-10
"""Errors below show the arithmetic, or what the last step, from σ/α = 0.001 to the data, leaves; not the order."""

ROUND_TRIP = 40
"""Steps each way of a round trip."""


def certify(
    sampler: Sampler | Callable[[int], Sampler],
    order: float,
    kind: Kind | None = None,
    *,
    process: Process | None = None,
    problems: Sequence[Problem] = (GAUSSIAN, MIXTURE),
    name: str = "",
    ends: float | None = None,
    leaves: float = ENDING,
    most: int | None = None,
    note: str = "",
) -> Certificate:
    """Measure the order of a sampler on a Gaussian and on a mixture, against exact answers, without chance if possible.

    Strong: end points against the exact flow. Weak: the law at the end against the exact one, by exact propagation,
    by Kolmogorov's equation where steps have no memory, else sampled. Each runs from σ/α = 10 to 0.1 on a grid
    smooth in every usual variable, and on the mixture once more on the sampler's own grid, from the noise end to the
    data. The steps double until two slopes in a row agree; then the last must be the declared order within 0.2
    (strong) or 0.3, and to the data at most 0.5 below.

    Args:
        sampler: a sampler, or a function of the number of steps where its settings must change with them.
        order: the declared order. kind: "strong" or "weak", by default as the sampler is stochastic. "bias": the law
            that steps from t to t leave unchanged, for a sampler that is a function of n, against n. "rtol": strong
            errors in one run, for a function of n, against n (its tolerance being 1/n).
        process: VP() by default. problems: to measure on. name: in the table, by default how one writes the sampler.
        ends: the order declared to the data, by default the same; 0: not measured. leaves: an error that the last
            step, to the data, leaves at any number of steps; below it no order is measured. most: the largest n.
        note: why the measured order may exceed the declared one, if it may.
    Raises:
        TypeError, ValueError: a sampler that is not one, an order that is not positive, an unknown kind.

    Example:
        >>> from scoresde.samplers import DDIM
        >>> from scoresde.testing import certify
        >>> certificate = certify(DDIM(), order=1, most=128)
        >>> certificate.passed, round(certificate.checks[0].measured, 1)
        (True, 1.0)
    """
    family = _family(sampler)
    check_arguments(order, kind, process=process, problems=problems, ends=ends, leaves=leaves, most=most)
    process = process or VP()
    kind = kind or ("weak" if family(32).stochastic else "strong")
    first, last, factor = COUNTS[kind]
    last = last if most is None else max(most, factor * first)
    above = math.inf if note else SLACK[kind]

    def check(problem: Problem, whole: bool) -> Check:
        steps, errors, chances, n = [], [], [], first
        declared, bounds = (ends or order, (0.5, math.inf)) if whole else (order, (SLACK[kind], above))
        while n <= last:
            error, chance = _error(family(n), kind, problem, process, n, whole)
            if len(steps) > 1 and error < (leaves if whole else 0.0):
                break
            steps, errors, chances, n = [*steps, n], [*errors, error], [*chances, chance], n * factor
            found = Check(
                problem.name + (", to the data" if whole else ""), tuple(steps), tuple(errors), tuple(chances),
                declared, *bounds, 3 if kind == "rtol" else 1,
            )  # fmt: skip
            settled = len(steps) > 3 and kind != "rtol" and abs(found.slopes[-1] - found.slopes[-2]) < 0.05
            if settled or error < INSIDE or (len(steps) > 1 and error < 3 * chance):
                break
        return found

    tasks = [(problem, False) for problem in problems]
    if ends != 0 and kind in ("strong", "weak"):
        tasks.append((problems[-1], True))
    example = family(ROUND_TRIP if kind != "rtol" else 100_000)
    return Certificate(
        name or spelled(example), kind, order, tuple(check(*task) for task in tasks),
        _round_trip(example, problems[-1], process), _calls(example, process, 1 if kind == "rtol" else 100), note,
    )  # fmt: skip


def check_arguments(
    order: Any, kind: Any, *, process: Any = None, problems: Any = (GAUSSIAN,), name: str = "", ends: Any = None,
    leaves: Any = ENDING, most: Any = None, note: str = "",
) -> None:  # fmt: skip
    """Refuse what `certify` cannot take, before anything runs."""
    _checks.positive("order", order)
    if kind is not None:
        _checks.choice("kind", kind, SLACK)
    if process is not None:
        _checks.kind("process", process, Process, "VP()")
    _checks.several("problems", problems, Problem, "GAUSSIAN")
    if ends is not None:
        _checks.number("ends", ends, 0.0)
    _checks.number("leaves", leaves, 0.0)
    if most is not None:
        _checks.count("most", most)


def _family(sampler: Sampler | Callable[[int], Sampler]) -> Callable[[int], Sampler]:
    if not isinstance(sampler, Sampler) and callable(sampler) and not isinstance(sampler, type):
        return lambda n: _checks.kind("sampler(n)", sampler(n), Sampler, "DDIM()")  # pyright: ignore[reportReturnType]
    constant = _checks.kind("sampler", sampler, Sampler, "DDIM()")
    return lambda n: constant


def _error(
    sampler: Sampler, kind: Kind, problem: Problem, process: Process, n: int, whole: bool
) -> tuple[float, float]:
    """An error and its standard error."""
    if kind == "bias":
        return bias(sampler, problem, process, float(process.time(-2 * math.log(0.5)))), 0.0
    steps = 1 if kind == "rtol" else n
    times = sampler.grid(problem.model(process, 1), steps).tolist() if whole else interior(process, steps)
    try:
        if kind == "weak":
            return weak_error(sampler, problem, process, times)
        return strong_error(sampler, problem, process, times), 0.0
    except ValueError as error:
        if "finite" not in str(error):
            raise
        return math.inf, 0.0


def _round_trip(sampler: Sampler, problem: Problem, process: Process) -> float:
    """RMS of x − sample(encode(x)) on the sampler's own grid; NaN if it is stochastic or cannot encode."""
    if sampler.stochastic:
        return math.nan
    model, x = problem.model(process, 2), problem.starts(process, 0.0)
    try:
        back = sample(model, x=encode(model, x, sampler, ROUND_TRIP), sampler=sampler, steps=ROUND_TRIP)
    except (ValueError, ArithmeticError):
        return math.nan
    return float((back - x).square().mean().sqrt())


def _calls(sampler: Sampler, process: Process, steps: int) -> float:
    """Calls of the network a step; NaN if the run is not finite."""
    count, times = Count(), interior(process, steps)
    model, x = MIXTURE.model(process, 2).wrap(count), MIXTURE.starts(process, times[0])
    try:
        sample(model, x=x, sampler=sampler, grid=times, generator=torch.Generator().manual_seed(0))
    except ValueError as error:
        if "finite" not in str(error):
            raise
        return math.nan
    return count.calls / steps
