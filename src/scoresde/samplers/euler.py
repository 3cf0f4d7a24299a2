"""One-step rules in t: Euler and Heun for the probability flow, Euler–Maruyama for the reverse SDE."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scoresde import _checks
from scoresde.dynamics import Reverse
from scoresde.model import Model
from scoresde.samplers.base import Draw, Sampler, from_data, to_data
from scoresde.samplers.noise import NOISES, Noise


@dataclass(frozen=True)
class Euler(Sampler):
    """x_s = x_t + (s − t) ẋ(x_t, t): the probability-flow ODE by Euler's method in t. Order 1, one call a step.

    A step that leaves t = 0 (in `encode`) follows the flow in σ/α, where it has a slope.

    Reference: Song et al. (2021), arXiv 2011.13456, eq. 13.
    """

    needs = "velocity"

    def step(self, model: Model, x: Tensor, t: float, s: float, memory: Any, randn: Draw) -> tuple[Tensor, Any]:
        if model.process.at("sigma", t) == 0.0:
            return from_data(model, x, s), None
        return x + Reverse(model, 0.0).scaled_drift(s - t, t, x), None


@dataclass(frozen=True)
class Heun(Sampler):
    """The probability-flow ODE by Heun's method in t: order 2, two calls a step.

    x' = x_t + (s − t) ẋ(x_t, t),   x_s = x_t + (s − t) [ẋ(x_t, t) + ẋ(x', s)] / 2

    A step to s = 0, where the slope may be infinite, is `to_data`'s (one call).

    Reference: Karras et al. (2022), arXiv 2206.00364, algorithm 1.
    """

    needs = "velocity"

    def step(self, model: Model, x: Tensor, t: float, s: float, memory: Any, randn: Draw) -> tuple[Tensor, Any]:
        if model.process.at("sigma", t) == 0.0:
            return from_data(model, x, s), None
        if s == 0.0 and model.process.at("sigma", 0.0) == 0.0:
            return to_data(model, x, t), None
        flow = Reverse(model, 0.0)
        slope = flow.drift(t, x)
        return x + (s - t) / 2 * (slope + flow.drift(s, x + (s - t) * slope)), None


@dataclass(frozen=True)
class EulerMaruyama(Sampler):
    """The reverse SDE by Euler's method in t: weak order 1 (strong order 1 along a path), one call a step.

    x_s = x_t + (s − t) [f x − (1 + η²)/2 g² ∇log p_t] + η g √(t − s) ξ

    A step to s = 0 is `to_data`'s, without noise, whose law is right to a higher order.

    Args:
        eta: the dial, 0 or more; 1 is Anderson's reverse SDE. noise: "independent" increments, or those of one
            Brownian "path" a sample.

    Reference: Song et al. (2021), arXiv 2011.13456, sec. 4.1; Anderson (1982).
    """

    eta: float = 1.0
    noise: Noise = "independent"
    stochastic = True

    def __post_init__(self) -> None:
        _checks.number("eta", self.eta, 0.0)
        _checks.choice("noise", self.noise, NOISES)

    def step(self, model: Model, x: Tensor, t: float, s: float, memory: Any, randn: Draw) -> tuple[Tensor, Any]:
        if s == 0.0 and model.process.at("sigma", 0.0) == 0.0:
            return to_data(model, x, t), None
        equation = Reverse(model, self.eta)
        noise = math.sqrt(t - s) * equation.diffusion(t, x) * randn(x.shape)
        return x + equation.scaled_drift(s - t, t, x) + noise, None
