"""A network for integer images: every pixel's histogram, given the noisy image, and its exact noise prediction.

In y = x/α and ρ = σ/α the network gives each pixel heights h_k of a piecewise constant density on K runs of levels
with edges e_k; the pixel's own evidence is taken exactly,

    Z(y) = Σ_k h_k [Φ((e_{k+1} − y)/ρ) − Φ((e_k − y)/ρ)],      ε̂ = −ρ ∂_y log Z(y),

so that levels of a 256th of the range stay sharp at every noise, and what is learned is smooth. It starts as the
exact model of independent pixels, each with its histogram in the training data. That is for levels with uniform noise
in their bins; for bare levels, at the bins' centres, the same heights belong to a comb of points instead.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from scoresde import Process
from scoresde.networks import TimeEmbedding

LEAST, MOST = 0.1, 10.0
"""The network tells noises apart from a tenth of a level's width to ten times the data's."""

NEAR = 7
"""Levels on each side that matter to a comb up to σ/α of one level's width, from where it is as good as its runs."""


def runs(levels: Tensor, count: int, share: float = 1 / 64) -> Tensor:
    """Edges (K + 1,) that cut 0..count into runs of levels, none with less than `share` of the pixels if it can be.

    A level that has the share itself is a run of its own.
    """
    frequency = torch.bincount(levels.flatten(), minlength=count).double() / levels.numel()
    edges, held = [0], 0.0
    for level, part in enumerate(frequency.tolist()):
        if level > edges[-1] and (held >= share or part >= share):
            edges.append(level)
            held = 0.0
        held += part
    return torch.tensor([*edges, count])


