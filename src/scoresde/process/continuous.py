"""The continuous processes: VP, sub-VP, VE, EDM, cosine, sigmoid and rectified flow, with their closed forms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from scoresde import _checks
from scoresde.process.base import TINY, Process, as_logsnr, like


def _between(name: str, low: float, high: float, names: tuple[str, str]) -> None:
    if not 0 < _checks.positive(names[0], low) < _checks.positive(names[1], high):
        raise ValueError(f"{name} needs 0 < {names[0]} < {names[1]}, got {names[0]}={low:g}, {names[1]}={high:g}")


@dataclass(frozen=True)
class _LinearBeta(Process):
    """β(t) = β_min + (β_max − β_min) t and B(t) = ∫₀ᵗ β: α = e^{−B/2}, f = −β/2."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        _between(type(self).__name__, self.beta_min, self.beta_max, ("beta_min", "beta_max"))

    def beta(self, t: Tensor) -> Tensor:
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def integral(self, t: Tensor) -> Tensor:
        return t * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t)

    def time_of_integral(self, integral: Tensor) -> Tensor:
        slope = 2 * (self.beta_max - self.beta_min)
        integral = integral.clamp(0.0, 0.5 * (self.beta_min + self.beta_max))  # those of t = 0 and 1
        return (2 * integral / (self.beta_min + (self.beta_min**2 + slope * integral).sqrt())).clamp_max(1.0)

    def alpha(self, t: Any) -> Tensor:
        return torch.exp(-0.5 * self.integral(t))

    def alpha_dot(self, t: Any) -> Tensor:
        return -0.5 * self.beta(t) * self.alpha(t)

    def drift(self, t: Any) -> Tensor:
        return -0.5 * self.beta(t)


@dataclass(frozen=True)
class VP(_LinearBeta):
    """Variance preserving, β linear in time: α = e^{−B/2}, σ² = 1 − e^{−B}, g² = β.

    Args:
        beta_min, beta_max: β at t = 0 and at t = 1.
    Raises:
        ValueError: unless 0 < beta_min < beta_max.

    Example:
        >>> from scoresde import VP
        >>> round(float(VP().alpha(1.0)), 4)
        0.0066

    Reference: Song et al. (2021), arXiv 2011.13456, eq. 11 and 33; the limit of DDPM, Ho et al. (2020), 2006.11239.
    """

    def sigma(self, t: Any) -> Tensor:
        return (-torch.expm1(-self.integral(t))).sqrt()

    def sigma_dot(self, t: Any) -> Tensor:
        return 0.5 * self.beta(t) * self.alpha(t) ** 2 / self.sigma(t)

    def diffusion(self, t: Any) -> Tensor:
        return self.beta(t).sqrt()

    def logsnr(self, t: Any) -> Tensor:
        return -torch.expm1(self.integral(t)).log()

    def time(self, logsnr: Any) -> Tensor:
        value = as_logsnr(logsnr)
        return like(self.time_of_integral(nn.functional.softplus(-value, threshold=40.0)), logsnr)


@dataclass(frozen=True)
class SubVP(_LinearBeta):
    """Sub-VP: α = e^{−B/2}, σ = 1 − e^{−B}, g² = β(1 − e^{−2B}); σ/α = 2 sinh(B/2).

    Args:
        beta_min, beta_max: β at t = 0 and at t = 1.
    Raises:
        ValueError: unless 0 < beta_min < beta_max.

    Example:
        >>> from scoresde import VP, SubVP
        >>> bool(abs(SubVP().sigma(0.3) - VP().sigma(0.3) ** 2) < 1e-15)  # its variance is below VP's
        True

    Reference: Song et al. (2021), arXiv 2011.13456, eq. 12 and 33.
    """

    def sigma(self, t: Any) -> Tensor:
        return -torch.expm1(-self.integral(t))

    def sigma_dot(self, t: Any) -> Tensor:
        return self.beta(t) * torch.exp(-self.integral(t))

    def diffusion(self, t: Any) -> Tensor:
        return (-self.beta(t) * torch.expm1(-2 * self.integral(t))).sqrt()

    def logsnr(self, t: Any) -> Tensor:
        return -2 * (2 * torch.sinh(self.integral(t) / 2)).log()

    def time(self, logsnr: Any) -> Tensor:
        return like(self.time_of_integral(2 * torch.asinh(0.5 * torch.exp(-as_logsnr(logsnr) / 2))), logsnr)


