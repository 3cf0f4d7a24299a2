"""Steps that are themselves rows of the prediction table: DDIM with its dial, and DDPM's ancestral step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from scoresde import _checks
from scoresde.model import Model
from scoresde.process import Discrete, Process
from scoresde.samplers import grids
from scoresde.samplers.base import Draw, Sampler
from scoresde.samplers.noise import NOISES, Noise


def bridge(process: Process, t: float, s: float) -> tuple[float, float, float]:
    """σ²_{t|s}/σ_t² = 1 − ρ_s²/ρ_t², α_s and σ_s, without cancellation (docs/theory, eq. 14)."""
    gap = -math.expm1(process.at("logsnr", t) - process.at("logsnr", s))
    return gap, process.at("alpha", s), process.at("sigma", s)


@dataclass(frozen=True)
class DDIM(Sampler):
    """x_s = α_s x̂₀ + √(σ_s² − η² v) ε̂ + η √v ξ, v = σ_s² (1 − ρ_s²/ρ_t²), for any process: one call a step.

    η = 0 is deterministic and of order 1 (Euler's method for x/α against σ/α), η = 1 is DDPM's posterior step; weak
    order 1 with noise. It is the exponential stepper of order 1 with the dial √(κ/h), e^{−2κ} = 1 − η² (1 − e^{−2h})
    (docs/theory, eq. 17), written as a row of the prediction table, which stays exact where α or σ is 0.

    Args:
        eta: the dial, in [0, 1]. noise: "independent" increments, or those of one Brownian "path" a sample.
    Raises:
        ValueError: eta outside [0, 1], noise not "independent" or "path".

    Example:
        >>> import torch
        >>> from scoresde import RectifiedFlow, sample, samplers, targets
        >>> model = targets.Gaussian([1.0], 0.25).model(RectifiedFlow(), "velocity")
        >>> x = torch.tensor([[2.0]]).double()  # pure noise, two deviations above its mean; so are the data: 2
        >>> errors = [abs(float(sample(model, x=x, sampler=samplers.DDIM(), steps=n)) - 2) for n in (20, 40)]
        >>> round(errors[0] / errors[1])  # order 1: twice the steps, half the error
        2

    Reference: Song et al. (2021), arXiv 2010.02502, eq. 12 and 16.
    """

    eta: float = 0.0
    noise: Noise = "independent"

    def __post_init__(self) -> None:
        _checks.number("eta", self.eta, 0.0, 1.0)
        _checks.choice("noise", self.noise, NOISES)

    @property
    def stochastic(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.eta > 0

    def step(self, model: Model, x: Tensor, t: float, s: float, memory: Any, randn: Draw) -> tuple[Tensor, Any]:
        alpha, sigma = model.process.at("alpha", s), model.process.at("sigma", s)
        if (
            model.process.at("sigma", t) == 0.0
        ):  # leaving the data (in encode): the noise is asked at s, where it has a meaning
            return alpha * x + sigma * model.estimate(0.0, 1.0, alpha * x, s), None
        if self.eta == 0.0:
            return model.estimate(alpha, sigma, x, t), None
        variance = self.eta**2 * bridge(model.process, t, s)[0] * sigma**2
        mean = model.estimate(alpha, math.sqrt(max(sigma**2 - variance, 0.0)), x, t)
        return mean + math.sqrt(variance) * randn(x.shape) if variance else mean, None


@dataclass(frozen=True)
class DDPM(Sampler):
    """Ancestral sampling: x_s from the posterior q(x_s | x_t, x̂₀), on any process and any two times.

    mean α_s x̂₀ + σ_s (ρ_s/ρ_t) ε̂;   variance σ_s² (1 − ρ_s²/ρ_t²) ("posterior", the lower choice of DDPM)
    or σ_t² − (α_t/α_s)² σ_s² ("beta", the upper one: β_t on the chain's own steps). No noise at s = 0.
    On a `Discrete` process the grid is `steps` of the chain's own times (`grids.trailing`).

    Args:
        variance: "posterior" or "beta". noise: "independent" increments, or those of one Brownian "path" a sample.
    Raises:
        ValueError: variance not "posterior" or "beta", noise not "independent" or "path".

    Example:
        >>> import torch
        >>> from scoresde import VP, sample, samplers, targets
        >>> model = targets.Gaussian([1.0], 0.25).model(VP())
        >>> one, two = (sample(model, (4, 1), s, seeds=range(4)) for s in (samplers.DDPM(), samplers.DDIM(eta=1.0)))
        >>> torch.allclose(one, two, atol=1e-6)
        True

    Reference: Ho et al. (2020), arXiv 2006.11239, eq. 6-7 and algorithm 2.
    """

    variance: Literal["posterior", "beta"] = "posterior"
    noise: Noise = "independent"
    stochastic = True

    def __post_init__(self) -> None:
        _checks.choice("variance", self.variance, ("posterior", "beta"))
        _checks.choice("noise", self.noise, NOISES)

    def grid(self, model: Model, steps: int) -> Tensor:
        if isinstance(model.process, Discrete) and steps <= model.process.steps:
            return self.begin(model, grids.trailing(model.process, steps))
        return super().grid(model, steps)

    def step(self, model: Model, x: Tensor, t: float, s: float, memory: Any, randn: Draw) -> tuple[Tensor, Any]:
        gap, alpha, sigma = bridge(model.process, t, s)
        mean = model.estimate(alpha, sigma * math.sqrt(1 - gap), x, t)
        if sigma == 0.0:
            return mean, None
        deviation = math.sqrt(gap) * (sigma if self.variance == "posterior" else model.process.at("sigma", t))
        return mean + deviation * randn(x.shape), None
