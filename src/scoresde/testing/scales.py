"""The scale of data: on which others a network may have been trained, and on which it was."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from scoresde.model import Model, is_covariance
from scoresde.process import Process

APART = 0.2
"""How far, in deviations, means and deviations may be from those in model.moments."""

UNLIKE = 10.0
"""The ratio of columns' deviations from which on it is worth a word."""


def scales(model: Model, x: Tensor) -> Iterator[tuple[str, float, float]]:
    """Maps a x + c that data often go through, as one writes them; and that to the model's moments."""
    low, high = float(x.min()), float(x.max())
    wide, mean, size = high - low, float(x.double().mean()), float(x.double().std())
    rows = [
        ("2 * x - 1", 2.0, -1.0), ("(x + 1) / 2", 0.5, 0.5), ("x / 127.5 - 1", 1 / 127.5, -1.0),
        ("x / 255", 1 / 255, 0.0), ("255 * x", 255.0, 0.0), ("127.5 * (x + 1)", 127.5, 127.5),
        (f"(x - {mean:.4g}) / {size:.4g}", 1 / size, -mean / size),
        (f"2 * (x - {low:.4g}) / {wide:.4g} - 1", 2 / wide, -2 * low / wide - 1),
        (f"(x - {low:.4g}) / {wide:.4g}", 1 / wide, -low / wide),
    ]  # fmt: skip
    if (known := _moments(model, x)) is not None and off_scale(model, x):
        (mean, size), (to, wanted) = ((float(m.mean()), float(s.square().mean().sqrt())) for m, s in known)
        rows.append((f"(x - {mean:.4g}) * {wanted / size:.4g} + {to:.4g}", wanted / size, to - mean * wanted / size))
    for code, scale, shift in rows:
        if abs(math.log(scale)) > 0.05 or abs(shift) > 0.05 * size:
            yield f"x = {code.replace('- -', '+ ').replace('+ -', '- ')}", scale, shift


def off_scale(model: Model, x: Tensor) -> str:
    """In words, how the means and deviations of x differ from those in model.moments; empty if hardly or unknown."""
    if (known := _moments(model, x)) is None:
        return ""
    (mean, size), (to, wanted) = known
    unit = float(wanted.square().mean().sqrt())
    far = max(float((a - b).square().mean().sqrt()) for a, b in ((mean, to), (size, wanted)))
    if far <= (APART + 3 / math.sqrt(len(x))) * unit:
        return ""
    have, want = (f"mean {float(m.mean()):.3g} and deviation {float(s.square().mean().sqrt()):.3g}" for m, s in known)
    number = " as a whole, and column by column they differ" if have == want else ""
    return f"x have {have}{number}, but model.moments, of the data it was trained on, {want}"


def _moments(model: Model, x: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """Means and deviations (D,) of x, and those that the model stores; None if it stores none that fit."""
    if model.moments is None:
        return None
    mean, second = (torch.as_tensor(m, dtype=torch.float64, device="cpu") for m in model.moments)
    size, own = second.diagonal().sqrt() if is_covariance(mean, second) else second, x.detach().double().cpu()
    try:
        to, wanted = (_spread(m, own[0]) for m in (mean, size))
    except RuntimeError:
        return None
    return (own.mean(0).flatten(), own.std(0).flatten()), (to, wanted)


def _spread(value: Tensor, one: Tensor) -> Tensor:
    return value.reshape(-1) if value.numel() == one.numel() else value.expand(one.shape).reshape(-1)


def out_of_reach(process: Process, x: Tensor) -> str:
    """In words, that the noise of a process is too little, or too much, for data like x."""
    size = float(x.detach().double().var(0).mean().sqrt())
    ends = (torch.tensor(t, dtype=torch.float64) for t in (process.t_min, process.t_max))
    first, last = (math.exp(-0.5 * float(process.logsnr(t))) for t in ends)
    return (
        f"x have deviation {size:.3g}, and the noise of {type(process).__name__} goes from {first:.2g} to {last:.3g}, "
        "σ/α, which says little of such data; give x on the scale of the data that the network was trained on, of "
        "deviation about 1, or take another process"
    )


def uneven(x: Tensor) -> str:
    """In words, that columns of a table have deviations of other orders, as those of standardised ones do not."""
    if x.ndim != 2 or x.shape[1] < 2:
        return ""
    low, high = (float(size) for size in x.detach().double().std(0).aminmax())
    if not high > UNLIKE * low > 0:
        return ""
    return f". The columns of x have deviations from {low:.2g} to {high:.3g}; did it learn standardised ones?"
