"""One call for both solver packages: torchdiffeq where the diffusion is zero, torchsde where it is not.

torchsde wants increasing times, (batch, d) states and a uniform step, so an SDE is integrated in the step's
own number u = 0..n through a smooth t(u): drift × dt/du, diffusion × √|dt/du| (docs/theory, eq. 8).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torchdiffeq
import torchsde
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from scoresde import _checks
from scoresde.dynamics import Dynamics
from scoresde.process.base import randn

ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun", "scipy_solver")
FIXED = ("euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams", "implicit_adams")
ITO = ("euler", "milstein", "srk")
STRATONOVICH = ("heun", "midpoint", "euler_heun", "log_ode", "reversible_heun")
LEVY = {"srk": "space-time", "log_ode": "foster"}
ODE_OPTIONS = (
    "first_step", "safety", "ifactor", "dfactor", "max_num_steps", "min_step", "max_step", "step_t", "jump_t", "dtype",
    "norm", "interp", "perturb", "max_order", "max_iters", "solver",
)  # fmt: skip
SDE_OPTIONS = ("dt", "dt_min", "options")
MULTISTEP = ("explicit_adams", "implicit_adams")
"""torchdiffeq's Adams methods know equal steps only; beyond order 4 they are unstable on these equations."""

MAX_STEPS = 100_000
"""An adaptive method that has not arrived after so many steps is called stuck."""


def solve(
    dynamics: Dynamics,
    x: Tensor,
    t0: float,
    t1: float,
    method: str | None = None,
    *,
    steps: int | None = None,
    grid: Tensor | Sequence[float] | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    trajectory: bool = False,
    adaptive: bool = False,
    interpretation: str | None = None,
    brownian: str = "light",
    generator: torch.Generator | None = None,
    noise: Callable[[Sequence[int]], Tensor] | None = None,
    **options: Any,
) -> Tensor:
    """Integrate dx = drift dt + diffusion dw from t0 to t1, in either direction of time.

    Args:
        dynamics: Forward, Reverse, Langevin, or your own Dynamics. x: (B, *), the state at t0.
        t0, t1: times, in either order.
        method: for ODEs one of torchdiffeq's ("dopri5" if None; ADAPTIVE and FIXED list them), for SDEs one
            of torchsde's ("euler" if None): Itô "euler", "milstein", "srk"; Stratonovich "heun", "midpoint",
            "euler_heun", "milstein", "log_ode", "reversible_heun".
        steps: how many equal steps a fixed-step method takes (100 if grid is None too).
        grid: or the times themselves, from t0 to t1, one step between neighbours.
        rtol, atol: tolerances of adaptive methods, met by the worst sample of the batch.
        trajectory: return the state at every time of the grid, (len(grid), B, *), x first.
        adaptive: for SDEs, let torchsde choose the steps (the Brownian path is then an interval tree, and
            there are no steps or grid to give).
        interpretation: "ito" or "stratonovich": what the drift of an SDE with x-dependent diffusion means
            (with additive noise both agree); also which Milstein scheme.
        brownian: "light", independent increments drawn as they are asked for; or "interval", torchsde's
            BrownianInterval, seeded from the generator.
        generator: the source of noise; the global one if None. noise: shape -> normal numbers, instead.
        options: passed to torchdiffeq's options or to torchsde.sdeint (dt, dt_min, ...).
    Returns:
        (B, *), the state at t1, or the trajectory.
    Raises:
        ValueError, TypeError: unknown names, times outside or out of order, x of integers or not finite, an
            adaptive method that cannot proceed (it says where), a solution that is not finite.

    Example:
        >>> import torch
        >>> from scoresde import VP, Reverse, targets
        >>> model = targets.Gaussian([1.0], 0.25).model(VP())
        >>> solve(Reverse(model, eta=0), torch.zeros(1, 1), 1.0, 1e-3, rtol=1e-8, atol=1e-8).shape
        torch.Size([1, 1])

    Reference: Chen et al. (2018), arXiv 1806.07366 (torchdiffeq); Li et al. (2020), 2001.01328, and Kidger et
    al. (2021), 2105.13493 (torchsde).
    """
    _checks.kind("dynamics", dynamics, Dynamics, "Reverse(model)")
    _checks.choice("noise of the dynamics", dynamics.noise, ("none", "additive", "diagonal"))
    _checks.state("x", x)
    _checks.positive("rtol", rtol)
    _checks.positive("atol", atol)
    times = _times(t0, t1, steps, grid)
    _checks.flags(trajectory=trajectory, adaptive=adaptive)
    for name, t in (("t0", times[0]), ("t1", times[-1])):
        try:
            dynamics.check(t)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    ode = dynamics.noise == "none"
    for option in options:
        _checks.choice("option", option, ODE_OPTIONS if ode else SDE_OPTIONS)
    method = ("dopri5" if ode else "euler") if method is None else method
    if x.numel() == 0:
        return x.expand(len(times), *x.shape) if trajectory else x
    if ode:
        _checks.choice("method for an ODE", method, ADAPTIVE + FIXED)
        if brownian != "light" or adaptive:
            raise ValueError("brownian and adaptive are for SDEs; this equation has no noise, and method says the rest")
        if method in ADAPTIVE and steps is None and grid is None:
            times = [times[0], times[-1]]
        path = _ode(dynamics, x, times, method, rtol, atol, trajectory, options)
    else:
        if adaptive and (steps is not None or grid is not None):
            raise ValueError("give adaptive=True, or steps or grid, not both")
        path = _sde(
            dynamics, x, times, method, _interpretation(dynamics, method, interpretation), brownian,
            _source(x, generator, noise), trajectory, dict(adaptive=adaptive, rtol=rtol, atol=atol, **options),
        )  # fmt: skip
    _checks.finite_result(f"the solution of {type(dynamics).__name__} by {method!r}", path[-1])
    return path if trajectory else path[-1]


