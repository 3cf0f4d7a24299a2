"""What goes wrong in a network before any sampler is to blame."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scoresde import _checks
from scoresde.model import Model


@torch.no_grad()
def check_model(model: Model, x: Tensor) -> None:
    """Raise AssertionError, naming every fault, unless the network can serve as a model's.

    It must return finite states shaped like x in x's dtype, the same ones for the same input, for each sample
    without regard to its neighbours, and different ones at different times (a network that ignores t).

    Args:
        x: (B, *) with B of at least 4, data or anything of its scale.
    Raises:
        AssertionError: the faults, one a line. ValueError, TypeError: x that does not fit.

    Example:
        >>> import torch
        >>> from scoresde import VP, Model
        >>> from scoresde.testing import check_model
        >>> check_model(Model(lambda x, t: x, VP()), torch.randn(4, 2))
        Traceback (most recent call last):
            ...
        AssertionError: the network ignores t: its output is the same at 5 noise levels
    """
    _checks.kind("model", model, Model, "Model(net, VP())")
    _checks.state("x", x)
    if x.shape[0] < 4:
        raise ValueError(f"x must hold at least four samples, got shape {tuple(x.shape)}")
    process = model.process
    levels = torch.tensor([0.1, 0.3, 1.0, 3.0, 10.0], dtype=torch.float64)
    times = process.time(-2 * levels.log()).clamp(process.t_min, process.t_max).unique().tolist()
    try:
        outputs = [model(x, t) for t in times]
    except (TypeError, ValueError) as error:
        raise AssertionError(str(error)) from error
    faults = []
    for t, y in zip(times, outputs):
        if not bool(torch.isfinite(y).all()):
            faults.append(f"at t = {t:.3g} the output is not finite")
    if not faults:
        size = max(float(y.abs().max()) for y in outputs)
        slack = 100 * torch.finfo(x.dtype).eps * math.sqrt(x[0].numel()) * size
        if size == 0.0:
            faults.append("the output is zero everywhere; train the network first")
        elif all(_apart(y, outputs[0]) <= slack for y in outputs[1:]):
            faults.append(f"the network ignores t: its output is the same at {len(times)} noise levels")
        if _apart(model(x, times[0]), outputs[0]) > slack:
            faults.append("two calls with the same input differ; call net.eval()")
        elif any(_apart(model(x[:2], t), y[:2]) > slack for t, y in zip(times, outputs)):
            faults.append("a sample's output depends on the batch around it; call net.eval()")
    if faults:
        raise AssertionError("\n".join(faults))


def _apart(x: Tensor, y: Tensor) -> float:
    return float((x - y).abs().max())