class Histogram(nn.Module):
    """Noise of images (B, H, W) in [−1, 1] by a small U-Net that predicts the pixels' histograms.

    Args:
        levels: (N, H, W), the training images, integers from 0. count: how many levels there are.
        process: the model's. patch: pixels a side that share one place of the U-Net. width: channels there, twice
            that at half the resolution. blocks: residual blocks at each of its three stages.
    """

    def __init__(
        self, levels: Tensor, count: int, process: Process, patch: int = 1, width: int = 48, blocks: int = 2,
        dropout: float = 0.1, features: int = 64,
    ) -> None:  # fmt: skip
        super().__init__()
        self.process, self.patch, self.width, self.comb = process, patch, 2 / count, False
        cuts = runs(levels, count)
        k = torch.bucketize(levels, cuts, right=True) - 1
        occurrence = functional.one_hot(k, len(cuts) - 1).double()
        prior = (occurrence.sum(0) + occurrence.mean((0, 1, 2))) / (len(levels) + 1)  # one pseudo-count a pixel
        widths = cuts.diff() * self.width
        self.register_buffer("edges", 2 * cuts.double() / count - 1)
        self.register_buffer("log_heights", (prior / widths).log())  # (H, W, K)
        self.register_buffer("scale", (2 / count * levels.double() - 1).std())
        self.register_buffer("run", torch.bucketize(torch.arange(count), cuts, right=True) - 1, persistent=False)
        side, bins = levels.shape[1] // patch, len(cuts) - 1
        self.time = nn.Sequential(TimeEmbedding(features), nn.Linear(features, 2 * features), nn.SiLU())
        self.enter = nn.Conv2d(3 * patch**2, width, 3, padding=1)
        self.place = nn.Parameter(0.1 * torch.randn(width, side, side))
        film = 2 * features
        self.down = nn.ModuleList(_Block(width, film, dropout) for _ in range(blocks))
        self.halve = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.middle = nn.ModuleList(_Block(2 * width, film, dropout) for _ in range(blocks))
        self.narrow = nn.Conv2d(2 * width, width, 1)
        self.up = nn.ModuleList(_Block(width, film, dropout) for _ in range(blocks))
        self.leave = nn.Conv2d(width, bins * patch**2, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        wide = t.double()
        alpha, own = (c[:, None, None] for c in (self.process.alpha(wide), self.process.sigma(wide)))
        y, own = x.double() / alpha, own / alpha
        # levels with noise ρ look like levels spread over their bins, of variance w²/12, with that much less noise
        least = LEAST * self.width
        rho = (own**2 - self.width**2 / 12).clamp_min(least**2).sqrt() if self.comb else own
        place = ((rho / least).log() / math.log(MOST / least)).clamp(0, 1)[:, 0, 0].to(x.dtype)
        inside = y.maximum(self.edges[0] - 6 * rho).minimum(self.edges[-1] + 6 * rho)
        reach = (self.edges - inside[..., None]) / rho[..., None]
        mass = 0.5 * torch.erf(reach / math.sqrt(2)).diff(dim=-1)
        slope = (-0.5 * reach.square()).exp().diff(dim=-1) / math.sqrt(2 * math.pi)
        joint = self.log_heights.exp() * mass
        total = joint.sum(-1)
        alone = inside - rho * (self.log_heights.exp() * slope).sum(-1) / total  # x0 by the pixel alone
        seen = torch.stack([y / (rho**2 + self.scale**2).sqrt(), alone, joint[..., 0] / total], 1).to(x.dtype)
        heights = (self.log_heights + self._correction(seen, place)).exp()
        noise = (heights * slope).sum(-1) / (heights * mass).sum(-1) + (y - inside) / rho
        if self.comb:
            noise = noise * own / rho
            if bool((own < self.width).any()):
                noise = torch.where(own < self.width, self._comb(heights, y, own), noise)
        return noise.to(x.dtype)

    def bare(self) -> Histogram:
        """The network of bare levels at the bins' centres, with the same weights."""
        other = copy.copy(self)
        other.comb = True
        return other

    def _comb(self, heights: Tensor, y: Tensor, rho: Tensor) -> Tensor:
        """ε̂ of points at the levels' centres with the heights of their runs: by the nearest of them."""
        nearest = ((y.detach() - self.edges[0]) / self.width).floor().clamp(0, len(self.run) - 1).long()
        level = nearest[..., None] + torch.arange(-NEAR, NEAR + 1, device=y.device)
        exists, level = (level >= 0) & (level < len(self.run)), level.clamp(0, len(self.run) - 1)
        reach = (y[..., None] - self.edges[0] - self.width * (level + 0.5)) / rho[..., None]
        logs = heights.log().gather(-1, self.run[level]) - 0.5 * reach.square()
        return (logs.masked_fill(~exists, -math.inf).softmax(-1) * reach).sum(-1)

    def _correction(self, seen: Tensor, place: Tensor) -> Tensor:
        """What the image adds to the logarithms of the heights, (B, H, W, K), from (B, 3, H, W)."""
        time = self.time(place)
        hidden = self.enter(functional.pixel_unshuffle(seen, self.patch)) + self.place
        for block in self.down:
            hidden = block(hidden, time)
        skip, hidden = hidden, self.halve(hidden)
        for block in self.middle:
            hidden = block(hidden, time)
        hidden = functional.interpolate(self.narrow(hidden), size=skip.shape[-2:]) + skip
        for block in self.up:
            hidden = block(hidden, time)
        return (
            functional.pixel_shuffle(self.leave(functional.silu(hidden)), self.patch).permute(0, 2, 3, 1).clamp(-30, 30)
        )


class _Block(nn.Module):
    """x + W₂ φ((1 + scale) W₁ norm(x) + shift) with 3 × 3 convolutions, scale and shift linear in the time."""

    def __init__(self, width: int, features: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.drop = nn.GroupNorm(8, width), nn.Dropout(dropout)
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.film = nn.Linear(features, 2 * width)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.film(time)[..., None, None].chunk(2, 1)
        hidden = self.first(functional.silu(self.norm(x))) * (1 + scale) + shift
        return x + self.second(self.drop(functional.silu(hidden)))
