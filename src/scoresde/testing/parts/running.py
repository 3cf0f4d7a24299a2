"""How the kit runs a sampler: on what problems, from where, in how many steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from scoresde.model import Model
from scoresde.prediction import limit
from scoresde.process import EDM, VE, VP, Cosine, Process, RectifiedFlow
from scoresde.process.base import spread
from scoresde.samplers import Sampler, sample
from scoresde.testing.certificate import Certificate, Kind, spelled
from scoresde.testing.certify import certify
from scoresde.testing.exact import MIXTURE, interior
from scoresde.testing.kit import Examples

PROCESSES = (VP(), RectifiedFlow(), EDM(), VE(), Cosine())
"""Where samplers are run: bounded and unbounded noise, α constant and falling to 0, σ(0) = 0 and above."""

STEPS, TIGHT = 40, 100_000
"""Of a run; and 1/tolerance, where a sampler is a function of that."""

CLOSE = 1e-9
"""What rounding may make of one sample, in float64."""


@dataclass(frozen=True)
class Subject:
    """A sampler as a function of the number of steps, what it declares and is for, and `certify`'s other arguments."""

    given: Sampler | Callable[[int], Sampler]
    order: float
    kind: Kind | None
    processes: Sequence[Process] = PROCESSES
    certifying: dict[str, Any] = field(default_factory=dict)

    def of(self, n: int) -> Sampler:
        """The sampler for n steps."""
        return self.given if isinstance(self.given, Sampler) else self.given(n)

    @cached_property
    def sampler(self) -> Sampler:
        return self.of(TIGHT if self.kind == "rtol" else STEPS)

    @cached_property
    def certificate(self) -> Certificate:
        process = self.certifying.get("process") or self.process
        return certify(self.given, self.order, self.kind, **{**self.certifying, "process": process})

    @property
    def process(self) -> Process:
        """The first, on which all is tried that is tried on one only."""
        return self.processes[0]

    def starts(self) -> Tensor:
        """Six points where σ/α = 10: (6, 2)."""
        return MIXTURE.starts(self.process, interior(self.process, 1)[0])[:6]

    def ends(self, x: Tensor, prediction: str = "v", **more: Any) -> Tensor:
        """x: (B, 2) carried from σ/α = 10 to 0.1 in 12 steps, by the exact mixture's model."""
        model = MIXTURE.target(2).model(self.process, prediction)
        return sample(model, x=x, sampler=self.sampler, grid=interior(self.process, 12), **more)


def once(where: str) -> Callable[[Any], Examples]:
    return lambda subject: [(where, None)]


def each_process(subject: Subject) -> Examples:
    return [(spelled(process), process) for process in subject.processes]


def normal_model(process: Process) -> Model:
    """The exact model of independent N(0.5, 0.25) entries, of any shape and dtype."""

    def net(x: Tensor, t: Tensor) -> Tensor:
        at = limit(t)
        alpha, sigma = process.alpha(at), process.sigma(at)
        slope = spread(alpha * sigma * 0.75 / (0.25 * alpha**2 + sigma**2), x)
        return slope * (x - 0.5 * spread(alpha, x)) - 0.5 * spread(sigma, x)

    return Model(net, process, "v")


def spans(subject: Subject) -> Examples:
    """Steps to 0.8 σ/α, on three processes."""
    for rho in (1.0, 0.2):
        for process in subject.processes[:3]:
            t, s = (float(process.time(-2 * math.log(ratio))) for ratio in (rho, 0.8 * rho))
            yield f"σ/α from {rho:g} to {0.8 * rho:g} on {spelled(process)}", (process, t, s)


def randn(shape: Sequence[int] | None = None) -> Tensor:
    """What a step may take for its noise: zeros of that shape."""
    if shape is None:
        raise TypeError("randn must be given a shape; write randn(x.shape)")
    return torch.zeros(tuple(shape), dtype=torch.float64)


def unpathed(sampler: Sampler) -> Sampler:
    """A sampler whose steps may be given any noise: along a Brownian path, the law of a step is the same."""
    return replace(sampler, noise="independent") if sampler.noise == "path" else sampler  # pyright: ignore
