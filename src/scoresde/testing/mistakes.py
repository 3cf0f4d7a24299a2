"""Which of the readings of a network removes noise: the declared one, another, or none.

A reading is judged by its error of x₀ at five levels of noise, as a share: 0 is perfect, ½ a linear denoiser's.
Another is named if its share is surely less than the declared one's (by five standard errors of their difference, on
the same samples and noises), and if it removes noise as a trained network does: a denoiser made of the data says how
much there is to remove. A network that learned too little may do better when told another level of noise. So if the
declared reading works at all, the other one must also beat what is no convention, such as being told twice the noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from scoresde.model import Model
from scoresde.testing.readings import LEVELS, Noised, Reading, Way, belongs, nearby, readings, ways
from scoresde.testing.scales import off_scale, out_of_reach, uneven

SURE, LIKELY = 5.0, 3.0
"""Standard errors of a difference that is no chance, for an accusation and for an acquittal."""

MATERIAL = 0.01
"""The least difference of shares that counts."""

PRICE = 0.012
"""How much less a reading's share must be for every change that it makes, to be preferred."""

GAIN, PART = 0.1, 0.25
"""Where a simple denoiser's error is so much below the linear one's, that of a reading to be named is by this part."""

LINEAR, ROOM = 0.5, 0.54
"""The share that a reading to be named stays below, and, where nothing is better than linear, any network."""

CLEAR = 0.47
"""The share that a reading has to stay below if x are known to be on another scale than the network's data."""

FEWEST = 3
"""Levels that a process must reach."""

CLASSES = 32
"""Values of a condition that are tried in the place of others."""

FEW = 64
"""Samples for the many readings with two changes."""


@dataclass(frozen=True)
class Judged:
    """A reading by its squared errors relative to the mean one of an isotropic linear denoiser: (5, N), by level."""

    reading: Reading | None
    relative: Tensor
    reached: Tensor = field(default_factory=lambda: torch.ones(len(LEVELS), dtype=torch.bool))
    """The levels that the process reaches, (5,)."""

    @cached_property
    def ratio(self) -> Tensor:
        """r, the mean at each level."""
        return self.relative.mean(1)

    @cached_property
    def share(self) -> float:
        """The mean over levels of r/(1 + r): 0 is perfect, ½ as good as linear, 1 hopeless."""
        return float((self.ratio / (1 + self.ratio)).mean())

    @property
    def shown(self) -> str:
        """The r that has this share at every level."""
        return f"{self.share / (1 - self.share):.2f}" if self.share < 0.99 else "over 100"

    def worse(self, other: Judged) -> bool:
        """Whether its share is surely and materially above another's, on the same samples."""
        one, two = ((each.relative / (1 + each.ratio).square()[:, None]).mean(0) for each in (self, other))
        apart = self.share - other.share
        return apart > MATERIAL and apart > SURE * float((one - two).std()) / math.sqrt(len(one))


