"""The probability flow with error control for each sample: embedded Runge–Kutta pairs in an angle, a step a sample."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from scoresde import _checks
from scoresde.flow import Flow, ratio
from scoresde.model import Model, is_conditioned
from scoresde.prediction import limit, row, solve_rows
from scoresde.samplers.base import Draw, Sampler


@dataclass(frozen=True)
class Pair:
    """An explicit Runge–Kutta method whose last stage is its solution, and an embedded one of one order less."""

    order: int
    nodes: tuple[float, ...]
    matrix: tuple[tuple[float, ...], ...]
    error: tuple[float, ...]


PAIRS = {
    3: Pair(
        3,
        (1 / 2, 3 / 4, 1.0),
        ((1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
        (-5 / 72, 1 / 12, 1 / 9, -1 / 8),
    ),
    5: Pair(
        5,
        (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
        (
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
            (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
        ),
        (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
    ),
}
"""Order -> Bogacki and Shampine's 3(2), Dormand and Prince's 5(4). Error: the solution's weights less the embedded."""

SAFETY, LEAST, MOST = 0.9, 0.2, 5.0
"""A new step is the old times SAFETY times what the errors allow, within [LEAST, MOST]."""

TINIEST = 1e-12
"""A step below this, of a whole way of at most π/2, is called stuck."""

NOISE_END = math.pi / 2

REACH = 0.5
"""The ratio σ/α at θ = π/4, in standard deviations of the data: mixtures part below one."""


class Unfinished(UserWarning):
    """Some samples used up their budget of network calls before they arrived.

    Example:
        >>> import warnings
        >>> from scoresde import VP, sample, samplers, targets
        >>> model = targets.GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], 0.01).model(VP())
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     x = sample(model, (8, 1), samplers.Adaptive(budget=10), seeds=range(8))
        >>> caught[0].category.__name__
        'Unfinished'
    """


@dataclass(frozen=True)
class Track:
    """Where each sample is, and what it cost: what `Adaptive.step` hands on. All (B,), on the host, but `slope`.

    Args:
        angle: θ. slope: dz/dθ there, (B, D). size: the next step's. error: the last accepted step's, over the
            tolerance. calls, accepted, rejected: of the network and of steps, so far. spent: without budget.
    """

    angle: Tensor
    slope: Tensor
    size: Tensor
    error: Tensor
    calls: Tensor
    accepted: Tensor
    rejected: Tensor
    spent: Tensor


