"""What a network predicts: a row (a, b) of y = a·x₀ + b·ε, and the one conversion between rows.

x_t itself is the row (α, σ), so x_t and any other row determine x₀ and ε, and with them every row:

    y' = [ (p b − q a) x + (α q − σ p) y ] / (α b − σ a)     from row (a, b) to row (p, q)   (docs/theory, eq. 4)

Never by way of x₀, which loses digits at both ends of time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scoresde import _checks
from scoresde.process.base import TINY, Process, spread

Row = Callable[[Process, Tensor], tuple[Any, Any]]
Prediction = str | Row

PREDICTIONS: dict[str, Row] = {
    "x0": lambda process, t: (1.0, 0.0),
    "noise": lambda process, t: (0.0, 1.0),
    "score": lambda process, t: (0.0, -1 / process.sigma(t)),
    "v": lambda process, t: (-process.sigma(t), process.alpha(t)),
    "velocity": lambda process, t: (process.alpha_dot(t), process.sigma_dot(t)),
}
"""Name → row. Your own prediction is one line: PREDICTIONS["mine"] = lambda process, t: (a, b), or that function.

References: noise, Ho et al. (2020), arXiv 2006.11239, eq. 12; score, Song et al. (2021), 2011.13456, eq. 7;
v, Salimans and Ho (2022), 2202.00512, app. D; velocity, Lipman et al. (2023), 2210.02747, eq. 14.
"""

UNBOUNDED = 1e100
"""A coefficient beyond this came from the limit t → 0 (process.TINY): it is infinite."""


def row(prediction: Prediction, process: Process, t: Tensor) -> tuple[Any, Any]:
    """The row (a, b) of a prediction, by name or as a function of process and t, at float64 times t."""
    if isinstance(prediction := known(prediction), str):
        return PREDICTIONS[prediction](process, t)
    pair = prediction(process, t)
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise TypeError(f"prediction must return a row (a, b), got {pair!r}")
    return pair


def known(prediction: Any, name: str = "prediction") -> Prediction:
    """A prediction, if it is one: a name in PREDICTIONS, or a function."""
    if isinstance(prediction, str):
        return _checks.choice(name, prediction, PREDICTIONS)
    if not callable(prediction):
        raise TypeError(f"{name} must be a name or a function (process, t) -> (a, b), got {prediction!r}")
    return prediction  # pyright: ignore[reportReturnType]


def row_at(prediction: Prediction, process: Process, t: float) -> tuple[float, float]:
    """`row` at a number, in numbers."""

    def compute() -> tuple[float, float]:
        a, b = row(prediction, process, torch.tensor(t, dtype=torch.float64))
        return float(a), float(b)

    known = PREDICTIONS.get(prediction) if isinstance(prediction, str) else None
    return process.remember(known, t, compute) if known else compute()


def limit(t: float | Tensor) -> Tensor:
    """t as float64, with 0 replaced by a time so small that every row takes its limit there."""
    if isinstance(t, Tensor):
        return (t if t.device.type == "mps" else t.double()).clamp_min(TINY)
    return torch.tensor(max(t, TINY), dtype=torch.float64)


def solve_rows(x: tuple[Tensor, Tensor], y: tuple[Any, Any], target: tuple[Any, Any]) -> tuple[Tensor, Tensor]:
    """(u, w) with target = u·x + w·y, all three as rows, by Cramer's rule.

    Where α = 0, x says nothing that noise or score do not say, yet both are multiples of each other there: (0, q/b).
    """
    alpha, sigma = x
    a, b, p, q = (torch.as_tensor(c, dtype=alpha.dtype, device=alpha.device) for c in (*y, *target))
    determinant, cross = alpha * b - sigma * a, p * b - q * a
    same = (determinant == 0) & (cross == 0)
    divisor, unit = torch.where(same, 1.0, determinant), torch.where(same, b, 1.0)
    u, w = cross / divisor, (alpha * q - sigma * p) / divisor
    return torch.where(same, 0.0, u), torch.where(same, q / unit, w)


def _solve_numbers(x: tuple[float, float], y: tuple[float, float], target: tuple[float, float]) -> tuple[float, float]:
    """`solve_rows` in numbers."""
    (alpha, sigma), (a, b), (p, q) = x, y, target
    determinant, cross = alpha * b - sigma * a, p * b - q * a
    if determinant == 0:
        return (0.0, q / b) if cross == 0 and b else (math.inf, math.inf)
    return cross / determinant, (alpha * q - sigma * p) / determinant


def weights(process: Process, t: float | Tensor, source: Prediction, target: Prediction | tuple[Any, Any]):
    """(u, w) with y' = u x + w y: numbers where t is a number, else float64 tensors of t's shape.

    `target` is a prediction, or a row of numbers. Raises ValueError where t leaves it undetermined.
    """
    if isinstance(t, Tensor):
        at = limit(t)
        goal = target if isinstance(target, tuple) else row(target, process, at)
        pair = solve_rows((process.alpha(at), process.sigma(at)), row(source, process, at), goal)
        pair = tuple(torch.as_tensor(c, dtype=at.dtype, device=at.device).expand_as(at) for c in pair)
    else:
        at = max(t, TINY)
        goal = target if isinstance(target, tuple) else row_at(target, process, at)
        pair = _solve_numbers((process.at("alpha", at), process.at("sigma", at)), row_at(source, process, at), goal)
    _check_weights(pair, process, t, source, target)
    return pair


def _check_weights(pair: tuple[Any, ...], process: Process, t: Any, source: Any, target: Any) -> None:
    if all(isinstance(value, float) and abs(value) < UNBOUNDED for value in pair):
        return
    for value in pair:
        value = torch.as_tensor(value)
        bad = ~(value.detach().abs() < UNBOUNDED)
        if not _checks.traced(value) and bool(bad.any()):
            where = t if not isinstance(t, Tensor) else t.detach().expand_as(bad)[bad].flatten()[0].item()
            raise ValueError(
                f"{target if isinstance(target, str) else 'what this step needs'} is infinite or undetermined by "
                f"{source if isinstance(source, str) else 'the prediction'} at t = {where:g} of {process!r}; "
                f"keep t inside ({process.t_min:g}, {process.t_max:g}), or predict 'v'"
            )


def convert(
    y: Tensor, x: Tensor, t: float | Tensor, process: Process, source: Prediction, target: Prediction
) -> Tensor:
    """Turn a prediction y of kind `source`, made at (x, t), into one of kind `target`.

    Args:
        y: (B, *), the prediction. x: (B, *), the noisy state. t: () or (B,), in [0, process.t_max].
        process: that noised it. source, target: names in PREDICTIONS, or functions (process, t) -> (a, b).
    Returns:
        (B, *), differentiable in y, x and t.
    Raises:
        ValueError: an unknown name, shapes that differ, t outside the interval, x or y not finite, or a target
            that the source leaves undetermined (noise at σ = 0 from x0, x0 at α = 0 from noise).
        TypeError: tensors of integers.

    Example:
        >>> import torch
        >>> from scoresde import VP
        >>> x0, noise = torch.randn(2, 5, 3, dtype=torch.float64)
        >>> x, _ = VP().perturb(x0, 0.3, noise)
        >>> torch.allclose(convert(noise, x, 0.3, VP(), "noise", "x0"), x0)
        True

    Reference: docs/theory, eq. 4.
    """
    _checks.kind("process", process, Process, "VP()")
    _checks.state("x", x)
    _checks.shape_like("y", _checks.state("y", y), x)
    t = process.times_of(t, x)
    source, target = known(source, "source"), known(target, "target")
    u, w = (spread(c, x) for c in weights(process, t, source, target))
    return _checks.finite_result(f"the conversion in {x.dtype}", u * x + w * y)
