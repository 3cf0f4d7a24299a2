"""What a configuration of another package is, what it sees of a problem, and the spacings of σ/α handed to it.

"log", "karras" and "flow" spacings go down to 0.01 (the least of DDPM's chain), 0.002 or 0.001, from where they jump
to 0 ("zero"), end ("stop") or denoise ("denoise").
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from scoresde import ddpm

CHAIN, CHAIN_LEAST = 1000, 0.01
"""The length of DDPM's chain, on which diffusers' schedulers are built, and (all but) its least σ/α."""

GRIDS = {"vp": ("log", "karras", "linear", "flow"), "edm": ("log", "karras"), "flow": ("log", "karras", "flow")}
"""Spacings handed to samplers that have none of their own for the process."""

BORROWED = ("vp", "flow")

LEAST = {"vp": (0.01, 0.001), "edm": (0.002, 0.01), "flow": (0.01, 0.001)}
"""Where the spacings end."""


class Problem(Protocol):
    """What a sampler may know: the start, the process's highest σ/α, and the model."""

    top: float

    def start(self, alpha: float, sigma: float) -> Tensor:
        """The start as a state α x₀ + σ ε, (B, D)."""
        ...

    def ask(self, x: Tensor, alpha: float, sigma: float, a: float, b: float) -> Tensor:
        """E[a x₀ + b ε | α x₀ + σ ε = x]: one call of the network."""
        ...


@dataclass(frozen=True)
class Peer:
    """One configuration: its package, its name, and run(problem, calls) -> data (B, D).

    Borrowed: on a grid that the package offers for another process (rectified flow's on DDPM's).
    """

    package: str
    name: str
    run: Callable[[Problem, int], Tensor] = field(repr=False)
    borrowed: bool = False

    def __str__(self) -> str:
        return f"{self.package} {self.name}"


def levels(kind: str, nodes: int, top: float, least: float) -> np.ndarray:
    """σ/α at `nodes` places from top to least, equally spaced in its logarithm, its 7th root, or ρ/(1 + ρ)."""
    share = np.linspace(0, 1, nodes) if nodes > 1 else np.zeros(1)
    if kind == "log":
        return np.exp(math.log(top) + share * math.log(least / top))
    if kind == "karras":
        return (top ** (1 / 7) + share * (least ** (1 / 7) - top ** (1 / 7))) ** 7
    if kind == "flow":
        first, last = top / (1 + top), least / (1 + least)
        part = first + share * (last - first)
        return part / (1 - part)
    if kind == "linear":  # equal steps of DDPM's linear chain
        process = ddpm(CHAIN)
        ends = process.time(torch.tensor([-2 * math.log(top), -2 * math.log(least)], dtype=torch.float64)).numpy()
        times = torch.from_numpy(ends[0] + share * (ends[1] - ends[0]))
        return torch.exp(-0.5 * process.logsnr(times)).numpy()
    raise ValueError(f"unknown grid {kind!r}")


def spaced(kind: str, least: float, end: str, calls: int, top: float) -> np.ndarray:
    """The nodes for `calls` steps: the last of them to 0 ("zero"), or to `least` ("stop")."""
    if end == "zero":
        return np.append(levels(kind, calls, top, least), 0.0)
    return levels(kind, calls + 1, top, least)
