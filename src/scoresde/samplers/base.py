"""What a sampler is, and the last step to the data that many share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor

from scoresde.flow import data_scale, ratio
from scoresde.model import Model, determines
from scoresde.process.base import NEGLIGIBLE
from scoresde.samplers import grids
from scoresde.samplers.noise import Draw, Noise, increments


class Sampler(ABC):
    """A rule that carries a state from time t to time s. Frozen hyper-parameters, no state of its own.

    A subclass writes `step`. It declares `stochastic`: whether it draws noise, and so cannot be run backwards by
    `encode`; `needs`: the prediction that its first step asks of the model; and `noise`: where the numbers come
    from that `step` draws. "independent": increments independent of all others, as often as it likes. "path":
    the increments of one Brownian path a sample, one draw a step, so that a finer grid follows the same path.

    Example:
        >>> from dataclasses import dataclass
        >>> from scoresde.samplers import Sampler
        >>> @dataclass(frozen=True)
        ... class MyEuler(Sampler):
        ...     def step(self, model, x, t, s, memory, randn):
        ...         return x + (s - t) * model.predict("velocity", x, t), memory
    """

    stochastic: bool = False
    needs: str = "x0"
    noise: Noise = "independent"

    def grid(self, model: Model, steps: int) -> Tensor:
        """The times this sampler steps through if it is given no grid: `grids.graded` for the model's data."""
        times = grids.graded(model.process, steps, data_scale(model))
        return self.begin(model, times)

    def begin(self, model: Model, times: Tensor) -> Tensor:
        """`times`, but begun later if this sampler cannot start from pure noise (α = 0 at t_max).

        It cannot if what it needs is undetermined by the model's prediction there, as x₀ is by noise: then it
        begins at σ/α = 1000. Nor if it is stochastic, for the reverse SDE is singular there: then it begins at
        four times the next σ/α if that is less, since explicit steps of an SDE must not cross more at once.
        """
        process = model.process
        if process.at("alpha", float(times[0])) == 0.0 and (self.stochastic or not determines(model, self.needs)):
            reach = min(1 / NEGLIGIBLE, 4 * ratio(process, float(times[1]))) if self.stochastic else 1 / NEGLIGIBLE
            times = times.clone()
            first = float(process.time(-2 * math.log(reach or 1 / NEGLIGIBLE)))
            times[0] = first if first > times[1] else (times[1] + process.t_max) / 2
        return times

    @abstractmethod
    def step(self, model: Model, x: Tensor, t: float, s: float, memory: Any, randn: Draw) -> tuple[Tensor, Any]:
        """Carry x: (B, *) from time t to time s; memory is None at first, then what the last step returned."""

    def run(self, model: Model, x: Tensor, times: Sequence[float], randn: Draw) -> Iterator[Tensor]:
        """The states at times[1:], one after the other."""
        memory, draw = None, increments(self.noise, model.process, randn)
        for t, s in pairwise(times):
            x, memory = self.step(model, x, t, s, memory, draw(t, s))
            yield x


def to_data(model: Model, x: Tensor, t: float) -> Tensor:
    """Carry x from time t to noiseless data along the flow: E[x₀ + sρ/(s + h) ε], h² = s² + ρ²; one call.

    Right for normal data of standard deviation s at any ρ = σ/α, and for smooth data to O(ρ³): where the flow
    dy/dρ = ε has ε proportional to ρ, it covers half of what the denoiser x₀ would (docs/theory, eq. 13).
    """
    s, rho = data_scale(model), ratio(model.process, t)
    return model.estimate(1.0, s * rho / (s + math.hypot(s, rho)), x, t)


def from_data(model: Model, x: Tensor, t: float) -> Tensor:
    """The way back: carry noiseless data x along the flow to a small time t; one call."""
    s, alpha, sigma = data_scale(model), model.process.at("alpha", t), model.process.at("sigma", t)
    rho = sigma / alpha
    h = math.hypot(s, rho)
    return alpha * x + sigma * h * h / (s * (s + h)) * model.estimate(0.0, 1.0, alpha * x, t)
