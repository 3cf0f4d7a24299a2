"""What must hold of every likelihood: a function of a model and data that returns log p of each sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import t as student
from torch import Tensor

from scoresde import _checks
from scoresde.model import Model
from scoresde.prediction import PREDICTIONS
from scoresde.process import EDM, VE, VP, Process, RectifiedFlow
from scoresde.process.base import spread
from scoresde.targets import EXAMPLES, Gaussian, GaussianMixture, Target
from scoresde.testing.certificate import spelled
from scoresde.testing.kit import LIMITED, Case, Examples, Inapplicable, Report, named, reported, short, stating

PROCESSES = (VP(), RectifiedFlow(), VE(), EDM())
"""The noise ends with variance one on the first two, with 2,500 and 6,400 on the others."""

POINTS, DRAWS = 24, 600
"""At which values are compared; and standard errors are judged."""

LogProb = Callable[[Model, Tensor], Any]


def line() -> Gaussian:
    """N(0, 0.3)."""
    return Gaussian(torch.zeros(1, dtype=torch.float64), 0.3)


def plane() -> Gaussian:
    """A correlated normal law."""
    covariance = torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=torch.float64)
    return Gaussian(torch.zeros(2, dtype=torch.float64), covariance)


def modes() -> GaussianMixture:
    """Three modes in the plane, of mean zero."""
    means = torch.tensor([[-1.0, 0.3], [0.9, 0.4], [0.1, -1.1]], dtype=torch.float64)
    weights = torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64)
    return GaussianMixture(weights, means - weights @ means, torch.tensor([0.1, 0.2, 0.15], dtype=torch.float64))


@dataclass(frozen=True)
class Subject:
    """A likelihood, the error that it may have in nats a dimension, and the processes that it is for."""

    function: LogProb
    tolerance: float
    processes: Sequence[Process]

    def ask(self, model: Model, x: Tensor) -> tuple[Tensor, Tensor]:
        """log p, and its standard error, zero where there is none; (B,) each."""
        result = self.function(model, x)
        value = result if isinstance(result, Tensor) else getattr(result, "value", None)
        if not isinstance(value, Tensor) or value.shape != x.shape[:1]:
            shown = tuple(value.shape) if isinstance(value, Tensor) else type(result).__name__
            raise TypeError(f"it must return ({len(x)},) values, or an object with them as .value, got {shown}")
        error = getattr(result, "standard_error", None)
        return value, torch.zeros_like(value) if error is None else torch.as_tensor(error).to(value).expand_as(value)

    def compare(self, target: Target, process: Process) -> str | None:
        """What is wrong with the values of data of a target, beyond the tolerance and five standard errors."""
        x = target.sample(POINTS, torch.Generator().manual_seed(0)).double()
        value, error = self.ask(target.model(process, "v"), x)
        apart, allowed = value - target.log_prob(x), self.tolerance * target.dim
        if bool((error > 0).any()):
            mean, chance = float(apart.mean()), 5 * float(error.square().sum().sqrt()) / len(x)
            good = abs(mean) <= allowed + chance
            return None if good else f"log p is off by {short(mean)} in the mean, ± {short(chance / 5)}"
        i = int(apart.abs().nan_to_num(math.inf).argmax())
        if float(apart[i].abs()) <= allowed:
            return None
        return f"log p({short(x[i])}) is {short(value[i])}, exact {short(target.log_prob(x)[i])}"


def check_likelihood(function: LogProb, *, tolerance: float = 1e-3, processes: Sequence[Process] = PROCESSES) -> Report:
    """Raise AssertionError, a table of what failed and why, unless a likelihood is one; else return the report.

    Args:
        function: (model, x) -> log p of x: (B, *) in nats, (B,); or an object with them as `.value` and, if they are
            estimates, with their `.standard_error`, (B,), like that of `log_prob`.
        tolerance: nats a dimension that a value may be off. processes: of the models that it takes.
    Raises:
        AssertionError: some property does not hold. TypeError, ValueError: arguments that do not fit.

    Example:
        >>> from scoresde import VP, log_prob
        >>> from scoresde.testing import check_likelihood
        >>> check_likelihood(log_prob, processes=[VP()]).passed
        True
    """
    __tracebackhide__ = True
    return reported(cases(function, tolerance=tolerance, processes=processes)).raise_for_failures()


def cases(function: LogProb, *, tolerance: float = 1e-3, processes: Sequence[Process] = PROCESSES) -> list[Case]:
    if not callable(function):
        raise TypeError(f"function must be callable as function(model, x) -> log p, got {function!r}")
    processes = _checks.several("processes", processes, Process, "VP()")
    subject = Subject(function, _checks.positive("tolerance", tolerance), processes)
    return [Case(each, named(function, "likelihood"), subject) for each in PROPERTIES]


def _unit(process: Process) -> bool:
    return abs(process.at("sigma", process.t_max) - 1) < 1e-3


def _on(targets: Sequence[Callable[[], Target]], unit: bool | None) -> Callable[[Subject], Examples]:
    """Examples: each target on the processes whose noise ends with variance one, those where not, or (None) all."""

    def examples(subject: Subject) -> Examples:
        for target in targets:
            for process in subject.processes:
                if unit is None or _unit(process) == unit:
                    about = (target.__doc__ or "").rstrip(".")
                    yield f"{about}, on {spelled(process)}", (target(), process)

    return examples


@stating(
    "keeps shape and dtype",
    "x may have any shape (B, *) and floating dtype: the answer is (B,) in that dtype.",
    proof="points of the plane as (B, 2) and (B, 1, 2), and one alone, in float64 and float32",
    change="Flatten with x.flatten(1), and sum over that; return one number for each sample.",
    examples=lambda s: [
        (f"x of shape {shape} in {dtype}", (shape, dtype))
        for dtype in (torch.float64, torch.float32)
        for shape in ((3, 2), (1, 2), (3, 1, 2))
    ],
    raised=f"{LIMITED} Else flatten with x.flatten(1), and sum over that.",
)
def keeps_form(subject: Subject, form: tuple[tuple[int, ...], torch.dtype]) -> str | None:
    shape, dtype = form
    x = plane().sample(shape[0], torch.Generator().manual_seed(0)).to(dtype)
    model = plane().model(subject.processes[0], "v")
    value, _ = subject.ask(model, x.reshape(shape))
    if value.dtype != dtype:
        return f"answers in {value.dtype}"
    return None if torch.isfinite(value).all() else f"answers {short(value)}"


@stating(
    "takes an empty batch",
    "No samples have no log p: (0,), of x's dtype.",
    proof="x of shape (0, 2)",
    change="Take the sizes of a sample from x.shape[1:], not from x[0], and no maximum over the batch.",
    examples=lambda s: [("x of shape (0, 2)", ((0, 2), torch.float64))],
    needs=(keeps_form,),
    raised=None,
)
def takes_none(subject: Subject, form: tuple[tuple[int, ...], torch.dtype]) -> str | None:
    return keeps_form.judge(subject, form)


@stating(
    "keeps samples apart",
    "A sample's log p does not depend on what else is in its batch, nor on chance, unless it says how much.",
    proof="one sample alone, twice, and beside one far away; to a tenth of the tolerance",
    change="Choose steps for each sample, or fixed ones: an error norm over the batch makes all depend on all. An "
    "estimate by random probes: return an object with .value and .standard_error.",
    examples=lambda s: [(spelled(process), process) for process in s.processes[:2]],
    needs=(keeps_form,),
)
def apart(subject: Subject, process: Process) -> str | None:
    x = modes().sample(5, torch.Generator().manual_seed(0)).double()
    model = modes().model(process, "v")
    (value, error), (alone, _) = subject.ask(model, torch.cat([x, 6 + x[:1]])), subject.ask(model, x[:1])
    if bool((error > 0).any()):
        raise Inapplicable("its values are estimates")
    again, _ = subject.ask(model, x[:1])
    if not torch.equal(alone, again):
        shown = f"{short(alone[0])}, asked again {short(again[0])}"
        return f"it is random: log p is {shown}; return an object with standard_error"
    change = float((value[0] - alone[0]).abs())
    return (
        None
        if change <= 0.1 * subject.tolerance
        else f"log p is {short(alone[0])} alone, {short(value[0])} beside others"
    )


@stating(
    "is exact for normal data",
    "log p is that of the data, where the network is exact: the flow's change of volume is counted, with its sign.",
    proof="24 points of normal laws with known density, where the noise ends with variance one; to the tolerance",
    change="log p(x) = log N(x_T) + ∫ div dt from data to noise. An error that grows with x: the prior, or a step "
    "left out at either end; one common to all x: the divergence's sign, or its trace.",
    examples=_on((line, plane), unit=True),
    needs=(keeps_form, apart),
)
def normal(subject: Subject, where: tuple[Target, Process]) -> str | None:
    return subject.compare(*where)


@stating(
    "ends at the process's own prior",
    "x_T is N(0, σ(t_max)²), all but exactly: not N(0, 1), unless σ(t_max) is 1.",
    proof="24 points of normal laws, where the noise ends with another variance; to the tolerance",
    change="Take the density of x_T with deviation process.sigma(process.t_max), of which log p contains the log.",
    examples=_on((line, plane), unit=False),
    needs=(keeps_form, apart, normal),
)
def prior(subject: Subject, where: tuple[Target, Process]) -> str | None:
    return subject.compare(*where)


@stating(
    "is exact for a mixture",
    "Also where the flow is bent, and its divergence depends on x.",
    proof="24 points of a mixture with known density, on every process; to the tolerance",
    change="Take smaller steps, more of them near the data; take the divergence at the same points as the drift.",
    examples=_on((modes,), unit=None),
    needs=(keeps_form, apart, normal, prior),
)
def mixture(subject: Subject, where: tuple[Target, Process]) -> str | None:
    return subject.compare(*where)


def _notations(subject: Subject) -> Examples:
    """Every prediction but v, whose values are asked once for each process."""
    x = line().sample(4, torch.Generator().manual_seed(0)).double()
    for process in subject.processes[:2]:
        right = subject.ask(line().model(process, "v"), x)
        for name in (each for each in PREDICTIONS if each != "v"):
            yield f"{name} on {spelled(process)}", (name, process, x, right)


@stating(
    "is the same in every prediction",
    "What a network predicts is a matter of notation; the law is the same.",
    proof="exact models in every prediction, against the one in v; to the tolerance",
    change="Ask model.predict('velocity', x, t) or ('score', x, t), never model(x, t), which is unconverted.",
    examples=_notations,
    needs=(keeps_form, apart),
)
def any_prediction(subject: Subject, where: tuple[str, Process, Tensor, tuple[Tensor, Tensor]]) -> str | None:
    name, process, x, (right, error) = where
    value, _ = subject.ask(line().model(process, name), x)
    apart = float((value - right).abs().max())
    allowed = 2 * subject.tolerance + 8 * float(error.max())
    return None if apart <= allowed else f"log p is {short(right)} from v, {short(value)} from {name}"


def _bent(model: Model, x: Tensor, t: Tensor) -> Tensor:
    """The model's v, wrong between the ends of time by ασ/(α² + σ²) sin 2x, x in units of √(α² + σ²)."""
    alpha, sigma = (spread(c, x) for c in (model.process.alpha(t), model.process.sigma(t)))
    square = alpha * alpha + sigma * sigma  # pyright: ignore[reportOperatorIssue]
    return model(x, t) + alpha * sigma / square * torch.sin(2 * x / square**0.5)


