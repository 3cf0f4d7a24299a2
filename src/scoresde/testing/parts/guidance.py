"""What must hold of every guidance: a function from a model to a model."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scoresde import _checks
from scoresde.likelihood import log_prob
from scoresde.model import Model
from scoresde.prediction import PREDICTIONS
from scoresde.process import EDM, VP, Process, RectifiedFlow
from scoresde.samplers import sample
from scoresde.targets import GaussianMixture, Labelled
from scoresde.testing.certificate import spelled
from scoresde.testing.kit import Case, Examples, Inapplicable, Report, named, reported, short, stating

PROCESSES = (VP(), RectifiedFlow(), EDM())

CLASSES = Labelled(
    GaussianMixture(
        torch.tensor([0.3, 0.2, 0.5], dtype=torch.float64),
        torch.tensor([[-1.0, 0.0], [1.0, 0.5], [0.2, -1.0]], dtype=torch.float64),
        torch.tensor([0.1, 0.2, 0.15], dtype=torch.float64),
    ),
    [0, 1, 0],
)
"""Two classes in the plane, of two modes and of one."""

RATIOS = (1.0, 0.3, 3.0, 0.1, 10.0)
"""σ/α where models are asked."""

STRONG = 2.5
"""A weight that is not neutral."""

Guide = Callable[..., Model]


@dataclass(frozen=True)
class Subject:
    """A guidance, with or without a weight, the classes whose exact conditional models it is given, and its aim."""

    guide: Guide
    weighted: bool
    neutral: float | None
    classes: Labelled
    samples: int
    toward: Tensor | None = None
    exact: Guide | None = None

    def base(self, process: Process, prediction: Any = "v") -> Model:
        """The exact model of the first class."""
        return self.classes.model(process, prediction).given(label=torch.tensor(0))

    def guided(self, model: Model, weight: float = STRONG) -> Model:
        return self.guide(model, weight) if self.weighted else self.guide(model)

    def points(self, process: Process, t: float) -> Tensor:
        """x: (samples, 2) of the noised classes."""
        generator = torch.Generator().manual_seed(0)
        return self.classes.mixture.marginal(process, t).sample(self.samples, generator).double()


def check_guidance(
    guide: Guide,
    *,
    neutral: float | None = 1.0,
    classes: Labelled = CLASSES,
    samples: int = 6,
    toward: Any = None,
    exact: Guide | None = None,
) -> Report:
    """Raise AssertionError, a table of what failed and why, unless a guidance is one; else return the report.

    Args:
        guide: model -> model; or (model, weight) -> model, which is then given several weights. The model is exact,
            conditional, its condition filled in: classes.model(process, prediction).given(label=torch.tensor(0)).
        neutral: the weight that leaves the model as it is, None if there is no such. classes: two dimensions.
        samples: how many there are in a batch, if the guide holds tensors of one entry for each.
        toward: the class that more weight leads to, a number or (samples,); by default the model's own, 0, where the
            guide also asks the model for others or for none, as classifier-free guidance does. exact: a guide that
            this one must equal at all weights, if there is one.
    Raises:
        AssertionError: some property does not hold. TypeError, ValueError: arguments that do not fit.

    Example:
        >>> from scoresde import guidance
        >>> from scoresde.testing import check_guidance
        >>> check_guidance(guidance.classifier_free).passed
        True
        >>> check_guidance(lambda model: guidance.threshold(model, bound=2.0)).passed
        True
    """
    __tracebackhide__ = True
    settings = {"neutral": neutral, "classes": classes, "samples": samples, "toward": toward, "exact": exact}
    return reported(cases(guide, **settings)).raise_for_failures()


def cases(
    guide: Guide,
    *,
    neutral: float | None = 1.0,
    classes: Labelled = CLASSES,
    samples: int = 6,
    toward: Any = None,
    exact: Guide | None = None,
) -> list[Case]:
    if not callable(guide):
        raise TypeError(f"guide must be a function from a model to a model, got {guide!r}")
    _checks.kind("classes", classes, Labelled, "targets.Labelled(mixture, labels)")
    required = [
        p
        for p in inspect.signature(guide).parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if len(required) not in (1, 2):
        raise TypeError(f"guide must take a model, or a model and a weight, got {len(required)} arguments; wrap it")
    weighted = len(required) == 2
    neutral = _checks.number("neutral", neutral) if weighted and neutral is not None else None
    samples = _checks.count("samples", samples, 2)
    if toward is not None:
        toward = _checks.whole_numbers("toward", toward)
        if toward.shape not in ((), (samples,)) or not 0 <= int(toward.min()) <= int(toward.max()) < classes.classes:
            raise ValueError(f"toward must be one class, or {samples} of them, below {classes.classes}, got {toward}")
    if exact is not None and not (callable(exact) and weighted):
        raise TypeError(f"exact must be a function like guide, of model and weight, got {exact!r}")
    subject = Subject(guide, weighted, neutral, classes, samples, toward, exact)
    return [Case(each, named(guide, "guidance"), subject) for each in PROPERTIES]


def time_of(process: Process, ratio: float) -> float:
    return float(process.time(-2 * math.log(ratio)))


def places(subject: Subject) -> Examples:
    for ratio in RATIOS:
        for process in PROCESSES:
            yield f"σ/α = {ratio:g} of {spelled(process)}", (process, time_of(process, ratio))


@stating(
    "gives a model",
    "A guided model has its model's process, takes any x and t that that takes, and answers in x's shape and dtype, "
    "the same if asked again, finite.",
    proof="with numbers and (B,) for t, float64 and float32",
    change="Write model.wrap(function) with function(model, x, t, **cond), and make its numbers x's dtype.",
    examples=lambda s: [
        (f"{dtype} at {w}", (*p, dtype)) for dtype in (torch.float64, torch.float32) for w, p in places(s)
    ],
)
def is_model(subject: Subject, where: tuple[Process, float, torch.dtype]) -> str | None:
    process, t, dtype = where
    guided = subject.guided(subject.base(process))
    if not isinstance(guided, Model):
        return f"returns {type(guided).__name__}, not a Model"
    if guided.process != process:
        return f"the guided model's process is {guided.process!r}"
    x = subject.points(process, t).to(dtype)
    one, two = guided(x, t), guided(x, torch.full((len(x),), t, dtype=torch.float64))
    if not torch.isfinite(one).all():
        return f"answers {short(one)}"
    close = torch.allclose(
        one, two, rtol=1e-4 if dtype == torch.float32 else 1e-9, atol=1e-4 if dtype == torch.float32 else 1e-9
    )
    return None if close else f"answers {short(one)}, and {short(two)} if asked again with one time for each"


@stating(
    "is the same in every prediction",
    "What a network predicts is a matter of notation: guided, its noise estimate is the same.",
    proof="exact models in every prediction, against the one in v; to 1e-8",
    change="Mix outputs with weights of sum one only; else convert first: model.predict('noise', x, t), and back.",
    examples=lambda s: [(f"{name} at {where}", (name, *place)) for where, place in places(s) for name in PREDICTIONS],
    needs=(is_model,),
)
def any_prediction(subject: Subject, where: tuple[str, Process, float]) -> str | None:
    name, process, t = where
    x = subject.points(process, t)
    one, two = (subject.guided(subject.base(process, each)).predict("noise", x, t) for each in ("v", name))
    error, size = float((one - two).abs().max()), max(1.0, float(one.abs().max()))
    return None if error <= 1e-8 * size else f"the noise is {short(one[0])} from v, {short(two[0])} from {name}"


@stating(
    "is neutral where it says so",
    "At the neutral weight (1 by default) the model is left as it is.",
    proof="the noise estimate, guided and not; to 1e-9",
    change="Write y + (w − 1)(y − y_weak), say, and not y + w (y − y_weak); or pass neutral=, the weight that is.",
    examples=places,
    needs=(is_model, any_prediction),
)
def is_neutral(subject: Subject, where: tuple[Process, float]) -> str | None:
    if subject.neutral is None:
        raise Inapplicable("it takes no weight, or has no neutral one")
    process, t = where
    x, model = subject.points(process, t), subject.base(process)
    plain, guided = model.predict("noise", x, t), subject.guided(model, subject.neutral).predict("noise", x, t)
    error = float((plain - guided).abs().max())
    return None if error <= 1e-9 * max(1.0, float(plain.abs().max())) else f"it moves the noise by {short(error)}"


@stating(
    "equals the exact guide",
    "What is asked for by exact= is what this guide does, at all weights.",
    proof=f"the noise estimate at weights {STRONG:g} above the neutral one and 0.5 below; to 1e-8",
    change="Check the weight's convention: 1 for the condition alone, or 0 (guidance.from_ho_salimans).",
    examples=places,
    needs=(is_model, any_prediction),
)
def matches(subject: Subject, where: tuple[Process, float]) -> str | None:
    if subject.exact is None:
        raise Inapplicable("exact= is not given")
    process, t = where
    x, base, neutral = subject.points(process, t), subject.base(process), subject.neutral or 0.0
    for weight in (neutral - 0.5, neutral + STRONG):
        got, right = (guide(base, weight).predict("noise", x, t) for guide in (subject.guide, subject.exact))
        if float((got - right).abs().max()) > 1e-8 * max(1.0, float(right.abs().max())):
            return f"at weight {weight:g} the noise is {short(got[0])}, exact {short(right[0])}"
    return None


@stating(
    "more weight, more guidance",
    "A weight above the neutral one moves x0, and towards the condition: along the slope of log p(label | x).",
    proof=f"x0 at weight {STRONG:g} above the neutral one less x0 there; the mean of its cosine with that slope at "
    "five noise levels is above 0",
    change="Check the weight's sign, and that it is used: y + (w − 1)(y − y_weak), y of the condition. If it is to "
    "lead to another class than the model's, say to which: toward=.",
    examples=lambda s: [(f"{len(RATIOS)} noise levels of {spelled(process)}", process) for process in PROCESSES],
    needs=(is_model, any_prediction, is_neutral),
)
def heeds_weight(subject: Subject, process: Process) -> str | None:
    if subject.neutral is None:
        raise Inapplicable("it takes no weight, or has no neutral one")
    asked = []

    def overheard(model: Model, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        asked.append(cond.get("label"))
        return model(x, t, **cond)

    base = subject.classes.model(process, "v").wrap(overheard).given(label=torch.tensor(0))
    cosines, moved = [], 0.0
    for t in (time_of(process, ratio) for ratio in RATIOS):
        x = subject.points(process, t)
        more, plain = (
            subject.guided(base, weight).predict("x0", x, t) for weight in (subject.neutral + STRONG, subject.neutral)
        )
        moved = max(moved, float((more - plain).abs().max()))
        slope = _slope(subject, process, x, t)
        cosines.append(float(torch.cosine_similarity((more - plain).flatten(), slope.flatten(), dim=0)))
    if moved < 1e-9:
        return "weights change nothing"
    if subject.toward is None and not any(label is None or bool((label != 0).any()) for label in asked):
        return None  # it moves, and where to is not known
    mean = sum(cosines) / len(cosines)
    return None if mean > 0 else f"more weight leads away from the condition: the cosine is {mean:.2f}"


def _slope(subject: Subject, process: Process, x: Tensor, t: float) -> Tensor:
    """∇ log p_t(label | x) of the class that more weight leads to."""
    toward = torch.tensor(0) if subject.toward is None else subject.toward
    leaf, times = x.clone().requires_grad_(), torch.full((len(x),), t, dtype=torch.float64)
    with torch.enable_grad():
        found = subject.classes.classifier(process)(leaf, times).gather(1, toward.expand(len(x))[:, None])
        return torch.autograd.grad(found.sum(), leaf)[0]


@stating(
    "keeps samples apart",
    "A sample's answer does not depend on what else is in its batch.",
    proof="the first sample's, while all others are replaced; to 1e-9",
    change="Take norms, means and percentiles for each sample (x.flatten(1)), not over the batch.",
    examples=places,
    needs=(is_model,),
)
def apart(subject: Subject, where: tuple[Process, float]) -> str | None:
    process, t = where
    x, guided = subject.points(process, t), subject.guided(subject.base(process))
    others = torch.cat([x[:1], 3 * x[1:].flip(0) + 1])
    error = float((guided(x, t)[0] - guided(others, t)[0]).abs().max())
    return None if error <= 1e-9 else f"it differs by {short(error)}"


class _Scaled(nn.Module):
    """The exact class's answer times a parameter, which is one."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model, self.size = model, nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.size.to(x) * self.model(x, t, **cond)


