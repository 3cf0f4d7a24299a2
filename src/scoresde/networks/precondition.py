"""Any process for a network that wants unit inputs and times in [0, 1]; EDM's preconditioning."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scoresde.networks import _checks
from scoresde.networks.recorded import Recorded

Row = Callable[[Any, Tensor], tuple[Any, Any]]

UNBOUNDED = 1e100
"""A coefficient beyond this is infinite."""

EDGE = math.log(1000)
"""Networks tell log σ/α apart between −EDGE and EDGE."""


class Scaled(Recorded):
    """A network on any process: its input is brought to unit scale, and its time to log-SNR on [0, 1].

    The network sees x/√(α² s² + σ²), and the place of t between σ/α = 1/1000 (0) and 1000 (1) in log σ/α.

    Args:
        net: a network for times in [0, 1]. process: with alpha, sigma and logsnr. scale: s, of the data.
    Raises:
        ValueError: scale not positive. TypeError: net not callable, process without these functions.

    Example:
        >>> import torch
        >>> from scoresde import EDM
        >>> from scoresde.networks import Scaled
        >>> Scaled(lambda x, place: x, EDM(), scale=3.0)(torch.ones(1, 2), torch.tensor([4.0]))  # 1/√(3² + 4²)
        tensor([[0.2000, 0.2000]])

    Reference: Karras et al. (2022), arXiv 2206.00364, eq. 7 and table 1 (c_in, c_noise).
    """

    def __init__(self, net: Any, process: Any, scale: float = 1.0) -> None:
        super().__init__()
        if _checks.number("scale", scale, 0.0) == 0.0:
            raise ValueError(f"scale must be positive and finite, got {scale}")
        self.net, self.process, self.scale = _checks.net(net), _checks.process(process, "alpha", "sigma"), scale

    def forward(self, x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        return self._ask(x, t, self._levels(t), cond)

    def _wide(self, t: Tensor) -> Tensor:
        return t.double() if t.device.type != "mps" else t

    def _levels(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """α, σ and √(α² s² + σ²) at t: (B,), in float64 where there is one."""
        wide = self._wide(t)
        alpha, sigma = self.process.alpha(wide), self.process.sigma(wide)
        return alpha, sigma, torch.hypot(self.scale * alpha, sigma)

    def _ask(self, x: Tensor, t: Tensor, levels: tuple[Tensor, Tensor, Tensor], cond: dict[str, Any]) -> Tensor:
        alpha, sigma, size = levels
        place = (sigma.log() - alpha.log()).clamp(-EDGE, EDGE) / (2 * EDGE) + 0.5
        return self.net(x / _spread(size, x), place.to(t.dtype), **cond)


class Preconditioned(Scaled):
    """A mean of x and of what the network F says, weighted by the noise: EDM's estimate of x₀, or of any row (a, b).

        y = u x + w F(x/h, place of t),    h² = α² s² + σ²
        u = (a α s² + b σ)/h²,    w = (a σ − b α) s/h        (x₀, a = 1 and b = 0: EDM's c_skip/α and c_out)

    What F learns is the row (σ/(s h), −s α/h), of unit variance at every noise, for whatever prediction; F = 0 is the
    best linear estimate for data of mean zero and standard deviation s. Finite at both ends of time: a row that is not
    (the velocity of `Sigmoid`, noise's share of the score) has the value of a time a rounding of float32 away.

    Args:
        net: F, a network for times in [0, 1], which are the places that `Scaled` gives. process: with alpha and
            sigma. scale: s, the standard deviation of the data.
        row: (process, t) -> (a, b), what it estimates: x₀ if None, or one of scoresde.PREDICTIONS.
    Raises:
        ValueError: scale not positive. TypeError: net or row not callable, process without these functions.

    Example:
        >>> import torch
        >>> from scoresde import EDM, PREDICTIONS, Model
        >>> from scoresde.networks import MLP, Preconditioned
        >>> model = Model(Preconditioned(MLP(2), EDM(), scale=0.5), EDM(), "x0")
        >>> model(torch.ones(1, 2), 0.5)  # an untrained F is zero: half of x
        tensor([[0.5000, 0.5000]], grad_fn=<AddBackward0>)
        >>> model = Model(Preconditioned(MLP(2), EDM(), 0.5, PREDICTIONS["noise"]), EDM(), "noise")
        >>> model(torch.ones(1, 2), 0.5)  # x = x₀ + ε/2, so that the other half is the noise's
        tensor([[1., 1.]], grad_fn=<AddBackward0>)

    Reference: Karras et al. (2022), arXiv 2206.00364, eq. 7 and table 1 (the column "Ours").
    """

    def __init__(self, net: Any, process: Any, scale: float = 1.0, row: Row | None = None) -> None:
        super().__init__(net, process, scale)
        if row is not None and not callable(row):
            raise TypeError(f"row must be a function (process, t) -> (a, b), such as PREDICTIONS['noise'], got {row!r}")
        self.row = row

    def forward(self, x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        alpha, sigma, size = levels = self._levels(t)
        a, b = (1.0, 0.0) if self.row is None else self._held(self._wide(t))
        skip = (a * alpha * self.scale**2 + b * sigma) / size**2
        out = (a * sigma - b * alpha) * self.scale / size
        return _spread(skip, x) * x + _spread(out, x) * self._ask(x, t, levels, cond)

    def _held(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The row at t: (B,), where it is infinite that just inside."""
        assert self.row is not None
        last = self.process.t_max
        rows = (self.row(self.process, at) for at in (t.clamp_min(1e-300), t.clamp(1e-7 * last, last * (1 - 2.0**-24))))
        here, inside = ([torch.as_tensor(c, dtype=t.dtype, device=t.device) for c in row] for row in rows)
        a, b = (torch.where(c.abs() < UNBOUNDED, c, d) for c, d in zip(here, inside))
        return a, b


def _spread(value: Tensor, x: Tensor) -> Tensor:
    return value.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
