"""Weightings: what a squared error counts at each log-SNR, as a function of nothing else.

Every prediction's error is a multiple of every other's, so that one number u(λ) says it all:

    loss = u(λ) ‖v − v̂‖²/D,   ‖δv‖² = (1 + e^{−λ}) ‖δε‖² = (1 + e^λ) ‖δx₀‖²             (docs/theory, eq. 45)

with λ = log(α²/σ²), and v that of unit variance, v = (α ε − σ x₀)/√(α² + σ²).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from scoresde import _checks
from scoresde.prediction import UNBOUNDED

Weight = Callable[[Tensor], Tensor]
Weighting = str | Weight


@dataclass(frozen=True)
class Integrand:
    """A weighting that stands under an integral over λ: a loss that draws its times divides it by their density.

    Args:
        weight: λ -> u(λ), the integrand, of a tensor of log-SNR.

    Example:
        >>> import torch
        >>> flat = Integrand(lambda logsnr: torch.ones_like(logsnr))  # ∫ ‖δv‖²/D dλ
        >>> float(flat(torch.tensor(3.0)))
        1.0

    Reference: Kingma et al. (2021), arXiv 2107.00630 (the likelihood as one); Kingma and Gao (2023), 2303.00848.
    """

    weight: Weight

    def __call__(self, logsnr: Tensor) -> Tensor:
        return self.weight(logsnr)


def min_snr(gamma: float = 5.0) -> Weight:
    """min(SNR, γ) on x₀: as `x0` above SNR = γ, as `simple` below.

    Args:
        gamma: γ, positive.
    Raises:
        ValueError: gamma not positive.

    Example:
        >>> import torch
        >>> snr = torch.tensor([2.0, 100.0], dtype=torch.float64)
        >>> ((1 + snr) * min_snr(5.0)(snr.log())).round(decimals=6)  # what an error of x₀ counts
        tensor([2., 5.], dtype=torch.float64)

    Reference: Hang et al. (2023), arXiv 2303.09556.
    """
    gamma = _checks.positive("gamma", gamma)
    return partial(_min_snr, gamma)  # has a pickle, which a closure has not


def _min_snr(gamma: float, logsnr: Tensor) -> Tensor:
    return torch.minimum(logsnr.sigmoid(), gamma * (-logsnr).sigmoid())


def sigmoid(bias: float = 0.0) -> Integrand:
    """The likelihood's integrand times 1/(1 + e^{λ − bias}): noise levels below e^{−bias/2} = σ/α count less.

    Args:
        bias: where, in λ, the likelihood's integrand is halved.
    Raises:
        ValueError: bias not finite.

    Example:
        >>> import torch
        >>> from scoresde.training import WEIGHTINGS, sigmoid
        >>> middle = torch.tensor(2.0)
        >>> round(float(sigmoid(bias=2.0)(middle) / WEIGHTINGS["elbo"](middle)), 6)
        0.5

    Reference: Kingma and Gao (2023), arXiv 2303.00848; Hoogeboom et al. (2024), 2410.19324.
    """
    bias = _checks.number("bias", bias)
    return Integrand(partial(_sigmoid, bias))


def _sigmoid(bias: float, logsnr: Tensor) -> Tensor:
    return 0.5 * (bias - logsnr).sigmoid() * logsnr.sigmoid()


def p2(k: float = 1.0, gamma: float = 1.0) -> Weight:
    """1/(k + SNR)^γ on ε.

    Args:
        k: positive. gamma: γ, 0 or more.
    Raises:
        ValueError: k not positive, gamma below 0.

    Example:
        >>> import torch
        >>> snr = torch.tensor(3.0)
        >>> round(float((1 + 1 / snr) * p2()(snr.log())), 6)  # what an error of ε counts: 1/(1 + 3)
        0.25

    Reference: Choi et al. (2022), arXiv 2204.00227.
    """
    k, gamma = _checks.positive("k", k), _checks.number("gamma", gamma, 0.0)
    return partial(_p2, k, gamma)


def _p2(k: float, gamma: float, logsnr: Tensor) -> Tensor:
    return logsnr.sigmoid() * (k + logsnr.exp()) ** -gamma


def edm(sigma_data: float = 0.5) -> Weight:
    """(ρ² + σ_data²)/(ρ σ_data)² on x₀, ρ = σ/α: as `v` for data of unit scale.

    Args:
        sigma_data: the data's standard deviation, positive.
    Raises:
        ValueError: sigma_data not positive.

    Example:
        >>> import torch
        >>> edm(sigma_data=1.0)(torch.tensor([-9.0, 0.0, 9.0]))
        tensor([1., 1., 1.])

    Reference: Karras et al. (2022), arXiv 2206.00364, table 1 (loss weighting).
    """
    inverse = _checks.positive("sigma_data", sigma_data) ** -2
    return partial(_edm, inverse)


def _edm(inverse: float, logsnr: Tensor) -> Tensor:
    return inverse * (-logsnr).sigmoid() + logsnr.sigmoid()


WEIGHTINGS: dict[str, Weight] = {
    "simple":   lambda logsnr: logsnr.sigmoid(),                       # ‖δε‖²/D
    "x0":       lambda logsnr: (-logsnr).sigmoid(),                    # ‖δx₀‖²/D
    "v":        lambda logsnr: torch.ones_like(logsnr),                # ‖δv‖²/D
    "velocity": lambda logsnr: 1 + 1 / torch.cosh(logsnr / 2),         # ‖δ(ε − x₀)‖²/D, of rectified flow
    "elbo":     Integrand(lambda logsnr: 0.5 * logsnr.sigmoid()),      # ½ ‖δε‖²/D dλ: nats a dimension
    "min_snr":  min_snr(),
    "sigmoid":  sigmoid(),
    "p2":       p2(),
    "edm":      edm(),
}  # fmt: skip
"""Name → u(λ), λ float64, finite at both ends. Your own is one line, WEIGHTINGS["mine"] = lambda logsnr: ..., or that
function; if it belongs under an integral over λ, Integrand(lambda logsnr: ...).

