"""A comparison's rows as columns: which is best, within the errors; and as plain text and CSV."""

from __future__ import annotations

import csv
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scoresde._checks import count
from scoresde._files import whole
from scoresde.compare.row import Row, about
from scoresde.metrics import Estimate

TOGETHER = 2.0
"""Two estimates that differ by no more than this many standard errors of the difference are not told apart."""


@dataclass(frozen=True)
class Column:
    """One quantity of every row, None where it is missing; `errors` are standard errors.

    key: as the CSV file has it. better: "lower", "higher", or "" where neither is.
    """

    key: str
    title: str
    values: tuple[Any, ...]
    errors: tuple[float | None, ...] = ()
    better: str = ""

    @property
    def order(self) -> list[int]:
        """Row numbers, best first, missing last."""
        sign = -1 if self.better == "higher" else 1
        known = [i for i, value in enumerate(self.values) if value is not None]
        missing = [i for i, value in enumerate(self.values) if value is None]
        return sorted(known, key=lambda i: sign * self.values[i]) + missing

    @property
    def ties(self) -> set[int]:
        """The best, and what cannot be told from it: within two standard errors of the difference."""
        if not self.better or all(value is None for value in self.values):
            return set()
        top = self.order[0]
        best, doubt = self.values[top], self.error(top)
        known = [(i, value) for i, value in enumerate(self.values) if value is not None]
        return {i for i, value in known if abs(value - best) <= TOGETHER * math.hypot(self.error(i), doubt)}

    def error(self, i: int) -> float:
        """The standard error of row i; 0 where there is none."""
        return (self.errors[i] if self.errors else None) or 0.0

    def text(self, i: int) -> tuple[str, str]:
        """The value and its standard error as written."""
        value = self.values[i]
        return (value, "") if isinstance(value, str) else rounded(value, self.errors[i] if self.errors else None)


def columns(rows: Sequence[Row], metrics: Sequence[str]) -> list[Column]:
    """The columns of a comparison: what was run, what it took, the metrics, and bits/dim."""
    if not rows:
        raise ValueError("rows must hold at least one Row, got none")
    if not metrics:
        raise ValueError("metrics must name at least one metric, such as ['sliced_wasserstein'], got none")

    def column(key: str, title: str = "", better: str = "", error: str = "") -> Column:
        errors = tuple(_finite(getattr(row, error)) for row in rows) if error else ()
        return Column(key, title or key, tuple(_finite(getattr(row, key)) for row in rows), errors, better)

    return [
        *(column(key) for key in ("process", "prediction", "sampler", "steps")),
        column("nfe", "NFE", "lower"),
        column("seconds", better="lower"),
        *(quality(rows, name) for name in metrics),
        column("bits_per_dim", "bits/dim", "lower", "bits_error"),
    ]


def quality(rows: Sequence[Row], metric: str) -> Column:
    """The column of one metric."""
    kind, estimates = about(metric), [row.quality.get(metric) for row in rows]
    values, errors = (tuple(e and getattr(e, part) for e in estimates) for part in ("value", "standard_error"))
    return Column(metric, kind.label, values, errors, kind.better)


def shown(rows: Sequence[Row], metrics: Sequence[str]) -> list[Column]:
    """The columns that hold anything, and the metrics."""
    return [c for c in columns(rows, metrics) if c.key in metrics or any(value is not None for value in c.values)]


def frontier(rows: Sequence[Row], metric: str) -> list[int]:
    """The rows that no other beats in both NFE and the metric, by rising NFE; errors are not looked at."""
    column = quality(rows, metric)
    sign, found, last = -1 if column.better == "higher" else 1, [], (0, math.inf)
    known = ((rows[i].nfe, sign * value, i) for i, value in enumerate(column.values) if value is not None)
    for nfe, value, i in sorted(known):
        if value < last[1] or (nfe, value) == last:
            found.append(i)
            last = nfe, value
    return found


def floor(rows: Sequence[Row], metric: str) -> tuple[float, float] | None:
    """What real samples score against real samples, and its standard error; None where it was not measured.

    Where the rows' floors differ, the middle of all of them, and an error that reaches them all.
    """
    known = [estimate for _, estimate in _floored(rows, metric)]
    ends = [estimate.floor + side * estimate.floor_error for estimate in known for side in (-1, 1)]
    return ((max(ends) + min(ends)) / 2, (max(ends) - min(ends)) / 2) if ends else None


