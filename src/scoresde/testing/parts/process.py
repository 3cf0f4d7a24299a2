"""What must hold of every process."""

from __future__ import annotations

import math
from copy import deepcopy

import torch
from torch import Tensor

from scoresde import _checks
from scoresde.process import Process
from scoresde.samplers import sample
from scoresde.samplers.grids import graded
from scoresde.testing.certificate import spelled
from scoresde.testing.exact import GAUSSIAN
from scoresde.testing.kit import Case, Examples, Report, reported, short, stating
from scoresde.testing.parts import coefficients, slopes
from scoresde.testing.parts.coefficients import COEFFICIENTS, answers, begins, each, falls, interval, rises
from scoresde.testing.parts.slopes import derivatives, inverse

DRAWS, ERRORS = 20_000, 5.0
"""How many numbers a law is judged by, and by how many standard errors: exceeded by chance once in two million."""


def check_process(process: Process) -> Report:
    """Raise AssertionError, a table of what failed and why, unless a process is one; else return the report.

    Args:
        process: with t_max, alpha and sigma, and whatever it overrides.
    Raises:
        AssertionError: some property does not hold. TypeError: not a Process.

    Example:
        >>> import torch
        >>> from scoresde import Process
        >>> from scoresde.testing import check_process
        >>> class Trigonometric(Process):
        ...     def alpha(self, t):
        ...         return torch.cos(t * torch.pi / 2)
        ...     def sigma(self, t):
        ...         return torch.sin(t * torch.pi / 2)
        >>> check_process(Trigonometric()).passed
        True
    """
    __tracebackhide__ = True
    return reported(cases(process)).raise_for_failures()


def cases(process: Process) -> list[Case]:
    _checks.kind("process", process, Process, "VP()")
    return [Case(each, spelled(process), process) for each in PROPERTIES]


@stating(
    "refuses times outside",
    "A time before 0, after t_max or not a number has no coefficients; ValueError says so.",
    proof="asked there",
    change="Do not override check_time; alpha and sigma are wrapped so that they refuse by themselves.",
    examples=lambda p: [(f"t = {t!r}", t) for t in (-0.1 * p.t_max, 1.1 * p.t_max, math.nan)],
)
def refuses(process: Process, t: float) -> str | None:
    for given in (t, torch.tensor([t], dtype=torch.float64)):
        try:
            value = process.alpha(given)
        except ValueError:
            continue
        return f"alpha is {short(value)} there"
    return None


def _perturbed(process: Process) -> Examples:
    T = process.t_max
    for shape in ((3,), (3, 2), (3, 2, 4)):
        for t in (0.5 * T, torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64) * T):
            shown = f"{tuple(t.shape)}" if isinstance(t, Tensor) else short(t)
            yield f"x0 of shape {shape}, t = {shown}, noise given", (shape, t)
    yield f"{DRAWS} draws at t = {0.5 * T!r}", ((DRAWS,), 0.5 * T)


@stating(
    "perturb is alpha x0 + sigma e",
    "x_t has mean α x₀ and variance σ², its noise is standard normal, returned, and drawn from the generator alone.",
    proof=f"exactly with the noise given; the noise's mean and variance within {ERRORS:g} standard errors",
    change="Do not override perturb, or return (α x₀ + σ ε, ε) with ε from `noise`, or drawn from `generator`.",
    examples=_perturbed,
    needs=(answers,),
)
def perturbs(process: Process, asked: tuple[tuple[int, ...], float | Tensor]) -> str | None:
    shape, t = asked
    generator = torch.Generator().manual_seed(1)
    x0, noise = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    if shape[0] == DRAWS:
        x, noise = process.perturb(x0, t, generator=torch.Generator().manual_seed(2))
        again, _ = process.perturb(x0, t, generator=torch.Generator().manual_seed(2))
        if not torch.equal(x, again):
            return "the same generator gives another x_t"
        if wrong := _law((x - process.at("alpha", float(t)) * x0) / process.at("sigma", float(t)), 1.0):
            return f"(x − αx₀)/σ has {wrong}"
    else:
        x, same = process.perturb(x0, t, noise)
        if not torch.equal(same, noise):
            return "the noise that is returned is not the noise given"
    alpha, sigma = ((c.reshape(-1, *[1] * (len(shape) - 1)) if c.ndim else c) for c in _levels(process, t))
    right = alpha * x0 + sigma * noise
    close = torch.allclose(x, right, rtol=1e-12, atol=1e-12)
    return None if close else f"x is {short(x)}, αx₀ + σε is {short(right)}"


def _levels(process: Process, t: float | Tensor) -> tuple[Tensor, Tensor]:
    return process.alpha(t), process.sigma(t)


