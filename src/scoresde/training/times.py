"""Training times: a table of laws, each a quantile function; and one that learns from the losses where to look.

A process is known to a loss by its noise levels alone, so that laws are written in σ/α where they can be, and mean
the same on every process. p is their density in λ = log(α²/σ²)                             (docs/theory, eq. 46-48).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from scoresde import _checks
from scoresde.prediction import limit
from scoresde.process import Process
from scoresde.process.base import NEGLIGIBLE

Function = Callable[[Process, Tensor], Tensor]


@dataclass(frozen=True)
class Law:
    """A law of times by its quantile function (process, u) -> t, rising, and its density (process, t) -> p(λ).

    Example:
        >>> import torch
        >>> from scoresde import RectifiedFlow
        >>> TIMES["uniform"](RectifiedFlow(), torch.tensor([0.5])).round(decimals=2)
        tensor([0.5000])
    """

    quantile: Function
    density: Function

    def __call__(self, process: Process, u: Tensor) -> Tensor:
        return self.quantile(process, u)


Times = str | Function | Any
"""A name in TIMES, a function (process, u) -> t, or an object that draws with weights of its own, as `LossAware`."""


def _speed(process: Process, t: Tensor) -> Tensor:
    """|dλ/dt| = g²/σ²."""
    t = limit(t)
    return (process.diffusion(t) / process.sigma(t)).square()


def _levels(process: Process) -> tuple[float, float]:
    """σ/(α + σ) at t_min and t_max."""
    ends = ((process.at("alpha", t), process.at("sigma", t)) for t in (process.t_min, process.t_max))
    first, last = (sigma / (alpha + sigma) for alpha, sigma in ends)
    return first, last


def _by_level(process: Process, u: Tensor) -> Tensor:
    first, last = _levels(process)
    return process.time(-2 * torch.logit(first + (last - first) * u))


def _level_density(process: Process, t: Tensor) -> Tensor:
    first, last = _levels(process)
    alpha, sigma = process.alpha(t), process.sigma(t)
    return alpha * sigma / (alpha + sigma).square() / (2 * (last - first))


def _by_time(process: Process, u: Tensor) -> Tensor:
    return process.t_min + (process.t_max - process.t_min) * u


def _reach(process: Process) -> tuple[float, float]:
    """λ at t_min and at t_max, or at σ/α = 1000 where the process goes beyond."""
    return process.at("logsnr", process.t_min), max(process.at("logsnr", process.t_max), 2 * math.log(NEGLIGIBLE))


def _by_logsnr(process: Process, u: Tensor) -> Tensor:
    first, last = _reach(process)
    return process.time(first + (last - first) * u)


def _logsnr_density(process: Process, t: Tensor) -> Tensor:
    first, last = _reach(process)
    inside = process.logsnr(limit(t)) >= last - 1e-9 * abs(last)
    return inside.to(t) / (first - last)


def log_normal(mean: float = -1.2, std: float = 1.2) -> Law:
    """log σ/α is normal, cut off where the process ends.

    Args:
        mean, std: of log σ/α.
    Raises:
        ValueError: std not positive; at a process, one that holds less than a millionth of the law.

    Example:
        >>> import torch
        >>> from scoresde import EDM
        >>> log_normal(mean=0.0)(EDM(), torch.tensor([0.5]).double()).round(decimals=2)  # the median, σ/α = 1
        tensor([1.], dtype=torch.float64)

    Reference: Karras et al. (2022), arXiv 2206.00364, table 1 (P_mean, P_std).
    """
    mean, std = _checks.number("mean", mean), _checks.positive("std", std)

    def ends(process: Process) -> tuple[float, float]:
        """The normal distribution function at t_min and t_max."""
        lambdas = (process.at("logsnr", t) for t in (process.t_min, process.t_max))
        low, high = (0.5 * math.erfc((logsnr / 2 + mean) / std / math.sqrt(2)) for logsnr in lambdas)
        if high - low < 1e-6:
            raise ValueError(
                f"times: less than a millionth of log σ/α ~ N({mean:g}, {std:g}²) lies on {process!r}; move the mean"
            )
        return low, high

    def quantile(process: Process, u: Tensor) -> Tensor:
        low, high = ends(process)
        return process.time(-2 * (mean + std * torch.special.ndtri(low + (high - low) * u)))

    def density(process: Process, t: Tensor) -> Tensor:
        low, high = ends(process)
        z = (-process.logsnr(limit(t)) / 2 - mean) / std
        return torch.exp(-z.square() / 2) / (math.sqrt(8 * math.pi) * std * (high - low))

    return Law(quantile, density)


def logit_normal(mean: float = 0.0, std: float = 1.0) -> Law:
    """The logit of σ/(α + σ) is normal, which on `RectifiedFlow` is t: it is log σ/α, and this `log_normal`.

    Args:
        mean, std: of the logit.
    Raises:
        ValueError: as `log_normal`.

    Example:
        >>> import torch
        >>> from scoresde import RectifiedFlow
        >>> median = logit_normal(mean=1.0)(RectifiedFlow(), torch.tensor([0.5]).double())
        >>> torch.allclose(median, torch.tensor([1.0]).double().sigmoid(), atol=1e-4)
        True

    Reference: Esser et al. (2024), arXiv 2403.03206, sec. 3.1.
    """
    return log_normal(mean, std)


TIMES: dict[str, Function] = {
    "noise_level":  Law(_by_level, _level_density),       # σ/(α + σ) uniform
    "uniform":      Law(_by_time, lambda process, t: 1 / ((process.t_max - process.t_min) * _speed(process, t))),
    "logsnr":       Law(_by_logsnr, _logsnr_density),     # λ uniform, p(t) ∝ g²/σ²: the likelihood's own
    "log_normal":   log_normal(),
    "logit_normal": logit_normal(),
}  # fmt: skip
"""Name → law. Your own is one line, TIMES["mine"] = lambda process, u: t, rising in u; its density follows.

