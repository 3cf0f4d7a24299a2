"""Time and class label as vectors."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from scoresde.networks import _checks

HIGHEST = 32.0
"""The highest frequency of UNet and DiT, whose time is a place in log-SNR 27.6 wide: an angle turns by 1 where log-SNR
moves by 0.9, and optimal denoisers change no faster. Likelihoods need calls as close together as the network bends: of
an MLP on a mixture in the plane, to 1e-3 nats, 64 at 4 or 32, 180 at 128, 960 at 1000, for the same loss."""


class TimeEmbedding(nn.Module):
    """t in [0, 1] as sines and cosines of `features`/2 frequencies from 1 to `highest`: (B,) -> (B, features).

    Args:
        features: how many, an even number. highest: the highest frequency, at least 1.
    Raises:
        ValueError: features below 1 or odd, highest below 1.

    Example:
        >>> import torch
        >>> TimeEmbedding(4)(torch.zeros(1))  # sines, then cosines
        tensor([[0., 0., 1., 1.]])

    Reference: Vaswani et al. (2017), arXiv 1706.03762, sec. 3.5; Ho et al. (2020), 2006.11239, app. B.
    """

    frequencies: Tensor

    def __init__(self, features: int = 64, highest: float = 1000.0) -> None:
        super().__init__()
        _checks.whole(features=features)
        _checks.even("features", features)
        highest = _checks.number("highest", highest, 1.0)
        self.register_buffer("frequencies", torch.logspace(0, math.log10(highest), features // 2))

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], 1)


class LabelEmbedding(nn.Module):
    """A vector for each of `classes`, and one for no condition: (B,) -> (B, features).

    Args:
        classes: how many; labels run from 0. features: of a vector.
    """

    def __init__(self, classes: int, features: int) -> None:
        super().__init__()
        _checks.whole(classes=classes)
        self.table = nn.Embedding(classes + 1, features)
        nn.init.normal_(self.table.weight, std=features**-0.5)

    def forward(self, label: Tensor | None, t: Tensor) -> Tensor:
        """label: () or (B,) int64; a negative one, or None for all, stands for no condition."""
        none = self.table.num_embeddings - 1
        if label is None:
            return self.table.weight[-1].expand(len(t), -1)
        index = _checks.label(label, len(t))
        if _checks.readable(index) and bool((index >= none).any()):
            raise ValueError(f"label must be below {none}, the number of classes, got {int(index.max())}")
        return self.table(torch.where(index < 0, none, index))


class Condition(nn.Module):
    """What the blocks of a network know: time, and a class label if it has classes: (B,) -> (B, width).

    Args:
        features: of the time embedding. width: of the result. classes: how many, or None. highest: frequency of t.
    """

    def __init__(self, features: int, width: int, classes: int | None = None, highest: float = HIGHEST) -> None:
        super().__init__()
        _checks.even("features", features)
        self.time = nn.Sequential(
            TimeEmbedding(features, highest), nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.label = None if classes is None else LabelEmbedding(classes, width)

    def forward(self, t: Tensor, label: Tensor | None = None) -> Tensor:
        return nn.functional.silu(add_label(self.label, self.time(t), t, label))


def add_label(embedding: LabelEmbedding | None, vector: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
    """`vector` with the label's added; a label without an embedding is refused."""
    if embedding is not None:
        return vector + embedding(label, t)
    if label is not None:
        raise ValueError("label was given to a network without classes; build it with classes=10, or leave label out")
    return vector
