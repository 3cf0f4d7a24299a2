"""Where the error of sampling comes from: the imperfections, put in one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from scoresde import _checks
from scoresde.flow import Flow
from scoresde.model import Model
from scoresde.process import Process
from scoresde.samplers import Sampler
from scoresde.targets import GaussianMixture
from scoresde.targets.base import Target
from scoresde.testing.budget import ADVICE, Budget
from scoresde.testing.ladder import Distance, Drawn, NotAffineError, Propagated

Grid = Callable[[Process, int], Tensor] | Tensor | Sequence[float] | None


@torch.no_grad()
def diagnose(
    model: Model,
    sampler: Sampler,
    steps: int,
    target: Target,
    *,
    grid: Grid = None,
    shape: Sequence[int] | None = None,
    samples: int = 2000,
    many: int | None = None,
    generator: torch.Generator | None = None,
) -> Budget:
    """Split the error of `sample(model, (B, D), sampler, steps, grid)` into four parts, and say what would help.

    The error is W₂², the squared 2-Wasserstein distance from the law of samples to the target. Samples are made four
    times, with one more imperfection each time, which adds what the distance then grows by:

        truncation        the exact score, from the exact law of x_T, in the limit of many steps: what is left where
                          the grid ends above t = 0, or jumps there from t_min, or the process begins at σ(0) > 0
        prior mismatch    from the prior that `sample` draws from
        score error       by the model's own score
        discretisation    in `steps` steps

    So they add up to the error; one is negative where it cancels others. Squares, since those of independent errors
    add. In `steps` steps the exact score once more says what a better network would help.

    If the target is normal and what the model predicts is linear in x, a run is an affine map of its start and its
    noises, which running unit vectors finds. Then the law of samples is N(m, C), and from the target's N(m*, C*)
    W₂² = ‖m − m*‖² + tr(C + C* − 2(C^½ C* C^½)^½): nothing is drawn, and all parts are exact to rounding; the limit of
    many steps by extrapolation from `many`, half and a quarter.

    Otherwise W₂² is the sliced one, D times the mean over lines, between `samples` samples and as many exact ones: what
    the exact runs come to in the data by the exact flow. All runs have the same starts, and the same Brownian paths if
    the sampler can follow one, so that equal laws are at distance zero, and parts are known much better than from
    independent samples. The limit of many steps is at `many`, which for a sampler of order p leaves (steps/many)^2p of
    the discretisation unseen. Standard errors are by the pairs' Kantorovich potentials; added to them is how far exact
    samples from other starts (with other noise, where paths cannot be followed) come to lie.

    Args:
        model: in its process; conditions filled in. sampler, steps, grid: as `sample` takes them.
        target: the law of the data, whose exact model takes the model's place. shape: of one sample, if not (D,).
        samples: to draw, if any. many: steps whose doubling changes little; 8 to 64 times `steps` if None (4 to 16 if
            samples are drawn). generator: the source of samples, one of its own if None.
    Raises:
        ValueError, TypeError: arguments that do not fit.

    Example:
        >>> import torch
        >>> from scoresde import VP, targets
        >>> from scoresde.samplers import DDIM
        >>> from scoresde.testing import diagnose
        >>> target = targets.Gaussian([1.0, -1.0], [[0.5, 0.2], [0.2, 0.3]])
        >>> budget = diagnose(target.model(VP()), DDIM(), 10, target)
        >>> budget.culprit, budget.more_steps_help, budget.better_network_helps
        ('discretisation', True, False)

    Reference: Chen et al. (2023), arXiv 2209.11215 (the same parts as a bound); Dowson and Landau (1982), J.
    Multivariate Anal. 12 (W₂ of normal laws); Bonneel et al. (2015), Sliced and Radon Wasserstein barycenters.
    """
    _checks.kind("model", model, Model, "Model(net, VP())")
    _checks.kind("sampler", sampler, Sampler, "DDIM()")
    _checks.kind("target", target, Target, "targets.Gaussian([0.0], 1.0)")
    steps, samples = _checks.count("steps", steps), _checks.count("samples", samples, 50)
    _checks.device_of(generator)
    shape = (target.dim,) if shape is None else tuple(_checks.shape("shape", shape))
    if math.prod(shape) != target.dim:
        raise ValueError(f"shape must be of {target.dim} numbers, as the target's samples, got {shape}")
    try:
        Flow.of(model, torch.empty(1, *shape, dtype=torch.float64))
    except ValueError as error:
        if "moments" not in str(error):
            raise
        raise ValueError(f"target must be of the model's data, got one of samples of shape {shape}: {error}") from error
    target = deepcopy(target).to(model.like().device)
    exact = replace(target.model(model.process, model.prediction), moments=model.moments)
    times = _times(model, sampler, steps, grid)

    def distances(bench: Propagated | Drawn) -> tuple[list[Distance], int]:
        count = len(times) - 1
        fourth = math.ceil((bench.many(count) if many is None else _checks.count("many", many, steps)) / (4 * count))
        grids = [_finer(model, sampler, part * fourth, grid, times) for part in (1, 2, 4)]
        return bench.distances(exact, model, grids, times), len(grids[-1]) - 1

    bench: Propagated | Drawn = Propagated(_independent(sampler), target, shape)
    try:
        if not (isinstance(target, GaussianMixture) and len(target.weights) == 1):
            raise NotAffineError("the target is not normal")
        bench.distance(model, [times], True)
        found, most = distances(bench)
    except NotAffineError:
        generator = generator or torch.Generator().manual_seed(0)
        bench = Drawn(sampler, target, shape, samples, generator)
        found, most = distances(bench)
    none = Distance(0.0)
    parts = tuple(one.above(other, name) for name, one, other in zip(ADVICE, found, [none, *found]))
    total, limit, better = (
        found[i].above(none, name) for i, name in ((3, "total"), (2, "limit"), (4, "exact network"))
    )
    size = float(target.moments[1].trace())
    return Budget(parts, total, limit, better, len(times) - 1, most, bench.samples, size)


def _independent(sampler: Sampler) -> Sampler:
    """A sampler whose increments have the same law, but are of no path."""
    return replace(sampler, noise="independent") if sampler.noise == "path" else sampler  # pyright: ignore


def _times(model: Model, sampler: Sampler, steps: int, grid: Grid) -> list[float]:
    """As `sample` has them."""
    if grid is None:
        times = sampler.grid(model, steps)
    elif callable(grid):
        times = sampler.begin(model, _checks.table("grid", grid(model.process, steps)).double())
    else:
        times = _checks.table("grid", grid).double()
    if times.ndim != 1 or len(times) < 2 or not bool((times.diff() < 0).all()):
        raise ValueError(f"grid must be at least two times that decrease strictly, got {times.flatten().tolist()[:8]}")
    model.process.check_time(times)
    return times.tolist()


def _finer(model: Model, sampler: Sampler, parts: int, grid: Grid, times: list[float]) -> list[float]:
    """The grid of so many times the steps; if it is a list, or cannot have them, its steps in equal parts."""
    if grid is None or callable(grid):
        try:
            return _times(model, sampler, parts * (len(times) - 1), grid)
        except ValueError:
            pass
    return [*(t + (s - t) * k / parts for t, s in pairwise(times) for k in range(parts)), times[-1]]