References: uniform, Ho et al. (2020), arXiv 2006.11239; logsnr, Song et al. (2021), 2101.09258, sec. 3.3 (importance).
"""


def draw_times(
    process: Process,
    n: int,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    times: Times = "noise_level",
    low_discrepancy: bool = True,
) -> Tensor:
    """n training times in [t_min, t_max], one in each n-th of their law, float64: (n,).

    By default the same noise levels on every process: σ/(α + σ) is uniform between its values at t_min and t_max,
    which on `RectifiedFlow` is t itself. (A loss depends on the process only through the levels it is asked at.)

    Args:
        process: of which the times are. n: how many. generator: of the random numbers. device: of the result.
        times: a name in TIMES, a function (process, u) -> t of uniform numbers u, or `LossAware`.
        low_discrepancy: one shared random number and n equal steps; independent times without.
    Raises:
        TypeError, ValueError: an argument that does not fit, or times outside [0, t_max].

    Example:
        >>> from scoresde import EDM
        >>> draw_times(EDM(), 1001, times="log_normal").log().median().round(decimals=2)
        tensor(-1.2000, dtype=torch.float64)

    Reference: Kingma et al. (2021), arXiv 2107.00630, sec. 5.1 and app. I.1 (low discrepancy).
    """
    return draw(times, process, n, generator, device, low_discrepancy)[0]


def draw(
    times: Times,
    process: Process,
    n: int,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    low_discrepancy: bool = True,
    integral: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Times t: (n,), and what to multiply the loss at each by: (n,), float64, or None where that is one.

    The weights are one, or `LossAware`'s; under an integral over λ they are divided by the density of the times, so
    that the mean over the draws is the integral between the process's ends (for "logsnr" at most to σ/α = 1000).
    """
    _checks.kind("process", process, Process, "VP()")
    n = _checks.count("n", n, 0)
    if not isinstance(times, str) and hasattr(times, "draw"):
        return times.draw(process, n, generator, device, low_discrepancy, integral)
    t = quantile(times, process, uniforms(n, generator, device, low_discrepancy))
    return t, inverse_density(process, t, times) if integral else None