def at_floor(rows: Sequence[Row], metric: str) -> set[int]:
    """The rows that score as real samples do: within two deviations of the floor, or better."""
    sign = -1 if quality(rows, metric).better == "higher" else 1
    known = _floored(rows, metric)
    return {i for i, e in known if sign * (e.value - e.floor) <= TOGETHER * e.floor_error}


def _floored(rows: Sequence[Row], metric: str) -> list[tuple[int, Estimate]]:
    """The estimates with a measured floor: the flow error's is known, 0."""
    found = [(i, row.quality[metric]) for i, row in enumerate(rows) if metric in row.quality]
    return [(i, estimate) for i, estimate in found if estimate.floor_error or estimate.floor]


def answers(rows: Sequence[Row], metric: str) -> list[tuple[str, str, str]]:
    """What a comparison says, as (question, configuration, evidence): the best, the cheapest as good, the floor."""
    column = quality(rows, metric)
    rank = {i: n for n, i in enumerate(column.order)}
    if all(value is None for value in column.values):
        return [("Best", "none", f"no row has {column.title}")]

    def said(i: int) -> tuple[str, str]:
        row, (value, error) = rows[i], column.text(i)
        took = f"{row.nfe} NFE, {rounded(row.seconds)[0]} s"
        name = f"{row.process}, {row.prediction}, {row.sampler}, {row.steps} steps"
        return name, f"{column.title} {value}{error and f' ± {error}'} · {took}"

    def cheapest(found: set[int]) -> int:
        return min(found, key=lambda i: (rows[i].nfe, rank[i]))

    best, cheap = column.order[0], cheapest(column.ties)
    found = [("Best", *said(best))]
    if cheap == best:
        nothing = "within two standard errors of it" if column.errors else "as good"
        found.append(("Cheapest as good", "the same", f"nothing cheaper is {nothing}"))
    else:
        found.append(("Cheapest as good", *said(cheap)))
    if (real := floor(rows, metric)) is None:
        return found
    value, error = rounded(*real)
    level = f"floor {value}{error and f' ± {error}'}, real samples against real samples"
    if reached := at_floor(rows, metric):
        name, evidence = said(cheapest(reached))
        many = f"{len(reached)} of {len(rows)} reach it" if len(rows) > 1 else "it is reached"
        found.append(("Cheapest at the floor", name, f"{evidence} · {level}; {many}"))
    else:
        top = rows[best].quality[metric]
        apart = abs(top.value - top.floor)
        above = f"{apart / top.floor_error:.1f} deviations" if top.floor_error else rounded(apart)[0]
        found.append(("At the floor", "none", f"the best is {above} from it · {level}"))
    return found


def rounded(value: float | None, error: float | None = None) -> tuple[str, str]:
    """A value and its standard error as text: to the error's two digits, or to three of its own without one.

    >>> rounded(0.0123456, 0.00067), rounded(123456.0, 5600.0), rounded(1.23456), rounded(None)
    (('0.01235', '0.00067'), ('123500', '5600'), ('1.23', ''), ('–', ''))
    """
    if value is None or not math.isfinite(value):
        return "–", ""
    if isinstance(value, int):
        return str(value), ""
    if not error:
        digits = 2 - _exponent(value, 3)
        if value and not -3 <= digits <= 6:
            return f"{value:.2e}", ""
        return f"{round(value, max(digits, 0)) + 0.0:.{max(digits, 0)}f}", ""
    digits = 1 - _exponent(error, 2)
    if digits > 7 or abs(value) >= 1e7:
        power = max(_exponent(value, 3), _exponent(error, 2))
        places = max(digits + power, 0)
        return f"{value / 10**power:.{places}f}e{power:+03d}", f"{error / 10**power:.{places}f}e{power:+03d}"
    return f"{round(value, digits) + 0.0:.{max(digits, 0)}f}", f"{round(error, digits):.{max(digits, 0)}f}"


