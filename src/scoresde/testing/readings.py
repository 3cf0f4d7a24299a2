"""Readings of a network: from what time, process and scale of the data it may answer, and what it may predict.

A `Way` asks it, as declared or with `Change`s of the time, the process or the scale. Its answers are then read as every
prediction, and as minus it: each gives a `Reading`, the errors of x₀ on the same `Noised` data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from scoresde import _checks
from scoresde.model import Model
from scoresde.networks import TIMES, Adapter
from scoresde.prediction import PREDICTIONS, Prediction, limit, row, solve_rows
from scoresde.process import EDM, VE, VP, Cosine, Process, RectifiedFlow, Sigmoid, SubVP
from scoresde.testing.certificate import spelled
from scoresde.testing.scales import scales

LEVELS = (0.2, 0.4, 0.8, 1.6, 3.2)
"""σ/α at which noise is to be removed, in standard deviations of the data: where denoisers differ."""

SAME, FACTOR = 0.25, 1.5
"""How far best factors of the answers may differ among levels to be called one, and how far that must be from 1."""

ROWS = 1024
"""Of a call of the network."""

PROCESSES = (VP(), SubVP(), VE(), EDM(), Cosine(), Sigmoid(), RectifiedFlow())

Time = Callable[[Process, Tensor], Tensor]

OTHER_TIMES: dict[str, tuple[Time, str]] = {
    "reversed": (lambda process, t: process.t_max - t, "process.t_max - t"),
    "reversed_index": (lambda process, t: 1000 * (1 - t / process.t_max), "1000 * (1 - t / process.t_max)"),
    "share": (lambda process, t: t / process.t_max, "t / process.t_max"),
    "alpha": (lambda process, t: process.alpha(t), "process.alpha(t)"),
    "minus_logsnr": (lambda process, t: -process.logsnr(t), "-process.logsnr(t)"),
}
"""Times that networks take beside those in TIMES, as functions and as one writes them."""

WORDS = {
    "t": "the process's own t", "index": "the index 0..999", "step": "the whole index 0..999",
    "logsnr": "log-SNR, log α²/σ²", "log_sigma": "log σ/α", "c_noise": "EDM's c_noise, ¼ log σ/α",
    "reversed": "a time that runs from noise to data", "reversed_index": "an index that runs from noise to data",
    "share": "the share of t_max, in [0, 1]", "sigma": "σ", "alpha": "α", "minus_logsnr": "log σ²/α²",
}  # fmt: skip


@dataclass(frozen=True)
class Change:
    """What is done otherwise than declared: of what kind, in words, what to write for it, and what it is."""

    kind: str
    what: str
    code: str
    value: Any


@dataclass(frozen=True)
class Way:
    """A way to ask a network: as declared, but for changes of the time, the process, or the scale of the data."""

    model: Model
    changes: tuple[Change, ...] = ()

    def changed(self, kind: str, otherwise: Any) -> Any:
        return next((change.value for change in self.changes if change.kind == kind), otherwise)

    @property
    def process(self) -> Process:
        return self.changed("process", self.model.process)

    @property
    def scale(self) -> tuple[float, float]:
        """(a, c): the network is given a x + c."""
        return self.changed("scale", (1.0, 0.0))

    def ask(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """The answers at states x: (N, *) and times t: (N,), float64."""
        net, process = self.model.net, self.process
        time: Time | None = self.changed("time", None)
        if isinstance(net, Adapter) and self.changes:  # told the time as it is to be read
            time = time or TIMES[net.time]
            net = Adapter(net.net, process, "t", net.label, net.null)
        told = t if time is None else time(process, t)
        return net(x, told.to(x.device, x.dtype if told.is_floating_point() else told.dtype), **cond)


@dataclass(frozen=True)
class Reading:
    """What the answers to one way of asking are read as: so many times the row of a prediction.

    sign: 1, −1, or another factor. errors: (K, N), of x₀.
    """

    way: Way
    prediction: Prediction
    sign: float
    errors: Tensor

    @property
    def changes(self) -> int:
        """How much of it is not as declared."""
        return len(self.way.changes) + (self.prediction != self.way.model.prediction) + (self.sign != 1)

    def same(self, other: Reading) -> bool:
        """Whether both read the same answers as the same prediction."""
        return (self.way, self.prediction, self.sign) == (other.way, other.prediction, other.sign)


@dataclass(frozen=True)
class Noised:
    """Data x: (N, *) with noise: (K, N, *) at the levels σ/α: (K,), all float64; and what a network is to be given."""

    x: Tensor
    noise: Tensor
    levels: Tensor
    like: Tensor
    cond: dict[str, Any]

    @staticmethod
    def of(x: Tensor, draws: int, cond: dict[str, Any]) -> Noised:
        """About `draws` perturbed samples at every level, of rows chosen by a source of its own."""
        generator = torch.Generator().manual_seed(0)
        rows = torch.randperm(len(x), generator=generator)[:draws]
        cond = {name: value[rows.to(value.device)] if belongs(value, x) else value for name, value in cond.items()}
        chosen = x.detach().cpu()[rows].double()
        levels = float(chosen.var(0).mean().sqrt()) * torch.tensor(LEVELS, dtype=torch.float64)
        levels = levels.repeat(math.ceil(draws / len(chosen)))
        noise = torch.randn(len(levels), *chosen.shape, generator=generator, dtype=torch.float64)
        return Noised(chosen, noise, levels, x[:0], cond)

    @property
    def states(self) -> Tensor:
        """x + σ/α noise: (K, N, *)."""
        return self.x + self.at(self.levels) * self.noise

    def at(self, coefficients: Tensor) -> Tensor:
        """Coefficients of the levels, ready to multiply (K, N, *)."""
        return coefficients[(..., *[None] * self.x.ndim)]

    def errors(self, estimates: Tensor) -> Tensor:
        """The mean square of x̂₀ − x₀ of each sample, (K, N); infinite where it is not finite."""
        errors = (estimates - self.x).square().reshape(*self.noise.shape[:2], -1).mean(2)
        return torch.where(errors.isfinite(), errors, torch.inf)


def belongs(value: Any, x: Tensor) -> bool:
    """Whether a condition has a row for each sample."""
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == len(x)


def readings(way: Way, noised: Noised) -> list[Reading]:
    """All that the answers to one way of asking can be read as, the declared prediction first; none if refused.

    The network is given α(a x₀ + c) + σ ε at the time where σ/α is a times the level, so that whatever the process and
    the scale its task is the same, and errors of x₀ compare. They are NaN at a level that the process does not reach.
    The declared prediction is also read as so many times the answers, if the same number serves best at all levels.
    """
    process, (scale, shift) = way.process, way.scale
    levels = noised.levels * scale
    t = limit(process.time(-2 * levels.log()).clamp(process.t_min, process.t_max))
    alpha, sigma = process.alpha(t), process.sigma(t)
    reached = (sigma / alpha / levels).log().abs() < 0.01
    x = noised.at(alpha) * (scale * noised.x + shift) + noised.at(sigma) * noised.noise
    try:
        answers = torch.stack([_answers(way, *here, noised) for here in zip(x, t)])
    except (TypeError, ValueError, RuntimeError, IndexError):
        return []
    found, times = [], []
    for prediction in dict.fromkeys([way.model.prediction, *PREDICTIONS]):
        a, b = (torch.as_tensor(c, dtype=torch.float64) for c in row(prediction, process, t))
        for sign in (1, -1):
            u, w = (noised.at(c.expand_as(t)) for c in solve_rows((alpha, sigma), (sign * a, sign * b), (1.0, 0.0)))
            errors = noised.errors((u * x + w * answers - shift) / scale)
            found.append(Reading(way, prediction, sign, torch.where(reached[:, None], errors, torch.nan)))
            if len(found) == 1 and not way.changes and (factor := _factor(noised.x - u * x, w * answers, reached)):
                errors = noised.errors(u * x + factor * w * answers)
                times.append(Reading(way, prediction, 1 / factor, torch.where(reached[:, None], errors, torch.nan)))
    return found + times


def _factor(wanted: Tensor, got: Tensor, reached: Tensor) -> float | None:
    """The number c for which c got: (K, N, *) is nearest to what is wanted, if the same at all levels, and not ±1."""
    inner, square = ((one * got).flatten(1).sum(1).reshape(-1, len(LEVELS)).sum(0) for one in (wanted, got))
    best = (inner / square)[reached[: len(LEVELS)]]
    if len(best) < 3 or not bool(best.isfinite().all()):
        return None
    middle = float(best.median())
    same = bool(((best - middle).abs() <= SAME * abs(middle)).all())
    return middle if same and abs(math.log(abs(middle))) > math.log(FACTOR) else None


def _answers(way: Way, x: Tensor, t: Tensor, noised: Noised) -> Tensor:
    """To x: (N, *) at t: (), some rows at a time."""
    pieces = []
    for i in range(0, len(x), ROWS):
        some = slice(i, i + ROWS)
        cond = {name: value[some] if belongs(value, x) else value for name, value in noised.cond.items()}
        pieces.append(way.ask(x[some].to(noised.like), t.expand(len(x[some])), **cond))
    return _checks.shape_like("the output of net", torch.cat(pieces), x).cpu().double()


def ways(model: Model, x: Tensor, changes: int) -> Iterator[Way]:
    """All ways to ask with one or two changes, each of another kind."""
    kinds = [list(_times(model)), list(_processes(model)), list(_scales(model, x))]
    if changes == 1:
        yield from (Way(model, (change,)) for kind in kinds for change in kind)
    else:
        yield from (Way(model, (one, two)) for a, b in combinations(kinds, 2) for one in a for two in b)


def nearby(model: Model) -> Iterator[Way]:
    """What is no convention, but helps networks that learned some noise levels better than others: told as declared,
    but of more noise or less, or given data stretched.
    """
    declared = TIMES[model.net.time] if isinstance(model.net, Adapter) else TIMES["t"]

    def of(factor: float) -> Time:
        return lambda process, t: declared(process, process.time(process.logsnr(t) - 2 * math.log(factor)))

    yield from (Way(model, (Change("time", "", "", of(factor)),)) for factor in (0.25, 0.5, 2.0, 4.0))
    yield from (Way(model, (Change("scale", "", "", (factor, 0.0)),)) for factor in (0.5, 2.0, 4.0))


def _times(model: Model) -> Iterator[Change]:
    declared = model.net.time if isinstance(model.net, Adapter) else "t"
    pointless = ["share"] * (model.process.t_max == 1.0) + ["alpha"] * (
        model.process.at("alpha", model.process.t_max) == 1
    )
    own = {name: function for name, (function, _) in OTHER_TIMES.items()}
    for name, function in {**own, **TIMES}.items():
        if name == declared or name in pointless:
            continue
        code = f'net = networks.Adapter(net, process, time="{name}")'
        if name not in TIMES:
            code = f'networks.TIMES["{name}"] = lambda process, t: {OTHER_TIMES[name][1]}; {code}'
        what = f"takes {WORDS.get(name, name)} for the time, not {WORDS.get(declared, declared)}"
        yield Change("time", what, code, function)


def _processes(model: Model) -> Iterator[Change]:
    for process in PROCESSES:
        if process != model.process:
            what = f"was trained on {spelled(process)}, not on {spelled(model.process)}"
            yield Change("process", what, f"process = {spelled(process)}", process)


def _scales(model: Model, x: Tensor) -> Iterator[Change]:
    what = f"wants data of another scale than x, which lie in [{float(x.min()):.3g}, {float(x.max()):.3g}]"
    for code, scale, shift in scales(model, x):
        yield Change("scale", what, code, (scale, shift))
