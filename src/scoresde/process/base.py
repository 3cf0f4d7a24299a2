"""Forward processes: x_t = α(t) x₀ + σ(t) ε, data at t = 0, noise at t_max.

A process is two functions of time, `alpha` and `sigma`. As an SDE it reads
dx = f(t) x dt + g(t) dw with

    f = α̇/α,   g² = 2σ(σ̇ − fσ),                                    (docs/theory, eq. 1)

so sub-VP, VE and flow paths need no special code anywhere else.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cached_property, wraps
from typing import Any

import torch
from torch import Tensor

from scoresde import _checks

TINY = 1e-300
"""A time so close to zero that every formula takes its limit there, and still has one."""

ROUNDING = 1e-15
"""An α at t_max below this is what rounding leaves of 0."""

FORWARD = threading.RLock()
"""torch's forward mode has one level for all threads: who differentiates forwards holds this."""

NEGLIGIBLE = 1e-3
"""σ/α (or α/σ) below which noise (or data) no longer matters to a score or an SDE."""


def as_time(process: Process, t: Any) -> Tensor:
    """t as a float64 tensor inside the process's interval."""
    _checks.kind("process", process, Process, "VP()")
    if isinstance(t, Tensor):
        _checks.floating("t", t)
        if t.device.type == "cpu" and not _checks.traced(t):
            process.check_time(t)
        return (t if t.device.type == "mps" else t.double()).clamp_max(process.t_max)
    return torch.tensor(_in_interval(process, _checks.number("t", t)), dtype=torch.float64)


def _in_interval(process: Process, t: float) -> float:
    if not 0.0 <= t <= process.t_max * (1 + 1e-12):
        raise ValueError(f"t must lie in [0, {process.t_max:g}] for {process!r}, got {t:g}")
    return min(t, process.t_max)


def _of_time(function: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Any], Tensor]:
    """Let a coefficient take numbers and tensors, compute in float64, and refuse times outside."""

    @wraps(function)
    def coefficient(self: Process, t: Any) -> Tensor:
        at = as_time(self, t)
        value = torch.as_tensor(function(self, at), dtype=at.dtype, device=at.device).expand_as(at)
        return value.to(t.dtype) if isinstance(t, Tensor) else value

    return coefficient


