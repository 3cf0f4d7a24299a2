"""Certificates: the order of convergence that a sampler shows on exact problems, beside the one it declares."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Literal

import torch

from scoresde import _checks
from scoresde.model import Count
from scoresde.process import VP, Process
from scoresde.samplers import Sampler, encode, sample
from scoresde.testing.exact import GAUSSIAN, MIXTURE, Problem, interior
from scoresde.testing.orders import bias, strong_error, weak_error

Kind = Literal["strong", "weak", "bias", "rtol"]

SLACK = {"strong": 0.2, "weak": 0.3, "bias": 0.3, "rtol": 0.3}
"""How far a measured order may be from the declared one; to the data, half an order below and any above."""

COUNTS = {"strong": (32, 1024, 2), "weak": (16, 256, 2), "bias": (2, 16, 2), "rtol": (100, 100_000_000, 100)}
"""The first and the largest n, and the factor from one to the next, until two slopes in a row agree."""

INSIDE, ENDING = 1e-11, 2e-10
"""Errors below show the arithmetic, or what the last step, from σ/α = 0.001 to the data, leaves; not the order."""

ROUND_TRIP = 40
"""Steps each way of a round trip."""

HEAD = ("sampler", "kind", "order", "Gaussian", "mixture", "to data", "round trip", "calls", "")
WIDTHS = (39, 7, 5, 9, 10, 10, 11, 6, 3)
"""Of the table's columns: 100 in all."""


LEGEND = (
    "strong: RMS error of end points against the exact flow; weak: error of the law; each against steps,",
    "  from σ/α = 10 to 0.1, equal in arctan σ/α; to data: the mixture, on the sampler's grid, to t = 0",
    "bias: error of the law left unchanged, against 1/step size; rtol: of end points, against 1/tolerance",
    "round trip: RMS of x − sample(encode(x)), 40 steps each way; calls: a step (rtol: a run at 1e-5)",
)


@dataclass(frozen=True)
class Check:
    """One measured order: the errors at growing n, and the slope over the last of them (of all, for tolerances)."""

    problem: str
    steps: tuple[int, ...]
    errors: tuple[float, ...]
    standard_errors: tuple[float, ...]
    order: float
    below: float
    above: float
    across: int = 1

    @property
    def slopes(self) -> tuple[float, ...]:
        """The order between each number of steps and the next."""
        pairs = zip(self.errors, self.errors[1:], self.steps, self.steps[1:])
        return tuple(math.log(a / b) / math.log(n / m) if a > 0 and b > 0 else math.nan for a, b, m, n in pairs)

    @property
    def measured(self) -> float:
        return sum(self.slopes[-self.across :]) / min(self.across, len(self.slopes))

    @property
    def standard_error(self) -> float:
        """Of `measured`; 0 where nothing was drawn by chance."""
        parts = (s / e for s, e in zip(self.standard_errors[-2:], self.errors[-2:]) if s)
        return math.hypot(*parts) / math.log(self.steps[-1] / self.steps[-2])

    @property
    def passed(self) -> bool:
        """Whether the measured order is the declared one, two standard errors included."""
        apart, doubt = self.measured - self.order, 2 * self.standard_error
        return apart - doubt >= -self.below and (apart + doubt <= self.above or self.above == math.inf)

    def __str__(self) -> str:
        return f"{self.measured:.2f}" + (f"±{self.standard_error:.2f}" if self.standard_error else "")