def table(rows: Sequence[Row], metrics: Sequence[str], width: int = 120, limit: int | None = None) -> str:
    """The rows as an aligned table, best first by the first metric, with standard errors and floors.

    Columns that are empty are left out. Where it is too wide, what is the same in all rows, then metrics but the first
    are named below instead, and long names are cut.

    Args:
        rows: of the comparison. metrics: their names, the deciding one first. width: in characters, at most.
        limit: how many rows to print; all by default.
    """
    kept = shown(rows, metrics)
    order = quality(rows, metrics[0]).order[: count("limit", limit) if limit is not None else None]
    marked = set(frontier(rows, metrics[0]))
    floors = {name: rounded(*real) for name in metrics if (real := floor(rows, name))}

    def entry(texts: tuple[str, str]) -> str:
        return " ± ".join(filter(None, texts))

    def cells(column: Column) -> list[str]:
        last = [entry(floors[column.key])] if column.key in floors else ["floor" if column.key == "sampler" else ""]
        return [entry(column.text(i)) for i in order] + last

    body = {c.key: cells(c) for c in kept}
    heads = {c.key: c.title if c.key in ("process", "prediction") else c.title.replace(" ", "\n") for c in kept}
    natural = {k: max(map(len, [*body[k], *heads[k].split("\n")])) for k in body}
    texts = [k for k in ("process", "prediction", "sampler") if k in natural]

    def total(least: bool = False) -> int:
        return sum(min(w, 14) if least and k in texts else w for k, w in natural.items()) + 2 * len(natural)

    same = [k for k in texts[:2] if len(set(body[k][:-1])) == 1 and total(least=True) > width]
    for k in same:
        del natural[k]
    dropped = []
    while total(least=True) > width and (more := [m for m in metrics[1:] if m in natural]):
        dropped.insert(0, more[-1])
        del natural[more[-1]]
    while total() > width and (long := max(texts, key=lambda k: natural.get(k, 0))) and natural[long] > 8:
        natural[long] -= 1

    def line(mark: str, parts: dict[str, str]) -> str:
        cut = {k: parts[k] if len(parts[k]) <= w else parts[k][: w - 1] + "…" for k, w in natural.items()}
        return mark + "  ".join(f"{cut[k]:{'<' if k in texts else '>'}{w}}" for k, w in natural.items()).rstrip()

    titles = {k: heads[k].split("\n") for k in natural}
    high = max(map(len, titles.values()))
    head = [line("  ", {k: ([""] * (high - len(t)) + t)[i] for k, t in titles.items()}) for i in range(high)]
    rule = "─" * (total() if total() <= width else width)
    lines = [line("* " if i in marked else "  ", {k: body[k][n] for k in natural}) for n, i in enumerate(order)]
    below = [line("  ", {k: body[k][-1] for k in natural})] if floors else []
    notes = ["* no other row is better at as few NFE; ± standard error; floor: real samples against real samples"]
    notes += [f"in all rows: {', '.join(f'{k} {body[k][0]}' for k in same)}"] if same else []
    notes += [f"{len(rows) - len(order)} more rows are not shown"] if len(order) < len(rows) else []
    notes += [f"not shown: {', '.join(dropped)}"] if dropped else []
    return "\n".join([*head, rule, *lines, rule, *below, *(t for n in notes for t in textwrap.wrap(n, width))])


def write_csv(path: Path | str, rows: Sequence[Row], metrics: Sequence[str]) -> None:
    """The rows as they came, at full precision; empty where there is no value.

    Columns: process, prediction, sampler, steps, nfe, seconds; metric, metric_standard_error, metric_floor,
    metric_floor_error for each metric; bits_per_dim, bits_error.
    """
    parts = ("value", "standard_error", "floor", "floor_error")
    first = ["process", "prediction", "sampler", "steps", "nfe", "seconds"]
    last = ["bits_per_dim", "bits_error"]
    quality = [name + (f"_{part}" if part != "value" else "") for name in metrics for part in parts]
    with whole(Path(path)) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*first, *quality, *last])
        for row in rows:
            known = [getattr(row.quality.get(name), part, None) for name in metrics for part in parts]
            writer.writerow([*(getattr(row, k) for k in first), *known, *(getattr(row, k) for k in last)])


def _finite(value: Any) -> Any:
    return value if isinstance(value, str) or (value is not None and math.isfinite(value)) else None


def _exponent(value: float, digits: int) -> int:
    """Of ten, once `value` is rounded to that many digits."""
    return int(f"{value:.{digits - 1}e}".split("e")[1])
