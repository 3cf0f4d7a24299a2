"""The loss of every prediction: squared error to the prediction's own row of the table."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scoresde import _checks
from scoresde.model import Model
from scoresde.prediction import limit, row
from scoresde.process import Process
from scoresde.process.base import spread


def loss(
    model: Model,
    x0: Tensor,
    t: Any = None,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    **cond: Any,
) -> Tensor:
    """‖y − (a x₀ + b ε)‖² / (D (a² + b²)) for each sample: denoising score matching in any prediction.

    Divided by a² + b² the target has unit scale for data of unit scale: for noise, x0 and v (on variance
    preserving processes) that is the plain mean squared error, for the score it is σ²-weighted.

    Args:
        x0: (B, *), data. t: () or (B,), drawn by `draw_times` if None. noise: (B, *), drawn if None.
        generator: the source of both. cond: handed to the network.
    Returns:
        (B,), to be averaged and minimised.
    Raises:
        ValueError, TypeError: as `Process.perturb`; a network whose output is not shaped like x0.

    Example:
        >>> import torch
        >>> from scoresde import VP, Model, loss, networks
        >>> loss(Model(networks.MLP(2), VP(), "v"), torch.randn(16, 2)).shape
        torch.Size([16])

    Reference: Vincent (2011); Ho et al. (2020), arXiv 2006.11239, eq. 14; docs/theory, eq. 16.
    """
    _checks.kind("model", model, Model, "Model(net, VP())")
    _checks.state("x0", x0)
    t = draw_times(model.process, x0.shape[0], generator, x0.device) if t is None else model.process.times_of(t, x0)
    x, noise = model.process.perturb(x0, t, noise, generator)
    at = limit(t)
    a, b = (c if isinstance(c, float) else c.expand(at.shape) for c in row(model.prediction, model.process, at))
    size = torch.as_tensor(a**2 + b**2, dtype=at.dtype).sqrt()
    if not bool(((size > 0) & torch.isfinite(size)).all()):
        raise ValueError(
            f"t: the target {model.prediction!r} is zero or infinite at one of the times; keep t inside the interval"
        )
    a, b, size = (spread(torch.as_tensor(c, dtype=at.dtype, device=at.device), x0) for c in (a / size, b / size, size))
    error = (model(x, t, **cond) / size - (a * x0 + b * noise)).reshape(len(x0), -1)
    return _checks.finite_result("the loss", error.square().mean(1))


def draw_times(
    process: Process, n: int, generator: torch.Generator | None = None, device: torch.device | str | None = None
) -> Tensor:
    """n training times in [t_min, t_max], one in each n-th of the distribution, float64: (n,).

    The same noise levels on every process: σ/(α + σ) is uniform between its values at t_min and t_max, which
    on `RectifiedFlow` is t itself. (A loss depends on the process only through the levels it is asked at.)

    Reference: Kingma et al. (2021), arXiv 2107.00630, sec. 5.1 and app. I.1 (low discrepancy).
    """
    _checks.kind("process", process, Process, "VP()")
    n, source = _checks.count("n", n, 0), _checks.device_of(generator, device)
    u = torch.rand((), generator=generator, device=source, dtype=torch.float64).to(device or source)
    u = (u + torch.arange(n, device=u.device, dtype=torch.float64) / max(n, 1)) % 1.0
    ends = torch.tensor([process.t_min, process.t_max], dtype=torch.float64)
    first, last = (process.sigma(ends) / (process.alpha(ends) + process.sigma(ends))).tolist()
    level = first + (last - first) * u
    return process.time(2 * ((1 - level).log() - level.log())).clamp(process.t_min, process.t_max)