@stating(
    "integrates to one",
    "Whatever the network says, the flow carries a density, which integrates to one.",
    proof="a network that is wrong by up to 0.5 sin 2x, in one dimension: the trapezoidal rule on 81 points; to 20 "
    "tolerances",
    change="The value and its divergence must belong to one flow: one field, one path, one solver, both ends of time.",
    examples=lambda s: [(spelled(process), process) for process in s.processes],
    needs=(keeps_form, apart, normal, prior),
)
def normalised(subject: Subject, process: Process) -> str | None:
    x = torch.linspace(-3, 3, 81, dtype=torch.float64)[:, None]
    model = line().model(process, "v").wrap(_bent)
    if bool((subject.ask(model, x[:1])[1] > 0).any()):
        raise Inapplicable("its values are estimates")
    total = float(torch.trapezoid(subject.ask(model, x)[0].exp(), x[:, 0]))
    return None if abs(total - 1) <= 20 * subject.tolerance else f"the integral is {short(total)}"


@stating(
    "has standard errors that cover",
    "Where values are estimates, one standard error covers the truth as often as it says: 68 %, or by Student's law.",
    proof=f"{DRAWS} points of a mixture in 16 dimensions: the share covered within 4 of its own standard errors of "
    "that by Student's law of result.probes − 1 degrees of freedom, or (without) of any",
    change="Take the deviation over the probes, divided by their root, not over samples; keep probes along a path.",
    examples=lambda s: [(f"{DRAWS} points on {spelled(s.processes[0])}", s.processes[0])],
    needs=(keeps_form, apart, normal),
)
def covers(subject: Subject, process: Process) -> str | None:
    target = EXAMPLES["gmm16"]()
    few = target.sample(4, torch.Generator().manual_seed(1)).double()
    if not bool((subject.ask(target.model(process, "v"), few)[1] > 0).any()):
        raise Inapplicable("its values are not estimates")
    x = target.sample(DRAWS, torch.Generator().manual_seed(1)).double()
    result = subject.function(target.model(process, "v"), x)
    error = torch.as_tensor(result.standard_error).double()
    if not bool(torch.isfinite(error).all()):
        raise Inapplicable("its standard errors are infinite; give it two probes or more")
    share = float(((result.value - target.log_prob(x)).abs() <= error).double().mean())
    probes = getattr(result, "probes", None)
    degrees = (1, math.inf) if probes is None or probes < 2 else (probes - 1, probes - 1)
    low, high = (2 * float(student.cdf(1.0, n)) - 1 for n in degrees)
    slack = 4 * math.sqrt(0.25 / DRAWS)
    if low - slack <= share <= high + slack:
        return None
    return f"one standard error covers {share:.3f} of the values, not {low:.3f}" + (
        f" to {high:.3f}" if high > low else ""
    )


PROPERTIES = (keeps_form, takes_none, apart, normal, prior, mixture, any_prediction, normalised, covers)
"""What `check_likelihood` checks."""
