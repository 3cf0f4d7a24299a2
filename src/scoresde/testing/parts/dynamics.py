"""What must hold of every differential equation: of its terms, and of the law that it carries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde import _checks
from scoresde.dynamics import Dynamics
from scoresde.solve import solve
from scoresde.targets import Target
from scoresde.testing.kit import Case, Examples, Inapplicable, Report, reported, short, stating

STEP = 1e-3
"""Of differences in x, in standard deviations of the law; in t, a hundredth of that, of the way from t0 to t1."""


@dataclass(frozen=True)
class Subject:
    """An equation, solved from t0 to t1; and, if it is known, the law of its state at each time."""

    dynamics: Dynamics
    t0: float
    t1: float
    law: Callable[[float], Target] | None
    shape: tuple[int, ...]

    @property
    def times(self) -> list[float]:
        """Inside, the middle first, and then both ends."""
        return [self.t0 + share * (self.t1 - self.t0) for share in (0.5, 0.25, 0.75, 0.0, 1.0)]

    def points(self, t: float, n: int = 6) -> Tensor:
        """Of the law at t, else standard normal, (n, *) in float64."""
        generator = torch.Generator().manual_seed(0)
        if self.law is None:
            return torch.randn(n, *self.shape, generator=generator, dtype=torch.float64)
        return self.law(t).sample(n, generator).double().reshape(n, *self.shape)


def check_dynamics(
    dynamics: Dynamics,
    t0: float,
    t1: float,
    law: Callable[[float], Target] | None = None,
    shape: Sequence[int] = (2,),
) -> Report:
    """Raise AssertionError, a table of what failed and why, unless an equation is one; else return the report.

    Args:
        dynamics: dx = drift dt + diffusion dw. t0, t1: as solve() is given them: backwards in time if t1 < t0.
        law: t -> the exact law of x there (a Target), if it is known: then the equation must carry it.
        shape: of one state, without the batch; the law's dimension if there is one.
    Raises:
        AssertionError: some property does not hold. TypeError, ValueError: arguments that do not fit.

    Example:
        >>> from scoresde import VP, Reverse, targets
        >>> from scoresde.testing import check_dynamics
        >>> target = targets.GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], 0.1)
        >>> law = lambda t: target.marginal(VP(), t)
        >>> check_dynamics(Reverse(target.model(VP()), eta=0.5), 0.9, 0.1, law).passed
        True
    """
    __tracebackhide__ = True
    return reported(cases(dynamics, t0, t1, law, shape)).raise_for_failures()


def cases(
    dynamics: Dynamics,
    t0: float,
    t1: float,
    law: Callable[[float], Target] | None = None,
    shape: Sequence[int] = (2,),
) -> list[Case]:
    _checks.kind("dynamics", dynamics, Dynamics, "Reverse(model)")
    t0, t1 = _checks.number("t0", t0), _checks.number("t1", t1)
    if t0 == t1:
        raise ValueError(f"t0 and t1 must differ, got {t0:g} for both")
    if not isinstance(shape, tuple) or shape:  # () for numbers
        shape = _checks.shape("shape", (1, *_checks.shape("shape", shape)))[1:]
    if law is not None:
        if isinstance(law, Target) or not callable(law):
            raise TypeError(f"law must be a function of t that returns a Target, got {law!r}")
        shape = (_checks.kind("law(t0)", law(t0), Target, "target.marginal(process, t)").dim,)
    subject = Subject(dynamics, t0, t1, law, shape)
    return [Case(each, f"{type(dynamics).__name__} from t = {t0:g} to {t1:g}", subject) for each in PROPERTIES]


def moments(subject: Subject) -> Examples:
    return [(f"t = {t:g}", t) for t in subject.times]


@stating(
    "answers in the state's form",
    "drift returns (B, *) in x's dtype; diffusion that, or what broadcasts to it; both finite, and the same if asked "
    "again, where `check` does not refuse the time.",
    proof="at five times, for 6, 1 and no samples, in float64 and float32",
    change="Make numbers with process.at; let check raise a ValueError where the equation has no meaning.",
    examples=lambda s: [
        (f"t = {t:g}, {n} samples in {dtype}", (t, n, dtype))
        for dtype in (torch.float64, torch.float32)
        for n in (6, 1, 0)
        for t in s.times
    ],
    raised=None,
)
def answers(subject: Subject, asked: tuple[float, int, torch.dtype]) -> str | None:
    t, n, dtype = asked
    subject.dynamics.check(t)
    x = subject.points(t).to(dtype)[:n]
    for name in ("drift", "diffusion"):
        value, again = (getattr(subject.dynamics, name)(t, x) for _ in range(2))
        if not isinstance(value, Tensor) or value.dtype != dtype:
            return f"{name} returns {value.dtype if isinstance(value, Tensor) else type(value).__name__}"
        fits = value.shape == x.shape if name == "drift" else torch.broadcast_shapes(value.shape, x.shape) == x.shape
        if not fits:
            return f"{name} returns shape {tuple(value.shape)} for x of {tuple(x.shape)}"
        if not torch.isfinite(value).all():
            return f"{name} is {short(value)}"
        if not torch.equal(value, again):
            return f"{name} is {short(value)} at first and {short(again)} if asked again"
    return None


@stating(
    "keeps samples apart",
    "A sample's drift and diffusion do not depend on what else is in its batch.",
    proof="each sample alone, beside all six; to 1e-9",
    change="Take norms and means for each sample (x.flatten(1)), not over the batch.",
    examples=moments,
    needs=(answers,),
)
def apart(subject: Subject, t: float) -> str | None:
    x = subject.points(t)
    for name in ("drift", "diffusion"):
        function = getattr(subject.dynamics, name)
        together = function(t, x).expand_as(x)
        alone = torch.cat([function(t, row[None]).expand_as(row[None]) for row in x])
        error = float((together - alone).abs().max())
        if not error <= 1e-9 * max(1.0, float(together.abs().max())):
            return f"{name} differs by {short(error)}"
    return None


@stating(
    "scales its drift",
    "scaled_drift(c, t, x) is c times drift(t, x): solvers with a time of their own ask it.",
    proof="c = −2.5, at five times; to 1e-9",
    change="Do not override scaled_drift, or override it together with drift.",
    examples=moments,
    needs=(answers,),
)
def scales(subject: Subject, t: float) -> str | None:
    x = subject.points(t)
    right, found = -2.5 * subject.dynamics.drift(t, x), subject.dynamics.scaled_drift(-2.5, t, x)
    error = float((found - right).abs().max())
    return None if error <= 1e-9 * max(1.0, float(right.abs().max())) else f"it differs by {short(error)}"


@stating(
    "has the noise that it declares",
    "noise = 'none': diffusion is zero. 'additive': it does not depend on x. 'diagonal': that of an entry depends on "
    "no other entry. Solvers rely on it: they leave out what it says is zero.",
    proof="at five times: its value; its change as x is moved, all of it and entry by entry",
    change="Declare the noise that there is: 'additive' and 'diagonal' are right for ever more equations.",
    examples=moments,
    needs=(answers,),
)
def noise(subject: Subject, t: float) -> str | None:
    dynamics, x = subject.dynamics, subject.points(t)
    kind = _checks.choice("noise", dynamics.noise, ("none", "additive", "diagonal"))
    value = dynamics.diffusion(t, x).expand_as(x)
    size = float(value.abs().max())
    if kind == "none":
        return None if size == 0.0 else f"declares 'none', but diffusion is {short(value)}"
    moved = dynamics.diffusion(t, x.roll(1, 0) + 0.1).expand_as(x)
    if kind == "additive":
        change = float((moved - value).abs().max())
        return (
            None if change <= 1e-9 * size else f"declares 'additive', but moving x changes diffusion by {short(change)}"
        )
    flat = value.reshape(len(x), -1)
    for entry in range(min(flat.shape[1], 4)):
        other = x.clone().reshape(len(x), -1)
        other[:, entry] += 0.1
        change = dynamics.diffusion(t, other.reshape(x.shape)).expand_as(x).reshape(len(x), -1) - flat
        change[:, entry] = 0.0
        if not float(change.abs().max()) <= 1e-9 * max(size, 1e-300):
            return f"declares 'diagonal', but entry {entry} of x changes the diffusion of others by {short(change)}"
    return None


def _log_prob(subject: Subject, t: float, x: Tensor) -> Tensor:
    assert subject.law is not None
    return subject.law(t).log_prob(x)


def _slopes(function: Callable[[Tensor], Tensor], x: Tensor, h: float) -> tuple[Tensor, Tensor]:
    """∂f/∂x_i and ∂²f/∂x_i² of f: (B, D) -> (B,) or (B, D) (then of its entry i), by five points: (B, D) each."""
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    for i in range(x.shape[1]):
        values = []
        for k in (-2, -1, 0, 1, 2):
            y = x.clone()
            y[:, i] += k * h
            value = function(y)
            values.append(value if value.ndim == 1 else value.expand_as(x)[:, i])
        a, b, c, d, e = values
        first[:, i] = (a - 8 * b + 8 * d - e) / (12 * h)
        second[:, i] = (-a + 16 * b - 30 * c + 16 * d - e) / (12 * h * h)
    return first, second


@stating(
    "carries its law",
    "The density p_t obeys the Fokker–Planck equation of the drift and diffusion: ∂p/∂t = −∇·(drift p) ± ½ Σ ∂²(g² p), "
    "with a minus backwards in time.",
    proof="both sides, over p, by differences of five points at 6 points of the law; to 1e-5 of their terms",
    change="In a reverse equation: the drift is f x − (1 + η²)/2 g² ∇log p, the diffusion η g. Also check t0 and t1: "
    "from noise to data is t1 < t0.",
    examples=lambda s: [(f"t = {t:g}", t) for t in s.times[:3]],
    needs=(answers, apart),
)
def carries(subject: Subject, t: float) -> str | None:
    if subject.law is None:
        raise Inapplicable("no law is given; write law=lambda t: target.marginal(process, t)")
    x, dynamics = subject.points(t), subject.dynamics
    h, dt = STEP * float(x.std(0).min()), 1e-2 * STEP * (subject.t1 - subject.t0)
    a, b, c, d = (_log_prob(subject, t + k * dt, x) for k in (-2, -1, 1, 2))
    change = (a - 8 * b + 8 * c - d) / (12 * dt)
    drift, square = dynamics.drift(t, x), lambda y: dynamics.diffusion(t, y).square().expand_as(y)
    bend, _ = _slopes(lambda y: dynamics.drift(t, y), x, h)
    score, curve = _slopes(lambda y: _log_prob(subject, t, y), x, h)
    rise, bow = _slopes(square, x, h)
    flux = -bend - drift * score
    spread = 0.5 * (bow + 2 * rise * score + square(x) * (curve + score.square()))
    right = (flux + (spread if subject.t1 > subject.t0 else -spread)).sum(1)
    size = (
        change.abs() + bend.abs().sum(1) + (drift * score).abs().sum(1) + (square(x) * (curve.abs() + score**2)).sum(1)
    )
    missed = (change - right).abs() / size.clamp_min(1e-12)
    i = int(missed.argmax())
    if float(missed[i]) <= 1e-5:
        return None
    return f"at x = {short(x[i])}: ∂log p/∂t is {short(float(change[i]))}, the equation gives {short(float(right[i]))}"


@stating(
    "is solved",
    "solve() takes it from t0 to t1: by torchdiffeq without noise, by torchsde with it; the same generator gives the "
    "same states.",
    proof="6 states in 8 Euler steps, twice",
    change="Do what the error says; `check` must let both ends pass.",
    examples=lambda s: [("6 states, 8 steps", None)],
    needs=(answers,),
)
def solved(subject: Subject, _: None) -> str | None:
    x = subject.points(subject.t0)

    def run() -> Tensor:
        generator = torch.Generator().manual_seed(3)
        return solve(subject.dynamics, x, subject.t0, subject.t1, "euler", steps=8, generator=generator)

    try:
        one, two = run(), run()
    except _checks.Diverged as error:
        raise Inapplicable(f"eight steps are too few for it: {error}") from error
    if one.shape != x.shape:
        return f"returns shape {tuple(one.shape)} for {tuple(x.shape)}"
    return None if torch.equal(one, two) else f"two runs differ by {short(float((one - two).abs().max()))}"


PROPERTIES = (answers, apart, scales, noise, carries, solved)
"""What `check_dynamics` checks."""
