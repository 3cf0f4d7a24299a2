"""What a conformance kit is made of: named properties, what was found of them, and how that is printed."""

from __future__ import annotations

import builtins
import os
import random
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
import torch

Examples = Iterable[tuple[str, Any]]
"""(where, value), the simplest first: so the first one that fails is the smallest counter-example."""

WIDTH = 100
"""Columns of a printed report."""

FAILS = "The part itself fails here: call it so."
"""What to change where a part raises, unless the property says something else."""

LIMITED = f"{FAILS} If it is for some processes only, say for which: processes=[VP()], say."
"""The same, of a part that is tried on several processes."""

RAISES = "raises "
"""How a finding begins where the part raised."""

OTHERS = (
    *(f"{where}{os.sep}" for where in (Path(__file__).parents[1], torch.__path__[0], np.__path__[0])),
    *(str(Path(sysconfig.get_path("stdlib")) / name) for name in ("contextlib.py", "copy.py", "functools.py")),
)
"""Code that is not the part's: this package, and what carries its calls."""


class Inapplicable(Exception):  # noqa: N818
    """Raised by a property that says nothing of this part; its text says why."""


@dataclass(frozen=True)
class Property:
    """One thing that must hold of every part of a kind.

    Args:
        name: as it appears in tables and test items. meaning: what it says. proof: how it is shown.
        change: what to change where it does not hold. examples: of a subject, the simplest first.
        judge: (subject, value) -> what is wrong there, or None. needs: properties without which it says nothing.
        raised: what to change where the part raises.
    """

    name: str
    meaning: str
    proof: str
    change: str
    examples: Callable[[Any], Examples]
    judge: Callable[[Any, Any], str | None]
    needs: tuple[Property, ...] = field(default=(), repr=False)
    raised: str = FAILS

    def find(self, subject: Any, known: dict[str, Finding] | None = None) -> Finding:
        """Try every example, unless what fails is a property that this one needs: then that is to be mended first.

        Args:
            known: what was found of this subject so far, by name; what is found is added.
        """
        known = {} if known is None else known
        if self.name not in known:
            finding = self._tried(subject)
            failed = [] if finding.passed else [each for each in self.needs if not each.find(subject, known).passed]
            known[self.name] = Finding(self, reason=f"first mend: {failed[0]}") if failed else finding
        return known[self.name]

    def _tried(self, subject: Any) -> Finding:
        """Whatever the part raises counts as wrong. Random states are left as they were."""
        tried, wrong, first = 0, 0, None
        with _random_states_kept():
            try:
                for where, value in self.examples(subject):
                    found = self._judged(subject, value)
                    tried, wrong = tried + 1, wrong + (found is not None)
                    first = first or (found and (where, found))
            except Inapplicable as reason:
                return Finding(self, reason=str(reason))
            except Exception as error:
                first = first or ("before the first example", _raised(error))
        return Finding(self, *(first or ("", "")), wrong, tried)

    def _judged(self, subject: Any, value: Any) -> str | None:
        try:
            return self.judge(subject, value)
        except Inapplicable:
            raise
        except Exception as error:
            return _raised(error)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Finding:
    """What was found of one property: the smallest counter-example (where, and what is wrong), or none.

    Args:
        property: that was tried. where, what: the counter-example, and what is wrong there; empty without one.
        wrong: how many of the `tried` examples failed. reason: why the property does not apply, if it does not.
    """

    property: Property
    where: str = ""
    what: str = ""
    wrong: int = 0
    tried: int = 0
    reason: str = ""

    @builtins.property
    def passed(self) -> bool:
        """Whether no counter-example was found."""
        return not self.what

    @builtins.property
    def verdict(self) -> str:
        return "FAILED" if self.what else "–" if self.reason else "passed"

    def __str__(self) -> str:
        """The counter-example, what it means and what to change."""
        if self.passed:
            return f"{self.property.name}: " + (self.reason or "passed")
        where = self.where + (f" (and {self.wrong - 1} more of {self.tried})" if self.wrong > 1 else "")
        rows = (("where", where), ("found", self.what), ("means", self.property.meaning))
        change = self.property.raised if self.what.startswith(RAISES) else self.property.change
        shown = [_cell(label, text) for label, text in (*rows, ("change", change))]
        return "\n".join([self.property.name, *shown])


