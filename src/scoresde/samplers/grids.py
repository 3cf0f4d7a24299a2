"""Grids of times: (process, steps) -> steps + 1 float64 times that decrease from the noise end to data at t = 0."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scoresde import _checks, flow
from scoresde.process import Discrete, Process
from scoresde.process.base import NEGLIGIBLE


def uniform(process: Process, steps: int) -> Tensor:
    """Equal steps in t.

    Args:
        process: whose times they are. steps: how many, at least 1.
    Raises:
        TypeError: process is no Process. ValueError: steps below 1.

    Example:
        >>> from scoresde import VP, grids
        >>> grids.uniform(VP(), 4).tolist()
        [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    _checks.kind("process", process, Process, "VP()")
    return torch.linspace(process.t_max, 0, _checks.count("steps", steps) + 1, dtype=torch.float64)


def quadratic(process: Process, steps: int) -> Tensor:
    """Equal steps in √t: more of them near the data.

    Args:
        process: whose times they are. steps: how many, at least 1.
    Raises:
        TypeError: process is no Process. ValueError: steps below 1.

    Example:
        >>> from scoresde import VP, grids
        >>> grids.quadratic(VP(), 4).tolist()
        [1.0, 0.5625, 0.25, 0.0625, 0.0]

    Reference: Song et al. (2021), arXiv 2010.02502, app. D.2.
    """
    return uniform(process, steps).div(process.t_max) ** 2 * process.t_max


def logsnr(process: Process, steps: int) -> Tensor:
    """Equal steps in log(α²/σ²) from the noise end to t_min, then one to 0.

    Where the noise end has σ/α beyond 1000 the spacing counts from there.

    Args:
        process: whose times they are. steps: how many, at least 1.
    Raises:
        TypeError: process is no Process. ValueError: steps below 1.

    Example:
        >>> from scoresde import EDM, grids
        >>> [round(t, 9) for t in grids.logsnr(EDM(0.01, 100.0), 5).tolist()]
        [100.0, 10.0, 1.0, 0.1, 0.01, 0.0]

    Reference: Lu et al. (2022), arXiv 2206.00927, sec. 3.1.
    """
    first, last = _span(process)
    return _ending(process, steps, lambda share: -2 * (math.log(first) + share * math.log(last / first)))


def karras(process: Process, steps: int, rho: float = 7.0) -> Tensor:
    """Equal steps in (σ/α)^(1/rho) from the noise end to t_min, then one to 0.

    Args:
        process: whose times they are. steps: how many, at least 1. rho: the power, positive.
    Raises:
        TypeError: process is no Process. ValueError: steps below 1, rho not positive.

    Example:
        >>> from scoresde import EDM, grids
        >>> [round(t, 9) for t in grids.karras(EDM(1.0, 9.0), 3, rho=2.0).tolist()]  # √ of them: 3, 2, 1, 0
        [9.0, 4.0, 1.0, 0.0]

    Reference: Karras et al. (2022), arXiv 2206.00364, eq. 5.
    """
    power = 1 / _checks.positive("rho", rho)
    first, last = (r**power for r in _span(process))
    return _ending(process, steps, lambda share: -2 / power * (first + share * (last - first)).log())


def trailing(process: Process, steps: int) -> Tensor:
    """Equal steps in t from t_max, on the chain's own times where the process is `Discrete`; the last goes to 0.

    Args:
        process: whose times they are. steps: how many, at least 1.
    Raises:
        TypeError: process is no Process. ValueError: steps below 1, or above the chain's own.

    Example:
        >>> from scoresde import ddpm, grids
        >>> ddpm().index(grids.trailing(ddpm(), 4)[:-1]).tolist()
        [999, 749, 499, 249]

    Reference: Lin et al. (2023), arXiv 2305.08891, table 2.
    """
    if isinstance(process, Discrete):
        _no_more_than(process, steps)
        return (uniform(process, steps) * process.steps).round() / process.steps
    return uniform(process, steps)


def leading(process: Process, steps: int) -> Tensor:
    """Equal steps in t that begin one step below t_max, as DDPM's code strides its chain; the last goes to 0.

    The first state is then less noisy than the prior it is drawn from: kept for parity, not for quality.

    Args:
        process: whose times they are. steps: how many, at least 1.
    Raises:
        TypeError: process is no Process. ValueError: steps below 1, or above the chain's own.

    Example:
        >>> from scoresde import ddpm, grids
        >>> ddpm().index(grids.leading(ddpm(), 4)[:-1]).tolist()
        [750, 500, 250, 0]

    Reference: Song et al. (2021), arXiv 2010.02502, app. D.2; Lin et al. (2023), 2305.08891, table 2.
    """
    _checks.kind("process", process, Process, "VP()")
    steps = _checks.count("steps", steps)
    i = torch.arange(steps - 1, -1, -1, dtype=torch.float64)
    if isinstance(process, Discrete):
        _no_more_than(process, steps)
        times = (1 + i * (process.steps // steps)) / process.steps
    else:
        least = max(process.t_min, NEGLIGIBLE * process.t_max)
        times = least + i * (process.t_max - least) / steps
    return torch.cat([times, times.new_zeros(1)])


def graded(process: Process, steps: int, scale: float = 1.0) -> Tensor:
    """Equal steps in w, ρ = σ/α = s w^{3/2}/(1 − w²): the grid of the flow integrator, from any noise end.

    Args:
        process: whose times they are. steps: how many, at least 1.
        scale: s, the standard deviation of the data along its leading directions.
    Raises:
        TypeError: process is no Process. ValueError: steps below 1, scale not positive.

    Example:
        >>> from scoresde import RectifiedFlow, grids
        >>> t = float(grids.graded(RectifiedFlow(), 2)[1])  # w = 1/2
        >>> round(t / (1 - t), 6), round(0.5**1.5 / (1 - 0.25), 6)
        (0.471405, 0.471405)

    Reference: docs/theory, eq. 12.
    """
    _checks.kind("process", process, Process, "VP()")
    scale = _checks.positive("scale", scale)
    steps = _checks.count("steps", steps)

    def compute() -> list[float]:
        inner = flow.times(process, flow.places(process, steps, scale), scale)[1:-1]
        return [process.t_max, *inner, 0.0]

    return torch.tensor(process.remember(("graded", scale), steps, compute), dtype=torch.float64)


def _span(process: Process) -> tuple[Tensor, ...]:
    """σ/α at the noise end, at most 1000, and at t_min."""
    _checks.kind("process", process, Process, "VP()")
    first = min(flow.ratio(process, process.t_max), 1 / NEGLIGIBLE)
    return torch.tensor([first, flow.ratio(process, process.t_min)], dtype=torch.float64).unbind()


def _ending(process: Process, steps: int, logsnr_at) -> Tensor:
    """Times at logsnr_at(0..1), the first t_max and the last t_min, then 0 (which is t_min itself where σ(0) > 0)."""
    inner = _checks.count("steps", steps) - (process.t_min > 0)
    share = torch.linspace(0, 1, inner + 1, dtype=torch.float64) if inner else torch.zeros(1, dtype=torch.float64)
    times = process.time(logsnr_at(share))
    times[0] = process.t_max
    return torch.cat([times, times.new_zeros(1)]) if process.t_min > 0 else torch.cat([times[:-1], times.new_zeros(1)])


def _no_more_than(process: Discrete, steps: int) -> None:
    if _checks.count("steps", steps) > process.steps:
        raise ValueError(f"steps must be at most the chain's {process.steps}, got {steps}; use grids.uniform beyond")
