"""One-step rules in t: Euler, Heun and midpoint for the probability flow, Euler–Maruyama for the reverse SDE."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from torch import Tensor

from scoresde import _checks
from scoresde.dynamics import Reverse
from scoresde.flow import ratio
from scoresde.model import Model
from scoresde.process import Process
from scoresde.samplers.base import Draw, Sampler, from_data, to_data
from scoresde.samplers.ddim import bridge
from scoresde.samplers.noise import NOISES, Noise

MOST_CHURN = math.sqrt(2) - 1
"""The most by which a step with churn raises σ/α: it doubles the variance."""


@dataclass(frozen=True)
class Euler(Sampler):
    """x_s = x_t + (s − t) ẋ(x_t, t): the probability-flow ODE by Euler's method in t. Order 1, one call a step.

    A step that leaves t = 0 (in `encode`) follows the flow in σ/α, where it has a slope.

    Example:
        >>> import torch
        >>> from scoresde import RectifiedFlow, sample, samplers, targets
        >>> model = targets.Gaussian([1.0], 0.25).model(RectifiedFlow(), "velocity")
        >>> x = torch.tensor([[2.0]]).double()  # pure noise, two deviations above its mean; so are the data: 2
        >>> errors = [abs(float(sample(model, x=x, sampler=samplers.Euler(), steps=n)) - 2) for n in (20, 40)]
        >>> round(errors[0] / errors[1])  # order 1: twice the steps, half the error
        2

    Reference: Song et al. (2021), arXiv 2011.13456, eq. 13.
    """

    needs = "velocity"

    def step(self, model: Model, x: Tensor, t: float, s: float, memory: Any, randn: Draw) -> tuple[Tensor, Any]:
        if model.process.at("sigma", t) == 0.0:
            return from_data(model, x, s), None
        return x + Reverse(model, 0.0).scaled_drift(s - t, t, x), None


class _TwoStage(Sampler):
    """x' = x_t + c h ẋ(x_t, t),  x_s = x_t + h [(1 − 1/2c) ẋ(x_t, t) + 1/2c ẋ(x', t + c h)],  h = s − t."""

    needs = "velocity"
    node: float  # c

    def step(self, model: Model, x: Tensor, t: float, s: float, memory: Any, randn: Draw) -> tuple[Tensor, Any]:
        if model.process.at("sigma", t) == 0.0:
            return from_data(model, x, s), None
        if s == 0.0 and model.process.at("sigma", 0.0) == 0.0:
            return to_data(model, x, t), None
        flow, h, late = Reverse(model, 0.0), s - t, 1 / (2 * self.node)
        slope = flow.drift(t, x)
        there = flow.drift(s if self.node == 1 else t + self.node * h, x + self.node * h * slope)
        return x + (1 - late) * h * slope + late * h * there, None


@dataclass(frozen=True)
class Midpoint(_TwoStage):
    """The probability-flow ODE by the midpoint rule in t: order 2, two calls a step.

        x' = x_t + ½(s − t) ẋ(x_t, t),   x_s = x_t + (s − t) ẋ(x', ½(t + s))

    A step to s = 0, where the slope may be infinite, is `to_data`'s (one call).

    Example:
        >>> import torch
        >>> from scoresde import RectifiedFlow, sample, samplers, targets
        >>> model = targets.Gaussian([1.0], 0.25).model(RectifiedFlow(), "velocity")
        >>> x = torch.tensor([[2.0]]).double()  # pure noise, two deviations above its mean; so are the data: 2
        >>> errors = [abs(float(sample(model, x=x, sampler=samplers.Midpoint(), steps=n)) - 2) for n in (20, 40)]
        >>> round(errors[0] / errors[1])  # order 2, on this path even 3
        8

    Reference: Lipman et al. (2023), arXiv 2210.02747, app. E; Hairer, Nørsett and Wanner (1993), sec. II.1.
    """

    node = 0.5


@dataclass(frozen=True)
class Heun(_TwoStage):
    """The probability-flow ODE by Heun's method in t: order 2, two calls a step; with churn, stochastic.

        x' = x_t + (s − t) ẋ(x_t, t),   x_s = x_t + (s − t) [ẋ(x_t, t) + ẋ(x', s)] / 2

    A step to s = 0, where the slope may be infinite, is `to_data`'s (one call). With churn, a step of a grid of n
    begins by raising the noise from ρ = σ/α to ρ(1 + γ), γ = min(churn/n, √2 − 1), though not beyond t_max. That
    keeps the law exactly (docs/theory, eq. 14), so that the weak order is 2. (`step` alone takes the grid to be
    that one step, or of as many as `memory` says.)

    Args:
        churn: 0 or more; the paper's range from 30 to 80, where there is some. churn_noise: the deviation
            of the noise that raises it; only 1 keeps the law. churn_range: of σ/α, where there is churn.
        rule: how a step to s = 0 ends: "exact", as `to_data`; or "published", Euler's step to the denoiser x₀.
    Raises:
        ValueError: churn or churn_noise below 0, a range that is not 0 <= low < high, an unknown rule.

    Example:
        >>> import torch
        >>> from scoresde import RectifiedFlow, sample, samplers, targets
        >>> model = targets.Gaussian([1.0], 0.25).model(RectifiedFlow(), "velocity")
        >>> x = torch.tensor([[2.0]]).double()  # pure noise, two deviations above its mean; so are the data: 2
        >>> errors = [abs(float(sample(model, x=x, sampler=samplers.Heun(), steps=n)) - 2) for n in (20, 40)]
        >>> round(errors[0] / errors[1])  # order 2
        4

    Reference: Karras et al. (2022), arXiv 2206.00364, algorithms 1 and 2.
    """

    churn: float = 0.0
    churn_noise: float = 1.0
    churn_range: tuple[float, float] = (0.0, math.inf)
    rule: Literal["exact", "published"] = "exact"
    node = 1.0

    def __post_init__(self) -> None:
        _checks.number("churn", self.churn, 0.0)
        _checks.number("churn_noise", self.churn_noise, 0.0)
        _checks.choice("rule", self.rule, ("exact", "published"))
        check_range("churn_range", self.churn_range)

    @property
    def stochastic(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.churn > 0

    def run(self, model: Model, x: Tensor, times: Sequence[float], randn: Draw) -> Iterator[Tensor]:
        steps = len(times) - 1
        for t, s in pairwise(times):
            x, _ = self.step(model, x, t, s, steps, randn)
            yield x

    def step(self, model: Model, x: Tensor, t: float, s: float, memory: Any, randn: Draw) -> tuple[Tensor, Any]:
        process, rho = model.process, ratio(model.process, t)
        low, high = self.churn_range
        if self.churn and low <= rho <= high and 0 < rho < math.inf:
            raised = rho * (1 + min(self.churn / (memory or 1), MOST_CHURN))
            u = float(process.time(-2 * math.log(raised)))
            if u > t:
                x, t = renoise(process, x, t, u, randn, self.churn_noise), u
        if self.rule == "published" and process.at("sigma", s) == 0.0 and process.at("sigma", t) > 0.0:
            return model.estimate(1.0, 0.0, x, t), memory
        return super().step(model, x, t, s, memory, randn)[0], memory


def renoise(process: Process, x: Tensor, t: float, u: float, randn: Draw, scale: float = 1.0) -> Tensor:
    """Carry x from time t to a later time u by the forward process, with noise of `scale` times its deviation."""
    gap, _, _ = bridge(process, u, t)
    shrunk = process.at("alpha", u) / process.at("alpha", t) * x
    return shrunk + scale * process.at("sigma", u) * math.sqrt(gap) * randn(x.shape)


def check_range(name: str, value: Any) -> None:
    """Refuse what is not a pair 0 <= low < high."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{name} must be (low, high), got {value!r}")
    low, high = _checks.number(name, value[0], 0.0), value[1]
    if high != math.inf:
        high = _checks.number(name, high, 0.0)
    if not low < high:
        raise ValueError(f"{name} must be (low, high) with 0 <= low < high, got {value!r}")


@dataclass(frozen=True)
class EulerMaruyama(Sampler):
    """The reverse SDE by Euler's method in t: weak order 1 (strong order 1 along a path), one call a step.

    x_s = x_t + (s − t) [f x − (1 + η²)/2 g² ∇log p_t] + η g √(t − s) ξ

    A step to s = 0 is `to_data`'s, without noise, whose law is right to a higher order.

    Args:
        eta: the dial, 0 or more; 1 is Anderson's reverse SDE. noise: "independent" increments, or those of one
            Brownian "path" a sample.
    Raises:
        ValueError: eta below 0, noise not "independent" or "path".

    Example:
        >>> import torch
        >>> from scoresde import VP, sample, samplers, targets
        >>> model, generator = targets.Gaussian([1.0], 0.25).model(VP()), torch.Generator().manual_seed(0)
        >>> x = sample(model, (4000, 1), samplers.EulerMaruyama(), steps=50, generator=generator)
        >>> round(float(x.mean()), 1), round(float(x.std()), 1)  # of N(1, 1/4)
        (1.0, 0.5)

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
