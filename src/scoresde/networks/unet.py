"""A U-Net for images and waveforms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from scoresde.networks import _checks
from scoresde.networks.attention import Attention
from scoresde.networks.elementary import differentiable
from scoresde.networks.embedding import Condition
from scoresde.networks.recorded import Recorded, zeroed

Convolution = type[nn.Conv1d] | type[nn.Conv2d]


class UNet(Recorded):
    """Residual convolutions at several resolutions, each half as fine as the last, with skips between equal ones.

    Time modulates every block; at the lowest resolutions all places attend to each other. Sizes need not be even:
    28 becomes 14, 7, 4. Times are expected in [0, 1]: wrap it in `Scaled` or `Preconditioned`. It starts at zero.

    Args:
        shape: of one sample, (C, H, W) or (C, L). width: channels at the full resolution. multipliers: of the width,
            one a resolution. blocks: residual blocks a resolution, on the way down and on the way up.
        attention: how many of the lowest resolutions have self-attention. classes: how many class labels there are,
            or None; net(x, t, label) then takes a label, () or (B,) int64, of which a negative one (or None) stands for
            no condition. features: of the time embedding. dropout: in the blocks.
    Raises:
        ValueError: sizes that make no network; in a call, x, t or label of another shape, or a label without classes.
        TypeError: in a call, x of another dtype than the network's, or a label not of int64.

    Example:
        >>> import torch
        >>> net = UNet((1, 28, 28), width=8, classes=10)
        >>> net(torch.zeros(3, 1, 28, 28), torch.rand(3), torch.tensor([0, 9, -1])).shape
        torch.Size([3, 1, 28, 28])

    Reference: Ronneberger et al. (2015), arXiv 1505.04597; Ho et al. (2020), 2006.11239, app. B; Dhariwal and Nichol
    (2021), 2105.05233, sec. 3 (modulated norms, attention at several resolutions).
    """

    def __init__(
        self,
        shape: Sequence[int],
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 1,
        attention: int = 1,
        classes: int | None = None,
        features: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.shape = _checks.grid(shape)
        multipliers = _checks.several("multipliers", multipliers)
        _checks.whole(width=width, multipliers=multipliers, blocks=blocks, features=features)
        _checks.whole(0, attention=attention)
        if attention > len(multipliers):
            raise ValueError(f"attention must be at most {len(multipliers)}, one a multiplier, got {attention}")
        _checks.number("dropout", dropout, 0.0, 1.0)
        conv: Convolution = nn.Conv1d if len(self.shape) == 2 else nn.Conv2d
        channels, widths, known = self.shape[0], [width * m for m in multipliers], 4 * width
        levels, attentive = range(len(widths)), len(widths) - attention

        def block(level: int, inside: int) -> _Block:
            return _Block(conv, inside, widths[level], known, level >= attentive, dropout)

        self.condition = Condition(features, known, classes)
        self.enter = conv(channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(nn.ModuleList(block(k, widths[k]) for _ in range(blocks)) for k in levels)
        self.coarser = nn.ModuleList(conv(a, b, 3, 2, padding=1) for a, b in pairwise(widths))
        self.middle = nn.ModuleList(block(levels[-1], widths[-1]) for _ in range(2))
        self.finer = nn.ModuleList(conv(b, a, 3, padding=1) for a, b in pairwise(widths))
        self.up = nn.ModuleList(nn.ModuleList(block(k, 2 * widths[k]) for _ in range(blocks)) for k in levels)
        self.norm, self.leave = _norm(widths[0]), zeroed(conv(widths[0], channels, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        _checks.state(x, t, self.shape, self.enter.weight)
        with differentiable(x, t):
            known, hidden, skips = self.condition(t, label), self.enter(x), []
            for level, blocks in enumerate(self.down):
                hidden = self.coarser[level - 1](hidden) if level else hidden
                for block in blocks:  # pyright: ignore[reportGeneralTypeIssues]
                    hidden = block(hidden, known)
                    skips.append(hidden)
            for block in self.middle:
                hidden = block(hidden, known)
            for level, blocks in reversed(list(enumerate(self.up))):
                if level < len(self.finer):
                    hidden = self.finer[level](nn.functional.interpolate(hidden, size=skips[-1].shape[2:]))
                for block in blocks:  # pyright: ignore[reportGeneralTypeIssues]
                    hidden = block(torch.cat([hidden, skips.pop()], 1), known)
            return self.leave(nn.functional.silu(self.norm(hidden))).to(x.dtype)


class _Block(nn.Module):
    """y = Sx + W₂ φ((1 + scale) norm(W₁ φ(norm(x))) + shift), then y + attention(norm(y)) where places attend."""

    def __init__(self, conv: Convolution, inside: int, width: int, known: int, attends: bool, dropout: float) -> None:
        super().__init__()
        self.before, self.after = _norm(inside), _norm(width)
        self.first, self.second = conv(inside, width, 3, padding=1), zeroed(conv(width, width, 3, padding=1))
        self.skip = conv(inside, width, 1) if inside != width else nn.Identity()
        self.film, self.drop = nn.Linear(known, 2 * width), nn.Dropout(dropout)
        self.norm = _norm(width) if attends else None
        self.attention = Attention(width, math.gcd(width, 4)) if attends else None
        if self.attention is not None:
            zeroed(self.attention.leave)

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        scale, shift = self.film(known)[(..., *[None] * (x.ndim - 2))].chunk(2, 1)
        hidden = self.after(self.first(nn.functional.silu(self.before(x)))) * (1 + scale) + shift
        hidden = self.skip(x) + self.second(self.drop(nn.functional.silu(hidden)))
        if self.attention is None or self.norm is None:
            return hidden
        return hidden + self.attention(self.norm(hidden).flatten(2).mT).mT.reshape(hidden.shape)


def _norm(channels: int) -> nn.GroupNorm:
    """GroupNorm by the most groups, up to 32, of at least four channels."""
    groups = next(g for g in (32, 16, 8, 4, 2, 1) if g == 1 or (channels % g == 0 and channels >= 4 * g))
    return nn.GroupNorm(groups, channels)