def _times(t0: Any, t1: Any, steps: int | None, grid: Any) -> list[float]:
    t0, t1 = _checks.number("t0", t0), _checks.number("t1", t1)
    if t0 == t1:
        raise ValueError(f"t0 and t1 must differ, got {t0:g} for both")
    if grid is None:
        n = 100 if steps is None else _checks.count("steps", steps)
        times = torch.linspace(t0, t1, n + 1, dtype=torch.float64).tolist()
    elif steps is not None:
        raise ValueError("give steps or grid, not both")
    else:
        times = _checks.table("grid", grid).double().flatten().tolist()
        if len(times) < 2 or not np.isclose([times[0], times[-1]], [t0, t1], rtol=1e-9, atol=1e-12).all():
            raise ValueError(f"grid must go from t0 = {t0:g} to t1 = {t1:g}, got {len(times)} times")
    times[0], times[-1] = t0, t1
    if not all((b - a) * (t1 - t0) > 0 for a, b in pairwise(times)):
        raise ValueError(f"grid must {'rise' if t1 > t0 else 'decrease'} strictly from t0 = {t0:g} to t1 = {t1:g}")
    return times


def _ode(
    dynamics: Dynamics, x: Tensor, times: list[float], method: str, rtol: float, atol: float, trajectory: bool,
    options: dict[str, Any],
) -> Tensor:  # fmt: skip
    low, high = min(times[0], times[-1]), max(times[0], times[-1])
    at = [times[0]]
    worst = [torch.zeros((), dtype=torch.long)]

    number = _smooth(times) if method in MULTISTEP else None

    def drift(t: Tensor, x: Tensor) -> Tensor:
        now = float(t.detach())  # steps depend on a state that may require gradients, and so do times
        here, slope = number(now) if number else (now, 1.0)
        at[0] = min(max(here, low), high)  # float32 states have float32 times, which may round outside
        value = _checks.shape_like("drift", dynamics.drift(at[0], x), x)
        if method == "scipy_solver":  # which would halve its step for ever
            _checks.finite_result(f"the drift at t = {at[0]:.6g}", value)
        return slope * value if number else value

    def norm(error: Tensor) -> Tensor:
        each = error.reshape(x.shape[0], -1).pow(2).mean(1).sqrt()
        value, index = each.max(0)
        worst[0] = index
        return value

    if method in ADAPTIVE:
        options = {"norm": norm, **options}
        if method == "scipy_solver":
            options.setdefault("solver", "RK45")
        else:
            options = {"step_t": torch.tensor(times[1:], dtype=torch.float64), "max_num_steps": MAX_STEPS, **options}
    grid = torch.tensor(times, dtype=torch.float64)
    if method in MULTISTEP:
        grid, options = torch.arange(len(times), dtype=torch.float64), {"max_order": 4, **options}
    if method in FIXED:
        options = {"grid_constructor": lambda *_: grid, **options}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*have no effect for a chosen solver")
            outputs = grid if trajectory else grid[[0, -1]]
            path = torchdiffeq.odeint(drift, x, outputs, rtol=rtol, atol=atol, method=method, options=options)
        if len(path) < len(outputs):
            raise _checks.Diverged(f"{method!r} cannot proceed at t = {at[0]:.6g}: the step has become too small")
        return torch.as_tensor(path)
    except AssertionError as error:
        raise _checks.Diverged(
            f"{method!r} cannot proceed at t = {at[0]:.6g}: {error}; the worst sample is {int(worst[0])}. "
            "Loosen rtol and atol, use x.double(), or stop short of where the equation is stiff"
        ) from error


