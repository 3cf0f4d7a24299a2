"""What a certificate says, and how it is printed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, Literal

Kind = Literal["strong", "weak", "bias", "rtol"]

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
        return tuple(math.log(a / b) / math.log(n / m) if 0 < a * b < math.inf else math.nan for a, b, m, n in pairs)

    @property
    def measured(self) -> float:
        """The declared order's counterpart; infinite where the first error was rounding already."""
        if len(self.errors) < 2:
            return math.inf
        return sum(self.slopes[-self.across :]) / min(self.across, len(self.slopes))

    @property
    def standard_error(self) -> float:
        """Of `measured`; 0 where nothing was drawn by chance."""
        parts = [s / e for s, e in zip(self.standard_errors[-2:], self.errors[-2:]) if s]
        return math.hypot(*parts) / math.log(self.steps[-1] / self.steps[-2]) if parts else 0.0

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


def spelled(part: Any) -> str:
    """A sampler or process as one would write it: its order, and the settings that are not the default."""
    if isinstance(part, (tuple, list)) and len(part) > 8:
        return f"<{len(part)} numbers>"
    if not is_dataclass(part):
        own = type(part).__repr__ is object.__repr__
        return f"{type(part).__name__}({', '.join(f'{k}={v!r}' for k, v in vars(part).items())})" if own else repr(part)
    written, named = [], False
    for item in fields(part):
        value = getattr(part, item.name)
        default = item.default if item.default_factory is MISSING else item.default_factory()
        if value == default and (item.name != "order" or value is None):
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
