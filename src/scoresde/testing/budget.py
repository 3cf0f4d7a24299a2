"""An error of sampling and its parts, and what would help."""

from __future__ import annotations

import math
from dataclasses import dataclass
from textwrap import wrap

LIKELY = 3.0
"""Standard errors above which a part is no chance."""

HELPS = 0.8
"""What helps brings the distance below this share of it."""

LEAST = 1e-10
"""A squared distance below this share of the data's variance is rounding."""

ADVICE = {
    "truncation": "let the grid end at 0, or nearer to it (if it does, take a sampler without a bias of its own)",
    "prior mismatch": "give the model its data's moments, as fit does, or a process that ends in more noise",
    "score error": "train a better network",
    "discretisation": "take more steps, or a sampler of higher order",
}
"""What to do about each part, in the order in which they are added."""


@dataclass(frozen=True)
class Part:
    """A squared distance, or what one imperfection adds to it; and the standard error, 0 where nothing was drawn."""

    name: str
    value: float
    standard_error: float = 0.0

    @property
    def root(self) -> float:
        """W₂, of a squared distance."""
        return math.sqrt(max(self.value, 0.0))


@dataclass(frozen=True)
class Budget:
    """The error of a sampler, W₂² of its samples' law to the target, and parts that add up to it. Print it.

    Args:
        parts: what truncation, prior mismatch, score error and discretisation add, in this order.
        total: W₂². more_steps: W₂² in the limit of many steps, found from `many`. exact_network: W₂² with the exact
            score in `steps`. samples: drawn to estimate it; 0 where it is exact. size: the target's total variance.
    """

    parts: tuple[Part, ...]
    total: Part
    more_steps: Part
    exact_network: Part
    steps: int
    many: int
    samples: int
    size: float

    def __getitem__(self, name: str) -> Part:
        """A part, by its name."""
        found = {part.name: part for part in self.parts}
        if name not in found:
            raise KeyError(f"no part {name!r}; the parts are {', '.join(map(repr, found))}")
        return found[name]

    @property
    def exact(self) -> bool:
        """Whether nothing was drawn."""
        return self.samples == 0

    @property
    def both(self) -> Part:
        """W₂² with the exact score in the limit of many steps."""
        return Part("both", self["truncation"].value + self["prior mismatch"].value)

    @property
    def culprit(self) -> str:
        """The name of the largest part; empty if it is within chance or rounding."""
        largest = max(self.parts, key=lambda part: part.value)
        return largest.name if self._seen(largest) else ""

    @property
    def more_steps_help(self) -> bool:
        """Whether the limit of many steps brings W₂ below 0.8 of what it is."""
        return self._helps(self.more_steps, "discretisation")

    @property
    def better_network_helps(self) -> bool:
        """Whether the exact score in as many steps brings W₂ below 0.8 of what it is."""
        return self._helps(self.exact_network, "score error")

    @property
    def both_needed(self) -> bool:
        """Whether neither alone does, but both together."""
        alone = self.more_steps_help or self.better_network_helps
        return not alone and all(self._helps(self.both, part) for part in ("discretisation", "score error"))

    @property
    def verdict(self) -> str:
        """What would help, in words."""
        if not self.culprit:
            much = f"; {4 * self.samples} samples would see half as much" if self.samples else ""
            return f"No error is seen above {'chance' if self.samples else 'rounding'}{much}."
        share = self[self.culprit].value / self.total.value if self.total.value > 0 else math.inf
        most = "More than all of it, some being cancelled," if share > 1.05 else f"{100 * min(share, 1):.0f} % of it"
        most = most if math.isfinite(self.total.value) else "All of it, which is infinite,"
        steps = self._effect(self.more_steps, self.more_steps_help)
        network = self._effect(self.exact_network, self.better_network_helps)
        both = f" Both {self._effect(self.both, True)}." if self.both_needed else ""
        return (
            f"{most} is {self.culprit}: {ADVICE[self.culprit]}. More steps {steps} in the limit. "
            f"A better network {network} with the exact score.{both}"
        )

    def _effect(self, mended: Part, helps: bool) -> str:
        now, then = self.total.root, mended.root
        how = "help: W₂ falls" if helps else "make it worse: W₂ rises" if HELPS * then > now else "hardly help: W₂ goes"
        return f"would {how} from {now:.3g} to {then:.3g}"

    def _seen(self, part: Part) -> bool:
        return part.value > max(LIKELY * part.standard_error, LEAST * self.size)

    def _helps(self, mended: Part, part: str) -> bool:
        return self._seen(self[part]) and mended.root < HELPS * self.total.root

    def __str__(self) -> str:
        how = "exact" if self.exact else f"sliced, {self.samples} samples"
        lines = [f"W₂² of samples after {self.steps} steps to the target ({how})"]
        for part in (*self.parts, self.total):
            chance = f" ± {part.standard_error:.1e}" if self.samples else ""
            share = 100 * part.value / self.total.value if self.total.value > 0 else math.inf
            share = 0.0 if abs(share) < 0.5 else share  # no -0 %
            known = self.culprit and abs(share) < 1e4  # shares of chance, or of rounding, say nothing
            lines.append(f"  {part.name:<16}{part.value:>10.2e}{chance}" + (f"{share:>7.0f} %" if known else ""))
        return "\n".join([*lines, f"  W₂ = {self.total.root:.3g}", *wrap(self.verdict, 100)])
