"""Refusals that the networks share (a leaf imports nothing else of scoresde)."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue]


def whole(least: int = 1, **named: Any) -> None:
    """Refuse arguments, or tuples of them, that are not whole numbers of at least `least`."""
    for name, value in named.items():
        values = value if isinstance(value, tuple) else (value,)
        if not values or not all(isinstance(v, int) and not isinstance(v, bool) and v >= least for v in values):
            raise ValueError(f"{name} must be of whole numbers of at least {least}, got {value!r}")


def number(name: str, value: Any, least: float, below: float = math.inf) -> float:
    """`value`, if it is a number in [least, below)."""
    fits = isinstance(value, Real) and not isinstance(value, bool)
    if not (fits and least <= value < min(below, 1e308)):  # pyright: ignore[reportOperatorIssue]
        raise ValueError(f"{name} must be a finite number in [{least:g}, {below:g}), got {value!r}")
    return float(value)


def several(name: str, value: Any) -> tuple[Any, ...]:
    """`value`, a tuple or a list, as a tuple."""
    if not isinstance(value, (tuple, list, torch.Size)):
        raise TypeError(f"{name} must be a tuple of whole numbers, got {value!r}")
    return tuple(value)


def net(value: Any) -> Any:
    """`value`, if it is a module or a function."""
    if not callable(value) or isinstance(value, type):
        raise TypeError(f"net must be callable as net(x, t), got {value!r}")
    return value


def even(name: str, value: int) -> None:
    if value % 2:
        raise ValueError(f"{name} must be even, got {value}")


def grid(shape: Any) -> tuple[int, ...]:
    """`shape` as (C, H, W) or (C, L)."""
    sizes = tuple(shape) if isinstance(shape, (tuple, list)) else ()
    if len(sizes) not in (2, 3):
        raise ValueError(f"shape must be (C, H, W) or (C, L), got {shape!r}; networks.MLP takes any shape")
    whole(shape=sizes)
    return sizes


def state(x: Tensor, t: Tensor, shape: tuple[int, ...], weight: Tensor) -> None:
    """Refuse x that is not (B, *shape), of the dtype and device of the network's weights, and t not (B,) of x's."""
    for name, value in (("x", x), ("t", t)):
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            raise TypeError(f"{name} must be a dense torch.Tensor, got {type(value).__name__}")
    if tuple(x.shape[1:]) != shape:
        raise ValueError(f"x must have shape (B, {', '.join(map(str, shape))}), got {tuple(x.shape)}")
    if x.dtype != weight.dtype or x.device != weight.device:
        raise TypeError(
            f"x must have the network's dtype, {weight.dtype}, and device, {weight.device}, got {x.dtype} on {x.device}"
        )
    if t.shape != x.shape[:1] or t.dtype != x.dtype:
        raise ValueError(f"t must have shape ({len(x)},) and x's dtype, got {tuple(t.shape)} {t.dtype}")


def label(value: Any, size: int) -> Tensor:
    """`value`, () or (size,) int64, as (size,)."""
    if not isinstance(value, Tensor) or value.dtype != torch.int64:
        got = f"{value.dtype}" if isinstance(value, Tensor) else repr(value)[:80]
        raise TypeError(f"label must be a tensor ({size},) of int64, got {got}; write torch.tensor([...])")
    if value.shape not in ((), (size,)):
        raise ValueError(f"label must have shape () or ({size},), one for each sample, got {tuple(value.shape)}")
    return value.expand(size)


def readable(value: Tensor) -> bool:
    """Whether the values can be looked at without waiting for a device, and outside of a trace."""
    traced = torch.compiler.is_compiling() or _functorch.is_functorch_wrapped_tensor(value)
    return value.device.type == "cpu" and not traced


def process(value: Any, *names: str) -> Any:
    """`value`, if it has what a network asks of a process."""
    if isinstance(value, type) or not all(hasattr(value, name) for name in names):
        raise TypeError(f"process must be a Process, such as VP(), got {value!r}")
    return value