@dataclass(frozen=True)
class Adaptive(Sampler):
    """The probability-flow ODE by an embedded Runge–Kutta pair, with error control and a step for each sample.

        dz/dθ = ρ'(θ) (s² ε − ρ (x₀ − m))/h³,   z = (x/α − m)/h,   h² = s² + ρ²,   ρ = σ/α = ½ s tan θ

    from θ = π/2 (noise) to 0 (data): zero at 0, and everywhere for Gaussian data whose moments the model knows.
    A sample's step goes by its own errors (a PI controller), and it leaves the batch when it arrives, so that
    its result and its calls are the same alone and in any batch. `steps` is not used; a grid only says at which
    times to stop and look. `step` returns the `Track` that counts calls, accepted and rejected steps.

    Args:
        rtol, atol: the error allowed a step, in the root mean square over a sample's entries, relative to z and
            absolute: atol is in units of the data's standard deviation.
        order: 5 (Dormand and Prince; six calls a step) or 3 (Bogacki and Shampine; three), for loose tolerances.
        budget: the most calls a sample may take, 2 or more; None for no bound. A sample that runs out is carried the
            rest of the way by the slope where it got to, without a call, and a warning, `Unfinished`, says so.
    Raises:
        ValueError: a tolerance that is not positive, another order, a budget below 2; in a run (`Diverged`), a step
            that has become too small to go on.

    Example:
        >>> import torch
        >>> from scoresde import VP, targets
        >>> model = targets.GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], 0.1).model(VP())
        >>> x, track = Adaptive(rtol=1e-3, atol=1e-3).step(model, torch.tensor([[0.02], [2.0]]), 1.0, 0.0, None, None)
        >>> bool(track.calls[0] >= track.calls[1])
        True

    Reference: docs/theory, eq. 25-26; Hairer, Nørsett and Wanner (1993), sec. II.4 and II.5, and Hairer and Wanner
    (1996), sec. IV.2, for the controller.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    order: int = 5
    budget: int | None = None

    def __post_init__(self) -> None:
        _checks.positive("rtol", self.rtol)
        _checks.positive("atol", self.atol)
        if _checks.count("order", self.order) not in PAIRS:
            raise ValueError(f"order must be 3 or 5, got {self.order!r}")
        if self.budget is not None:
            _checks.count("budget", self.budget, 2)

    def grid(self, model: Model, steps: int) -> Tensor:
        return super().grid(model, steps)[[0, -1]]

    def step(self, model: Model, x: Tensor, t: float, s: float, memory: Any, randn: Draw) -> tuple[Tensor, Track]:
        flow = Flow.of(model, x)
        field, z = _Field(flow, len(x)), flow.into(x, t)
        start, end, least = (math.atan(ratio(model.process, u) / field.reach) for u in (t, s, model.process.t_min))
        track = memory or _begin(z, start, (self.rtol + self.atol) ** (1 / self.order))
        if start == 0.0:  # z is even in θ: away from the data by half of the slope a little further on
            near, data = min(end, least), z
            track = replace(track, angle=torch.full_like(track.angle, near))
            for _ in range(2):
                track = field.measure(z, track)
                z = data + near / 2 * track.slope
        elif memory is None:
            track = field.measure(z, track)
        before, goal = track.spent, end or min(start, least)
        while len(index := self._going(track, goal)):
            z, track = self._attempt(field, z, track, goal, index)
        track = replace(track, spent=track.spent | (track.angle != goal))
        self._tell(track, track.spent & ~before, field.reach)
        rest = (end - track.angle) * (1.0 if end else 0.5)  # the slope falls to 0 at the data
        z, arrived = z + _column(rest, z) * track.slope, _column(rest == 0.0, z)
        track = replace(track, angle=torch.full_like(rest, end), slope=arrived * track.slope)
        return flow.back(z, s), track

    def _going(self, track: Track, goal: float) -> Tensor:
        """The samples that have not arrived and have the calls for a step."""
        going = (track.angle != goal) & ~track.spent
        if self.budget is not None:
            going &= track.calls + len(PAIRS[self.order].nodes) <= self.budget
        return going.nonzero()[:, 0]

    def _attempt(self, field: _Field, z: Tensor, track: Track, goal: float, index: Tensor) -> tuple[Tensor, Track]:
        """A step of each sample in `index`, kept where its error is within the tolerance."""
        pair, here, angle, size = PAIRS[self.order], z[index], track.angle[index], track.size[index]
        last = size > 0.999 * (goal - angle).abs()
        h = torch.where(last, goal - angle, math.copysign(1.0, goal - float(angle[0])) * size)
        there, slopes = here, [track.slope[index]]
        for node, row_ in zip(pair.nodes, pair.matrix):
            there = here + _column(h, z) * _mix(row_, slopes)
            place = torch.where(last, goal, angle + h) if node == 1.0 else angle + node * h
            slopes.append(field(there, place, index, track))
        allowed = self.atol + self.rtol * torch.maximum(here.abs(), there.abs())
        error = _column(h, z) * _mix(pair.error, slopes) / allowed
        error = error.detach().square().mean(1).sqrt().double().cpu().clamp_min(1e-10)
        kept = error <= 1
        grown = SAFETY * torch.where(kept, error**-0.7 * track.error[index] ** 0.4, 1 / error) ** (1 / self.order)
        proposed = h.abs() * grown.nan_to_num(LEAST).clamp(LEAST, MOST)
        proposed = torch.where(kept & last, torch.maximum(proposed, size), proposed)
        _check_moving(field.reach, proposed, angle, index)
        mine = index[kept]
        z = z.index_put((mine.to(z.device),), there[kept])
        return z, replace(
            track,
            angle=track.angle.index_put((mine,), torch.where(last, goal, angle + h)[kept]),
            slope=track.slope.index_put((mine.to(z.device),), slopes[-1][kept]),
            size=track.size.index_put((index,), proposed),
            error=track.error.index_put((mine,), error[kept]),
            accepted=track.accepted.index_add(0, index, kept.long()),
            rejected=track.rejected.index_add(0, index, (~kept).long()),
        )

    def _tell(self, track: Track, spent: Tensor, reach: float) -> None:
        if bool(spent.any()):
            far = reach * track.angle[spent].tan()
            warnings.warn(
                f"{int(spent.sum())} of {len(spent)} samples used up their budget of {self.budget} calls at "
                f"sigma/alpha from {float(far.min()):.3g} to {float(far.max()):.3g} and were carried on in one step "
                f"(samples {str(spent.nonzero()[:8, 0].tolist())[1:-1]}); raise budget, or loosen rtol and atol",
                Unfinished,
                stacklevel=2,
            )


class _Field:
    """dz/dθ of samples at angles of their own."""

    def __init__(self, flow: Flow, batch: int) -> None:
        self.flow, self.batch, self.reach = flow, batch, REACH * flow.frame.scale
        self.whole = is_conditioned(flow.model)  # conditions of single samples hold for the whole batch only

    def measure(self, z: Tensor, track: Track) -> Track:
        """The track with the slope where every sample is."""
        calls = track.calls.clone()
        track = replace(track, calls=calls)
        return replace(track, slope=self(z, track.angle, torch.arange(self.batch), track))

    def __call__(self, z: Tensor, angle: Tensor, index: Tensor, track: Track) -> Tensor:
        """dz/dθ: (A, D) at z: (A, D) and angle: (A,) of the samples in index: (A,); 0 at θ = 0, without a call."""
        inside = angle > 0.0
        if not bool(inside.any()):
            return torch.zeros_like(z)
        model, frame, process = self.flow.model, self.flow.frame, self.flow.model.process
        rho = self.reach * angle.where(inside & (angle < NOISE_END), torch.ones_like(angle)).tan()
        t = limit(process.time(-2 * rho.log()).where(angle < NOISE_END, torch.full_like(angle, process.t_max)))
        pair = (torch.as_tensor(c, dtype=t.dtype).expand_as(t) for c in row(model.prediction, process, t))
        rho, alpha, sigma, a, b = (c[:, None].to(z.device) for c in (rho, process.alpha(t), process.sigma(t), *pair))
        variance = torch.as_tensor(frame.spread, dtype=torch.float64, device=z.device) ** 2
        front = (self.reach**2 + rho**2) / self.reach / (variance + rho**2) ** 1.5
        p = torch.where(alpha == 0, -1 / self.reach, -rho * front)  # at pure noise, the limit: (m − x₀)/reach
        u, w = solve_rows((alpha, sigma), (a, b), (p, torch.where(alpha == 0, 0.0, variance * front)))
        x = (alpha * frame.mean).to(z.dtype) + (alpha**2 * variance + sigma**2).sqrt().to(z.dtype) * z
        y = frame.turn(self._ask(frame.unturn(x, self.flow.shape), t.to(x), index))
        slope = u.to(z.dtype) * x + w.to(z.dtype) * y - (p * frame.mean).to(z.dtype)
        track.calls[index] += inside
        return slope.where(inside.to(z.device)[:, None], torch.zeros_like(slope))

    def _ask(self, x: Tensor, t: Tensor, index: Tensor) -> Tensor:
        if not self.whole:
            return self.flow.model(x, t)
        index = index.to(x.device)
        filled = x[:1].expand(self.batch, *x.shape[1:]).index_put((index,), x)
        return self.flow.model(filled, t[:1].expand(self.batch).index_put((index,), t))[index]


def _begin(z: Tensor, angle: float, size: float) -> Track:
    zero = torch.zeros(len(z), dtype=torch.float64)
    none = torch.zeros(len(z), dtype=torch.int64)
    return Track(zero + angle, torch.zeros_like(z), zero + size, zero + 1, none, none, none, none > 0)


def _column(values: Tensor, like: Tensor) -> Tensor:
    """(B,) on the host as (B, 1) in the dtype and on the device of `like`."""
    return values.to(like.device, like.dtype)[:, None]


def _mix(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    return sum(w * k for w, k in zip(weights, slopes) if w)  # pyright: ignore[reportReturnType]


def _check_moving(reach: float, size: Tensor, angle: Tensor, index: Tensor) -> None:
    if bool((size < TINIEST).any()):
        k = int(size.argmin())
        raise _checks.Diverged(
            f"Adaptive cannot proceed at sigma/alpha = {reach * math.tan(float(angle[k])):.4g}: the step of sample "
            f"{int(index[k])} has become too small. Look at what the network returns there, or loosen rtol and atol"
        )
