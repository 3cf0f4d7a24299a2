"""Refusals and small tools that the metrics share (a leaf imports nothing else of scoresde)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def one_set(name: str, x: Any, least: int = 1, message: str | None = None) -> Tensor:
    """`x`, if it is a finite set of at least `least` samples, (N, *), of floating dtype."""
    message = message or f"{name} must"
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        hint = f"{name}.float()" if isinstance(x, Tensor) else f"torch.as_tensor({name}).float()"
        raise TypeError(f"{name} must be a tensor of floating dtype, got {got}; write {hint}")
    if x.is_meta or x.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor with values, got {x.layout} on {x.device}")
    if x.ndim < 2:
        raise ValueError(f"{message} be (N, *), got {tuple(x.shape)} as {name}; write {name}[:, None] for numbers")
    if len(x) < least or not x[:1].numel():
        one = "one sample" if least == 1 else f"{least} samples"
        raise ValueError(f"{message} hold at least {one}, got {tuple(x.shape)} as {name}")
    if not bool(torch.isfinite(x).all()):
        raise ValueError(
            f"{message} be finite, got {int((~torch.isfinite(x)).sum())} NaN or infinite entries in {name}"
        )
    return x


def two_sets(x: Any, y: Any, least: int = 1, names: tuple[str, str] = ("x", "y")) -> tuple[Tensor, Tensor]:
    """`x` and `y` as (N, D) and (M, D) in float64, on the device of `x`."""
    message = f"{names[0]} and {names[1]} must"
    for name, value in zip(names, (x, y)):
        one_set(name, value, least, message)
    same_shape(names, x, y)
    return x.detach().flatten(1).double(), y.detach().flatten(1).double().to(x.device)


def same_shape(names: tuple[str, str], x: Tensor, y: Tensor) -> None:
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"{names[0]} and {names[1]} must be sets of equal samples, (N, *) and (M, *), "
            f"got {tuple(x.shape)}, {tuple(y.shape)}"
        )


def whole(name: str, value: Any, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return value


def positive(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e308:
        raise ValueError(f"{name} must be a positive number, got {value!r}")
    return float(value)


def function(name: str, value: Any) -> Callable[..., Any]:
    if not callable(value) or isinstance(value, type):
        raise TypeError(f"{name} must be a function of tensors, got {value!r}")
    return value


def source(generator: Any) -> torch.Generator:
    """The generator, or one with a fixed seed, so that values compare."""
    if generator is None:
        return torch.Generator().manual_seed(0)
    if not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator must be a torch.Generator, got {generator!r}; write torch.Generator().manual_seed(0)"
        )
    return generator


def squares(x: Tensor, y: Tensor) -> Tensor:
    """‖x_i − y_j‖² (N, M) of centred sets; what is rounding of equal points becomes 0."""
    norms = x.square().sum(1)[:, None] + y.square().sum(1)
    gaps = torch.addmm(norms, x, y.T, alpha=-2)
    return gaps.masked_fill_(gaps <= 1e-13 * norms, 0.0)


def centred(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both sets moved so that the mean of `y` is 0: distances stay, and lose no digits to a far origin."""
    return x - y.mean(0), y - y.mean(0)
