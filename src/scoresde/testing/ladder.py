"""How far samples are from their target: exactly where runs are affine and laws normal, else by samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from scoresde import _checks
from scoresde.flow import Flow
from scoresde.metrics import frechet_gaussians
from scoresde.model import Model
from scoresde.process import EDM
from scoresde.process.base import randn
from scoresde.samplers import Adaptive, Sampler, sample
from scoresde.samplers.base import to_data
from scoresde.samplers.noise import Draw, Source
from scoresde.targets.base import Target
from scoresde.testing.budget import Part

DIRECTIONS = 128
"""Of the sliced distance."""

PRECISE = 1e-7
"""The tolerance of the exact flow, from where a grid ends to the data."""

WORK, MOST = 1_000_000, 1000
"""Numbers in the noises of a run whose law is propagated, noise by noise; and its steps if there are none."""


class NotAffineError(ValueError):
    """A run is not an affine map of its start and its noises."""


@dataclass(frozen=True)
class Distance:
    """A squared distance from the target; the samples' influences on it, (N,); and what else is chance, by cause."""

    value: float
    influence: Tensor | float = 0.0
    chance: dict[str, float] = field(default_factory=dict)

    def above(self, other: Distance, name: str) -> Part:
        """By how much, and the standard error of that: samples and causes of chance are those of both."""
        apart = self.influence - other.influence
        variance = float(apart.var()) / len(apart) if isinstance(apart, Tensor) else 0.0
        own = [value for cause, value in self.chance.items() if cause not in other.chance]
        return Part(name, self.value - other.value, math.hypot(math.sqrt(variance), *own))


def walk(sampler: Sampler, model: Model, x: Tensor, times: list[float], draw: Draw) -> tuple[Tensor, Tensor]:
    """The last two states of a run that begins at x: (B, *) at the first time; the data's noise removed in the last."""
    before = x
    for state in sampler.run(model, x, times, draw):
        before, x = x, state
    ends = times[-1] == 0.0 and model.process.at("sigma", 0.0) > 0.0
    return (x, to_data(model, x, 0.0)) if ends else (before, x)


def prior(model: Model, z: Tensor, shape: tuple[int, ...], t: float) -> Tensor:
    """The states that `sample` begins with, of standard normal z: (B, D)."""
    flow = Flow.of(model, z.new_empty(1, *shape))
    return flow.back(flow.frame.turn(z.reshape(-1, *shape)), t)


def like(model: Model) -> Tensor:
    """What states are like: float64 where the network has no tensors that say otherwise."""
    net = model.net
    known = isinstance(net, nn.Module) and any(v.is_floating_point() for v in (*net.parameters(), *net.buffers()))
    return model.like() if known else torch.empty(0, dtype=torch.float64)


