"""Noise inside the bins of integer data: uniform, truncated normal, and learned.

log P(x) ≥ E_q[log p(x + u) − log q(u | x)], for any q that stays in the bin                  (docs/theory, eq. 41)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scoresde import _checks
from scoresde.likelihood.lattice import Bins
from scoresde.model import Model, is_conditioned
from scoresde.process.base import Process

SCALE = 1 / 7
"""κ, in bins: the σ/α at which a model of bare levels is asked (0.05 % of a normal lies outside ±3.5 deviations), and
at which its score trains a dequantizer. Nearer to the data a network's error outweighs its score: on digits, a
dequantizer trained at a fifth of it was 0.23 bits/dim worse than uniform, and level with it or 0.01 better at it."""

PEAKED = 1 / 2
"""The share of 1/κ² from which the curvature of log p within a bin tells bare levels (docs/theory, eq. 43)."""

NUMBERS = 2**15
"""How many numbers tell whether a model knows bare levels."""


class Dequantizer(ABC):
    """A law of the noise inside a bin, and the noise level σ/α at which the model's density is asked."""

    @abstractmethod
    def draw(self, x: Tensor, u: Tensor, bins: Bins) -> tuple[Tensor, Tensor]:
        """From uniform numbers u: places y in [0, 1] of the bins of x, both (B, *), and log q(y | x): (B,)."""

    def ratio(self, bins: Bins) -> float:
        """σ/α of the time at which the density is asked; 0: of the data themselves."""
        return 0.0


@dataclass(frozen=True)
class Uniform(Dequantizer):
    """Every place in the bin alike: right for a model that was trained on uniformly dequantized data.

    Example:
        >>> import torch
        >>> from scoresde import VP, bits_per_dim, targets
        >>> even = lambda model, x, **_: torch.full((len(x),), -0.6931)  # log ½ on [−1, 1]: all levels alike
        >>> x = torch.tensor([[0], [3]])
        >>> round(bits_per_dim(targets.Gaussian([0.0], 1.0).model(VP()), x, 4, Uniform(), density=even).value, 3)
        2.0

    Reference: Theis et al. (2016), arXiv 1511.01844, sec. 3.1.
    """

    def draw(self, x: Tensor, u: Tensor, bins: Bins) -> tuple[Tensor, Tensor]:
        return u, u.new_zeros(len(u))


@dataclass(frozen=True)
class TruncatedNormal(Dequantizer):
    """A normal around the bin's centre, cut at its edges: right for a model that was trained on bare levels.

    The density is asked at the time where σ/α = `noise`, where levels with noise are what the model knows.

    Args:
        scale: the standard deviation, in widths of the narrowest bin. noise: in the same unit; None: `scale`.
    Raises:
        ValueError: a scale that is not above zero, a negative noise.

    Example:
        >>> import torch
        >>> from scoresde import VP, bits_per_dim, targets
        >>> bare = targets.Empirical(torch.tensor([[-0.75], [0.25]]), 1e-3)  # levels 0 and 2 of four, half and half
        >>> x = torch.tensor([[0], [2]])
        >>> exact = lambda model, x, t=0.0, **_: bare.marginal(VP(), t).log_prob(x)
        >>> round(bits_per_dim(bare.model(VP()), x, 4, TruncatedNormal(1 / 8), density=exact).value, 3)
        1.0

    Reference: Zheng et al. (2023), arXiv 2305.03935, sec. 3.2 (about 3 deviations); docs/theory, B3.
    """

    scale: float
    noise: float | None = None

    def __post_init__(self) -> None:
        _checks.positive("scale", self.scale)
        if self.noise is not None:
            _checks.number("noise", self.noise, 0.0)

    def ratio(self, bins: Bins) -> float:
        return bins.narrowest * (self.scale if self.noise is None else self.noise)

    def draw(self, x: Tensor, u: Tensor, bins: Bins) -> tuple[Tensor, Tensor]:
        deviation = self.scale * bins.narrowest / bins.width
        inside = torch.erf(1 / (math.sqrt(8) * deviation))
        z = math.sqrt(2) * torch.erfinv((2 * u - 1) * inside)
        log_q = -0.5 * z**2 - (deviation * inside * math.sqrt(2 * math.pi)).log()
        return 0.5 + deviation * z, log_q.flatten(1).sum(1)


