"""DDPM's discrete chain, with a continuous extension between its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from scoresde import _checks
from scoresde.process.base import Process, as_logsnr, as_time, like
from scoresde.process.continuous import Cosine, Sigmoid


@dataclass(frozen=True)
class Discrete(Process):
    """DDPM's chain of T steps with any β table, and its continuous extension.

    The chain's index k = 0..T−1 stands at t = (k + 1)/T, where α² = Π_{i≤k} (1 − β_i) exactly; t = 0 is
    data. Between the indices −log α² is a monotone cubic, so α, σ, f and g are continuous.

    Args:
        betas: T numbers in (0, 1): a sequence or a 1-D tensor.
    Raises:
        ValueError: betas outside (0, 1), or not one-dimensional.

    Example:
        >>> from scoresde import Discrete
        >>> chain = Discrete([0.1, 0.2, 0.3])
        >>> round(float(chain.alpha(2 / 3)) ** 2, 6), chain.index(2 / 3)
        (0.72, 1)

    Reference: Ho et al. (2020), arXiv 2006.11239, eq. 4; Fritsch and Carlson (1980) for the monotone cubic.
    """

    betas: Sequence[float] = field(repr=False)

    def __post_init__(self) -> None:
        table = _checks.table("betas", self.betas).double().cpu()
        if table.ndim != 1 or len(table) < 1:
            raise ValueError(f"betas must be a table of T numbers, got shape {tuple(table.shape)}")
        if not bool(((table > 0) & (table < 1)).all()):
            raise ValueError(f"betas must lie in (0, 1), got values from {table.min():g} to {table.max():g}")
        object.__setattr__(self, "betas", tuple(table.tolist()))
        _ = self._knots  # now, as torch.compile cannot enter the lock that cached_property has before Python 3.12

    def __repr__(self) -> str:
        return f"Discrete({self.steps} betas from {self.betas[0]:.3g} to {self.betas[-1]:.3g})"

    @property
    def steps(self) -> int:
        """T, the length of the chain."""
        return len(self.betas)

    @cached_property
    def t_min(self) -> float:
        return 1 / self.steps

    @cached_property
    def _knots(self) -> tuple[Tensor, Tensor]:
        """B_k = −log α² at t = k/T, and dB/d(tT) there."""
        betas = np.asarray(self.betas)
        integral = np.concatenate([[0.0], np.cumsum(-np.log1p(-betas))])
        if self.steps == 1:
            return torch.from_numpy(integral), torch.from_numpy(np.diff(integral).repeat(2))
        slopes = PchipInterpolator(np.arange(self.steps + 1), integral)(np.arange(self.steps + 1), 1)
        slopes[0] = max(slopes[0], integral[1] / 2)  # which PCHIP may set to 0, where g would vanish
        return torch.from_numpy(integral), torch.from_numpy(slopes)

    def _cubic(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """B(t) and dB/dt by the Hermite cubic of the interval that holds t."""
        knots, slopes = (k.to(t.device) for k in self._knots)
        u = t * self.steps
        k = u.detach().floor().clamp(0, self.steps - 1).long()
        low, high, first, last = (_taken(table, i) for table in (knots, slopes) for i in (k, k + 1))
        w, rise = u - k, high - low
        curve, bend = 3 * rise - 2 * first - last, first + last - 2 * rise
        integral = low + w * (first + w * (curve + w * bend))
        return integral, (first + w * (2 * curve + 3 * w * bend)) * self.steps

    def alpha(self, t: Any) -> Tensor:
        return torch.exp(-0.5 * self._cubic(t)[0])

    def sigma(self, t: Any) -> Tensor:
        return (-torch.expm1(-self._cubic(t)[0])).sqrt()

    def drift(self, t: Any) -> Tensor:
        return -0.5 * self._cubic(t)[1]

    def diffusion(self, t: Any) -> Tensor:
        return self._cubic(t)[1].sqrt()

    def alpha_dot(self, t: Any) -> Tensor:
        return self.drift(t) * self.alpha(t)

    def sigma_dot(self, t: Any) -> Tensor:
        return -self.drift(t) * self.alpha(t) ** 2 / self.sigma(t)

    def logsnr(self, t: Any) -> Tensor:
        return -torch.expm1(self._cubic(t)[0]).log()

    def time(self, logsnr: Any) -> Tensor:
        value = as_logsnr(logsnr)
        integral = torch.logaddexp(torch.zeros_like(value), -value)
        knots, slopes = (k.to(value.device) for k in self._knots)
        k = (torch.searchsorted(knots, integral.detach()) - 1).clamp(0, self.steps - 1)
        goal, rise = integral - knots[k], knots[k + 1] - knots[k]
        curve, bend = 3 * rise - 2 * slopes[k] - slopes[k + 1], slopes[k] + slopes[k + 1] - 2 * rise
        low, high, w = torch.zeros_like(goal), torch.ones_like(goal), goal / rise
        for _ in range(54):  # Newton's method, and bisection where it would leave the bracket
            excess = w * (slopes[k] + w * (curve + w * bend)) - goal
            low, high = torch.where(excess < 0, w, low), torch.where(excess < 0, high, w)
            better = w - excess / (slopes[k] + w * (2 * curve + 3 * w * bend))
            before, w = w, torch.where((better >= low) & (better <= high), better, (low + high) / 2)
            if not _checks.traced(w) and bool(((w - before).abs() <= 2**-52).all()):
                break
        return like(torch.where(goal <= 0, 0.0, k + w).div(self.steps).clamp(0.0, 1.0), logsnr)

    def index(self, t: Any) -> Any:
        """The chain's index nearest to t (at least 0): an int for a number, a long tensor for a tensor."""
        k = (as_time(self, t) * self.steps).round().long().sub(1).clamp_min(0)
        return k if isinstance(t, Tensor) else int(k)


def ddpm(steps: int = 1000, schedule: str = "linear") -> Discrete:
    """DDPM's chain: `Discrete` with a published β table.

    Args:
        steps: T. schedule: "linear", β from 0.1/T to 20/T (1e-4 to 0.02 at T = 1000); "cosine", β from the ratios of
            cos², at most 0.999; or "sigmoid", the same from a logistic curve.
    Raises:
        ValueError: an unknown schedule, or so few steps that a β reaches 1.

    Example:
        >>> from scoresde import ddpm
        >>> ddpm()
        Discrete(1000 betas from 0.0001 to 0.02)

    Reference: Ho et al. (2020), arXiv 2006.11239, sec. 4 (linear); Nichol and Dhariwal (2021), 2102.09672, eq. 17
    (cosine); Jabri et al. (2022), 2212.11972, algorithm 1 (sigmoid).
    """
    steps = _checks.count("steps", steps)
    _checks.choice("schedule", schedule, ("linear", "cosine", "sigmoid"))
    if schedule == "linear":
        if steps <= 20:
            raise ValueError(f"the linear schedule needs more than 20 steps (β ends at 20/steps), got {steps}")
        return Discrete(torch.linspace(0.1 / steps, 20 / steps, steps, dtype=torch.float64).tolist())
    process = Cosine() if schedule == "cosine" else Sigmoid()
    alpha2 = process.alpha(torch.arange(steps + 1, dtype=torch.float64) / steps) ** 2
    return Discrete((1 - alpha2[1:] / alpha2[:-1]).clamp(max=0.999).tolist())


def _taken(table: Tensor, i: Tensor) -> Tensor:
    """table[i], which vmap of older torch cannot do where i is one number."""
    return table.index_select(0, i.reshape(-1)).reshape(i.shape)