@dataclass(frozen=True)
class Certificate:
    """The orders that a sampler showed beside the one it declares. Printed, a row of the table.

    Args:
        name: the sampler. kind: "strong", "weak", "bias" or "rtol". order: declared. checks: on the Gaussian and
            the mixture, and on the mixture to the data. round_trip: the RMS of x − sample(encode(x)) at 40 steps,
            NaN if the sampler is stochastic or cannot encode. calls: a step. note: why an order may be exceeded.
    """

    name: str
    kind: Kind
    order: float
    checks: tuple[Check, ...]
    round_trip: float
    calls: float
    note: str = ""

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def __str__(self) -> str:
        measured = [str(check) for check in self.checks] + ["–"] * (3 - len(self.checks))
        trip = "–" if math.isnan(self.round_trip) else f"{self.round_trip:.1e}"
        verdict = ("✓" if self.passed else "✗") + ("*" if self.note else " ")
        return _row(self.name, self.kind, f"{self.order:g}", *measured, trip, f"{self.calls:.3g}", verdict)

    def details(self) -> str:
        """Every error, with the slope that leads to it."""
        lines = []
        for check in self.checks:
            lines.append(f"  {check.problem}")
            for i, (n, error) in enumerate(zip(check.steps, check.errors)):
                chance = f" ± {check.standard_errors[i]:.1e}" if check.standard_errors[i] else ""
                lines.append(f"    {n:>8}  {error:.3e}{chance}" + (f"  {check.slopes[i - 1]:6.2f}" if i else ""))
        return "\n".join(lines)


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
    _checks.positive("order", order)
    process = process or VP()
    kind = kind or ("weak" if family(32).stochastic else "strong")
    _checks.choice("kind", kind, SLACK)
    first, last, factor = COUNTS[kind]
    last = last if most is None else max(_checks.count("most", most), factor * first)
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
    if kind == "weak":
        return weak_error(sampler, problem, process, times)
    return strong_error(sampler, problem, process, times), 0.0


def _round_trip(sampler: Sampler, problem: Problem, process: Process) -> float:
    """RMS of x − sample(encode(x)) on the sampler's own grid; NaN if it is stochastic or cannot encode."""
    if sampler.stochastic:
        return math.nan
    model, x = problem.model(process, 2), problem.starts(process, 0.0)
    try:
        latent = encode(model, x, sampler, ROUND_TRIP)
    except (ValueError, ArithmeticError):
        return math.nan
    return float((sample(model, x=latent, sampler=sampler, steps=ROUND_TRIP) - x).square().mean().sqrt())


def _calls(sampler: Sampler, process: Process, steps: int) -> float:
    """Calls of the network a step."""
    count, times = Count(), interior(process, steps)
    model, x = MIXTURE.model(process, 2).wrap(count), MIXTURE.starts(process, times[0])
    sample(model, x=x, sampler=sampler, grid=times, generator=torch.Generator().manual_seed(0))
    return count.calls / steps


def spelled(part: object) -> str:
    """A sampler as one would write it: its order, and the settings that are not the default."""
    if not is_dataclass(part):
        return repr(part)
    written, named = [], False
    for item in fields(part):
        value = getattr(part, item.name)
        default = item.default if item.default_factory is MISSING else item.default_factory()
        if value == default and item.name != "order":
            named = True
        else:
            text = f"{value:.3g}" if isinstance(value, float) else spelled(value)
            written.append(f"{item.name}={text}" if named else text)
    return f"{type(part).__name__}({', '.join(written)})"


def _row(*cells: str) -> str:
    name, *rest = (f"{c:{'<' if i < 2 else '>'}{w}}" for i, (c, w) in enumerate(zip(cells, WIDTHS)))
    return "".join([name if len(cells[0]) < WIDTHS[0] else f"{cells[0]}\n{'':{WIDTHS[0]}}", *rest]).rstrip()


def table(certificates: Iterable[Certificate], errors: bool = False) -> str:
    """Certificates as an aligned table, with the notes below it; with every error below its row, if asked."""
    certificates, rule = list(certificates), "─" * sum(WIDTHS)
    rows = [f"{c}\n{c.details()}" if errors else str(c) for c in certificates]
    notes: dict[str, list[str]] = {}
    for certificate in certificates:
        if certificate.note:
            notes.setdefault(certificate.note, []).append(certificate.name)
    failed = [certificate.name for certificate in certificates if not certificate.passed]
    verdict = f"failed: {', '.join(failed)}" if failed else f"all {len(certificates)} passed"
    legend = [f"* {', '.join(names)}: {note}" for note, names in notes.items()]
    return "\n".join([_row(*HEAD), rule, *rows, rule, *LEGEND, *legend, verdict])
