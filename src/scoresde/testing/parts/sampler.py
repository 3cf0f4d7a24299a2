"""What must hold of every sampler."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from scoresde import _checks
from scoresde.process import Process
from scoresde.samplers import Sampler, encode, sample
from scoresde.testing import orders
from scoresde.testing.certificate import Kind, spelled
from scoresde.testing.certify import check_arguments
from scoresde.testing.exact import GAUSSIAN, MIXTURE
from scoresde.testing.kit import Case, Inapplicable, Report, reported, short, stating
from scoresde.testing.parts import conduct
from scoresde.testing.parts.running import PROCESSES, STEPS, TIGHT, Subject, each_process, once, spans, unpathed


def check_sampler(
    sampler: Sampler | Callable[[int], Sampler],
    order: float,
    kind: Kind | None = None,
    *,
    processes: Sequence[Process] = PROCESSES,
    **certifying: Any,
) -> Report:
    """Raise AssertionError, a table of what failed and why, unless a sampler is one; else return the report.

    Args:
        sampler: a sampler, or a function of the number of steps where its settings must change with them.
        order: that it declares. processes: that it is for; its order is measured on the first.
        kind, certifying: "strong", "weak", "bias" or "rtol", and other arguments: as of `certify`.
    Raises:
        AssertionError: some property does not hold. TypeError, ValueError: arguments that do not fit.

    Example:
        >>> from dataclasses import dataclass
        >>> from scoresde.samplers import Sampler
        >>> from scoresde.testing import check_sampler
        >>> @dataclass(frozen=True)
        ... class MyEuler(Sampler):
        ...     def step(self, model, x, t, s, memory, randn):
        ...         return x + (s - t) * model.predict("velocity", x, t), memory
        >>> try:
        ...     check_sampler(MyEuler(), order=2, most=128)
        ... except AssertionError as error:
        ...     print(str(error).splitlines()[-1])
        failed, 1 of 14: has its order
    """
    __tracebackhide__ = True
    return reported(cases(sampler, order, kind, processes=processes, **certifying)).raise_for_failures()


def cases(
    sampler: Sampler | Callable[[int], Sampler],
    order: float,
    kind: Kind | None = None,
    *,
    processes: Sequence[Process] = PROCESSES,
    **certifying: Any,
) -> list[Case]:
    known = list(inspect.signature(check_arguments).parameters)[2:]
    if unknown := [name for name in certifying if name not in known]:
        takes = f"order, kind, processes, and of certify {', '.join(known)}"
        raise TypeError(f"settings must be those of check_sampler, which takes {takes}; got {unknown[0]}")
    check_arguments(order, kind, **certifying)
    processes = _checks.several("processes", processes, Process, "VP()")
    if isinstance(sampler, type) or not callable(sampler):
        _checks.kind("sampler", sampler, Sampler, "DDIM()")
    subject = Subject(sampler, order, kind, processes, certifying)
    _checks.kind("sampler(n)", subject.sampler, Sampler, "DDIM()")
    return [Case(each, certifying.get("name") or spelled(subject.sampler), subject) for each in PROPERTIES]


@stating(
    "moves the law on",
    "A step takes the law of noised Gaussian data most of the way from that at t to that at s.",
    proof="steps to 0.8 σ/α, exactly propagated: what is missing is at most half of the way",
    change="Check the factors of the step, where s < t: noise of variance g²(t − s), so of deviation g√(t − s); with "
    "all of that noise the drift is f x − g² score, with none f x − ½ g² score. Where memory is None the first order "
    'must hold. If it is to stay at one level (Langevin): kind="bias", and a function of n for the sampler.',
    examples=spans,
    needs=conduct.FIRST,
)
def moves(subject: Subject, where: tuple[Process, float, float]) -> str | None:
    if subject.kind == "bias":
        raise Inapplicable("it stays at its noise level")
    process, t, s = where
    sampler, model = unpathed(subject.sampler), GAUSSIAN.model(process, 1)
    moved = orders.affine(lambda x, randn: sampler.step(model, x, t, s, None, randn)[0])
    here, there = ((process.at("alpha", u), process.at("sigma", u)) for u in (t, s))
    missing, way = (orders._normal_error(each, GAUSSIAN, here, there) for each in (moved, (0.0, 1.0, 0.0)))
    return None if missing <= 0.5 * way else _astray(moved, here, there, missing / way)


def _astray(moved: tuple[float, float, float], here: orders.Levels, there: orders.Levels, share: float) -> str:
    """What is wrong with a step of offset, slope and noise's variance: what the law asks of each, given the others."""
    offset, slope, noise = moved
    (m, v), (right_m, right_v) = (
        (alpha * GAUSSIAN.means[0], alpha**2 * GAUSSIAN.variances[0] + sigma**2) for alpha, sigma in (here, there)
    )
    shown = [f"the law is {share:.3g} times as far from that at s as it was"]
    mean, variance = slope * m + offset, slope**2 * v + noise
    shown.append(f"mean {mean:.3g}, wanted {right_m:.3g}; variance {variance:.3g}, wanted {right_v:.3g}")
    straight = math.sqrt(right_v / v)
    if not noise:
        wrong = ": the step goes the wrong way" if (slope - 1) * (straight - 1) < 0 else ""
        return "\n".join([*shown, f"its slope is {slope:.3g}, wanted {straight:.3g}{wrong}"])
    own, rest = right_v - slope**2 * v, right_v - noise
    shown.append(f"its slope is {slope:.3g}, the deviation of its noise {math.sqrt(noise):.3g}")
    asked = (
        f"asks for noise of {math.sqrt(own):.3g}" if own > 0 else f"is too great for any noise (below {straight:.3g})"
    )
    other = f"asks for a slope of {math.sqrt(rest / v):.3g}" if rest > 0 else "is too much for any slope"
    shown.append(f"such a slope {asked}; such noise {other}")
    if orders._normal_error(moved, GAUSSIAN, here, here) < 0.25 * orders._normal_error(moved, GAUSSIAN, here, there):
        shown.append('it all but stays at its level; if it is to, pass kind="bias"')
    return "\n".join(shown)