class Variational(Dequantizer, nn.Module):
    """A learned law: `base` with its uniform numbers drawn from a Kumaraswamy of each entry, a and b by `net` of x.

    F(u) = 1 − (1 − uᵃ)ᵇ. At a = b = 1, where `fit_dequantizer` begins, it is `base`.

    Args:
        net: levels scaled to [−1, 1], (B, *), to log a and log b: (B, 2, *). base: Uniform() or TruncatedNormal(…).

    Reference: Ho et al. (2019), arXiv 1902.00275, sec. 3.1; Kumaraswamy (1980); docs/theory, B5.
    """

    def __init__(self, net: nn.Module, base: Dequantizer) -> None:
        super().__init__()
        self.net, self.base = net, base

    def ratio(self, bins: Bins) -> float:
        return self.base.ratio(bins)

    def draw(self, x: Tensor, u: Tensor, bins: Bins) -> tuple[Tensor, Tensor]:
        like = next(self.net.parameters())
        try:
            logs = self.net(((2 * x + 1) / bins.levels - 1).to(like))
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"dequantize was fitted to other shapes than {tuple(x.shape)}: {error}") from error
        if logs.shape != (len(x), 2, *x.shape[1:]):
            raise ValueError(f"net must return (B, 2, *) for x of shape {tuple(x.shape)}, got {tuple(logs.shape)}")
        log_a, log_b = (3 * torch.tanh(logs.to(u) / 3)).unbind(1)  # a, b in [1/20, 20]
        rest = torch.log1p(-u.clamp(1e-12, 1 - 1e-12)) / log_b.exp()  # log(1 − vᵃ)
        log_v = torch.log(-torch.expm1(rest)) / log_a.exp()
        log_k = log_a + log_b + torch.expm1(log_a) * log_v + torch.expm1(log_b) * rest
        y, log_q = self.base.draw(x, log_v.exp().clamp(1e-15, 1 - 1e-15), bins)
        return y, log_q + log_k.flatten(1).sum(1)


def time_of(process: Process, ratio: float) -> float:
    """The time at which σ/α = ratio; 0 for 0."""
    if ratio == 0:
        return 0.0
    least = floor(process)
    if not least <= ratio:
        raise ValueError(
            f"dequantize asks for σ/α = {ratio:.3g}, but {process!r} and its networks begin at {least:.3g}; "
            "use fewer levels, a wider range low..high, or a larger scale"
        )
    return float(process.time(-2 * math.log(ratio)))


def floor(process: Process) -> float:
    """The least σ/α at which a network is asked, and a little more, since t = 0 means the data themselves."""
    return 1.001 * math.exp(-0.5 * float(process.logsnr(process.t_min)))


def score(model: Model, points: Tensor, ratio: float) -> Tensor:
    """∇ log of the density of x_t/α at `points`, where σ/α = ratio: (B, *), float64, by one call."""
    t, like = time_of(model.process, ratio), model.like()
    alpha = float(model.process.alpha(t))
    with torch.no_grad():
        return alpha * model.predict("score", (alpha * points).to(like.dtype), t).double()


def uniform(shape: Any, generator: torch.Generator | None, device: Any) -> Tensor:
    """Uniform numbers in the open interval (0, 1), float64."""
    source = _checks.device_of(generator, device)
    numbers = torch.rand(shape, generator=generator, device=source, dtype=torch.float64)
    return numbers.clamp_min(2.0**-54).to(device)