@dataclass(frozen=True)
class Bench:
    """Perturbed data, and what they allow."""

    noised: Noised

    @cached_property
    def linear(self) -> Tensor:
        """Errors of the best isotropic linear denoiser, (K, N)."""
        x, states, rho = self.noised.x, self.noised.states, self.noised.at(self.noised.levels)
        mean, variance = x.mean(0), x.var(0).mean()
        return self.noised.errors(mean + (states - mean) * variance / (variance + rho**2))

    def relative(self, errors: Tensor) -> Tensor:
        """Errors (…, K, N) by the mean one of the linear denoiser, which NaN count as."""
        return (errors / self.linear.mean(1, keepdim=True)).nan_to_num(nan=1.0, posinf=1e30).clamp_max(1e30)

    def judge(self, errors: Tensor, reading: Reading | None = None) -> Judged:
        """Of errors (K, N): NaN, of a level out of reach, counts as the linear denoiser's where readings compare."""
        reached = ~errors.isnan().all(1).unflatten(0, (-1, len(LEVELS))).all(0)
        relative = self.relative(errors)
        return Judged(reading, relative.unflatten(0, (-1, len(LEVELS))).mean(0), reached)

    @cached_property
    def simple(self) -> Judged:
        """The better at each level of denoisers that need no training.

        The mean of the other samples, each by its density given x_t; and the linear one with their covariance.
        """
        x, states = self.noised.x.flatten(1), self.noised.states.flatten(2)
        size, found = float(x.var(0).mean().sqrt()), []
        apart = torch.cdist(states, x).square()
        apart.diagonal(dim1=1, dim2=2).fill_(math.inf)
        rho2 = self.noised.levels[:, None, None] ** 2
        for width in (0.05, 0.1, 0.2, 0.4):
            around = (width * size) ** 2
            mean = (-apart / (2 * (around + rho2))).softmax(2) @ x
            found.append(mean + (states - mean) * around / (around + rho2))
        half = len(x) // 2
        if half > x.shape[1]:
            parts = [_regression(x[half:], states[:, :half], rho2), _regression(x[:half], states[:, half:], rho2)]
            found.append(torch.cat(parts, 1))
        each = [self.judge(self.noised.errors(one.unflatten(2, self.noised.x.shape[1:]))) for one in found]
        best = torch.stack([one.ratio for one in each]).argmin(0)
        return Judged(None, torch.stack([each[i].relative[k] for k, i in enumerate(best.tolist())]))

    def gain(self, judged: Judged) -> tuple[Tensor, Tensor]:
        """How much less than a linear denoiser's its error is, relative to that, at each level; and the doubt."""
        gains = self.judge(self.linear).relative - judged.relative
        return gains.mean(1), LIKELY * gains.std(1) / math.sqrt(gains.shape[1])

    @cached_property
    def part(self) -> Tensor:
        """The gain that a network should have at each level, some of the simple denoiser's; 0: nothing to expect."""
        possible = 1 - self.simple.ratio
        return PART * possible * (possible >= GAIN)

    def works(self, judged: Judged) -> bool:
        """Whether a reading surely removes noise, well enough to be named."""
        gain, doubt = self.gain(judged)
        well = (self.part > 0) & (gain > self.part) & (gain > doubt)
        return bool(well.any()) and judged.share < LINEAR if bool(self.part.any()) else judged.share < ROOM

    def fails(self, judged: Judged) -> bool:
        """Whether a reading surely removes no noise worth the name, at no level."""
        gain, doubt = self.gain(judged)
        may = judged.reached & ((gain > doubt) | ((self.part > 0) & (gain + doubt > self.part)))
        return not bool(may.any()) if bool(self.part.any()) else judged.share >= ROOM


def _regression(x: Tensor, states: Tensor, rho2: Tensor) -> Tensor:
    """The linear denoiser of states (K, N, D) with the mean and covariance of x: (M, D)."""
    values, axes = torch.linalg.eigh(x.mT.cov().reshape(x.shape[1], -1))
    values, mean = values.clamp_min(0), x.mean(0)
    return mean + ((states - mean) @ axes * (values / (values + rho2))) @ axes.mT


def mistake(model: Model, x: Tensor, draws: int, cond: dict[str, Any], answers: bool = True) -> str | None:
    """What is wrong with the declared reading of a model, and what to write instead; None if nothing is.

    answers: whether it answers at all if it is asked as declared; if not, only another reading is worth a word.
    """
    bench = Bench(Noised.of(x, draws, cond))
    hopeless = Judged(None, torch.full((len(LEVELS), len(bench.noised.x)), 1e30))
    own = _judged(bench, [Way(model)])
    declared = own[0] if own else hopeless
    best = _least([declared, *own, *_judged(bench, ways(model, x, 1))])
    if not bench.works(best):
        few = Bench(Noised.of(x, FEW, cond))
        found = _least([hopeless, *_judged(few, ways(model, x, 2))]).reading
        again = _judged(bench, [found.way]) if found else []
        best = _least([best, *(one for one in again if one.reading and found and one.reading.same(found))])
    fails, elsewhere = bench.fails(declared), off_scale(model, x)
    unreached = int(declared.reached.sum()) < FEWEST and not bench.works(declared)
    if fails and own and (labels := _labels(bench, model, declared, best)):
        return labels
    better = best.reading and bench.works(best) and declared.worse(best)
    if best.reading and better and (fails or _special(bench, model, best)):
        kinds = [change.kind for change in best.reading.way.changes]
        if not elsewhere or "scale" in kinds or best.share < CLEAR:  # on a wrong scale a little better is no convention
            return _advice(model, best.reading, declared, best)
    if not fails or not answers:
        return None
    if elsewhere:
        return _elsewhere(elsewhere, declared)
    if not unreached:
        return _untrained(declared) + uneven(x)
    return None if model.moments else out_of_reach(model.process, x) + uneven(x)  # who knows its data may yet be right