def _interpretation(dynamics: Dynamics, method: str, interpretation: str | None) -> str:
    _checks.choice("method for an SDE", method, dict.fromkeys(ITO + STRATONOVICH))
    if interpretation is not None:
        _checks.choice("interpretation", interpretation, ("ito", "stratonovich"))
    natural = "ito" if method in ITO else "stratonovich"
    wanted = interpretation or ("ito" if dynamics.noise != "additive" or method == "milstein" else natural)
    if method == "milstein" or wanted == natural:
        return wanted
    if dynamics.noise == "additive":
        return natural
    raise ValueError(
        f"method {method!r} solves {natural} equations, but the diffusion may depend on x and the drift is read as "
        f"{wanted}; use one of {', '.join(ITO if wanted == 'ito' else STRATONOVICH)}, or interpretation={natural!r}"
    )


def _source(
    x: Tensor, generator: torch.Generator | None, noise: Callable[[Sequence[int]], Tensor] | None
) -> Callable[[Sequence[int]], Tensor]:
    if noise is not None:
        if generator is not None or not callable(noise):
            raise ValueError("give generator, or noise as a function shape -> normal numbers, not both")

        def given(shape: Sequence[int]) -> Tensor:
            draw = noise(shape)
            if not isinstance(draw, Tensor) or tuple(draw.shape) != tuple(shape):
                raise ValueError(
                    f"noise must return a tensor of shape {tuple(shape)}, got {getattr(draw, 'shape', draw)}"
                )
            return draw

        return given
    _checks.device_of(generator)
    if generator is None:  # one draw from the global generator seeds ours, which fork_rng below does not rewind
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        if x.device.type == "cuda":
            generator = torch.Generator(x.device).manual_seed(generator.initial_seed())
    return lambda shape: randn(shape, generator, x.device, x.dtype)


def _sde(
    dynamics: Dynamics, x: Tensor, times: list[float], method: str, interpretation: str, brownian: str,
    noise: Callable[[Sequence[int]], Tensor], trajectory: bool, options: dict[str, Any],
) -> Tensor:  # fmt: skip
    _checks.choice("brownian", brownian, ("light", "interval"))
    flat = x.reshape(x.shape[0], -1)
    if options["adaptive"]:
        times = [times[0], times[-1]]
        options = {"dt": 0.01, **options}
        brownian = "interval"  # rejected and halved steps must see one path
    n = len(times) - 1
    us = torch.arange(n + 1, dtype=torch.float64) if trajectory else torch.tensor([0.0, n], dtype=torch.float64)
    levy = LEVY.get(method, "none")
    source = _Increments(flat.shape, flat, levy, noise) if brownian == "light" else _Interval(flat, n, levy, noise)
    equation = _TorchSDE(dynamics, x.shape, times, method, interpretation)
    devices = [x.device] if x.device.type == "cuda" else []
    with warnings.catch_warnings(), torch.random.fork_rng(devices):  # sdeint's shape check draws global numbers
        warnings.filterwarnings("error", "Hitting minimum allowed step size")
        warnings.filterwarnings("ignore", "Numerical solution is not guaranteed")
        try:
            path = torchsde.sdeint(equation, flat, us, bm=source, method=method, **{"dt": 1.0, **options})
        except (UserWarning, AssertionError) as error:
            raise _checks.Diverged(
                f"{method!r} cannot proceed at t = {equation.at:.6g}: {error} "
                "Loosen rtol and atol, lower dt_min, or stop short of where the equation is stiff"
            ) from error
    return torch.as_tensor(path).reshape(len(us), *x.shape)