def _law(z: Tensor, variance: float) -> str | None:
    """What is wrong with numbers that should be normal, independent, of mean 0 and this variance."""
    n, z = z.numel(), z.double().flatten() / math.sqrt(variance)
    scores = {
        "mean": (float(z.mean()), 0.0, 1 / math.sqrt(n)),
        "variance": (float(z.square().mean()), 1.0, math.sqrt(2 / n)),
        "fourth moment": (float(z.pow(4).mean()), 3.0, math.sqrt(96 / n)),
        "correlation between neighbours": (float((z[1:] * z[:-1]).mean()), 0.0, 1 / math.sqrt(n)),
    }
    for name, (found, right, error) in scores.items():
        if not abs(found - right) <= ERRORS * error:
            return f"{name} {short(found)}, not {right:g}, in units of what it should have (± {error:.1g})"
    return None


@stating(
    "prior is the noise of x_T",
    "Samples begin at N(0, σ(t_max)²), drawn from the generator alone.",
    proof=f"mean, variance, fourth moment and correlation of {DRAWS} numbers, within {ERRORS:g} standard errors",
    change="Do not override prior, or return σ(t_max) times standard normal numbers drawn from `generator`.",
    examples=lambda process: [(f"shape ({DRAWS // 2}, 2)", (DRAWS // 2, 2))],
    needs=(rises,),
)
def prior(process: Process, shape: tuple[int, int]) -> str | None:
    x, again = (process.prior(shape, torch.Generator().manual_seed(3)) for _ in range(2))
    if x.shape != shape or not torch.equal(x, again):
        return f"shape {tuple(x.shape)}" if x.shape != shape else "the same generator gives another x_T"
    sigma = process.at("sigma", process.t_max)
    wrong = _law(x, sigma**2)
    return wrong and f"{wrong}, where σ(t_max) = {short(sigma)}"


@stating(
    "works under vmap and jvp",
    "Coefficients are differentiated and mapped over batches by torch.func, as likelihoods and training do.",
    proof="torch.func.vmap against the batch itself; torch.func.jvp of α and σ against differences",
    change="Avoid .item(), float(t), numpy and if on values of t; use torch.where.",
    examples=each(COEFFICIENTS),
    needs=(answers, rises),
    raised=None,
)
def transforms(process: Process, asked: tuple[str, float]) -> str | None:
    name, t = asked[0], torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64) * process.t_max
    function = getattr(process, name)
    value, mapped = function(t), torch.func.vmap(function)(t)
    if not torch.allclose(mapped, value, rtol=1e-12, atol=1e-12, equal_nan=True):
        return f"vmap gives {short(mapped)}, the batch {short(value)}"
    if name in ("alpha", "sigma"):
        slope, step = torch.func.jvp(function, (t,), (torch.ones_like(t),))[1], 1e-6 * process.t_max
        found = (function(t + step) - function(t - step)) / (2 * step)
        if not torch.allclose(slope, found, rtol=1e-3, atol=1e-6):
            return f"jvp gives {short(slope)}, differences {short(found)}"
    return None


@stating(
    "survives deepcopy",
    "A model is copied with its process (as its averaged weights are kept), and the copy is the same process.",
    proof="all coefficients of the copy",
    change="Keep what the process needs in plain fields, best of a frozen dataclass.",
    examples=each(COEFFICIENTS),
    needs=(answers,),
    raised=None,
)
def copies(process: Process, asked: tuple[str, float]) -> str | None:
    t = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64) * process.t_max
    own, copied = (getattr(each, asked[0])(t) for each in (process, deepcopy(process)))
    return (
        None
        if torch.allclose(own, copied, rtol=0, atol=0, equal_nan=True)
        else f"the copy has {short(copied)}, the original {short(own)}"
    )


@stating(
    "carries a Gaussian",
    "All of it together: the probability flow carries points of p_T to the points with the same quantiles at t_min.",
    proof="sixteen points of N(0.7, 0.3) × N(−0.4, 0.6) by Adams() in 200 steps, against the closed form; to 1e-4",
    change="If all else holds, something that samplers use is not what alpha and sigma say: t_min, or a method.",
    examples=lambda process: [("200 steps from t_max to t_min", None)],
    needs=(interval, answers, begins, falls, rises, derivatives, inverse),
)
def flows(process: Process, _: None) -> str | None:
    x, model = GAUSSIAN.starts(process, process.t_max), GAUSSIAN.model(process, 2)
    grid = [*(t for t in graded(process, 200).tolist() if t > 1.01 * process.t_min), process.t_min]
    right = GAUSSIAN.carried(process, x, process.t_max, process.t_min)
    error = float((sample(model, x=x, grid=grid) - right).abs().max())
    return None if error < 1e-4 else f"the worst point is off by {short(error)}"


PROPERTIES = (*coefficients.PROPERTIES, *slopes.PROPERTIES, refuses, perturbs, prior, transforms, copies, flows)
"""What `check_process` checks."""