@dataclass(frozen=True)
class Report:
    """What the kit found of a part; printed, a table, and below it what failed, what it means and what to change.

    Args:
        part: how it is written. findings: one for each property.
    """

    part: str
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether every property that applies holds."""
        return all(finding.passed for finding in self.findings)

    @property
    def failed(self) -> tuple[str, ...]:
        """The names of the properties that do not hold."""
        return tuple(finding.property.name for finding in self.findings if not finding.passed)

    def __str__(self) -> str:
        widest = max((len(finding.property.name) for finding in self.findings), default=0)
        rows = []
        for finding in self.findings:
            shown = f"{finding.where}: {finding.what}" if finding.what else finding.reason
            shown = shown.splitlines()[0] if shown else ""
            row = f"  {finding.property.name:<{widest}}  {finding.verdict:<6}  {shown}".rstrip()
            rows.append(row if len(row) <= WIDTH else row[: WIDTH - 1] + "…")
        rule, wrong = "─" * WIDTH, [finding for finding in self.findings if not finding.passed]
        count, silent = len(self.findings), sum(bool(finding.reason) for finding in self.findings)
        last = f"failed, {len(wrong)} of {count}: {', '.join(self.failed)}"
        if not wrong:
            last = f"all {count - silent} properties that apply hold" if silent else f"all {count} properties hold"
        parts = [self.part, rule, *rows, rule, *(f"{finding}\n" for finding in wrong)]
        return "\n".join([*parts, *wrap(last, WIDTH)])

    def raise_for_failures(self) -> Report:
        """Itself, if all properties hold; else an AssertionError with the table."""
        __tracebackhide__ = True
        if not self.passed:
            raise AssertionError(f"\n{self}")
        return self


@dataclass(frozen=True)
class Case:
    """A property of one part. Called, it returns what it found, or raises AssertionError with the counter-example.

    Args:
        property: to be tried. part: how the part is written. subject: what the property is tried on.
    """

    property: Property
    part: str
    subject: Any

    def find(self, known: dict[str, Finding] | None = None) -> Finding:
        """What is found of the property; `known` as of `Property.find`."""
        return self.property.find(self.subject, known)

    def __call__(self) -> Finding:
        __tracebackhide__ = True
        finding = self.find()
        if not finding.passed:
            raise AssertionError(f"{self.part}: {finding}")
        return finding

    def __str__(self) -> str:
        return self.property.name


def stating(
    name: str,
    meaning: str,
    *,
    proof: str,
    change: str,
    examples: Callable[[Any], Examples],
    needs: tuple[Property, ...] = (),
    raised: str | None = FAILS,
) -> Callable[[Callable[[Any, Any], str | None]], Property]:
    """Make a judge into a property; raised=None: `change` also says what to do where the part raises."""
    return lambda judge: Property(name, meaning, proof, change, examples, judge, needs, raised or change)


def reported(cases: Iterable[Case]) -> Report:
    """The report of all cases of one part."""
    cases, known = list(cases), {}
    return Report(cases[0].part, tuple(case.find(known) for case in cases))


def named(function: Callable[..., Any], kind: str) -> str:
    """What a function is called, of which kind it is if it has no name."""
    inner = getattr(function, "func", function)  # of a partial
    name = repr(inner) if is_dataclass(inner) else getattr(inner, "__name__", type(inner).__name__)
    return f"{kind} {name}" if name == "<lambda>" else name


def short(value: Any) -> str:
    """A number, or a few of a tensor's, as text."""
    if isinstance(value, torch.Tensor):
        entries = [f"{entry:.6g}" for entry in value.detach().double().flatten()[:4].tolist()]
        more = ", …" if value.numel() > 4 else ""
        return entries[0] if value.numel() == 1 else f"[{', '.join(entries)}{more}]"
    return f"{value:.6g}" if isinstance(value, float) else repr(value)


def apart(one: Any, other: Any) -> tuple[int, str]:
    """Which entry of two tensors of one size differs most, and how: "1 and 2, apart by 1"."""
    one, other = (torch.as_tensor(each).detach().double().flatten() for each in (one, other))
    change = (one - other).abs().nan_to_num(torch.inf)
    change = torch.where(one.isnan() & other.isnan(), 0.0, change)
    i = int(change.argmax())
    return i, f"{short(one[i])} and {short(other[i])}, apart by {float(change[i]):.2g}"


def _raised(error: Exception) -> str:
    """The error's first line, and the last line of the part's own code that led to it."""
    text = (str(error).strip() or "without a message").splitlines()[0]
    text = f"{RAISES}{type(error).__name__}: {text if len(text) < 300 else text[:299] + '…'}"
    own = [each for each in traceback.extract_tb(error.__traceback__) if not each.filename.startswith(OTHERS)]
    return text + f" (at {Path(own[-1].filename).name}:{own[-1].lineno} in {own[-1].name})" if own else text


def _cell(label: str, text: str) -> str:
    lines = [piece for line in text.splitlines() for piece in (wrap(line, WIDTH - 10) if len(line) > 90 else [line])]
    return "\n".join(f"  {label if i == 0 else '':<8}{line}" for i, line in enumerate(lines))


@contextmanager
def _random_states_kept() -> Iterator[None]:
    numbers, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.filterwarnings("ignore", ".*torch.jit.script.*")  # torch.func's own, at first use
        try:
            yield
        finally:
            random.setstate(numbers)
            np.random.set_state(arrays)