@dataclass(frozen=True)
class VE(Process):
    """Variance exploding: α = 1, σ = σ_min (σ_max/σ_min)^t, g² = 2 log(σ_max/σ_min) σ².

    σ(0) = σ_min, not 0: samplers carry the last σ_min along the flow, and `log_prob` accounts for it.

    Args:
        sigma_min, sigma_max: σ at t = 0 and at t = 1.
    Raises:
        ValueError: unless 0 < sigma_min < sigma_max.

    Example:
        >>> from scoresde import VE
        >>> [round(float(VE(0.01, 100.0).sigma(t)), 9) for t in (0.0, 0.25, 0.5, 1.0)]
        [0.01, 0.1, 1.0, 100.0]

    Reference: Song et al. (2021), arXiv 2011.13456, eq. 30-31.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        _between("VE", self.sigma_min, self.sigma_max, ("sigma_min", "sigma_max"))

    @property
    def rate(self) -> float:
        """log(σ_max/σ_min), the growth of log σ in unit time."""
        return math.log(self.sigma_max / self.sigma_min)

    def alpha(self, t: Any) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Any) -> Tensor:
        return self.sigma_min * torch.exp(self.rate * t)

    def alpha_dot(self, t: Any) -> Tensor:
        return torch.zeros_like(t)

    def sigma_dot(self, t: Any) -> Tensor:
        return self.rate * self.sigma(t)

    def diffusion(self, t: Any) -> Tensor:
        return math.sqrt(2 * self.rate) * self.sigma(t)

    def time(self, logsnr: Any) -> Tensor:
        log_sigma = -as_logsnr(logsnr) / 2
        return like(((log_sigma - math.log(self.sigma_min)) / self.rate).clamp(0.0, 1.0), logsnr)


@dataclass(frozen=True)
class EDM(Process):
    """α = 1, σ = t: time is the noise level, t in [0, σ_max]; networks are asked from σ_min on.

    Args:
        sigma_min, sigma_max: t_min and t_max, in the units of the data.
    Raises:
        ValueError: unless 0 < sigma_min < sigma_max.

    Example:
        >>> from scoresde import EDM
        >>> float(EDM().sigma(3.0)), EDM().t_min, EDM().t_max
        (3.0, 0.002, 80.0)

    Reference: Karras et al. (2022), arXiv 2206.00364, sec. 3 and table 1.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        _between("EDM", self.sigma_min, self.sigma_max, ("sigma_min", "sigma_max"))

    @property
    def t_max(self) -> float:
        return float(self.sigma_max)

    @cached_property
    def t_min(self) -> float:
        return float(self.sigma_min)

    def alpha(self, t: Any) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Any) -> Tensor:
        return 1.0 * t

    def alpha_dot(self, t: Any) -> Tensor:
        return torch.zeros_like(t)

    def sigma_dot(self, t: Any) -> Tensor:
        return torch.ones_like(t)

    def diffusion(self, t: Any) -> Tensor:
        return (2 * t).sqrt()

    def time(self, logsnr: Any) -> Tensor:
        return like(torch.exp(-as_logsnr(logsnr) / 2).clamp(0.0, self.t_max), logsnr)


@dataclass(frozen=True)
class Cosine(Process):
    """Variance preserving with α = cos θ / cos θ₀, θ = (t + s)/(1 + s) π/2, θ₀ = s/(1 + s) π/2.

    α(1) = 0: pure noise.

    Args:
        s: the offset, in [0, 1], which keeps the noise near t = 0 from being imperceptibly small.
    Raises:
        ValueError: s outside [0, 1].

    Example:
        >>> from scoresde import Cosine
        >>> round(float(Cosine(s=0.0).alpha(2 / 3)), 9), Cosine().at("alpha", 1.0)  # cos 60°, and pure noise
        (0.5, 0.0)

    Reference: Nichol and Dhariwal (2021), arXiv 2102.09672, eq. 17.
    """

    s: float = 0.008

    def __post_init__(self) -> None:
        _checks.number("s", self.s, 0.0, 1.0)

    @property
    def rate(self) -> float:
        """dθ/dt."""
        return math.pi / 2 / (1 + self.s)

    def angle(self, t: Tensor) -> Tensor:
        return (t + self.s) * self.rate

    def alpha(self, t: Any) -> Tensor:
        return torch.sin((1 - t) * self.rate) / math.cos(self.s * self.rate)

    def sigma(self, t: Any) -> Tensor:  # 1 − cos²θ/cos²θ₀ = sin(θ − θ₀) sin(θ + θ₀)/cos²θ₀, without cancellation
        factors = torch.sin(t * self.rate).sqrt() * torch.sin((t + 2 * self.s) * self.rate).sqrt()
        return factors / math.cos(self.s * self.rate)

    def alpha_dot(self, t: Any) -> Tensor:
        return -self.rate * torch.sin(self.angle(t)) / math.cos(self.s * self.rate)

    def sigma_dot(self, t: Any) -> Tensor:
        t = t.clamp_min(TINY)  # with s = 0 the limit at t = 0 is finite, but reads 0/0
        return -self.alpha(t) * self.alpha_dot(t) / self.sigma(t)

    def drift(self, t: Any) -> Tensor:
        return -self.rate * torch.sin(self.angle(t)) / torch.sin((1 - t) * self.rate)

    def diffusion(self, t: Any) -> Tensor:
        return (-2 * self.drift(t)).sqrt()

    def time(self, logsnr: Any) -> Tensor:
        sigma2 = torch.sigmoid(-as_logsnr(logsnr))
        cos0, sin0 = math.cos(self.s * self.rate), math.sin(self.s * self.rate)
        cos = cos0 * torch.sigmoid(as_logsnr(logsnr)).sqrt()
        angle = torch.atan2((sin0**2 + sigma2 * cos0**2).sqrt(), cos)
        return like((angle / self.rate - self.s).clamp(0.0, 1.0), logsnr)


