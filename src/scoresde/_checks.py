"""Refusals that teach: each names the argument, what came, and what to write instead."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue]


def choice(name: str, value: Any, known: Iterable[str]) -> str:
    """`value`, if it is one of the `known` names; else a ValueError with a suggestion."""
    known = list(known)
    if isinstance(value, str) and value in known:
        return value
    close = get_close_matches(str(value), known, n=1, cutoff=0.4)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}.{hint}")


def count(name: str, value: Any, least: int = 1) -> int:
    """`value` as an int of at least `least`."""
    try:
        if isinstance(value, bool):
            raise TypeError
        whole = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}; write {name}={max(least, 20)}") from None
    if whole < least:
        raise ValueError(f"{name} must be at least {least}, got {whole}")
    return whole


def path(name: str, value: Any) -> Path:
    """`value` as a path."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} must be a path, got {value!r}")
    return Path(value)


def flags(**named: Any) -> None:
    """Refuse arguments that are neither True nor False."""
    for name, value in named.items():
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{name} must be True or False, got {value!r}")


def kind(name: str, value: Any, wanted: type, example: str) -> Any:
    """`value`, if it is an instance of `wanted`."""
    if not isinstance(value, wanted):
        got = f"the class {value.__name__}; write {value.__name__}()" if isinstance(value, type) else repr(value)[:80]
        raise TypeError(f"{name} must be a {wanted.__name__}, such as {example}, got {got}")
    return value


def several(name: str, values: Any, wanted: type, example: str) -> list[Any]:
    """`values`, if they are instances of `wanted`, at least one."""
    if not isinstance(values, (list, tuple)):
        raise TypeError(f"{name} must be a list, such as [{example}], got {values!r}")
    if not values:
        raise ValueError(f"{name} must hold at least one, got none")
    return [kind(name, value, wanted, example) for value in values]


def table(name: str, value: Any) -> Tensor:
    """`value`, numbers nested in any way, as a tensor: its own dtype if it is one, else float64."""
    try:
        result = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"{name} must hold numbers, got {str(value)[:80]!r} ({str(error)[:80]})") from None
    if result.is_complex() or result.is_meta:
        raise TypeError(f"{name} must hold real numbers, got {result.dtype} on {result.device}")
    return result


def whole_numbers(name: str, value: Any, form: str = "of whole numbers") -> Tensor:
    """`value`, whole numbers nested in any way, as a tensor of an integer dtype."""
    try:
        result = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be {form}, got {str(value)[:80]!r}") from None
    if result.dtype == torch.bool or result.is_floating_point() or result.is_complex() or result.is_meta:
        raise TypeError(f"{name} must be {form}, got {result.dtype} of shape {tuple(result.shape)}")
    return result


def shape(name: str, value: Any) -> tuple[int, ...]:
    """`value` as a shape (B, *): B of at least 0, the others of at least 1."""
    try:
        sizes = tuple(None if isinstance(value, (str, bytes)) else value)  # pyright: ignore[reportArgumentType]
    except TypeError:
        raise TypeError(f"{name} must be (B, *), got {value!r}; write ({value!r}, 2) for points in the plane") from None
    if not sizes:
        raise ValueError(f"{name} must be (B, *), got ()")
    return tuple(count(f"{name}[{i}]", n, min(i, 1)) for i, n in enumerate(sizes))


def device_of(generator: Any, otherwise: Any = None) -> Any:
    """Where a generator draws; `otherwise` without one."""
    if generator is None:
        return otherwise
    if not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator must be a torch.Generator, got {generator!r}; write torch.Generator().manual_seed(0)"
        )
    return generator.device


def number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """`value` as a finite float in [low, high]."""
    if isinstance(value, (bool, str, bytes)) or value is None or (isinstance(value, Tensor) and value.is_complex()):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        result = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"{name} must be one number, got {str(value)[:80]}") from error
    if not math.isfinite(result) or not low <= result <= high:
        within = "" if math.isinf(low) and math.isinf(high) else f" in [{low:g}, {high:g}]"
        raise ValueError(f"{name} must be a finite number{within}, got {result:g}")
    return result


def positive(name: str, value: Any) -> float:
    """`value` as a finite float above zero."""
    result = number(name, value)
    if result <= 0:
        raise ValueError(f"{name} must be positive, got {result:g}")
    return result


def room(what: str, count: int, dim: int, instead: str) -> None:
    """Refuse `count` matrices (D, D) that would take more than 16 GiB, before anything asks the machine for them."""
    size = 8 * count * dim**2 / 2**30
    if size > 16:
        raise ValueError(f"{what} at D = {dim} would take {count} x D x D numbers, {size:,.0f} GiB; {instead}")


def traced(x: Tensor) -> bool:
    """Whether `x` has no values to look at (under vmap, jvp or torch.compile)."""
    return torch.compiler.is_compiling() or _functorch.is_functorch_wrapped_tensor(x)


def on_host(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of numbers that torch.compile is to call as it traces, not to trace.

    (What torch.compiler.assume_constant_result marks, without the second that importing the compiler takes.)
    """

    @wraps(function)
    def constant(*args: Any) -> Any:
        return function(*args)

    constant._dynamo_marked_constant = True  # pyright: ignore[reportAttributeAccessIssue]
    return constant


def floating(name: str, x: Any) -> Tensor:
    """`x`, if it is a tensor of floating dtype."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}; write torch.as_tensor({name})")
    if not x.is_floating_point():
        raise TypeError(f"{name} must have a floating dtype, got {x.dtype}; write {name}.float()")
    if x.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got {x.layout}; write {name}.to_dense()")
    return x


def state(name: str, x: Any) -> Tensor:
    """`x`, if it is a floating, finite tensor of shape (B, *)."""
    floating(name, x)
    if x.ndim < 1:
        raise ValueError(f"{name} must have shape (B, *), got a tensor without dimensions; write {name}[None]")
    if x.is_meta:
        raise TypeError(f"{name} must have values, got a tensor on the meta device")
    if not traced(x) and not bool(torch.isfinite(x).all()):
        raise ValueError(f"{name} must be finite, got {int((~torch.isfinite(x)).sum())} NaN or infinite entries")
    return x


def shape_like(name: str, y: Any, x: Tensor, of: str = "x") -> Tensor:
    """`y`, if it is a tensor shaped like `x`."""
    if not isinstance(y, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(y).__name__}")
    if y.shape != x.shape:
        raise ValueError(f"{name} must have the shape of {of}, {tuple(x.shape)}, got {tuple(y.shape)}")
    return y


class Diverged(ValueError):  # noqa: N818
    """A computation left the finite numbers, or a solver's steps became too small to go on."""


def finite_result(what: str, x: Tensor) -> Tensor:
    """`x`, or Diverged where a computation left the finite numbers."""
    if not traced(x) and not bool(torch.isfinite(x).all()):
        bad = (~torch.isfinite(x)).reshape(len(x), -1).any(1).nonzero().flatten().tolist() if x.ndim else []
        raise Diverged(
            f"{what} is not finite (samples {str(bad[:8])[1:-1] or 'all'}); "
            "look at what the network returns there, or take more steps"
        )
    return x
