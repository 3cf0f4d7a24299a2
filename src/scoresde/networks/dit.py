"""A transformer of patches."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scoresde.networks import _checks
from scoresde.networks.attention import Attention
from scoresde.networks.elementary import differentiable
from scoresde.networks.embedding import Condition
from scoresde.networks.mlp import Norm
from scoresde.networks.recorded import Recorded, zeroed


class DiT(Recorded):
    """Patches of an image or a waveform as tokens of a transformer, each block modulated by time (adaLN-zero).

    Positions are fixed sines and cosines. Times are expected in [0, 1]: wrap it in `Scaled` or `Preconditioned`. It
    starts at zero.

    Args:
        shape: of one sample, (C, H, W) or (C, L). patch: how many pixels a side make a token; it divides H and W.
        width: of a token; a multiple of 4 (2 for waveforms), and of heads. blocks: how many. heads: of the attention.
        classes: how many class labels there are, or None; net(x, t, label) then takes a label, () or (B,) int64, of
            which a negative one (or None) stands for no condition. features: of the time embedding.
    Raises:
        ValueError: sizes that make no network; in a call, x, t or label of another shape, or a label without classes.
        TypeError: in a call, x of another dtype than the network's, or a label not of int64.

    Example:
        >>> import torch
        >>> net = DiT((1, 8, 8), width=32, blocks=2, classes=10)
        >>> net(torch.zeros(3, 1, 8, 8), torch.rand(3), torch.tensor([0, 9, -1])).shape
        torch.Size([3, 1, 8, 8])

    Reference: Peebles and Xie (2023), arXiv 2212.09748, sec. 3.2 (adaLN-zero).
    """

    positions: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        patch: int = 2,
        width: int = 128,
        blocks: int = 4,
        heads: int = 4,
        classes: int | None = None,
        features: int = 64,
    ) -> None:
        super().__init__()
        self.shape, self.patch = _checks.grid(shape), patch
        _checks.whole(patch=patch, width=width, blocks=blocks, heads=heads, features=features)
        channels, *sizes = self.shape
        if any(size % patch for size in sizes):
            raise ValueError(f"patch must divide the sizes {tuple(sizes)}, got {patch}; write patch={math.gcd(*sizes)}")
        if width % heads or width % (2 * len(sizes)):
            raise ValueError(f"width must be a multiple of heads={heads} and of {2 * len(sizes)}, got {width}")
        self.grid, token = tuple(size // patch for size in sizes), channels * patch ** len(sizes)
        self.register_buffer("positions", _positions(self.grid, width), persistent=False)
        self.condition = Condition(features, width, classes)
        self.enter = nn.Linear(token, width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(blocks))
        self.norm = Norm(width, elementwise_affine=False)
        self.modulation, self.leave = zeroed(nn.Linear(width, 2 * width)), zeroed(nn.Linear(width, token))

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        _checks.state(x, t, self.shape, self.enter.weight)
        with differentiable(x, t):
            known, tokens = self.condition(t, label), self.enter(self._cut(x)) + self.positions
            for block in self.blocks:
                tokens = block(tokens, known)
            shift, scale = self.modulation(known)[:, None].chunk(2, -1)
            return self._join(self.leave(self.norm(tokens) * (1 + scale) + shift)).to(x.dtype)

    def _cut(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, N, C p²), and likewise in one dimension."""
        pieces = x.reshape(len(x), self.shape[0], *(n for size in self.grid for n in (size, self.patch)))
        pieces = pieces.permute(0, *range(2, pieces.ndim, 2), 1, *range(3, pieces.ndim, 2))
        return pieces.reshape(len(x), len(self.positions), self.enter.in_features)

    def _join(self, tokens: Tensor) -> Tensor:
        """The inverse of `_cut`."""
        dim = len(self.grid)
        pieces = tokens.reshape(len(tokens), *self.grid, self.shape[0], *[self.patch] * dim)
        order = (n for axis in range(1, dim + 1) for n in (axis, dim + 1 + axis))
        return pieces.permute(0, dim + 1, *order).reshape(len(tokens), *self.shape)


class _Block(nn.Module):
    """x + g₁ attention(m₁(x)), then x + g₂ W₂ φ(W₁ m₂(x)), m(x) = (1 + scale) norm(x) + shift; gates start at zero."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm, self.attention = Norm(width, elementwise_affine=False), Attention(width, heads)
        self.first, self.second = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.modulation = zeroed(nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        shift, scale, gate, late_shift, late_scale, late_gate = self.modulation(known)[:, None].chunk(6, -1)
        x = x + gate * self.attention(self.norm(x) * (1 + scale) + shift)
        hidden = nn.functional.gelu(self.first(self.norm(x) * (1 + late_scale) + late_shift), approximate="tanh")
        return x + late_gate * self.second(hidden)


def _positions(grid: Sequence[int], width: int) -> Tensor:
    """Sines and cosines of each axis's index, at wavelengths from 2π to 10,000 · 2π: (N, width)."""
    count = width // (2 * len(grid))
    frequencies = 10_000.0 ** (-torch.arange(count) / count)
    axes = torch.meshgrid(*(torch.arange(size) for size in grid), indexing="ij")
    angles = [axis.reshape(-1, 1) * frequencies for axis in axes]
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], 1)