class Process(ABC):
    """A forward process x_t = α(t) x₀ + σ(t) ε on t in [0, t_max].

    A subclass writes two functions of a float64 tensor of times; the rest is derived. They must
    be smooth, with α(0) = 1, α falling, and σ/α rising. The class makes them accept numbers and
    tensors of any floating dtype.

    Raises:
        ValueError: a time outside [0, t_max] (of a tensor on an accelerator only where a call checks its input
            anyway: it would synchronise). TypeError: a time that is no number.

    Example:
        >>> import torch
        >>> from scoresde import Process
        >>> class Trigonometric(Process):
        ...     def alpha(self, t):
        ...         return torch.cos(t * torch.pi / 2)
        ...     def sigma(self, t):
        ...         return torch.sin(t * torch.pi / 2)
        >>> round(float(Trigonometric().logsnr(0.5)), 6)
        0.0

    Reference: Song et al. (2021), arXiv 2011.13456, eq. 5 and 29; Kingma et al. (2021), arXiv 2107.00630, eq. 1.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _wrap(cls)

    @property
    def t_max(self) -> float:
        """The time at which x_t is (all but) noise."""
        return 1.0

    @cached_property
    def t_min(self) -> float:
        """The least time at which a network is asked: where σ/α = 1e-3, or 0 if σ(0) is above that."""
        return float(self.time(-2 * math.log(NEGLIGIBLE)))

    @abstractmethod
    def alpha(self, t: Any) -> Tensor:
        """α(t), the scale of the data; t: () or (B,); returns that shape."""

    @abstractmethod
    def sigma(self, t: Any) -> Tensor:
        """σ(t), the scale of the noise; t: () or (B,); returns that shape."""

    def alpha_dot(self, t: Any) -> Tensor:
        """dα/dt, by forward-mode differentiation unless a closed form overrides it."""
        return _derivative(self.alpha, t)

    def sigma_dot(self, t: Any) -> Tensor:
        """dσ/dt, by forward-mode differentiation unless a closed form overrides it."""
        return _derivative(self.sigma, t)

    def drift(self, t: Any) -> Tensor:
        """f(t) = α̇/α of dx = f x dt + g dw; −∞ where α = 0."""
        alpha = self.alpha(t)
        return (self.alpha_dot(t) / alpha).masked_fill(alpha == 0, -math.inf)

    def diffusion(self, t: Any) -> Tensor:
        """g(t) = √(2σ(σ̇ − fσ)) of dx = f x dt + g dw; ∞ where α = 0."""
        sigma = self.sigma(t)
        return (2 * sigma * (self.sigma_dot(t) - self.drift(t) * sigma)).sqrt()

    def logsnr(self, t: Any) -> Tensor:
        """log(α²/σ²); ∞ where σ = 0 and −∞ where α = 0."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def at(self, coefficient: str, t: float) -> float:
        """A coefficient at a number, as a number."""
        known = vars(self).get("_known", {}).get((coefficient, t))
        return self.remember(coefficient, t, lambda: self._number(coefficient, t)) if known is None else known

    @_checks.on_host
    def _number(self, coefficient: str, t: float) -> float:
        value = float(getattr(self, coefficient)(t))
        rounding = coefficient == "alpha" and t >= self.t_max and abs(value) < ROUNDING  # cos(π/2) is 6e-17
        return 0.0 if rounding else value

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_known"}  # functions: not to be pickled

    def remember(self, key: Any, t: float, compute: Callable[[], Any]) -> Any:
        """compute(), or what it was for this key and time before, where this process cannot have changed.

        The built-in processes are frozen, and samplers ask for the same few times again and again.
        """
        if not type(self).__module__.startswith("scoresde.process."):
            return compute()
        known: dict[Any, Any] = vars(self).setdefault("_known", {})  # pyright: ignore[reportAttributeAccessIssue]
        if (key, t) not in known:
            if len(known) > 50_000:
                known.clear()
            known[key, t] = compute()
        return known[key, t]

    def time(self, logsnr: Any) -> Tensor:
        """The t at which log(α²/σ²) is `logsnr`: the inverse of `logsnr`, to rounding.

        Beyond what the process reaches, its nearest end. Raises ValueError for NaN. Found by bisection where no
        closed form overrides it, and then without a gradient.
        """
        value = as_logsnr(logsnr)
        low, high = torch.zeros_like(value), torch.full_like(value, self.t_max)
        for _ in range(80):
            middle = (low + high) / 2
            later = self.logsnr(middle) > value
            low, high = torch.where(later, middle, low), torch.where(later, high, middle)
        high = torch.where(value >= self.logsnr(torch.zeros_like(value)), torch.zeros_like(high), high)
        return like(high, logsnr)

    def perturb(
        self, x0: Tensor, t: Any, noise: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """x_t = α(t) x₀ + σ(t) ε and the noise ε that made it.

        Args:
            x0: (B, *), data. t: () or (B,). noise: (B, *), drawn from `generator` if None.
        Raises:
            ValueError: x0 not finite, t outside [0, t_max], or shapes that do not fit.

        Example:
            >>> import torch
            >>> from scoresde import VP
            >>> x, noise = VP().perturb(torch.ones(4, 2), 0.5)
            >>> torch.allclose(x, VP().alpha(0.5) + VP().sigma(0.5) * noise)
            True
        """
        _checks.state("x0", x0)
        _checks.device_of(generator)
        t = self.times_of(t, x0)
        if noise is None:
            noise = randn(x0.shape, generator, x0.device, x0.dtype)
        else:
            _checks.shape_like("noise", _checks.state("noise", noise), x0, "x0")
        return spread(self.alpha(t), x0) * x0 + spread(self.sigma(t), x0) * noise, noise

    def prior(self, shape: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
        """Draw x_T ~ N(0, σ(t_max)² I) of `shape` (B, *), on the generator's device, in the default dtype."""
        return float(self.sigma(self.t_max)) * randn(_checks.shape("shape", shape), generator)

    def check_time(self, t: Tensor) -> None:
        """Raise ValueError unless every time lies in [0, t_max]."""
        if t.is_meta:
            raise TypeError("t must have values, got a tensor on the meta device")
        last = self.t_max * (1 + 2 * torch.finfo(t.dtype).eps)  # t_max itself, in t's dtype, is inside
        low, high = map(float, t.detach().aminmax()) if t.numel() else (0.0, 0.0)
        if not (low >= 0.0 and high <= last):
            outside = t[~((t >= 0) & (t <= last))].flatten()[0].item()
            raise ValueError(f"t must lie in [0, {self.t_max:g}] for {self!r}, got {outside:g}")

    def times_of(self, t: Any, x: Tensor) -> float | Tensor:
        """t checked against x: (B, *): a float (the same for all), or a tensor () or (B,) on x's device."""
        if not isinstance(t, Tensor):
            return _in_interval(self, _checks.number("t", t))
        _checks.floating("t", t)
        if t.ndim > 1 or (t.ndim == 1 and t.shape[0] != x.shape[0]):
            raise ValueError(
                f"t must have shape () or ({x.shape[0]},) for x of shape {tuple(x.shape)}, got {tuple(t.shape)}"
            )
        if not _checks.traced(t):
            self.check_time(t)
        return t.to(x.device)


def _wrap(cls: type[Process]) -> None:
    """Wrap the coefficients that a class defines, so that they take numbers and refuse times outside."""
    for name in ("alpha", "sigma", "alpha_dot", "sigma_dot", "drift", "diffusion", "logsnr"):
        function = cls.__dict__.get(name)
        if function is not None and not getattr(function, "__isabstractmethod__", False):
            setattr(cls, name, _of_time(function))


_wrap(Process)


def _derivative(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    with nullcontext() if _checks.traced(t) else FORWARD:
        return torch.func.jvp(function, (t.clamp_min(TINY),), (torch.ones_like(t),))[1]


def as_logsnr(value: Any) -> Tensor:
    value = _checks.table("logsnr", value).double()
    if not _checks.traced(value) and bool(value.isnan().any()):
        raise ValueError("logsnr must be a number, got NaN")
    return value


def like(value: Tensor, original: Any) -> Tensor:
    return value.to(original.dtype) if isinstance(original, Tensor) and original.is_floating_point() else value


def spread(value: float | Tensor, x: Tensor) -> float | Tensor:
    """A coefficient of shape () or (B,), ready to multiply x: (B, *) in x's dtype."""
    if not isinstance(value, Tensor):
        return value
    if value.ndim == 0:
        return value if value.device == x.device or value.device.type == "cpu" else value.to(x.device)
    return value.to(x.device, x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def randn(
    shape: Sequence[int],
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Standard normal numbers, drawn where the generator lives and moved to `device`."""
    source = _checks.device_of(generator, device)
    return torch.randn(tuple(shape), generator=generator, device=source, dtype=dtype).to(device or source)
