"""A multilayer perceptron with the time in every block."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class TimeEmbedding(nn.Module):
    """t in [0, 1] as sines and cosines of `features`/2 frequencies from 1 to 1000: (B,) -> (B, features).

    Reference: Vaswani et al. (2017), arXiv 1706.03762, sec. 3.5; Ho et al. (2020), 2006.11239, app. B.
    """

    frequencies: Tensor

    def __init__(self, features: int = 64) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.logspace(0, 3, features // 2))

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], 1)


class Norm(nn.LayerNorm):
    """LayerNorm in elementary operations: torch's own has a wrong gradient under a forward-mode derivative (2.13)."""

    def forward(self, input: Tensor) -> Tensor:
        centred = input - input.mean(-1, keepdim=True)
        scaled = centred * (centred.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return torch.addcmul(self.bias, scaled, self.weight)


class _Block(nn.Module):
    """x + W₂ φ((1 + scale) W₁ norm(x) + shift), scale and shift linear in the embedding of time (FiLM)."""

    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        self.norm = Norm(width)
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.film = nn.Linear(features, 2 * width)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.film(time).chunk(2, 1)
        return x + self.second(nn.functional.silu(self.first(self.norm(x)) * (1 + scale) + shift))


class MLP(nn.Module):
    """Residual blocks with sinusoidal time embedding and feature-wise modulation in every block.

    Args:
        shape: of one sample, D or a tuple. width: of the blocks. blocks: how many. features: of the embedding.
            Times are expected in [0, 1]; wrap it in `Scaled` for other processes and scales of x.

    Example:
        >>> import torch
        >>> MLP((8, 8))(torch.zeros(3, 8, 8), torch.rand(3)).shape
        torch.Size([3, 8, 8])

    Reference: He et al. (2016), arXiv 1512.03385 (residual); Perez et al. (2018), 1709.07871 (FiLM).
    """

    def __init__(self, shape: int | Sequence[int], width: int = 256, blocks: int = 3, features: int = 64) -> None:
        super().__init__()
        self.shape: tuple[int, ...] = (shape,) if isinstance(shape, int) else tuple(shape)
        sizes = {"shape": self.shape or (0,), "width": (width,), "blocks": (blocks,), "features": (features,)}
        for name, values in sizes.items():
            if not all(isinstance(value, int) and value >= 1 for value in values):
                raise ValueError(f"{name} must be of whole numbers of at least 1, got {values[0]!r}")
        if features % 2:
            raise ValueError(f"features must be even, got {features}")
        dim = math.prod(self.shape)
        self.embedding = nn.Sequential(TimeEmbedding(features), nn.Linear(features, features), nn.SiLU())
        self.enter, self.leave = nn.Linear(dim, width), nn.Linear(width, dim)
        self.blocks = nn.ModuleList(_Block(width, features) for _ in range(blocks))
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"x must have shape (B, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")
        if x.dtype != self.enter.weight.dtype:
            raise TypeError(f"x must have the network's dtype, {self.enter.weight.dtype}, got {x.dtype}")
        if t.shape != x.shape[:1] or t.dtype != x.dtype:
            raise ValueError(f"t must have shape ({len(x)},) and x's dtype, got {tuple(t.shape)} {t.dtype}")
        time, hidden = self.embedding(t), self.enter(x.flatten(1))
        for block in self.blocks:
            hidden = block(hidden, time)
        return self.leave(hidden).reshape(x.shape)


class Scaled(nn.Module):
    """A network on any process: its input is brought to unit scale, and its time to log-SNR on [0, 1].

    The network sees x/√(α² s² + σ²), and the place of t between σ/α = 1/1000 (0) and 1000 (1) in log σ/α.

    Args:
        net: a network for times in [0, 1]. process: with alpha, sigma and logsnr. scale: s, of the data.

    Reference: Karras et al. (2022), arXiv 2206.00364, eq. 7 and table 1 (c_in, c_noise).
    """

    def __init__(self, net: nn.Module, process: object, scale: float = 1.0) -> None:
        super().__init__()
        if not all(hasattr(process, name) for name in ("alpha", "sigma")):
            raise TypeError(f"process must be a Process, such as VP(), got {process!r}")
        if not 0 < scale < math.inf:
            raise ValueError(f"scale must be positive and finite, got {scale}")
        self.net, self.process, self.scale = net, process, scale

    def forward(self, x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        process, wide = self.process, t.double() if t.device.type != "mps" else t
        alpha, sigma = process.alpha(wide), process.sigma(wide)  # pyright: ignore[reportAttributeAccessIssue]
        size = torch.hypot(self.scale * alpha, sigma).to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
        edge = math.log(1000)
        place = (sigma.log() - alpha.log()).clamp(-edge, edge) / (2 * edge) + 0.5
        return self.net(x / size, place.to(t.dtype), **cond)