@stating(
    "follows deepcopy",
    "A copy calls the copied network: averaged weights (EMA), training and .to(device) reach it.",
    proof="the network's parameter is among the guided model's; zero in a copy, it changes the copy alone",
    change="Use model.wrap(function), which hands the model to the function; a closure keeps the old one.",
    examples=lambda s: [("a network of one parameter", None)],
    needs=(is_model,),
)
def follows(subject: Subject, _: None) -> str | None:
    process = PROCESSES[0]
    t, exact = time_of(process, 1.0), subject.classes.model(process, "v")
    net = _Scaled(exact)
    model = Model(net, process, "v", exact.moments).given(label=torch.tensor(0))
    guided, x = subject.guided(model), subject.points(process, t)
    if not isinstance(guided.net, nn.Module) or not any(p is net.size for p in guided.net.parameters()):
        return "the network's parameter is not among guided.net.parameters()"
    before, copy = guided(x, t).detach(), deepcopy(guided)
    assert isinstance(copy.net, nn.Module)
    for parameter in copy.net.parameters():
        nn.init.zeros_(parameter.data)
    if torch.equal(copy(x, t).detach(), before):
        return "the copy still calls the old network"
    return None if torch.equal(guided(x, t).detach(), before) else "changing the copy changes the original"


@stating(
    "is differentiated rightly",
    "Likelihoods take the divergence of the guided field by forward-mode differentiation.",
    proof="torch.func.jvp of the guided noise along one direction, against a difference; to 1e-4",
    change="No detach, .data, .item() or numpy inside; inner gradients by torch.func.grad, not autograd.grad.",
    examples=lambda s: list(places(s))[:3],
    needs=(is_model,),
    raised=None,
)
def differentiable(subject: Subject, where: tuple[Process, float]) -> str | None:
    process, t = where
    guided, x, step = subject.guided(subject.base(process)), subject.points(process, t), 1e-5
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(x.shape, generator=generator, dtype=torch.float64)

    def field(x: Tensor) -> Tensor:
        return guided(x, t)

    given = torch.func.jvp(field, (x,), (direction,))[1].sum(1)
    found = ((field(x + step * direction) - field(x - step * direction)) / (2 * step)).sum(1)
    i = int((given - found).abs().argmax())
    if float((given - found)[i].abs()) <= 1e-4 * max(1.0, float(found[i].abs())):
        return None
    return f"at x = {short(x[i])}: jvp gives {short(given[i])}, differences {short(found[i])}"