@dataclass
class Propagated:
    """Runs from a normal law to a normal target: their affine maps, found by running unit vectors."""

    sampler: Sampler
    target: Target
    shape: tuple[int, ...]
    samples: int = 0
    draws: int = 0

    def many(self, steps: int) -> int:
        """As many steps as are soon done, 8 to 64 for one."""
        most = math.sqrt(WORK * steps / self.draws) / self.target.dim if self.draws else MOST
        return max(min(64 * steps, int(most)), 8 * steps)

    def distances(self, exact: Model, model: Model, grids: list[list[float]], times: list[float]) -> list[Distance]:
        """In many steps: exact from the exact start, exact, the model's; at the times given: the model's, exact."""
        return [
            self.distance(exact, grids, False), self.distance(exact, grids, True), self.distance(model, grids, True),
            self.distance(model, [times], True), self.distance(exact, [times], True),
        ]  # fmt: skip

    def distance(self, model: Model, grids: list[list[float]], used: bool) -> Distance:
        """That of the law of a run; of three runs, each of twice the steps, that of the limit to which they tend."""
        law = _limit([self.law(model, grid, used) for grid in grids])
        mean, covariance = (moment.double().cpu() for moment in self.target.moments)
        return Distance(frechet_gaussians(law[0], law[1:], mean, covariance))

    def law(self, model: Model, times: list[float], used: bool) -> Tensor:
        """The mean (D,) of what a run gives, and below it the covariance (D, D): (1 + D, D)."""
        dim, empty = self.target.dim, like(model)
        self.draws = self._count(model, times, used) if self.sampler.stochastic else 0
        tried = torch.randn(2, 1 + self.draws, dim, generator=torch.Generator().manual_seed(0)).to(empty)
        eye, rows = torch.eye(dim).to(empty), empty.new_zeros(3 + dim * (1 + self.draws), dim)
        asked = 0

        def unit(_: Any = None) -> Tensor:
            """The next normal vector: standard in one direction a row, zero in the first row, tried in the last two."""
            nonlocal asked
            vectors = rows.clone()
            vectors[1 + asked * dim : 1 + (asked + 1) * dim], vectors[-2:] = eye, tried[:, asked]
            asked += 1
            return vectors

        x = self._start(model, unit(), times[0], used)
        shape = x.shape
        out = walk(self.sampler, model, x, times, lambda _: unit().reshape(shape))[1].flatten(1).double().cpu()
        slopes = out[1:-2] - out[0]
        apart = out[-2:] - out[0] - tried.flatten(1).double().cpu() @ slopes
        if not float(apart.abs().max()) <= torch.finfo(empty.dtype).eps ** 0.5 * float(out.abs().max()):
            raise NotAffineError("this run is not affine")
        return torch.cat([out[:1], slopes.mT @ slopes])

    def _count(self, model: Model, times: list[float], used: bool) -> int:
        """How many normal vectors a run asks for."""
        zero, asked = like(model).new_zeros(1, self.target.dim), []

        def none(shape: Sequence[int]) -> Tensor:
            asked.append(shape)
            return zero.reshape(tuple(shape))

        walk(self.sampler, model, self._start(model, zero, times[0], used), times, none)
        return len(asked)

    def _start(self, model: Model, z: Tensor, t: float, used: bool) -> Tensor:
        if used:
            return prior(model, z, self.shape, t)
        alpha, sigma = model.process.at("alpha", t), model.process.at("sigma", t)
        mean, covariance = (moment.double().to(z.device) for moment in self.target.moments)
        values, axes = torch.linalg.eigh(covariance)
        root = axes * (alpha**2 * values.clamp_min(0) + sigma**2).sqrt()
        return (alpha * mean + z.double() @ root.mT).to(z).reshape(-1, *self.shape)


def _limit(laws: list[Tensor]) -> Tensor:
    """Where laws of n, 2n and 4n steps tend, their errors being powers p, p + 1, … of 1/n from the one that they show.

    Reference: Richardson (1911), Phil. Trans. A 210.
    """
    if len(laws) < 3:
        return laws[-1]
    before, last = (float((b - a).norm()) for a, b in pairwise(laws))
    if not before > 1.5 * last > 1e-13 * float(laws[-1].norm()):
        return laws[-1]
    order = math.log2(before / last)
    near = round(order) if abs(order - round(order)) < 0.25 else order
    one, two = (b + (b - a) / (2**near - 1) for a, b in pairwise(laws))
    return two + (two - one) / (2 ** (near + 1) - 1) if near == round(order) else two


