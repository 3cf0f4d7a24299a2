"""Integrals of a polynomial through predictions against an exponential, and the predictions themselves."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scoresde import _checks
from scoresde.model import Model
from scoresde.prediction import weights
from scoresde.process import Process


@_checks.on_host
@lru_cache(4096)
def moments(z: float, n: int) -> tuple[float, ...]:
    """∫₀¹ e^{z(u−1)} u^k du for k < n: a series for small z, integration by parts beyond (docs/theory, eq. 19)."""
    if abs(z) < 2:
        return tuple(_series(z, k) for k in range(n))
    found = [-math.expm1(-z) / z]
    for k in range(1, n):
        found.append((1 - k * found[-1]) / z)
    return tuple(found)


def _series(z: float, k: int) -> float:
    term = total = 1 / (k + 1)
    for j in range(30):
        term *= -z / (k + j + 2)
        total += term
    return total


@_checks.on_host
@lru_cache(4096)
def lagrange(nodes: tuple[float, ...], integrals: tuple[float, ...]) -> tuple[float, ...]:
    """The weights of values at `nodes` in the integral of the polynomial through them; `integrals`: of u^k."""
    return tuple(np.linalg.solve(np.vander(nodes, increasing=True).T, integrals).tolist())


class Node(NamedTuple):
    """A prediction, scale · value, made at λ = place."""

    place: float
    scale: float
    value: Tensor


def ask(model: Model, prediction: str, x: Tensor, t: float) -> Node:
    """The model's prediction at (x, t): one call, and one operation to convert it."""
    row = (1.0, 0.0) if prediction == "x0" else (0.0, 1.0)
    u, w = (float(c) for c in weights(model.process, t, model.prediction, row))
    y = model(x, t)
    scale, one, other, share = (w, y, x, u) if abs(w) >= abs(u) else (u, x, y, w)
    return Node(clock(model.process, t), scale, torch.add(one, other, alpha=share / scale) if share else one)


def combine(x: Tensor, factors: Iterable[float], nodes: Iterable[Node]) -> Tensor:
    """x + Σ factor · prediction."""
    for factor, node in zip(factors, nodes):
        x = torch.add(x, node.value, alpha=factor * node.scale)
    return x


def clock(process: Process, t: float) -> float:
    """λ = log(α/σ) at t."""
    return process.at("logsnr", t) / 2