@stating(
    "arrives at the data",
    "From noise to t = 0, on the sampler's own grid, samples have the data's law, on every process.",
    proof=f"Gaussian data, exactly: the error (of end points, or of the law) in {4 * STEPS} steps is below 0.1, or "
    f"below 0.3 and half of that in {STEPS}; or so in {16 * STEPS} steps",
    change="Look at the last step, to s = 0, where slopes may be infinite (samplers.base.to_data ends there without "
    "them), and at the first, where α may be 0: declare `needs`, so that it begins a little later. If it draws noise: "
    "its variance, and the drift that belongs to it, must be those of one reverse SDE, at every t.",
    examples=each_process,
    needs=(*conduct.FIRST, moves),
)
def arrives(subject: Subject, process: Process) -> str | None:
    if subject.kind == "bias":
        raise Inapplicable("it stays at its noise level")

    def error(n: int) -> float:
        sampler, model = subject.of(TIGHT if subject.kind == "rtol" else n), GAUSSIAN.model(process, 1)
        times = sampler.grid(model, 1 if subject.kind == "rtol" else n).tolist()
        if sampler.stochastic:
            return orders.weak_error(sampler, GAUSSIAN, process, times)[0]
        return orders.strong_error(sampler, GAUSSIAN, process, times)

    coarse, fine = error(STEPS), error(4 * STEPS)
    if fine < 0.1 or (fine < 0.3 and fine < 0.5 * coarse):
        return None
    finest = error(16 * STEPS) if fine < 0.5 * coarse else fine
    if finest < 0.3 and finest < 0.5 * fine:
        return None
    return f"the error is {short(coarse)} in {STEPS} steps, {short(fine)} in {4 * STEPS}" + (
        f", {short(finest)} in {16 * STEPS}" if finest != fine else ""
    )


@stating(
    "encodes what it samples",
    "A deterministic sampler runs backwards, or refuses by a ValueError: sample(encode(x)) is x, but for an error "
    "that falls with the steps.",
    proof="16 points of a mixture: RMS of x − sample(encode(x)) at 4 times the steps below half of before, or 1e-3",
    change="Let step work for s > t too, and from σ = 0 (samplers.base.from_data leaves there); or draw noise, and "
    "declare stochastic = True.",
    examples=once(f"{STEPS} and {4 * STEPS} steps each way"),
    needs=(*conduct.FIRST, moves, arrives),
)
def encodes(subject: Subject, _: None) -> str | None:
    if subject.sampler.stochastic:
        raise Inapplicable("it is stochastic")
    model, x = MIXTURE.model(subject.process, 2), MIXTURE.starts(subject.process, 0.0)

    def error(n: int) -> float:
        sampler = subject.of(TIGHT if subject.kind == "rtol" else n)
        back = sample(model, x=encode(model, x, sampler, n), sampler=sampler, steps=n)
        return float((back - x).square().mean().sqrt())

    try:
        coarse, fine = error(STEPS), error(4 * STEPS)
    except (ValueError, ArithmeticError) as refusal:
        raise Inapplicable(f"encode is refused: {refusal}") from refusal
    if fine < 1e-3 or fine < 0.5 * coarse:
        return None
    return f"off by {short(coarse)} in {STEPS} steps, {short(fine)} in {4 * STEPS}"


@stating(
    "has its order",
    "The error falls as the declared power of the step: of end points if it is deterministic, else of the law.",
    proof="certify: exact answers for a Gaussian and a mixture, steps doubled until the slope settles",
    change="Declare the order measured, or find the term that is off: an order too low is mostly a wrong weight, or "
    "a stage at a wrong time; an order of 0, a wrong limit (noise too large, a drift without its factor).",
    examples=once("exact problems"),
    needs=(*conduct.FIRST, moves, arrives),
)
def has_order(subject: Subject, _: None) -> str | None:
    certificate = subject.certificate
    if certificate.passed:
        return None
    shown = [f"order {subject.order:g} is declared, {certificate.checks[0]} measured; the errors in so many steps:"]
    for check in certificate.checks:
        errors = [f"{n}: {error:.1e}" for n, error in zip(check.steps[-5:], check.errors[-5:])]
        shown.append(f"{check.problem:<20} {'  '.join(errors)}  order {check}{'' if check.passed else ' (wrong)'}")
    return "\n".join(shown)


PROPERTIES = (*conduct.PROPERTIES, moves, arrives, encodes, has_order)
"""What `check_sampler` checks."""