@dataclass(frozen=True)
class Sigmoid(Process):
    """Variance preserving with α² a falling logistic curve from 1 at t = 0 to 0 at t = 1.

    α² = [ς(e/τ) − ς(u/τ)] / [ς(e/τ) − ς(b/τ)], u = b + (e − b) t, ς the logistic function.

    Args:
        start, end: b and e, the stretch of the curve. tau: τ, its temperature.
    Raises:
        ValueError: unless start < end and tau > 0, or so small a tau that e/τ or b/τ is beyond 300.

    Example:
        >>> from scoresde import Sigmoid
        >>> round(float(Sigmoid().alpha(0.5)) ** 2, 9)  # halfway, from −3 to 3
        0.5

    Reference: Jabri et al. (2022), arXiv 2212.11972, algorithm 1 (sigmoid schedule).
    """

    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0

    def __post_init__(self) -> None:
        _checks.positive("tau", self.tau)
        if not _checks.number("start", self.start) < _checks.number("end", self.end):
            raise ValueError(f"Sigmoid needs start < end, got start={self.start:g}, end={self.end:g}")
        if max(abs(self.start), abs(self.end)) / self.tau > 300:
            raise ValueError(f"tau must be at least {max(abs(self.start), abs(self.end)) / 300:g}, got {self.tau:g}")

    @property
    def total(self) -> float:
        """ς(end/τ) − ς(start/τ)."""
        high, low = self.end / self.tau / 2, self.start / self.tau / 2
        return math.sinh(high - low) / (2 * math.cosh(high) * math.cosh(low))

    def share(self, width: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
        """(ς(high) − ς(low)) / total, high − low = width, as sinh(width/2)/(2 cosh cosh): no cancellation."""
        low, high = torch.as_tensor(low, dtype=torch.float64), torch.as_tensor(high, dtype=torch.float64)
        return torch.sinh(width / 2) / (2 * torch.cosh(low / 2) * torch.cosh(high / 2)) / self.total

    def position(self, t: Tensor) -> Tensor:
        return (self.start + (self.end - self.start) * t) / self.tau

    def alpha(self, t: Any) -> Tensor:
        width = (1 - t) * (self.end - self.start) / self.tau
        return self.share(width, self.position(t), self.end / self.tau).sqrt()

    def sigma(self, t: Any) -> Tensor:
        width = t * (self.end - self.start) / self.tau
        return self.share(width, self.start / self.tau, self.position(t)).sqrt()

    def fall(self, t: Tensor) -> Tensor:
        """−d(α²)/dt = d(σ²)/dt."""
        u = self.position(t)
        return torch.sigmoid(u) * torch.sigmoid(-u) * (self.end - self.start) / self.tau / self.total

    def drift(self, t: Any) -> Tensor:
        return -self.fall(t) / (2 * self.alpha(t) ** 2)

    def alpha_dot(self, t: Any) -> Tensor:
        return -self.fall(t) / (2 * self.alpha(t))

    def sigma_dot(self, t: Any) -> Tensor:
        return self.fall(t) / (2 * self.sigma(t))

    def diffusion(self, t: Any) -> Tensor:
        return (-2 * self.drift(t)).sqrt()

    def time(self, logsnr: Any) -> Tensor:
        value = as_logsnr(logsnr)
        low, high = (torch.tensor(end / self.tau, dtype=torch.float64).sigmoid() for end in (self.start, self.end))
        near_data = low + self.total * torch.sigmoid(-value)
        level = torch.where(value > 0, near_data, high - self.total * torch.sigmoid(value))
        t = (level.logit() * self.tau - self.start) / (self.end - self.start)
        return like(t.clamp(0.0, 1.0), logsnr)


@dataclass(frozen=True)
class RectifiedFlow(Process):
    """The straight path: α = 1 − t, σ = t, velocity ẋ = ε − x₀; f = −1/(1 − t), g² = 2t/(1 − t).

    Example:
        >>> from scoresde import RectifiedFlow
        >>> float(RectifiedFlow().alpha(0.25)), float(RectifiedFlow().sigma(0.25)), float(RectifiedFlow().time(0.0))
        (0.75, 0.25, 0.5)

    Reference: Liu et al. (2023), arXiv 2209.03003, eq. 1; Lipman et al. (2023), 2210.02747, eq. 22 (time reversed).
    """

    def alpha(self, t: Any) -> Tensor:
        return 1 - t

    def sigma(self, t: Any) -> Tensor:
        return 1.0 * t

    def alpha_dot(self, t: Any) -> Tensor:
        return -torch.ones_like(t)

    def sigma_dot(self, t: Any) -> Tensor:
        return torch.ones_like(t)

    def diffusion(self, t: Any) -> Tensor:
        return (2 * t / (1 - t)).sqrt()

    def time(self, logsnr: Any) -> Tensor:
        return like(torch.sigmoid(-as_logsnr(logsnr) / 2), logsnr)
