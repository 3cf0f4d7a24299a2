"""A metric with its standard error, and its floor: what real data score against real data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from statistics import NormalDist
from typing import Any, Literal

import torch
from torch import Tensor

from scoresde.metrics import _checks
from scoresde.metrics.classifier import classifier_estimate, classifier_test
from scoresde.metrics.halves import half_sampling
from scoresde.metrics.kernel import energy_distance, energy_estimate, mmd, mmd_estimate
from scoresde.metrics.moments import frechet, frechet_estimate
from scoresde.metrics.neighbours import precision, precision_estimate, recall, recall_estimate
from scoresde.metrics.transport import sliced_estimate, sliced_wasserstein, wasserstein, wasserstein_estimate

LEAST = 12
"""Samples that a set must have for a standard error."""


@dataclass(frozen=True)
class Estimate:
    """A metric of samples against real ones, and its floor, of other real ones against them; standard errors of both.

    Args:
        value, standard_error: of the samples, in the metric's units. floor, floor_error: of other real ones.
    Raises:
        ValueError: a number that is not finite.

    Example:
        >>> estimate = Estimate(value=0.132, standard_error=0.004, floor=0.129, floor_error=0.003)
        >>> print(estimate)
        0.132 ± 0.004 (floor 0.129)
        >>> low, high = estimate.interval(0.95)
        >>> round(low, 4), round(high, 4)
        (0.1242, 0.1398)
    """

    value: float
    standard_error: float
    floor: float
    floor_error: float

    def __post_init__(self) -> None:
        for name, number in vars(self).items():
            if not isinstance(number, (int, float)) or not math.isfinite(number):
                raise ValueError(f"{name} must be a finite number, got {number!r}; look at the scale of the samples")

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """value ± z · standard_error, which holds the truth with probability `level`."""
        if not _checks.positive("level", level) < 1:
            raise ValueError(f"level must be between 0 and 1, got {level!r}; write 0.95 for 95 %")
        half = NormalDist().inv_cdf((1 + level) / 2) * self.standard_error
        return self.value - half, self.value + half

    def __str__(self) -> str:
        error = self.standard_error
        order = math.floor(math.log10(error or abs(self.value) / 1000 or 0.001))
        places = -order + (0 < error < 2 * 10**order)
        if places > 8:
            return f"{self.value:.3g} ± {error:.1g} (floor {self.floor:.3g})"
        places = max(places, 0)
        value, floor = round(self.value, places) + 0.0, round(self.floor, places) + 0.0  # no minus before a zero
        return f"{value:.{places}f} ± {error:.{places}f} (floor {floor:.{places}f})"


@dataclass(frozen=True)
class Metric:
    """A row of METRICS. A user's own is one line, `METRICS["mine"] = Metric(function)`.

    Args:
        function: of samples (N, *) and real ones (M, *), a number. better: "lower" or "higher". label: for the head of
            a table (the function's name if empty). ideal: the value of perfect samples, if there is one.
        estimate: (samples, real, draws, generator) → value and its standard error; None for half-sampling, `draws`
            calls of the function on halves. largest: `measure` takes so many samples of each set, of all equally many;
            None for no limit.
    Raises:
        TypeError: function is not callable. ValueError: better neither "lower" nor "higher".

    Example:
        >>> import torch
        >>> from scoresde.metrics import Metric, measure
        >>> shift = Metric(lambda x, y: float((x.mean(0) - y.mean(0)).norm()), label="shift")
        >>> x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
        >>> round(measure(shift, x + torch.tensor([3.0, 4.0]), x, x).value, 4)
        5.0
    """

    function: Callable[[Tensor, Tensor], float]
    better: Literal["lower", "higher"] = "lower"
    label: str = ""
    ideal: float | None = None
    estimate: Callable[[Tensor, Tensor, int, torch.Generator], tuple[float, float]] | None = None
    largest: int | None = None

    def __post_init__(self) -> None:
        _checks.function("function", self.function)
        if self.better not in ("lower", "higher"):
            raise ValueError(f"better must be 'lower' or 'higher', got {self.better!r}")
        if not self.label:
            object.__setattr__(self, "label", getattr(self.function, "__name__", "metric"))


METRICS: dict[str, Metric] = {
    "sliced_wasserstein": Metric(sliced_wasserstein, "lower", "sliced W", 0.0, sliced_estimate),
    "wasserstein": Metric(wasserstein, "lower", "W", 0.0, wasserstein_estimate, largest=1000),
    "mmd": Metric(mmd, "lower", "MMD²", 0.0, mmd_estimate),
    "energy_distance": Metric(energy_distance, "lower", "energy", 0.0, energy_estimate),
    "classifier_test": Metric(classifier_test, "lower", "C2ST", 0.5, classifier_estimate),
    "precision": Metric(precision, "higher", "precision", 1.0, precision_estimate),
    "recall": Metric(recall, "higher", "recall", 1.0, recall_estimate),
    "frechet": Metric(frechet, "lower", "Fréchet", 0.0, frechet_estimate),
}
"""Name → metric. The truth that an interval covers is the laws' own value for `mmd` and `energy_distance`, which have
no bias; for the others, biased at finite sizes, the mean over sets of these sizes: compare it with the floor, biased
alike."""


def measure(
    metric: str | Metric,
    samples: Tensor,
    real: Tensor,
    other: Tensor | None = None,
    *,
    floor: tuple[float, float] | None = None,
    features: Callable[[Tensor], Tensor] | None = None,
    draws: int = 200,
    generator: torch.Generator | None = None,
) -> Estimate:
    """A metric between samples and real ones with its standard error, and the same between real ones: the floor.

    The value is metric(samples, real) and the floor metric(other, real), with as many of `other` as of the samples.
    Without `other`, `real` is cut at random into halves A and B: the value is metric(samples, B) with as many samples
    as A has, the floor metric(A, B). So the two have the same bias, and good samples come down to the floor.

    Standard errors are of both sets drawn anew. No metric is bootstrapped: drawing with replacement makes duplicates,
    which move every statistic of distances. Each has an error of its own, named in its `estimate` (influence
    functions, jackknife, held-out answers), and one without takes half-sampling.

    Args:
        metric: a name in METRICS, or a Metric. samples: (N, *). real: (M, *). other: more real ones, (L, *).
        floor: its value and standard error, if an earlier call with the same `real` and `other` has found it.
        features: x → (B, F), applied to every set first; None for the numbers themselves. draws: halves for metrics by
            half-sampling (precision, recall, yours). generator: of the cuts and halves (a fixed one if None).
    Raises:
        ValueError: an unknown name, sets of different shapes, fewer than 12 samples in a set, or in half of `real`;
            numbers that are not finite.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> samples, real = torch.randn(2, 500, 3, generator=generator, dtype=torch.float64)
        >>> estimate = measure("energy_distance", samples + 1, real)
        >>> low, high = estimate.interval()
        >>> low > estimate.floor
        True
    """
    row = _row(metric)
    _checks.whole("draws", draws, 20)
    source = _checks.source(generator)
    sets = {"samples": samples, "real": real} | ({} if other is None else {"other": other})
    for name, value in sets.items():
        _checks.one_set(name, value, 2 * LEAST if name == "real" and other is None else LEAST)
    for name, value in sets.items():
        _checks.same_shape((name, "real"), value, real)
    if floor is not None and not (isinstance(floor, tuple) and len(floor) == 2):
        raise TypeError(f"floor must be (value, standard error), got {floor!r}")
    if features is not None:
        _checks.function("features", features)
        sets = {name: _apply(features, value, name) for name, value in sets.items()}
    samples, real = _some(sets["samples"], len(samples), source), _some(sets["real"], len(real), source)
    if other is None:
        sets["other"], real = real[: len(real) // 2], real[len(real) // 2 : 2 * (len(real) // 2)]
    other = _some(sets["other"], len(sets["other"]), source)
    size = min(len(samples), len(other))
    if row.largest is not None:
        size = min(size, len(real), row.largest)
        real = real[:size]
    samples, other = samples[:size].to(real), other[:size].to(real)
    value = _value(row, samples, real, draws, source)
    return Estimate(*value, *(floor or _value(row, other, real, draws, source)))


def _row(metric: Any) -> Metric:
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str) and metric in METRICS:
        return METRICS[metric]
    close = get_close_matches(str(metric), METRICS, n=1, cutoff=0.4)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"unknown metric {metric!r}; known: {', '.join(METRICS)}.{hint}")


def _value(row: Metric, x: Tensor, y: Tensor, draws: int, generator: torch.Generator) -> tuple[float, float]:
    if row.estimate is not None:
        return row.estimate(x, y, draws, generator)

    def half(i: Tensor, j: Tensor) -> float:
        return float(row.function(x[i.to(x.device)], y[j.to(y.device)]))

    return float(row.function(x, y)), half_sampling(half, len(x), len(y), draws, generator)


def _apply(features: Callable[[Tensor], Tensor], x: Tensor, name: str) -> Tensor:
    with torch.no_grad():
        result = torch.cat([features(part) for part in x.split(256)])
    if result.ndim < 2 or len(result) != len(x):
        raise ValueError(f"features must be x → (B, F), got {tuple(result.shape)} from {tuple(x.shape)}")
    return _checks.one_set(f"features({name})", result)


def _some(x: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """`n` of `x`, in random order."""
    order = torch.randperm(len(x), generator=generator, device=generator.device)[:n]
    return x[order.to(x.device)]