def _labels(bench: Bench, model: Model, declared: Judged, best: Judged) -> str | None:
    """What to say if a network removes noise with other values of a condition than the samples are given.

    For each sample and level the value is taken that serves best at the other levels.
    """
    noised = bench.noised
    for name, value in noised.cond.items():
        values = value.unique(dim=0) if belongs(value, noised.x) else ()
        if not 2 <= len(values) <= CLASSES:
            continue
        each = [replace(noised, cond=noised.cond | {name: one.expand_as(value).clone()}) for one in values]
        errors = torch.stack([readings(Way(model), one)[0].errors for one in each])
        relative = bench.relative(errors)
        chosen = (relative.sum(1, keepdim=True) - relative).argmin(0, keepdim=True)
        other = bench.judge(errors.gather(0, chosen)[0])
        if bench.works(other) and declared.worse(other) and other.share < best.share + MATERIAL:
            return (
                f"the network does not remove noise with this {name}, but with others of its values it does: its error "
                f"is {other.shown} of a linear denoiser's; as given, {declared.shown}. Check that each row of {name} "
                "belongs to its row of x, and that its values count as in training"
            )
    return None


def _special(bench: Bench, model: Model, best: Judged) -> bool:
    """Whether a reading is better than what is no convention, but would help a network that learned too little."""
    reading = best.reading
    if reading is None:
        return False
    known = [(model.prediction, 1)] + [(reading.prediction, reading.sign)] * bool(reading.way.changes)
    others = _judged(bench, nearby(model))
    return all(one.worse(best) for one in others if one.reading and (one.reading.prediction, one.reading.sign) in known)


def _judged(bench: Bench, each: Iterable[Way]) -> list[Judged]:
    return [bench.judge(reading.errors, reading) for way in each for reading in readings(way, bench.noised)]


def _least(each: list[Judged]) -> Judged:
    """The one of the least share, changes at their price; of about equally good ones the first."""
    costs = [one.share + PRICE * (one.reading.changes if one.reading else 0) for one in each]
    return next(one for one, cost in zip(each, costs) if cost <= min(costs) + MATERIAL / 5)


def _advice(model: Model, reading: Reading, declared: Judged, best: Judged) -> str:
    what, code = ([getattr(change, name) for change in reading.way.changes] for name in ("what", "code"))
    name, sign, net = _named(reading.prediction), reading.sign, "net"
    if abs(sign) != 1:
        what.insert(0, f"predicts {sign:.2g} times {name}, not {name}")
        net = "scaled"
        code.append(f"scaled = lambda x, t, **cond: net(x, t, **cond) / {sign:.2g}")
    elif (reading.prediction, sign) != (model.prediction, 1):
        what.insert(0, f"predicts {'minus ' if sign < 0 else ''}{name}, not {_named(model.prediction)}")
    if sign == -1:
        code.append(f'PREDICTIONS["minus {name}"] = lambda p, t: tuple(-c for c in PREDICTIONS["{name}"](p, t))')
        name = f"minus {name}"
    code.append(f'Model({net}, process, "{name}")')
    data = len(what) == 1 and [change.kind for change in reading.way.changes] == ["scale"]
    wrong = "x are not what the network was trained on" if data else "the network is not what is declared"
    return (
        f"{wrong}: it {', and '.join(what)}. Read so, its error in removing noise is "
        f"{best.shown} of a linear denoiser's; as declared, {declared.shown}. Write {'; '.join(code)}"
    )


def _elsewhere(elsewhere: str, declared: Judged) -> str:
    return (
        f"the network does not remove noise from these x: its error is {declared.shown} of a linear denoiser's. "
        f"{elsewhere}. Give x through the map that its training data went through"
    )


def _untrained(declared: Judged) -> str:
    return (
        f"the network does not remove noise: its error is {declared.shown} of a linear denoiser's, and no reading of "
        "its output is better. Its weights look untrained, or are an average that has not caught up. Load the trained "
        "ones (fit's record.model, load(path), ema.net after its updates); or give x like the data it was trained on, "
        "with the conditions that belong to them"
    )


def _named(prediction: Any) -> str:
    return prediction if isinstance(prediction, str) else getattr(prediction, "__name__", repr(prediction))