def law_of(times: Times) -> Function:
    """The quantile function of times, by name or as it is."""
    if isinstance(times, str):
        return TIMES[_checks.choice("times", times, TIMES)]
    if not callable(times):
        raise TypeError(f"times must be a name, a function (process, u) -> t or LossAware(), got {times!r}")
    return times  # pyright: ignore[reportReturnType]


def quantile(times: Times, process: Process, u: Tensor) -> Tensor:
    """The times t: (n,) below which the shares u: (n,) of a law lie, float64."""
    law = law_of(times)
    t = law(process, u)
    if isinstance(law, Law):
        return t.clamp(process.t_min, process.t_max)
    if not isinstance(t, Tensor) or t.shape != u.shape:
        raise ValueError(f"times must return a tensor of one t for each u, {tuple(u.shape)}, got {t!r:.80}")
    process.check_time(t)
    return t.to(u).clamp(process.t_min, process.t_max)


def uniforms(n: int, generator: torch.Generator | None, device: Any, low_discrepancy: bool) -> Tensor:
    """n numbers in [0, 1), float64: (n,)."""
    _checks.flags(low_discrepancy=low_discrepancy)
    source = _checks.device_of(generator, device)
    shape = () if low_discrepancy else (n,)
    u = torch.rand(shape, generator=generator, device=source, dtype=torch.float64).to(device or source)
    return (u + _steps(n, u.device)).frac_() if low_discrepancy else u


@lru_cache(maxsize=8)
def _steps(n: int, device: torch.device) -> Tensor:
    return torch.linspace(0, 1 - 1 / max(n, 1), n, device=device, dtype=torch.float64)


def density(process: Process, t: Tensor, times: Times = "noise_level") -> Tensor:
    """p(λ) at times t: (n,) of the law they are drawn by, in λ = log(α²/σ²); float64.

    Of a function (process, u) -> t by inverting it, to about eight digits. Of `LossAware` that of its base.

    Args:
        process: of which the times are. t: (n,), floating. times: the law, as `draw_times`.
    Raises:
        ValueError, TypeError: a law that is none, times outside [0, t_max].

    Example:
        >>> import math, torch
        >>> from scoresde import VE
        >>> round(float(density(VE(1.0, 10.0), torch.tensor([0.3]), "logsnr")), 6), round(1 / math.log(100), 6)
        (0.217147, 0.217147)

    Reference: docs/theory, eq. 46.
    """
    _checks.kind("process", process, Process, "VP()")
    process.check_time(_checks.floating("t", t))
    return _density(process, t.double(), law_of(getattr(times, "times", times)))


def _density(process: Process, t: Tensor, law: Function) -> Tensor:
    inside = (t >= process.t_min * (1 - 1e-12)) & (t <= process.t_max)
    p = law.density(process, t) if isinstance(law, Law) else _derived(law, process, t)
    return torch.where(inside, p, 0.0)


def _derived(law: Function, process: Process, t: Tensor) -> Tensor:
    low, high = torch.zeros_like(t), torch.ones_like(t)
    for _ in range(54):
        middle = (low + high) / 2
        below = law(process, middle) < t
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    near, far = (low - 1e-5).clamp_min(0.0), (low + 1e-5).clamp_max(1 - 2**-53)
    return (far - near) / ((law(process, far) - law(process, near)) * _speed(process, t))


def inverse_density(process: Process, t: Tensor, times: Times) -> Tensor:
    """1/p(λ), and 0 at times that are never drawn."""
    p = _density(process, t, law_of(times))
    if bool((p < 0).any()):
        raise ValueError(f"times must rise with u, got {times!r}, which falls")
    return torch.where(p > 0, 1 / p, 0.0)
