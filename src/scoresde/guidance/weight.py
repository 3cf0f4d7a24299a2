"""Weights of guidance: numbers, one for each sample, or functions of time; and the other convention."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from scoresde import _checks
from scoresde.process.base import spread

Weight = float | Tensor | Callable[[Tensor], Any]
"""A number, a tensor (B,) with one for each sample, or a function of t: (B,) that returns () or (B,) from t alone."""


def interval(weight: float, low: float, high: float, outside: float = 1.0) -> Callable[[Tensor], Tensor]:
    """The weight for low <= t <= high, and another elsewhere: at 1 `classifier_free` asks for one half alone.

    The flow jumps at both ends: solvers lose their order there, and `log_prob` reports a larger error.

    Args:
        weight: a number. low, high: times, of the model's process; process.time(-2 * log(ρ)) is where σ/α = ρ.
        outside: the weight that leaves the model alone: 1 for `classifier_free` and `autoguidance`, 0 for `classifier`.
    Raises:
        ValueError: low above high.

    Example:
        >>> import torch
        >>> interval(3.0, 0.2, 0.6)(torch.tensor([0.1, 0.4, 0.9]))
        tensor([1., 3., 1.])

    Reference: Kynkäänniemi et al. (2024), arXiv 2404.07724, eq. 6.
    """
    low, high = _checks.number("low", low), _checks.number("high", high)
    if low > high:
        raise ValueError(f"low must not be above high, got low={low:g} and high={high:g}")
    weight, outside = _checks.number("weight", weight), _checks.number("outside", outside)
    return partial(_inside, weight, low, high, outside)  # has a pickle, which a closure has not


def _inside(weight: float, low: float, high: float, outside: float, t: Tensor) -> Tensor:
    return torch.where((t >= low) & (t <= high), weight, torch.full_like(t, outside))


def from_ho_salimans(scale: Any) -> Any:
    """Our weight for a scale s of the convention (1 + s) ε(x, y) − s ε(x): 1 + s, of a number, a tensor or a schedule.

    The guidance scale of diffusers, Imagen and Stable Diffusion is our weight already.

    Args:
        scale: s, a number, a tensor (B,) or a function of t.
    Raises:
        ValueError, TypeError: a scale that is none of these, or not finite.

    Example:
        >>> from scoresde.guidance import from_ho_salimans, to_ho_salimans
        >>> from_ho_salimans(2.0), to_ho_salimans(3.0)
        (3.0, 2.0)

    Reference: Ho and Salimans (2022), arXiv 2207.12598, eq. 6.
    """
    return _moved(checked(scale, "scale"), 1.0)


def to_ho_salimans(weight: Any) -> Any:
    """The inverse of `from_ho_salimans`: weight − 1.

    Args:
        weight: a number, a tensor (B,) or a function of t.
    Raises:
        ValueError, TypeError: a weight that is none of these, or not finite.

    Example:
        >>> import torch
        >>> from scoresde import guidance
        >>> guidance.to_ho_salimans(torch.tensor([1.0, 4.0]))  # no guidance is 0 there
        tensor([0., 3.])

    Reference: Ho and Salimans (2022), arXiv 2207.12598, eq. 6.
    """
    return _moved(checked(weight), -1.0)


def _moved(weight: Any, by: float) -> Any:
    return partial(_sum, weight, by) if callable(weight) else weight + by  # pyright: ignore[reportOperatorIssue]


def _sum(weight: Callable[[Tensor], Any], by: float, t: Tensor) -> Any:
    return weight(t) + by


def checked(weight: Any, name: str = "weight") -> Any:
    """A weight, if it is one; a tensor without dimensions as a number."""
    if isinstance(weight, Tensor) and weight.ndim:
        if weight.ndim != 1 or not bool(torch.isfinite(weight).all()):
            raise ValueError(f"{name} must be finite, a number or a tensor (B,), got shape {tuple(weight.shape)}")
        return weight
    return weight if callable(weight) else _checks.number(name, weight)


def at(weight: Any, x: Tensor, t: Tensor) -> float | Tensor:
    """The weight at t: (B,): a number where that is all it is, and whoever calls may skip what it makes needless."""
    if isinstance(weight, float):
        return weight
    value = weight(t) if callable(weight) else weight
    if not isinstance(value, Tensor):
        return _checks.number("weight", value)
    if value.shape not in ((), x.shape[:1]):
        raise ValueError(f"weight must have shape () or ({len(x)},) for {len(x)} samples, got {tuple(value.shape)}")
    if callable(weight) and value.numel() and not _checks.traced(value):
        low, high = (_checks.number("weight", end) for end in (value.min(), value.max()))
        return low if low == high else value
    return value


def times(weight: float | Tensor, x: Tensor) -> Any:
    """A weight, ready to multiply x: (B, *)."""
    return spread(weight.expand(x.shape[0]), x) if isinstance(weight, Tensor) else weight
