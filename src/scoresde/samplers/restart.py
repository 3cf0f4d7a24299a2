"""Restart: an ODE sampler that goes back to a higher noise level by fresh noise, and down again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from scoresde import _checks
from scoresde.flow import ratio
from scoresde.model import Model
from scoresde.process import Process
from scoresde.samplers.base import Draw, Sampler
from scoresde.samplers.euler import Heun, check_range, renoise


@dataclass(frozen=True)
class Restart(Sampler):
    """An ODE sampler that, arrived at σ/α = low, goes up to high by fresh noise and down again, `repeats` times.

        x_high = (α_high/α_low) x_low + α_high √(high² − low²) ξ,   then the ODE from high to low in `inner_steps` steps

    The noise is the forward process's own, so it keeps the law, and contracts the errors that the ODE made before;
    the ODE's steps add less of new ones than an SDE's. Between the grid's times next to low, low is a stop; a grid
    that does not pass low has no restart. Calls: the grid's and repeats × inner_steps times the sampler's a step.

    Args:
        inner: the deterministic sampler of all ways down. low, high: of σ/α, 0 < low < high.
        repeats: K, 0 or more. inner_steps: of each way down, on `grids.karras`'s spacing between high and low.
    Raises:
        ValueError: an inner sampler that is stochastic, not 0 < low < high, repeats below 0, inner_steps below 1; in
            a run, levels that the process does not reach. TypeError: inner is no Sampler.

    Example:
        >>> import torch
        >>> from scoresde import VP, sample, samplers, targets
        >>> model, generator = targets.Gaussian([1.0], 0.25).model(VP()), torch.Generator().manual_seed(0)
        >>> x = sample(model, (4000, 1), samplers.Restart(), steps=20, generator=generator)
        >>> round(float(x.mean()), 1), round(float(x.std()), 1)  # of N(1, 1/4)
        (1.0, 0.5)

    Reference: Xu et al. (2023), arXiv 2306.14878, algorithm 1 and eq. 3.
    """

    inner: Sampler = field(default_factory=Heun)
    low: float = 0.1
    high: float = 1.0
    repeats: int = 2
    inner_steps: int = 4
    stochastic = True

    def __post_init__(self) -> None:
        _checks.kind("inner", self.inner, Sampler, "Heun()")
        if self.inner.stochastic:
            raise ValueError(f"inner must be deterministic, got {self.inner!r}; use Heun()")
        _checks.positive("low", self.low)
        _checks.number("high", self.high)
        check_range("(low, high)", (self.low, self.high))
        _checks.count("repeats", self.repeats, 0)
        _checks.count("inner_steps", self.inner_steps)

    def grid(self, model: Model, steps: int) -> Tensor:
        """The sampler's own, with the inner time next to low moved there."""
        times, low = self.inner.grid(model, steps), self._levels(model.process)[-1]
        if len(times) > 2 and times[0] > low > times[-1]:
            near = 1 + int((times[1:-1].log() - math.log(low)).abs().argmin())
            times[near] = low
        return times

    def begin(self, model: Model, times: Tensor) -> Tensor:
        return self.inner.begin(model, times)

    def step(self, model: Model, x: Tensor, t: float, s: float, memory: Any, randn: Draw) -> tuple[Tensor, Any]:
        *_, x = self.run(model, x, (t, s), randn)
        return x, memory

    def run(self, model: Model, x: Tensor, times: Sequence[float], randn: Draw) -> Iterator[Tensor]:
        levels = self._levels(model.process)
        low = levels[-1]
        before, after = [t for t in times if t > low], [t for t in times if t < low]
        if not before or (not after and times[-1] != low):
            yield from self.inner.run(model, x, times, randn)
            return
        for k, state in enumerate(self.inner.run(model, x, [*before, low], randn), 1):
            x = state
            if k < len(before):
                yield x
        for _ in range(self.repeats):
            x = renoise(model.process, x, low, levels[0], randn)
            *_, x = self.inner.run(model, x, levels, randn)
        if low in times:
            yield x
        if after:
            yield from self.inner.run(model, x, [low, *after], randn)

    def _levels(self, process: Process) -> list[float]:
        """The times of a way down, from high to low."""
        if self.high > ratio(process, process.t_max) or self.low <= ratio(process, 0.0):
            raise ValueError(
                f"low and high must lie between sigma/alpha at t = 0 and t_max, {ratio(process, 0.0):g} and "
                f"{ratio(process, process.t_max):g} for {process!r}, got {self.low:g} and {self.high:g}"
            )
        first, last = self.high ** (1 / 7), self.low ** (1 / 7)
        shares = (first + (last - first) * k / self.inner_steps for k in range(self.inner_steps + 1))
        return [float(process.time(-14 * math.log(share))) for share in shares]