def matched(model: Model, x: Tensor, bins: Bins, generator: torch.Generator | None = None) -> Dequantizer:
    """TruncatedNormal for a model that knows bare levels, Uniform for one of dequantized data.

    At σ/α = κ, a seventh of a bin, log p within a bin is a constant − b v² with 2b = 1/κ² for bare levels, and flat
    for dequantized data. b is its regression on v² over the bin, integrated by parts so that one call of the score
    gives it; from half of 1/κ² on, the normal with that deviation is taken.

    Reference: docs/theory, B4.
    """
    kappa = max(SCALE * bins.narrowest, floor(model.process))
    rows = x
    if not is_conditioned(model):
        size = math.prod(x.shape[1:])
        rows = x.repeat(min(512, 1 + NUMBERS // x.numel()), *[1] * (x.ndim - 1))[: max(64, NUMBERS // size)]
    u = uniform(rows.shape, generator, x.device)
    y, w = u - 0.5, bins.width
    profile = y / 3 * (0.25 - y**2) * w * score(model, bins.place(rows, u), kappa)
    b = -180 * float((w**2 * profile).mean() / (w**4).mean())
    if 2 * b * kappa**2 < PEAKED:
        return Uniform()
    return TruncatedNormal(1 / math.sqrt(2 * b) / bins.narrowest, kappa / bins.narrowest)


class _Entries(nn.Module):
    """Two hidden layers from all levels to two numbers an entry, zero at first."""

    def __init__(self, shape: torch.Size, width: int) -> None:
        super().__init__()
        dim, self.shape = math.prod(shape), shape
        self.layers = nn.Sequential(
            nn.Linear(dim, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2 * dim)
        )
        nn.init.zeros_(self.layers[-1].weight)  # pyright: ignore[reportArgumentType]
        nn.init.zeros_(self.layers[-1].bias)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(1)).reshape(-1, 2, *self.shape)


def fit_dequantizer(
    model: Model,
    x: Tensor,
    levels: int = 256,
    steps: int = 500,
    *,
    low: Any = -1.0,
    high: Any = 1.0,
    width: int = 64,
    batch_size: int = 256,
    lr: float = 5e-3,
    net: nn.Module | None = None,
    generator: torch.Generator | None = None,
) -> Variational:
    """A learned dequantizer for `bits_per_dim`, trained to raise E_q[log p(x + u) − log q(u | x)].

    ∇_φ E log p(v_φ) = E[∇log p(v_φ) · ∂v_φ/∂φ]: a step asks the model's score once and differentiates q alone.
    It begins at the uniform law, or at the truncated normal where the model knows bare levels.

    Args:
        model: of the levels, scaled. levels: how many there are.
        x: (N, *), levels 0..levels − 1, integers; training data, or the very data to be measured (any q gives a
            bound). steps, batch_size, lr: of Adam, the rate falling to zero. low, high: as in `bits_per_dim`.
        width: of the two hidden layers. net: your own instead, levels scaled to [−1, 1], (B, *), to (B, 2, *),
            best with zeros at first. generator: the source of weights, batches and noise.
    Returns:
        Variational, to be given as dequantize=….
    Raises:
        TypeError, ValueError: an argument that does not fit, or a score that is not finite.

    Example:
        >>> import torch
        >>> from scoresde import VP, bits_per_dim, targets
        >>> model = targets.Gaussian([0.3], 0.2).model(VP())
        >>> x = torch.tensor([[3], [2], [3]])
        >>> learned = fit_dequantizer(model, x, levels=4, steps=5)
        >>> bits_per_dim(model, x, levels=4, dequantize=learned, samples=2).each.shape
        torch.Size([3])

    Reference: Ho et al. (2019), arXiv 1902.00275, sec. 3.1; docs/theory, B5.
    """
    _checks.kind("model", model, Model, "Model(net, VP())")
    bins = Bins.of(x, levels, low, high)
    steps, batch_size = _checks.count("steps", steps), _checks.count("batch_size", batch_size)
    _checks.positive("lr", lr)
    base = matched(model, x, bins, generator)
    if net is None:
        net = _seeded(lambda: _Entries(x.shape[1:], _checks.count("width", width)), generator)
        net = net.to(x.device, model.like().dtype)
    law = Variational(_checks.kind("net", net, nn.Module, "nn.Linear"), base)
    if not (weights := [p for p in law.parameters() if p.requires_grad]):
        raise ValueError("net has no parameters to train")
    ratio = base.ratio(bins) or max(SCALE * bins.narrowest, floor(model.process))
    optimizer, whole = torch.optim.Adam(weights, lr=lr), is_conditioned(model) or len(x) <= batch_size
    for step in range(steps):
        pick = None if whole else uniform((batch_size,), generator, x.device).mul(len(x)).long()
        rows = x if pick is None else x[pick]
        gain = gained(model, law, rows, uniform(rows.shape, generator, x.device), bins, ratio)
        for group in optimizer.param_groups:
            group["lr"] = lr * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        optimizer.zero_grad()
        (-gain.mean() / math.prod(x.shape[1:])).backward()
        optimizer.step()
    return law.eval().requires_grad_(False)


def gained(model: Model, law: Dequantizer, x: Tensor, u: Tensor, bins: Bins, ratio: float) -> Tensor:
    """(B,), whose gradient in the law's parameters is that of log p(v) − log q(v | x), p at σ/α = ratio."""
    y, log_q = law.draw(x, u, bins)
    points = bins.place(x, y)
    return (score(model, points.detach(), ratio) * points).flatten(1).sum(1) - log_q


def _seeded(make: Callable[[], nn.Module], generator: torch.Generator | None) -> nn.Module:
    """make(), its weights drawn from `generator`, and the global state left alone if there is one."""
    if generator is None:
        return make()
    seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()