class Drawn:
    """Runs by samples, all from the same starts, along the same Brownian paths if the sampler can."""

    def __init__(
        self, sampler: Sampler, target: Target, shape: tuple[int, ...], samples: int, generator: torch.Generator
    ) -> None:
        self.sampler, self.target, self.shape, self.samples = sampler, target, shape, samples
        directions = torch.randn(target.dim, DIRECTIONS, generator=torch.Generator().manual_seed(0)).double()
        self.directions = directions / directions.norm(dim=0)
        self.data, self.other = (target.sample(samples, generator).double().cpu() for _ in range(2))
        self.z = randn(self.data.shape, generator, "cpu", torch.float64)
        self.seed = int(torch.randint(2**62, (), generator=generator, device=_checks.device_of(generator)))
        if sampler.stochastic and is_dataclass(sampler) and any(f.name == "noise" for f in fields(sampler)):
            self.sampler = replace(sampler, noise="path")  # pyright: ignore[reportArgumentType]

    def many(self, steps: int) -> int:
        return max(min(16 * steps, MOST), 4 * steps)

    def distances(self, exact: Model, model: Model, grids: list[list[float]], times: list[float]) -> list[Distance]:
        """As `Propagated.distances`: from what the exact runs come to in the data, by the exact flow."""
        try:
            return self._distances(exact, model, grids[-1], times)
        except ValueError:
            if self.sampler.noise != "path":
                raise
            self.sampler = replace(self.sampler, noise="independent")  # pyright: ignore[reportArgumentType]
            return self._distances(exact, model, grids[-1], times)

    def _distances(self, exact: Model, model: Model, grid: list[float], times: list[float]) -> list[Distance]:
        empty, first = like(model), grid[0]
        before, last = self._walked(exact, self._exact_start(exact, self.data, first), grid)
        t = grid[-2] if grid[-1] == 0.0 and exact.process.at("sigma", 0.0) == 0.0 else grid[-1]
        goal, here = self._placed(self._to_data(exact, before if grid[-1] == 0.0 else last, t)), self._placed(last)
        anew = self._walked(exact, self._exact_start(exact, self.other, first), grid)[1]
        start, noise = {"start": self._distance(anew, here).value}, {}
        if self.sampler.stochastic and self.sampler.noise != "path":
            anew = self._walked(exact, self._exact_start(exact, self.other, first), grid, 1)[1]
            noise = {"noise": self._distance(anew, here).value}
        found = [self._distance(last, goal)]
        for one, where in ((exact, grid), (model, grid), (model, times), (exact, times)):
            x = self._walked(one, prior(one, self.z.to(empty), self.shape, where[0]), where)[1]
            distance = self._distance(x, goal)
            more = noise if where is times else {}
            found.append(Distance(distance.value - sum(more.values()), distance.influence, start | more))
        return found

    def _exact_start(self, model: Model, data: Tensor, t: float) -> Tensor:
        x = model.process.at("alpha", t) * data + model.process.at("sigma", t) * self.z
        return x.to(like(model)).reshape(-1, *self.shape)

    def _walked(self, model: Model, x: Tensor, times: list[float], more: int = 0) -> tuple[Tensor, Tensor]:
        source = Source(like(model), len(x), torch.Generator().manual_seed(self.seed + more))
        return walk(self.sampler, model, x, times, source)

    def _to_data(self, exact: Model, x: Tensor, t: float) -> Tensor:
        """x at time t carried along the exact flow to the data."""
        alpha, rho = exact.process.at("alpha", t), exact.process.at("sigma", t) / exact.process.at("alpha", t)
        if rho == 0.0:
            return x
        return sample(self.target.model(EDM(1e-6 * rho, rho), "v"), None, Adaptive(PRECISE, PRECISE), x=x / alpha)

    def _placed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Along each line, in order, and that order: (N, P)."""
        placed, order = (x.flatten(1).double().cpu() @ self.directions).sort(0)
        return placed, order

    def _distance(self, x: Tensor, goal: tuple[Tensor, Tensor]) -> Distance:
        """D times the mean over lines of W₂², and the Kantorovich potentials of the pairs: f′ = 2 (x − T(x))."""
        if not bool(x.isfinite().all()):
            return Distance(math.inf)
        (one, i), (two, j) = self._placed(x), goal
        gap, dim = one - two, self.target.dim
        return Distance(dim * float(gap.square().mean()), dim * (_potential(one, gap, i) + _potential(two, -gap, j)))


def _potential(placed: Tensor, gap: Tensor, order: Tensor) -> Tensor:
    """∫ 2 gap dx along each line, from values in order (N, P): its mean over lines, for each sample (N,)."""
    rise = (placed.diff(dim=0) * (gap[1:] + gap[:-1])).cumsum(0)
    along = torch.cat([torch.zeros_like(rise[:1]), rise])
    return torch.zeros_like(along).scatter_(0, order, along - along.mean(0)).mean(1)
