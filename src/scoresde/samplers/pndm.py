"""Pseudo numerical methods: classical weights on noise predictions, and DDIM's step to carry their sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scoresde import _checks
from scoresde.flow import ratio
from scoresde.model import Model
from scoresde.process import Process
from scoresde.samplers import grids
from scoresde.samplers.base import Draw, Sampler
from scoresde.samplers.ddim import DDIM
from scoresde.samplers.exponential import Exponential
from scoresde.samplers.quadrature import Node, ask, combine

ADAMS = ((1.0,), (-1 / 2, 3 / 2), (5 / 12, -16 / 12, 23 / 12), (-9 / 24, 37 / 24, -59 / 24, 55 / 24))
"""Adams–Bashforth weights for equal steps, the oldest value first."""


def transfer(process: Process, x: Tensor, t: float, s: float, weights: tuple[float, ...], nodes: Any) -> Tensor:
    """φ: (α_s/α_t) x + (σ_s − α_s ρ_t) Σ weight · ε̂, DDIM's step with a sum of noises in the place of one."""
    alpha = process.at("alpha", s)
    front = process.at("sigma", s) - alpha * ratio(process, t)
    return combine(alpha / process.at("alpha", t) * x, [front * w for w in weights], nodes)


@dataclass(frozen=True)
class IPNDM(Sampler):
    """iPNDM: DDIM's step with an Adams–Bashforth sum of the last noise predictions, one call a step.

    x_s = (α_s/α_t) x_t + (σ_s − α_s ρ_t) Σ_k b_k ε̂_k,   b = 1;  (3, −1)/2;  (23, −16, 5)/12;  (55, −59, 37, −9)/24

    The weights are those of equal steps in σ/α. On grids whose steps change smoothly the strong order is 2 for every
    `order` above 1 (and 1 for 1); on equal steps in σ/α it is `order`, but for the start: at most 2.

    Args:
        order: 1 to 4, the predictions in the sum; fewer in the first steps.
    Raises:
        ValueError: an order outside 1 to 4.

    Example:
        >>> import torch
        >>> from scoresde import VP, sample, samplers, targets
        >>> model, x = targets.Gaussian([1.0], 0.25).model(VP()), torch.ones(1, 1)
        >>> one, two = (sample(model, x=x, sampler=s) for s in (samplers.IPNDM(order=1), samplers.DDIM()))
        >>> torch.allclose(one, two)
        True

    Reference: Zhang and Chen (2023), arXiv 2204.13902, app. H.2; Liu et al. (2022), 2202.09778, eq. 9 and 12.
    """

    order: int = 4

    def __post_init__(self) -> None:
        if _checks.count("order", self.order) not in (1, 2, 3, 4):
            raise ValueError(f"order must be 1, 2, 3 or 4, got {self.order}")

    def grid(self, model: Model, steps: int) -> Tensor:
        """That of the exponential stepper for noise predictions, of the order that this has."""
        return Exponential("noise", min(self.order, 2)).grid(model, steps)

    def step(self, model: Model, x: Tensor, t: float, s: float, memory: Any, randn: Draw) -> tuple[Tensor, Any]:
        process = model.process
        if process.at("sigma", t) == 0.0 or process.at("alpha", t) == 0.0 or process.at("alpha", s) == 0.0:
            return DDIM().step(model, x, t, s, None, randn)
        history: tuple[Node, ...] = (*(memory or ()), ask(model, "noise", x, t))[-self.order :]
        return transfer(process, x, t, s, ADAMS[len(history) - 1], history), history


@dataclass(frozen=True)
class PNDM(Sampler):
    """PNDM (F-PNDM): three steps of a pseudo Runge–Kutta method of four calls each, then iPNDM's sum of four.

    Runge–Kutta's noises are asked at t, twice in the middle of [t, s], and at s, with DDIM's step between; their sum
    (1, 2, 2, 1)/6 carries x_t to x_s by the same step. Strong order 2, as published (theorem 3.3); a step to s = 0
    before the fourth is DDIM's. The grid is `grids.quadratic`: the middle in t wants steps that are not long in σ/α.

    Example:
        >>> import torch
        >>> from scoresde import RectifiedFlow, sample, samplers, targets
        >>> model = targets.Gaussian([1.0], 0.25).model(RectifiedFlow(), "velocity")
        >>> x = torch.tensor([[2.0]]).double()  # pure noise, two deviations above its mean; so are the data: 2
        >>> errors = [abs(float(sample(model, x=x, sampler=samplers.PNDM(), steps=n)) - 2) for n in (40, 80)]
        >>> round(errors[0] / errors[1])  # order 2
        4

    Reference: Liu et al. (2022), arXiv 2202.09778, eq. 9-13, algorithm 2.
    """

    def grid(self, model: Model, steps: int) -> Tensor:
        return self.begin(model, grids.quadratic(model.process, steps))

    def step(self, model: Model, x: Tensor, t: float, s: float, memory: Any, randn: Draw) -> tuple[Tensor, Any]:
        process, history = model.process, memory or ()
        closed = 0.0 in (process.at("sigma", t), process.at("alpha", t), process.at("alpha", s))
        if closed or len(history) > 2 or process.at("sigma", s) == 0.0:
            return IPNDM(4 if len(history) > 2 else 1).step(model, x, t, s, memory, randn)
        first, middle = ask(model, "noise", x, t), (t + s) / 2
        nodes = [first]
        for m in (middle, middle, s):
            nodes.append(ask(model, "noise", transfer(process, x, t, m, (1.0,), nodes[-1:]), m))
        return transfer(process, x, t, s, (1 / 6, 1 / 3, 1 / 3, 1 / 6), nodes), (*history, first)
