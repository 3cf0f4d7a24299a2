"""A cell of the grid: one model, sampled by one sampler in one number of steps, and measured; kept in a file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from scoresde import _checks
from scoresde._files import whole
from scoresde.compare.row import Row, flow_estimate
from scoresde.metrics import METRICS, Estimate, measure
from scoresde.model import Count, Model
from scoresde.samplers import Adaptive, Sampler, sample

SHOWN = 500
"""Samples of a cell that are kept, for pictures."""

ROOM = 2**32
"""Seeds that lie between those of one comparison and the next: no two share a sample's noise."""

STARTS = 256
"""The most samples whose end points are held against the flow's own."""


SPLITS = 20
"""How often the real samples are split in two for a floor."""

WITH_FEATURES = ("frechet", "precision", "recall")
"""The metrics that look at features of images rather than at pixels."""


@dataclass(frozen=True)
class Judge:
    """What every cell is measured by: real samples (N, *), as many others for the floor, and what to measure.

    metrics: names of METRICS, or flow_error. features: makes a function of samples, for metrics that look at
    features, or None. draws: of metrics by half-sampling.
    """

    real: Tensor
    other: Tensor
    metrics: tuple[str, ...]
    features: Callable[[], Any]
    draws: int = 200

    def __call__(self, x: Tensor, ends: Tensor | None = None) -> dict[str, Estimate]:
        """By metric, those that x has: samples too far out for one of them go without.

        ends: of the flow, from the first of the starts, for deterministic samplers.
        """
        found = {}
        for name, floor in self.floors.items():
            built_in = METRICS[name].function.__module__.startswith("scoresde.")
            refusals = (ValueError,) if built_in else ()  # real samples have passed, so that these are to blame
            with suppress(*refusals):
                features = self.features() if name in WITH_FEATURES else None
                found[name] = measure(name, x, self.real, self.other, floor=floor, features=features, draws=self.draws)
        if ends is not None:
            found["flow_error"] = flow_estimate(x[: len(ends)], ends)
        return {name: found[name] for name in self.metrics if name in found}

    @cached_property
    def floors(self) -> dict[str, tuple[float, float]]:
        """What real samples score against real ones: mean and deviation over random splits of all of them in two.

        So a metric of one set of perfect samples is as far from the floor as the deviation says.
        """
        both, found = torch.cat([self.other, self.real]), {}
        orders = [torch.randperm(len(both), generator=torch.Generator().manual_seed(i)) for i in range(SPLITS)]
        for name in self.metrics:
            if name != "flow_error":
                features = self.features() if name in WITH_FEATURES else None
                measure(name, self.other, self.real, self.other, features=features)  # what is wrong is said here
                x = both if features is None else features(both)
                function, size = METRICS[name].function, METRICS[name].largest or len(both)
                halves = [[half[:size] for half in x[order].chunk(2)] for order in orders]
                scores = torch.tensor([function(*pair) for pair in halves], dtype=torch.float64)
                found[name] = float(scores.mean()), float(scores.std())
        return found


def run(
    model: Model, sampler: Sampler, steps: int, judge: Judge, ends: Tensor | None, seed: int
) -> tuple[dict[str, Any], Tensor]:
    """Sample and measure: what `Row` has of its own cell, and the samples; NaN if they diverge."""
    count, (num, *shape) = Count(), judge.real.shape
    begun = time.perf_counter()
    try:
        x = sample(model.wrap(count), (num, *shape), sampler, steps, seeds=range(seed * ROOM, seed * ROOM + num)).cpu()
        seconds = time.perf_counter() - begun
        quality = judge(x, ends)
    except _checks.Diverged:  # it diverged: a row without metrics
        seconds, quality = time.perf_counter() - begun, {}
        x = torch.full_like(judge.real, torch.nan)
    return {"nfe": count.calls, "seconds": seconds, "quality": quality}, x


def flow_ends(model: Model, shape: tuple[int, ...], num: int, seed: int) -> Tensor | None:
    """Where the model's probability flow takes the first `num` starts, in float64; None where it cannot be solved."""
    tolerance = 1e-9 if model.like().dtype == torch.float64 else 1e-5
    with suppress(_checks.Diverged):
        x = sample(model, (num, *shape), Adaptive(tolerance, tolerance), seeds=range(seed * ROOM, seed * ROOM + num))
        return x.cpu().double()


def save(path: Path, row: Row, x: Tensor) -> None:
    """A cell's row, and the first of its samples."""
    with whole(path) as draft:
        save_file({"samples": x[:SHOWN].contiguous()}, draft, {"row": json.dumps(asdict(row))})


def load(path: Path) -> tuple[Row, Tensor] | None:
    """What `save` wrote; None if nothing is there."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            values: Mapping[str, Any] = json.loads(file.metadata()["row"])
            x = file.get_tensor("samples")
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no cell of a comparison ({error}); remove it") from error
    quality = {name: Estimate(**estimate) for name, estimate in values["quality"].items()}
    return Row(**{**values, "quality": quality}), x
