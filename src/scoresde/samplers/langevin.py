"""Langevin steps at a noise level: annealed (NCSN), as a corrector, and predictor–corrector."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from scoresde import _checks
from scoresde.model import Model
from scoresde.samplers import grids
from scoresde.samplers.base import Draw, Sampler, to_data
from scoresde.samplers.euler import EulerMaruyama


@dataclass(frozen=True)
class AnnealedLangevin(Sampler):
    """At every time of the grid in turn, `inner` steps of Langevin dynamics with the score of that time.

    x ← x + ½ c σ² ∇log p_s(x) + √c σ ξ,   c the step size relative to σ²: NCSN's ε/σ_L²

    Between times x is scaled by α_s/α_t, which is 1 for VE. The step to s = 0 is `to_data`'s. The grid is
    geometric in σ/α, as NCSN's levels are (`grids.logsnr`).

    Args:
        inner: steps at each time. step_size: c, in (0, 2): NCSN's 2e-5 at σ_L = 0.01 is 0.2.
    Raises:
        ValueError: inner below 1, a step_size outside (0, 2).

    Example:
        >>> import torch
        >>> from scoresde import VE, sample, samplers, targets
        >>> model, generator = targets.Gaussian([1.0], 0.25).model(VE(0.05, 2.0)), torch.Generator().manual_seed(0)
        >>> x = sample(model, (2000, 1), samplers.AnnealedLangevin(inner=20), steps=20, generator=generator)
        >>> round(float(x.mean()), 1), round(float(x.std()), 1)  # of N(1, 1/4)
        (1.0, 0.5)

    Reference: Song and Ermon (2019), arXiv 1907.05600, algorithm 1; the last step, Jolicoeur-Martineau et al.
    (2021), 2009.05475.
    """

    inner: int = 10
    step_size: float = 0.2
    stochastic = True

    def __post_init__(self) -> None:
        _checks.count("inner", self.inner)
        if not 0 < _checks.number("step_size", self.step_size) < 2:
            raise ValueError(f"step_size must lie in (0, 2), got {self.step_size:g}")

    def grid(self, model: Model, steps: int) -> Tensor:
        return self.begin(model, grids.logsnr(model.process, steps))

    def step(self, model: Model, x: Tensor, t: float, s: float, memory: Any, randn: Draw) -> tuple[Tensor, Any]:
        alpha, sigma = model.process.at("alpha", s), model.process.at("sigma", s)
        if sigma == 0.0:
            return to_data(model, x, t), None
        x = x * (alpha / model.process.at("alpha", t))
        for _ in range(self.inner):
            drift = model.estimate(0.0, -0.5 * self.step_size * sigma, x, s)
            x = x + drift + math.sqrt(self.step_size) * sigma * randn(x.shape)
        return x, None


@dataclass(frozen=True)
class LangevinCorrector(Sampler):
    """`inner` Langevin steps at time s, sized by a signal-to-noise ratio; t is not used.

    x ← x + c ∇log p_s(x) + √(2c) ξ,   c = 2 (snr ‖ξ‖/‖∇log p_s‖)²,   with the norms' expectations √D and √D/σ_s

    The published code averages norms over the batch, so that samples depend on their neighbours; norms of
    the sample itself would not leave p_s invariant however small snr is (the step grows where the score
    vanishes). At s = 0, where there is no noise level to stay on, it does nothing.

    Args:
        snr: r, positive; 0.16 is the published choice for VE. inner: steps, 0 or more.
    Raises:
        ValueError: snr not positive, inner below 0.

    Example:
        >>> import torch
        >>> from scoresde import VP, samplers, targets
        >>> model, generator = targets.Gaussian([0.0], 1.0).model(VP()), torch.Generator().manual_seed(0)
        >>> draw = lambda shape: torch.randn(shape, generator=generator)
        >>> x, _ = samplers.LangevinCorrector(inner=200).step(model, torch.zeros(4000, 1), 0.5, 0.5, None, draw)
        >>> round(float(x.std()), 1)  # from zeros to N(0, 1)
        1.0

    Reference: Song et al. (2021), arXiv 2011.13456, algorithms 4 and 5.
    """

    snr: float = 0.16
    inner: int = 1
    stochastic = True

    def __post_init__(self) -> None:
        _checks.positive("snr", self.snr)
        _checks.count("inner", self.inner, 0)

    def step(self, model: Model, x: Tensor, t: float, s: float, memory: Any, randn: Draw) -> tuple[Tensor, Any]:
        sigma = model.process.at("sigma", s)
        size = 2 * (self.snr * sigma) ** 2
        for _ in range(self.inner if sigma else 0):
            x = x + model.estimate(0.0, -size / sigma, x, s) + math.sqrt(2 * size) * randn(x.shape)
        return x, None


@dataclass(frozen=True)
class PredictorCorrector(Sampler):
    """After every step of a predictor, a corrector at the time it arrived at.

    With a corrector of no steps it is its predictor. Several draws a step: noise is independent.

    Args:
        predictor: any sampler, with independent noise. corrector: a sampler whose step leaves the law at its end alone.
    Raises:
        TypeError: one of them is no Sampler. ValueError: a predictor with noise="path".

    Example:
        >>> import torch
        >>> from scoresde import VP, sample, samplers, targets
        >>> model, idle = targets.Gaussian([1.0], 0.25).model(VP()), samplers.LangevinCorrector(inner=0)
        >>> pair = samplers.PredictorCorrector(corrector=idle), samplers.EulerMaruyama()
        >>> one, two = (sample(model, (4, 1), s, seeds=range(4)) for s in pair)
        >>> torch.equal(one, two)
        True

    Reference: Song et al. (2021), arXiv 2011.13456, algorithm 1 and sec. 4.2.
    """

    predictor: Sampler = field(default_factory=EulerMaruyama)
    corrector: Sampler = field(default_factory=LangevinCorrector)
    stochastic = True

    def __post_init__(self) -> None:
        for name in ("predictor", "corrector"):
            if not isinstance(getattr(self, name), Sampler):
                raise TypeError(f"{name} must be a Sampler, got {getattr(self, name)!r}")
        if self.predictor.noise == "path":
            raise ValueError("predictor must draw independent noise, for the corrector draws too, got noise='path'")

    def grid(self, model: Model, steps: int) -> Tensor:
        return self.begin(model, self.predictor.grid(model, steps))

    def step(self, model: Model, x: Tensor, t: float, s: float, memory: Any, randn: Draw) -> tuple[Tensor, Any]:
        x, memory = self.predictor.step(model, x, t, s, memory, randn)
        return self.corrector.step(model, x, s, s, None, randn)[0], memory
