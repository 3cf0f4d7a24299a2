"""The SDE with the velocity's marginals, for any diffusion coefficient: stochastic sampling of flow-matching models."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scoresde import _checks
from scoresde.model import Model
from scoresde.process import Process
from scoresde.process.base import TINY
from scoresde.samplers.base import Draw, Sampler, to_data
from scoresde.samplers.euler import Euler
from scoresde.samplers.noise import NOISES, Noise

Diffusion = Callable[[Process, float], float]

DIFFUSIONS: dict[str, Diffusion] = {
    "process": lambda process, t: process.at("diffusion", t),
    "sigma": lambda process, t: math.sqrt(
        2 * process.at("sigma", t) / (process.at("alpha", t) + process.at("sigma", t)) * _turning(process, t)
    ),
    "constant": lambda process, t: math.sqrt(_turning(process, t)),
}
"""Name -> w(t), the coefficient of the noise. Your own is one line: FlowSDE(lambda process, t: ...)."""


def _turning(process: Process, t: float) -> float:
    """α σ̇ − α̇ σ = α² dρ/dt: 1 on the straight path, and αg²/(2σ) on any."""
    alpha, sigma, falling, rising = (process.at(c, max(t, TINY)) for c in ("alpha", "sigma", "alpha_dot", "sigma_dot"))
    return max(alpha * rising - falling * sigma, 0.0)


@dataclass(frozen=True)
class FlowSDE(Sampler):
    """The SDE whose marginals are those of the flow, for any coefficient w(t) of its noise.

        dx = [u − ½ w² ∇log p_t] dt + w dw̄,  backwards in time, u the velocity;  a = u − ½ w² ∇log p_t
        order 1:  x_s = x_t + (s − t) a(x_t, t) + w_t √(t − s) ξ                                  one call a step
        order 2:  x_s = x_t + (s − t) [a(x_t, t) + a(x', s)]/2 + √((w_t² + w_s²)(t − s)/2) ξ      two calls
                  x' = x_t + (s − t) a(x_t, t) + the same noise

    Both orders are weak. With w = η g, order 1 is `EulerMaruyama(η)`; with w = 0, Euler's and Heun's methods. The
    score is −ε/σ, so that a is one row of the prediction table. A step to s = 0 is `to_data`'s, without noise.

    Args:
        diffusion: "process", w² = g²; "sigma", w² = g² α/(α + σ); "constant", w² = g² α/(2σ); or a function
            (process, t) -> w. On the straight path these are 2t/(1 − t), 2t and 1: the last two are finite where
            α = 0, so that sampling begins at pure noise; g is not.
        order: 1 or 2. noise: "independent" increments, or those of one Brownian "path" a sample.
    Raises:
        ValueError: an unknown diffusion, an order not 1 or 2, noise not "independent" or "path"; in a run, w below 0.

    Example:
        >>> import torch
        >>> from scoresde import VP, sample, samplers, targets
        >>> model = targets.Gaussian([1.0], 0.25).model(VP())
        >>> pair = samplers.FlowSDE("process"), samplers.EulerMaruyama()
        >>> one, two = (sample(model, (4, 1), s, seeds=range(4)) for s in pair)
        >>> torch.allclose(one, two, atol=1e-5)
        True

    Reference: Ma et al. (2024), arXiv 2401.08740, sec. 2 (their w_t is w² here); docs/theory, eq. 24.
    """

    diffusion: str | Diffusion = "sigma"
    order: int = 1
    noise: Noise = "independent"
    stochastic = True
    needs = "velocity"

    def __post_init__(self) -> None:
        if not callable(self.diffusion):
            _checks.choice("diffusion", self.diffusion, DIFFUSIONS)
        if _checks.count("order", self.order) > 2:
            raise ValueError(f"order must be 1 or 2, got {self.order!r}")
        _checks.choice("noise", self.noise, NOISES)

    def begin(self, model: Model, times: Tensor) -> Tensor:
        """From pure noise, if w is finite there and no path, whose clock is infinite there, is to be followed."""
        finite = math.isfinite(self.coefficient(model.process, float(times[0])))
        return Euler().begin(model, times) if finite and self.noise == "independent" else super().begin(model, times)

    def coefficient(self, process: Process, t: float) -> float:
        """w(t)."""
        given = self.diffusion if callable(self.diffusion) else DIFFUSIONS[self.diffusion]
        w = float(given(process, t))
        if math.isnan(w) or w < 0:
            raise ValueError(f"diffusion must be 0 or more, got {w:g} at t = {t:g}")
        return w

    def step(self, model: Model, x: Tensor, t: float, s: float, memory: Any, randn: Draw) -> tuple[Tensor, Any]:
        process = model.process
        if s == 0.0 and process.at("sigma", 0.0) == 0.0:
            return to_data(model, x, t), None

        def moved(x: Tensor, u: float, w: float) -> Tensor:
            at = max(u, TINY)
            q = process.at("sigma_dot", at) + w**2 / (2 * process.at("sigma", at))
            return model.estimate((s - t) * process.at("alpha_dot", at), (s - t) * q, x, u)

        w = self.coefficient(process, t)
        if self.order == 1:
            return x + moved(x, t, w) + w * math.sqrt(t - s) * randn(x.shape), None
        later = self.coefficient(process, s)
        drift = moved(x, t, w)
        noise = math.sqrt((w**2 + later**2) * (t - s) / 2) * randn(x.shape)
        return x + (drift + moved(x + drift + noise, s, later)) / 2 + noise, None