@stating(
    "samples",
    "Samplers take the guided model like any other, from pure noise to the data, in any prediction.",
    proof="20 steps of Adams() from seeds, in v and noise; to 1e-5, where the law has tails that guidance stretches",
    change="See what is raised; at the noise end σ/α may be infinite, at the data end σ is 0.",
    examples=lambda s: [(spelled(process), process) for process in PROCESSES],
    needs=(is_model, any_prediction),
    raised=None,
)
def samples(subject: Subject, process: Process) -> str | None:
    first = time_of(process, 20.0)
    grid = [first, *(time_of(process, 20.0 * 0.6**k) for k in range(1, 16)), 0.0]
    x = subject.points(process, first)
    one, two = (sample(subject.guided(subject.base(process, name)), x=x, grid=grid) for name in ("v", "noise"))
    error = float((one - two).abs().max())
    if not error <= 1e-5:
        return f"samples in v and in noise differ by {short(error)}"
    whole = sample(subject.guided(subject.base(process)), (subject.samples, 2), seeds=range(subject.samples))
    return None if torch.isfinite(whole).all() else f"samples are {short(whole)}"


@stating(
    "has a likelihood",
    "log_prob takes the guided model like any other, and a sample's value is its own.",
    proof="log p_t where σ/α = 1; that of the first sample again, while all others change places; to 1e-6",
    change="See what is raised; guidance must be smooth enough for the solver (its warning says where it gave up).",
    examples=lambda s: [(spelled(process), process) for process in PROCESSES[:2]],
    needs=(is_model, apart, differentiable),
    raised=None,
)
def has_likelihood(subject: Subject, process: Process) -> str | None:
    t = time_of(process, 1.0)
    guided, x = subject.guided(subject.base(process)), subject.points(process, t)
    one, two = (log_prob(guided, each, 10, t=t).value for each in (x, torch.cat([x[:1], x[1:].flip(0)])))
    error = float((one[0] - two[0]).abs())
    return None if error <= 1e-6 else f"log p of the first is {short(one[0])}, then {short(two[0])}"


PROPERTIES = (
    is_model, any_prediction, is_neutral, matches, heeds_weight, apart, follows, differentiable, samples,
    has_likelihood,
)  # fmt: skip
"""What `check_guidance` checks."""
