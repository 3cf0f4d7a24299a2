"""Rows of the tables of bits a dimension: a density's values on held-out images, and what is known of their errors."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde import Model


@dataclass
class Row:
    """A density's bits a dimension for each held-out image, (B,), and how they came about."""

    name: str
    noise: str
    each: Tensor
    calls: int | str = "-"
    remark: str = ""

    def line(self, rival: Row | None) -> str:
        text = f"{self.name:<30}{self.noise:<18}{self.each.mean():>9.3f} ±{standard_error(self.each):6.3f}"
        if rival is not None:
            gain = rival.each - self.each
            text += f"{gain.mean():>9.3f} ±{standard_error(gain):6.3f}{gain.mean() / standard_error(gain):>7.0f}"
            text += f"{self.calls:>7}"
        return text


def standard_error(values: Tensor) -> float:
    return float(values.std() / math.sqrt(len(values)))


class Noted:
    """A density for `bits_per_dim` that keeps the trace's standard errors and the solver's errors."""

    def __init__(self, density: Callable[..., Any], **options: Any) -> None:
        self.density, self.options, self.results = density, options, []

    def __call__(self, model: Model, x: Tensor, **options: Any) -> Any:
        with warnings.catch_warnings():  # of samples that miss the tolerance: the table tells the errors
            warnings.filterwarnings("ignore", "log_prob did not reach")
            parts = [self.density(model, piece, **self.options, **options) for piece in x.split(100)]
        self.results += parts
        value, error = (torch.cat([getattr(p, name) for p in parts]) for name in ("value", "standard_error"))
        return Estimate(value, error, round(sum(p.nfe * len(p.value) for p in parts) / len(x)))


@dataclass(frozen=True)
class Estimate:
    value: Tensor
    standard_error: Tensor
    nfe: int


def own(results: list[Any], dim: int) -> str:
    """The chance and the error of the mean that the estimates themselves tell, in bits a dimension."""
    errors = torch.cat([r.standard_error for r in results]).double()
    text = f"its own s.e. {float(errors.square().mean().sqrt()) / math.sqrt(len(errors)) / dim / math.log(2):.4f}"
    if hasattr(results[0], "error"):
        solver = torch.cat([r.error for r in results]).double() / dim / math.log(2)
        text += f", the solver's error {solver.mean():.4f} (largest {solver.max():.4f})"
    return text