References: simple, Ho et al. (2020), arXiv 2006.11239, eq. 14; v, Salimans and Ho (2022), 2202.00512; velocity, Lipman
et al. (2023), 2210.02747; elbo, Kingma et al. (2021), 2107.00630. Many of them side by side: Kingma and Gao (2023),
2303.00848.
"""


def weight_of(weighting: Weighting) -> Weight:
    """The function u(λ) of a weighting, by name or as it is."""
    if isinstance(weighting, str):
        return WEIGHTINGS[_checks.choice("weighting", weighting, WEIGHTINGS)]
    if not callable(weighting):
        raise TypeError(f"weighting must be a name or a function λ -> u(λ), got {weighting!r}")
    return weighting


def is_integrand(weighting: Weighting | None) -> bool:
    """Whether a weighting stands under an integral over λ."""
    return weighting is not None and isinstance(weight_of(weighting), Integrand)


EDGE = 1e-130
"""The least α or σ, as a share of √(α² + σ²), that an error is measured at: beyond it everything has its limit."""


def factor(weighting: Weighting, alpha: Tensor, sigma: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
    """c with u(λ) ‖δv‖² = ‖c δy‖² for the row (a, b): √u √(α² + σ²)/|α b − σ a|, float64.

    Where α or σ is zero it is the limit; infinite (at least beyond 1e100) if that is.
    """
    size = torch.hypot(alpha, sigma)
    alpha, sigma = (alpha / size).clamp_min(EDGE), (sigma / size).clamp_min(EDGE)
    logsnr = 2 * (alpha.log() - sigma.log())
    weight = torch.as_tensor(weight_of(weighting)(logsnr), dtype=logsnr.dtype, device=logsnr.device)
    if weight.shape not in ((), logsnr.shape):
        raise ValueError(
            f"weighting must return one number for each λ, {tuple(logsnr.shape)}, got {tuple(weight.shape)}"
        )
    c = weight.sqrt() / (alpha * b - sigma * a).abs()
    return torch.where(c > UNBOUNDED, math.inf, c)
