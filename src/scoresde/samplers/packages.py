"""`solve` as samplers: torchdiffeq's and torchsde's methods on the probability flow and the reverse SDE."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from typing import Any

from torch import Tensor

from scoresde import _checks
from scoresde.dynamics import Reverse
from scoresde.model import Model
from scoresde.samplers.base import Draw, Sampler, from_data, to_data
from scoresde.samplers.noise import NOISES, Noise, increments
from scoresde.solve import ADAPTIVE, FIXED, ITO, LEVY, STRATONOVICH, solve


class _Solved(Sampler):
    """The solver between the grid's times; between t_min and data, where slopes in t are singular, the flow in σ/α."""

    def step(self, model: Model, x: Tensor, t: float, s: float, memory: Any, randn: Draw) -> tuple[Tensor, Any]:
        *_, x = self.run(model, x, [t, s], randn)
        return x, memory

    def run(self, model: Model, x: Tensor, times: Sequence[float], randn: Draw) -> Iterator[Tensor]:
        least, inner = model.process.t_min, list(times)
        arrives = least > 0.0 and times[-1] == 0.0
        if least > 0.0 and times[0] == 0.0:  # away from the data, in encode
            inner[0] = min(least, inner[1])
            x = from_data(model, x, inner[0])
            if inner[0] == inner[1]:
                inner.pop(0)
                yield x
        if arrives:
            inner[-1] = min(least, inner[-2])
            if inner[-1] == inner[-2]:
                inner.pop()
        path = self.solved(model, x, inner, randn) if len(inner) > 1 else []
        for i, state in enumerate(path, 1):
            if not (arrives and i == len(path) and len(inner) == len(times)):
                yield state
            x = state
        if arrives:
            yield to_data(model, x, inner[-1])

    def solved(self, model: Model, x: Tensor, times: list[float], randn: Draw) -> Tensor:
        """The states at times[1:]."""
        raise TypeError(f"{type(self).__name__} must define solved")


@dataclass(frozen=True)
class ODE(_Solved):
    """The probability-flow ODE by one of torchdiffeq's methods.

    An adaptive method goes from the noise end to t_min in one run, whatever `steps` says (give a grid to see
    more of its path); a fixed-step one steps through the grid. The last stretch, t_min to 0, is `to_data`'s.

    Args:
        method: "dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun", "scipy_solver" (adaptive); "euler",
            "midpoint", "heun2", "heun3", "rk4", "explicit_adams", "implicit_adams" (fixed steps).
        rtol, atol: tolerances of adaptive methods, met by the worst sample.
    Raises:
        ValueError: an unknown method, rtol or atol not positive.

    Example:
        >>> import torch
        >>> from scoresde import RectifiedFlow, sample, samplers, targets
        >>> model = targets.Gaussian([1.0], 0.25).model(RectifiedFlow(), "velocity")
        >>> x = torch.tensor([[2.0]])  # pure noise, two deviations above its mean; so are the data: 2
        >>> bool(abs(sample(model, x=x, sampler=samplers.ODE(rtol=1e-6, atol=1e-6)) - 2) < 1e-4)
        True

    Reference: Song et al. (2021), arXiv 2011.13456, eq. 13; Chen et al. (2018), 1806.07366 (torchdiffeq).
    """

    method: str = "dopri5"
    rtol: float = 1e-5
    atol: float = 1e-5
    needs = "velocity"

    def __post_init__(self) -> None:
        _checks.choice("method", self.method, ADAPTIVE + FIXED)
        _checks.positive("rtol", self.rtol)
        _checks.positive("atol", self.atol)

    def grid(self, model: Model, steps: int) -> Tensor:
        times = super().grid(model, steps)
        return times[[0, -1]] if self.method in ADAPTIVE else times

    def solved(self, model: Model, x: Tensor, times: list[float], randn: Draw) -> Tensor:
        path = solve(
            Reverse(model, 0.0), x, times[0], times[-1], self.method, grid=times, trajectory=True,
            rtol=self.rtol, atol=self.atol,
        )  # fmt: skip
        return path[1:]


@dataclass(frozen=True)
class SDE(_Solved):
    """The reverse SDE by one of torchsde's methods, stepping through the grid.

    The last stretch, t_min to 0, is `to_data`'s.

    Args:
        method: "euler", "milstein", "srk", "heun", "midpoint", "euler_heun", "log_ode", "reversible_heun".
        eta: the dial, above 0; 1 is Anderson's reverse SDE. noise: "independent" increments, or those of one
            Brownian "path" a sample (not for "srk" and "log_ode", which draw areas too).
    Raises:
        ValueError: an unknown method, eta not positive, noise="path" with a method that draws areas.

    Example:
        >>> import torch
        >>> from scoresde import VP, sample, samplers, targets
        >>> model, generator = targets.Gaussian([1.0], 0.25).model(VP()), torch.Generator().manual_seed(0)
        >>> x = sample(model, (4000, 1), samplers.SDE(), steps=50, generator=generator)
        >>> round(float(x.mean()), 1), round(float(x.std()), 1)  # of N(1, 1/4)
        (1.0, 0.5)

    Reference: Song et al. (2021), arXiv 2011.13456, eq. 6; Li et al. (2020), 2001.01328 (torchsde).
    """

    method: str = "euler"
    eta: float = 1.0
    noise: Noise = "independent"
    stochastic = True

    def __post_init__(self) -> None:
        _checks.choice("method", self.method, dict.fromkeys(ITO + STRATONOVICH))
        _checks.positive("eta", self.eta)
        _checks.choice("noise", self.noise, NOISES)
        if self.noise == "path" and self.method in LEVY:
            raise ValueError(f"noise must be 'independent' for {self.method!r}, which draws areas too, got 'path'")

    def solved(self, model: Model, x: Tensor, times: list[float], randn: Draw) -> Tensor:
        draw, spans = increments(self.noise, model.process, randn), cycle(pairwise(times))  # one draw a step, in order
        path = solve(
            Reverse(model, self.eta), x, times[0], times[-1], self.method, grid=times, trajectory=True,
            noise=lambda shape: draw(*next(spans))(x.shape).reshape(shape),
        )  # fmt: skip
        return path[1:]
