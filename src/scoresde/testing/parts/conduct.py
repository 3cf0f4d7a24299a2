"""How a sampler must run, whatever its order: types, batches, randomness, state."""

from __future__ import annotations

import random
from functools import partial
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde.prediction import PREDICTIONS
from scoresde.process import Process
from scoresde.samplers import sample
from scoresde.samplers.noise import Source
from scoresde.testing.exact import MIXTURE, interior
from scoresde.testing.kit import LIMITED, Examples, short, stating
from scoresde.testing.parts.running import CLOSE, Subject, normal_model, once, randn, spans, unpathed


@stating(
    "steps without a memory",
    "A step from a time t to a later s needs the state alone: memory is None at first. It returns (x, memory).",
    proof="steps to 0.8 σ/α with noise of zeros, on three processes: type and shape of what comes back",
    change="Begin a history where memory is None; end step with return x, memory.",
    examples=spans,
    raised=LIMITED,
)
def steps(subject: Subject, where: tuple[Process, float, float]) -> str | None:
    process, t, s = where
    x = torch.zeros(2, 1, dtype=torch.float64)
    answer = unpathed(subject.sampler).step(normal_model(process), x, t, s, None, randn)
    if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[0], Tensor):
        return f"step returns {type(answer).__name__}, not (x, memory)"
    shape = answer[0].shape
    return None if shape == x.shape else f"step returns a state of shape {tuple(shape)} for one of {tuple(x.shape)}"


@stating(
    "leaves its input alone",
    "The state that a run begins with, or a step is given, is the caller's.",
    proof="compared before and after",
    change="Write x = x + ..., not x += ..., and no functions that end in an underscore.",
    examples=once("6 samples, 12 steps"),
    needs=(steps,),
)
def leaves_input(subject: Subject, _: None) -> str | None:
    x = subject.starts()
    before = x.clone()
    subject.ends(x, seeds=range(6))
    return None if torch.equal(x, before) else f"x was {short(before)} and became {short(x)}"


@stating(
    "draws from randn alone",
    "Noise comes from randn(shape), which is seeded by the caller; the global random states are left alone.",
    proof="torch's, numpy's and Python's states before and after a seeded run",
    change="Replace torch.randn, randn_like and the like by randn(x.shape), the last argument of step.",
    examples=once("6 seeded samples"),
    needs=(steps,),
)
def draws(subject: Subject, _: None) -> str | None:
    def states() -> tuple[Tensor, Any, Any]:
        return torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore

    before = states()
    subject.ends(subject.starts(), seeds=range(6))
    moved = [
        name
        for name, old, new in zip(("torch's", "numpy's", "Python's"), before, states())
        if (not torch.equal(old, new) if isinstance(old, Tensor) else old != new)
    ]
    return f"{' and '.join(moved)} global random state has moved" if moved else None


@stating(
    "repeats itself",
    "The same start and seeds give the same samples, to the bit.",
    proof="two runs with seeds, two with generators of one seed",
    change="Keep nothing between runs, on the sampler or in its module; draw from randn alone.",
    examples=lambda s: [("seeds 0 to 5", "seeds"), ("a generator of seed 7", "generator")],
    needs=(steps, leaves_input, draws),
)
def repeats(subject: Subject, source: str) -> str | None:
    def given() -> dict[str, Any]:
        return {"seeds": range(6)} if source == "seeds" else {"generator": torch.Generator().manual_seed(7)}

    one, two = (subject.ends(subject.starts(), **given()) for _ in range(2))
    return None if torch.equal(one, two) else f"they differ by {short(float((one - two).abs().max()))}"


@stating(
    "keeps no state",
    "What a step must remember is returned as memory; the sampler itself is as it was, and serves many runs at once.",
    proof="its fields before and after a run; two runs, taken a step each in turn, against each run alone; to the bit",
    change="Return the history as the second value of step, and make the class a frozen dataclass.",
    examples=once("two runs of 12 steps"),
    needs=(steps, leaves_input, draws, repeats),
)
def stateless(subject: Subject, _: None) -> str | None:
    process = subject.process
    model, times, sampler = MIXTURE.target(2).model(process, "v"), interior(process, 12), subject.sampler
    states = [subject.starts(), subject.starts().flip(0)]

    def run(x: Tensor, seed: int):
        return sampler.run(model, x, times, Source(x, len(x), seeds=range(seed, seed + 6)))

    alone = [list(run(x, 6 * i))[-1] for i, x in enumerate(states)]
    before = {name: repr(value) for name, value in vars(sampler).items()}
    turns = list(zip_longest(*(run(x, 6 * i) for i, x in enumerate(states))))[-1]
    if changed := [name for name, value in vars(sampler).items() if before.get(name) != repr(value)]:
        return f"its {', '.join(changed)} changed during a run"
    error = max(float((a - b).abs().max()) for a, b in zip(alone, turns))
    return None if error == 0.0 else f"runs taken in turn differ from runs alone by {short(error)}"


