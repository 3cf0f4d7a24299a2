"""What a comparison is about: real samples to hold others against, and the likelihood of models on held-out data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from scoresde import _checks, targets
from scoresde.data import Data
from scoresde.likelihood import bits_per_dim, log_prob
from scoresde.metrics import fit_features, inception_features
from scoresde.model import Model
from scoresde.scaling import Scaling

Bits = tuple[float, float]
"""A value and its standard error."""


@dataclass(frozen=True)
class Problem:
    """real, other: (N, *), as models see them; real ones no model was trained on, and others for the floor.

    bits: bits/dim of a model on held-out data. features: makes a function of samples for metrics, where pixels
    say little. scaling: of the data. least: the bits/dim of the data themselves, where they are known.
    """

    name: str
    real: Tensor
    other: Tensor
    bits: Callable[[Model], Bits]
    features: Callable[[], Any] = lambda: None
    least: Bits | None = None
    scaling: Scaling | None = None


def of_target(name: str, num: int, count: int, seed: int, device: torch.device) -> tuple[Problem, targets.Target]:
    """An exact target: as many fresh samples as one likes."""
    target = named(name).to(device)
    sources = (torch.Generator().manual_seed(2**32 + 3 * seed + i) for i in range(3))
    real, other, held = (target.sample(n, source).cpu() for n, source in zip((num, num, count or 1), sources))
    held = held.double().to(device)

    def bits(model: Model) -> Bits:
        return per_dim(log_prob(model, held).value, target.dim)

    return Problem(name, real, other, bits, least=per_dim(target.log_prob(held), target.dim)), target


def of_data(train: Data, held: Data, num: int, count: int, seed: int, inception: bool = False) -> Problem:
    """Data by rows: those held out, and as many of those trained on."""
    num = min(num, len(held), len(train))
    source = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(train), generator=source)[:num]
    real, other = held.batch(torch.arange(num), source)[0], train.batch(rows, source)[0]
    few = torch.arange(min(count or 1, len(held)))

    def bits(model: Model) -> Bits:
        return held_out_bits(model, held, few, torch.Generator().manual_seed(seed))

    def features() -> Any:
        if inception:
            return inception_features()
        if real[0].ndim < 2:
            return None
        some = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:5000]
        x, cond = train.batch(some, torch.Generator().manual_seed(seed))
        labels = cond["label"] if len(train.classes) > 1 else None
        return fit_features(x, labels, generator=torch.Generator().manual_seed(seed))

    return Problem(held.name, real, other, bits, features, scaling=held.scaling)


def held_out_bits(model: Model, data: Data, rows: Tensor, generator: torch.Generator) -> Bits:
    """Bits/dim of rows of raw data: of their levels, or of their density."""
    scaling, device = data.scaling, model.like().device
    raw = data.raw(rows)
    if scaling.levels is not None:
        low, high = scaling.edges
        x = raw.long().to(device)
        result = bits_per_dim(model, x, scaling.levels, low=low, high=high, generator=generator)
        return result.value, result.standard_error
    value = log_prob(model, scaling(raw).float().to(device), generator=generator).value
    return per_dim(value + scaling.log_det(data.shape), math.prod(data.shape))


def per_dim(value: Tensor, dim: int) -> Bits:
    """The mean of −log₂ p/D and its standard error, for log-densities (B,) in nats."""
    each = -value.double() / (dim * math.log(2))
    return float(each.mean()), float(each.std() / math.sqrt(len(each))) if len(each) > 1 else math.inf


def named(name: str) -> targets.Target:
    """A target of `targets.EXAMPLES`, or one of your own, or a function that makes one, by module.name."""
    module, _, attribute = name.rpartition(".")
    if not module:
        return targets.EXAMPLES[_checks.choice("target", name, targets.EXAMPLES)]()
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"target {name!r} cannot be imported: {error}") from error
    found = found() if callable(found) and not isinstance(found, targets.Target) else found
    return _checks.kind(f"target {name!r}", found, targets.Target, "targets.GaussianMixture(...)")