class _TorchSDE:
    """A Dynamics in torchsde's words: time u, flat states, f and g; it remembers the last drift it was asked for."""

    def __init__(
        self, dynamics: Dynamics, shape: torch.Size, times: list[float], method: str, interpretation: str
    ) -> None:
        self.dynamics, self.shape = dynamics, shape
        # with a diffusion matrix never formed, "additive" saves torchsde's methods most of their calls
        self.noise_type = "additive" if dynamics.noise == "additive" and method != "reversible_heun" else "diagonal"
        self.sde_type = interpretation
        self.time = _smooth(times)
        self.at = times[0]
        self.last: tuple[float, Tensor, Tensor] | None = None
        if self.noise_type == "diagonal":
            self.g = self._g

    def f(self, u: Tensor, y: Tensor) -> Tensor:
        t, slope = self.time(float(u))
        if self.last is None or self.last[0] != t or self.last[1] is not y:
            self.at = t
            drift = self.dynamics.scaled_drift(slope, t, y.reshape(self.shape))
            self.last = (t, y, drift.reshape(y.shape))
        return self.last[2]

    def _g(self, u: Tensor, y: Tensor) -> Tensor:
        t, slope = self.time(float(u))
        value = math.sqrt(abs(slope)) * self.dynamics.diffusion(t, y.reshape(self.shape))
        return value.expand(self.shape).reshape(y.shape)

    def g_prod(self, u: Tensor, y: Tensor, v: Tensor) -> Tensor:
        t, slope = self.time(float(u))
        value = math.sqrt(abs(slope)) * self.dynamics.diffusion(t, y.reshape(self.shape))
        return (value * v) if value.ndim == 0 else (value * v.reshape(self.shape)).reshape(y.shape)

    def f_and_g_prod(self, u: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return self.f(u, y), self.g_prod(u, y, v)


def _smooth(times: list[float]) -> Callable[[float], tuple[float, float]]:
    """u -> (t, dt/du) along the monotone cubic through the grid: linear where the grid is uniform."""
    n = len(times) - 1
    if n == 1:
        slopes = [times[1] - times[0]] * 2
    else:
        slopes = PchipInterpolator(np.arange(n + 1), times)(np.arange(n + 1), 1).tolist()

    def time(u: float) -> tuple[float, float]:
        i = min(max(int(u), 0), n - 1)
        w, rise, a, b = u - i, times[i + 1] - times[i], slopes[i], slopes[i + 1]
        curve, bend = 3 * rise - 2 * a - b, a + b - 2 * rise
        if w == 0.0:
            return times[i], a
        if w == 1.0:
            return times[i + 1], b
        return times[i] + w * (a + w * (curve + w * bend)), a + w * (2 * curve + 3 * w * bend)

    return time


class _Increments(torchsde.BaseBrownian):
    """Brownian increments drawn afresh at each call, with the space-time Lévy area where a method asks for it.

    W ~ N(0, h), H ~ N(0, h/12) independent, U = h (W/2 + H) (docs/theory, eq. 9). Each span of time may be asked once.
    """

    def __init__(self, shape: torch.Size, like: Tensor, levy: str, noise: Callable[[Sequence[int]], Tensor]) -> None:
        self._shape, self._like, self._levy, self._noise = shape, like, levy, noise

    def __call__(self, ta: Any, tb: Any = None, return_U: bool = False, return_A: bool = False) -> Any:
        h = float(tb) - float(ta)
        increment = self._noise(self._shape)
        increment = increment if h == 1.0 else math.sqrt(h) * increment
        if return_A:
            return increment, None  # additive and diagonal noise have no use for the area
        if return_U:
            return increment, h * (0.5 * increment + math.sqrt(h / 12) * self._noise(self._shape))
        return increment

    def __repr__(self) -> str:
        return f"increments of shape {tuple(self._shape)}"

    @property
    def dtype(self) -> torch.dtype:
        return self._like.dtype

    @property
    def device(self) -> torch.device:
        return self._like.device

    @property
    def shape(self) -> torch.Size:
        return self._shape

    @property
    def levy_area_approximation(self) -> str:
        return self._levy


class _Interval(_Increments):
    """torchsde's BrownianInterval over [0, n]: one path, whatever is asked of it and how often."""

    def __init__(self, like: Tensor, n: int, levy: str, noise: Callable[[Sequence[int]], Tensor]) -> None:
        super().__init__(like.shape, like, levy, noise)
        entropy = int(noise((1,)).double().abs().mul(2**40).to(torch.int64) % (2**31 - 1))
        self._path = torchsde.BrownianInterval(
            0.0, float(n), size=tuple(like.shape), dtype=like.dtype, device=like.device, entropy=entropy,
            levy_area_approximation="space-time" if levy == "space-time" else "none",
        )  # fmt: skip

    def __call__(self, ta: Any, tb: Any = None, return_U: bool = False, return_A: bool = False) -> Any:
        if return_A:
            return self._path(ta, tb), None
        return self._path(ta, tb, return_U=return_U)
