"""How raw data become the numbers that a model sees, and back: x = (raw − shift)/scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from scoresde import _checks

FINEST = 2**16
"""The most levels: float32 tells no more apart in [−1, 1] with room for noise in each bin."""


@dataclass(frozen=True)
class Scaling:
    """x = (raw − shift)/scale, whose density obeys log p(raw) = log p(x) + log_det.

    Args:
        shift, scale: numbers, or tensors that broadcast to one sample; scale above zero.
        levels: of integer data 0..levels − 1, None for continuous data. Level k stands for the bin [k, k + 1):
            uniform noise fills it on the way in, rounding down takes it back, exactly for up to 65,536 levels.
    Raises:
        ValueError, TypeError: a scale that is not positive, numbers that are not finite, levels outside 2..65536.

    Example:
        >>> import torch
        >>> scaling = Scaling.of_levels(256)
        >>> x = scaling(torch.tensor([[0, 255]]))
        >>> bool((x.abs() <= 1).all()), scaling.inverse(x)
        (True, tensor([[  0, 255]]))

    Reference: Theis et al. (2016), arXiv 1511.01844, sec. 3.1 (uniform dequantization).
    """

    shift: Any = 0.0
    scale: Any = 1.0
    levels: int | None = None

    def __post_init__(self) -> None:
        shift, scale = _checks.table("shift", self.shift), _checks.table("scale", self.scale)
        if not shift.numel() or not bool(torch.isfinite(shift).all()):
            raise ValueError("shift must be finite")
        if not scale.numel() or not bool((torch.isfinite(scale) & (scale > 0)).all()):
            raise ValueError("scale must be positive and finite; drop what does not vary, or give it scale 1")
        if self.levels is not None and _checks.count("levels", self.levels, 2) > FINEST:
            raise ValueError(f"levels must be at most {FINEST}, got {self.levels}; for finer data write levels=None")
        for name, given, value in (("shift", self.shift, shift), ("scale", self.scale, scale)):
            if not isinstance(given, Real):
                object.__setattr__(self, name, value)

    @classmethod
    def of_levels(cls, levels: int) -> Scaling:
        """The bins of levels 0..levels − 1 fill [−1, 1]."""
        levels = _checks.count("levels", levels, 2)
        return cls(levels / 2, levels / 2, levels)

    @classmethod
    def of(cls, raw: Tensor) -> Scaling:
        """Every number of a sample centred and of unit spread over raw: (N, *); what does not vary keeps scale 1."""
        wide = _checks.state("raw", raw).double()
        if not len(wide):
            raise ValueError("raw must hold at least one sample")
        varies = (wide != wide[:1]).any(0)  # and not by the spread, which rounding keeps above zero
        return cls(wide.mean(0), torch.where(varies, wide.std(0, correction=0), 1.0))

    def __call__(self, raw: Tensor, generator: torch.Generator | None = None, noise: Tensor | None = None) -> Tensor:
        """x: (B, *) of raw: (B, *); levels with uniform noise in [0, 1) in their bins, drawn if None, float32."""
        if self.levels is None:
            wide, shift = _wide(_checks.state("raw", raw)), self._at(self.shift, raw)
            return ((wide - shift) / self._at(self.scale, raw)).to(raw.dtype)
        check_levels("raw", raw, self.levels)
        if noise is None:
            source = _checks.device_of(generator, raw.device)
            noise = torch.rand(raw.shape, generator=generator, device=source).to(raw.device)
        edge = self.levels * 2.0**-22  # so far from the bin's ends, rounding to float32 stays in the bin
        wide = torch.add(raw, noise, alpha=1 - 2 * edge)
        return ((wide - (self._at(self.shift, raw) - edge)) / self._at(self.scale, raw)).to(noise.dtype)

    def inverse(self, x: Tensor) -> Tensor:
        """raw: (B, *) of x: (B, *); levels are rounded down to their bin, and the outermost take what lies outside."""
        wide = _wide(_checks.state("x", x))
        raw = wide * self._at(self.scale, wide) + self._at(self.shift, wide)
        return raw.to(x.dtype) if self.levels is None else raw.floor().clamp(0, self.levels - 1).long()

    @property
    def edges(self) -> tuple[Any, Any]:
        """The outer edges of the first and the last level, in x: what `bits_per_dim` calls low and high."""
        if self.levels is None:
            raise ValueError("only levels have edges; this scaling is of continuous data")
        return (0 - self.shift) / self.scale, (self.levels - self.shift) / self.scale

    def log_det(self, shape: Sequence[int]) -> float:
        """log |dx/draw| of one sample of `shape`, nats: add it to log p(x) for the log-density of raw."""
        scale = _checks.table("scale", self.scale).double().cpu()
        return -float(_fitted(scale, tuple(shape)).log().expand(tuple(shape)).sum())

    @staticmethod
    def _at(value: Any, x: Tensor) -> Any:
        """Ready to meet x: (B, *), in float64 if it was measured so: a mean far from zero needs the digits."""
        if not isinstance(value, Tensor):
            return value
        value = _fitted(value, tuple(x.shape[1:]))
        return (value.float() if x.device.type == "mps" else value).to(x.device)


def _fitted(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    try:
        fits = torch.broadcast_shapes(value.shape, shape) == shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"a sample must fit the scaling's shape {tuple(value.shape)}, got {shape}")
    return value


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def check_levels(name: str, raw: Any, levels: int) -> Tensor:
    """`raw`, if it is a tensor of whole numbers 0..levels − 1."""
    if not isinstance(raw, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(raw).__name__}; write torch.as_tensor({name})")
    if raw.is_floating_point() or raw.is_complex() or raw.dtype == torch.bool:
        raise TypeError(f"{name} must be whole levels 0..{levels - 1}, got {raw.dtype}; write {name}.long()")
    holds = torch.iinfo(raw.dtype)
    if (holds.min < 0 or holds.max >= levels) and raw.numel() and not _checks.traced(raw):
        low, high = int(raw.min()), int(raw.max())
        if not 0 <= low <= high < levels:
            raise ValueError(f"{name} must lie in 0..{levels - 1}, got {low} to {high}; give levels")
    return raw