SOUND = (steps, leaves_input, draws, repeats, stateless)
"""Without these, a run says nothing of the next."""


@stating(
    "is stochastic as declared",
    "A sampler draws noise just if `stochastic` is true: else it can be run backwards by encode.",
    proof="two runs from one start with other seeds: the same end, or another",
    change="Declare stochastic = True (or a property, if it depends on a setting), or draw no noise.",
    examples=once("seeds 0 to 5, and then 6 to 11"),
    needs=SOUND,
)
def declares(subject: Subject, _: None) -> str | None:
    one, two = (subject.ends(subject.starts(), seeds=range(first, first + 6)) for first in (0, 6))
    apart = float((one - two).abs().max())
    if subject.sampler.stochastic:
        moved = bool(((one - two).abs().amax(1) > 0).all())
        return None if moved else "declares stochastic = True, but other seeds give the same samples"
    return None if apart == 0.0 else f"declares stochastic = False, but other seeds move samples by {short(apart)}"


def _forms(subject: Subject) -> Examples:
    for dtype in (torch.float64, torch.float32):
        for shape in ((3, 2), (1, 1), (3,), (0, 2), (3, 2, 4)):
            yield f"x of shape {shape} in {dtype}", (shape, dtype)


@stating(
    "keeps shape and dtype",
    "States may have any shape (B, *) and floating dtype, and keep both.",
    proof="five shapes in float64 and float32, with an empty batch among them",
    change="Make numbers with process.at, which multiply any tensor; draw noise as randn(x.shape).",
    examples=_forms,
    needs=SOUND,
    raised=None,
)
def keeps_form(subject: Subject, form: tuple[tuple[int, ...], torch.dtype]) -> str | None:
    shape, dtype = form
    x = torch.linspace(-1, 1, max(1, torch.Size(shape).numel()), dtype=dtype)[: torch.Size(shape).numel()]
    x = x.reshape(shape)
    process = subject.process
    end = sample(normal_model(process), x=x, sampler=subject.sampler, grid=interior(process, 6), seeds=range(len(x)))
    if end.shape != x.shape or end.dtype != x.dtype:
        return f"returns shape {tuple(end.shape)} in {end.dtype}"
    return None if torch.isfinite(end).all() else f"returns {short(end)}"


@stating(
    "keeps samples apart",
    "A sample does not depend on what else is in its batch.",
    proof="with a seed for each: one alone, and two in the other order, beside all six; to 1e-9",
    change="Take norms and maxima for each sample (x.flatten(1)), not over the batch; draw noise of x's whole shape.",
    examples=lambda s: [("sample 3 alone", [3]), ("samples 4 and 1", [4, 1])],
    needs=(*SOUND, declares),
)
def apart(subject: Subject, chosen: list[int]) -> str | None:
    together = subject.ends(subject.starts(), seeds=range(6))[chosen]
    alone = subject.ends(subject.starts()[chosen], seeds=chosen)
    error = float((together - alone).abs().max())
    return None if error < CLOSE else f"they differ by {short(error)}"


@stating(
    "serves every prediction",
    "The network may predict anything; samples are those of the same law in any prediction.",
    proof="exact models in every prediction, from one start, against the one in v; to 1e-6",
    change="Ask model.predict('noise', x, t), or model.estimate(p, q, x, t), never model(x, t), which is unconverted.",
    examples=lambda s: [(name, name) for name in PREDICTIONS],
    needs=SOUND,
)
def any_prediction(subject: Subject, name: str) -> str | None:
    one, two = (subject.ends(subject.starts(), prediction=each, seeds=range(6)) for each in ("v", name))
    error = float((one - two).abs().max())
    return None if error < 1e-6 else f"samples differ by {short(error)}"


@stating(
    "lets gradients through",
    "Samples are differentiable in the state they began with, if that requires gradients.",
    proof="the derivative along one direction, against a difference; to 1e-3",
    change="Do not call detach, .data, numpy or torch.no_grad inside step.",
    examples=once("6 samples, 12 steps"),
    needs=SOUND,
    raised=None,
)
def differentiable(subject: Subject, _: None) -> str | None:
    x, step = subject.starts(), 1e-5
    direction = torch.ones_like(x)
    run = partial(subject.ends, seeds=range(6))
    leaf = x.clone().requires_grad_()
    end = run(leaf)
    if not end.requires_grad:
        return "the samples have no gradient"
    (slope,) = torch.autograd.grad(end.sum(), leaf)
    found = float((run(x + step * direction) - run(x - step * direction)).sum()) / (2 * step)
    given = float((slope * direction).sum())
    close = abs(given - found) <= 1e-3 * max(1.0, abs(found))
    return None if close else f"the gradient is {short(given)}, differences give {short(found)}"


FIRST = (*SOUND, declares, keeps_form, apart, any_prediction)
"""Without these, laws and orders say nothing."""

PROPERTIES = (*FIRST, differentiable)
