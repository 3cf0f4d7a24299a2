"""Differential equations over a process or a model: dx = drift(t, x) dt + diffusion(t, x) dw. Nothing numerical."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from scoresde import _checks
from scoresde.model import Model
from scoresde.process.base import NEGLIGIBLE, TINY, Process

Noise = Literal["none", "additive", "diagonal"]


class Dynamics(ABC):
    """dx = drift(t, x) dt + diffusion(t, x) dw, each entry of x with its own noise.

    A subclass writes `drift` and, unless `noise` is "none", `diffusion`; t is a float, x: (B, *). `noise` says what
    the solver may assume: "additive" (diffusion does not depend on x, so Itô and Stratonovich agree), or
    "diagonal" (it may).

    Example:
        >>> import torch
        >>> from scoresde import Dynamics, solve
        >>> class Decay(Dynamics):
        ...     noise = "none"
        ...     def drift(self, t, x):
        ...         return -x
        >>> round(float(solve(Decay(), torch.ones(1, 1), 0.0, 1.0, "rk4", steps=20)), 5)  # 1/e
        0.36788
    """

    noise: Noise = "diagonal"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "drift" in cls.__dict__ and "scaled_drift" not in cls.__dict__:
            cls.scaled_drift = Dynamics.scaled_drift  # a new drift is not to be bypassed by a parent's shortcut

    @abstractmethod
    def drift(self, t: float, x: Tensor) -> Tensor:
        """The drift at time t and state x: (B, *); returns (B, *)."""

    def diffusion(self, t: float, x: Tensor) -> Tensor:
        """The diffusion at time t and state x: (B, *); returns (B, *), or a tensor that broadcasts to it."""
        return x.new_zeros(())

    def scaled_drift(self, scale: float, t: float, x: Tensor) -> Tensor:
        """scale × drift, for solvers that keep a time of their own; override it where the scale costs nothing."""
        return scale * self.drift(t, x)

    def check(self, t: float) -> None:  # noqa: B027  (most equations hold at every time)
        """Raise ValueError where the equation has no meaning or is singular."""


@dataclass(frozen=True)
class Forward(Dynamics):
    """The forward SDE dx = f(t) x dt + g(t) dw, from data to noise.

    Args:
        process: of which f and g are.
    Raises:
        TypeError: process is no Process. ValueError: in `check`, a time where α = 0.

    Example:
        >>> import torch
        >>> from scoresde import VP, solve
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = solve(Forward(VP()), torch.ones(4000, 1), 0.0, 1.0, "euler", steps=200, generator=generator)
        >>> round(abs(float(x.mean())), 1), round(float(x.std()), 1)  # all but N(0, 1)
        (0.0, 1.0)

    Reference: Song et al. (2021), arXiv 2011.13456, eq. 5.
    """

    process: Process
    noise: ClassVar[Noise] = "additive"  # pyright: ignore[reportIncompatibleVariableOverride]

    def __post_init__(self) -> None:
        _checks.kind("process", self.process, Process, "VP()")

    def drift(self, t: float, x: Tensor) -> Tensor:
        return Forward.scaled_drift(self, 1.0, t, x)

    def scaled_drift(self, scale: float, t: float, x: Tensor) -> Tensor:
        return scale * self.process.at("drift", t) * x

    def diffusion(self, t: float, x: Tensor) -> Tensor:
        return x.new_full((), self.process.at("diffusion", t))

    def check(self, t: float) -> None:
        _check_regular(self.process, t)


@dataclass(frozen=True)
class Reverse(Dynamics):
    """The reverse equation with a dial: dx = [f x − (1 + η²)/2 g² ∇log p_t] dt + η g dw̄.

    η = 0 is the probability-flow ODE, η = 1 Anderson's reverse SDE; every η has the marginals of the
    forward process. The drift is one row of the prediction table, (α̇, σ̇ + η² g²/2σ), so it costs one call.

    Args:
        model: what gives the score. eta: 0 or more.
    Raises:
        TypeError: model is no Model. ValueError: eta below 0; in `check`, η > 0 at a time where α = 0.

    Example:
        >>> import torch
        >>> from scoresde import VP, Reverse, targets
        >>> model = targets.Gaussian([0.0, 0.0], 1.0).model(VP())
        >>> flow, x = Reverse(model, eta=0.0), torch.ones(1, 2)
        >>> bool(flow.drift(0.5, x).abs().max() < 1e-5)  # VP leaves N(0, I) as it is: nothing flows
        True

    Reference: Anderson (1982); Song et al. (2021), arXiv 2011.13456, eq. 6 and 13; docs/theory, eq. 7.
    """

    model: Model
    eta: float = 1.0

    def __post_init__(self) -> None:
        _checks.kind("model", self.model, Model, "Model(net, VP())")
        _checks.number("eta", self.eta, 0.0)

    @property
    def noise(self) -> Noise:  # pyright: ignore[reportIncompatibleVariableOverride]
        return "additive" if self.eta > 0 else "none"

    def drift(self, t: float, x: Tensor) -> Tensor:
        return Reverse.scaled_drift(self, 1.0, t, x)

    def scaled_drift(self, scale: float, t: float, x: Tensor) -> Tensor:
        process = self.model.process
        at = max(t, TINY)
        p, q = process.at("alpha_dot", at), process.at("sigma_dot", at)
        if self.eta:
            q += self.eta**2 * process.at("diffusion", at) ** 2 / (2 * process.at("sigma", at))
        return self.model.estimate(scale * p, scale * q, x, t)

    def diffusion(self, t: float, x: Tensor) -> Tensor:
        return x.new_full((), self.eta * self.model.process.at("diffusion", t) if self.eta else 0.0)

    def check(self, t: float) -> None:
        if self.eta:
            _check_regular(self.model.process, t)
        self.model.process.alpha(t)  # refuses times outside


@dataclass(frozen=True)
class Langevin(Dynamics):
    """Overdamped Langevin dynamics at one noise level: dx = ∇log p_t(x) du + √2 dw, in a time u of its own.

    Args:
        model: what gives the score. t: the noise level, in (0, t_max]; p_t is left invariant.
    Raises:
        TypeError: model is no Model. ValueError: t outside [0, t_max], or where σ = 0.

    Example:
        >>> import torch
        >>> from scoresde import VP, Langevin, targets
        >>> model = targets.Gaussian([0.0, 0.0], 1.0).model(VP())
        >>> Langevin(model, t=0.5).drift(0.0, torch.tensor([[1.0, -2.0]])).round(decimals=4)  # the score of N(0, I)
        tensor([[-1.,  2.]])

    Reference: Song and Ermon (2019), arXiv 1907.05600, eq. 4.
    """

    model: Model
    t: float
    noise: ClassVar[Noise] = "additive"  # pyright: ignore[reportIncompatibleVariableOverride]

    def __post_init__(self) -> None:
        _checks.kind("model", self.model, Model, "Model(net, VP())")
        t = _checks.number("t", self.t, 0.0, self.model.process.t_max)
        if not self.model.process.at("sigma", t) > 0:
            raise ValueError(f"t must be a time with noise (sigma > 0), got {self.t:g}")

    def drift(self, t: float, x: Tensor) -> Tensor:
        return self.model.estimate(0.0, -1 / self.model.process.at("sigma", self.t), x, self.t)

    def diffusion(self, t: float, x: Tensor) -> Tensor:
        return x.new_full((), 2**0.5)


def _check_regular(process: Process, t: float) -> None:
    if process.at("alpha", t) == 0.0:
        latest = float(process.time(2 * torch.tensor(NEGLIGIBLE).log()))
        raise ValueError(
            f"the SDE of {process!r} is singular at t = {t:g}, where alpha = 0; "
            f"use times up to {latest:.4g} (sigma/alpha = 1000)"
        )
