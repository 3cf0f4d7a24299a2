"""The one loop that runs every sampler: from noise to data, and for deterministic ones back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from scoresde import _checks
from scoresde.density import BUDGET, LogProb, carry, suggested
from scoresde.divergence import Probes
from scoresde.flow import Flow
from scoresde.model import Count, Model
from scoresde.process.base import Process
from scoresde.samplers.adams import Adams
from scoresde.samplers.base import Draw, Sampler, from_data, to_data
from scoresde.samplers.noise import Source

DEFAULT = Adams()


def sample(
    model: Model,
    shape: Sequence[int] | None = None,
    sampler: Sampler = DEFAULT,
    steps: int = 20,
    grid: Callable[[Process, int], Tensor] | Tensor | Sequence[float] | None = None,
    *,
    x: Tensor | None = None,
    generator: torch.Generator | None = None,
    seeds: Sequence[int] | Tensor | None = None,
    trajectory: bool = False,
    progress: bool = False,
    log_prob: bool = False,
    divergence: str = "auto",
    probes: int = 1,
) -> Any:
    """Draw samples: noise at t_max, carried to data at t = 0.

    Args:
        model: to sample from. shape: (B, *), of the batch. sampler: by default Adams(), the flow integrator.
        steps: how many.
        grid: a function of `grids`, or times that decrease within [0, t_max]; the sampler's own if None.
        x: (B, *), the state to start from, instead of drawing one from the prior: normal, with the mean and
            covariance that the model's `moments` have at the first time.
        generator: the source of noise. seeds: B whole numbers, one for each sample: sample i is then the same in
            any batch, order or split. The global generator is used if neither is given.
        trajectory: return the states at all times, (steps + 1, B, *).
        progress: show a bar, with the calls of the network so far.
        log_prob: also return their log-densities, from the same pass: that of Adams(), each sample with steps of its
            own to the tolerance that `log_prob` has for `steps`. divergence, probes: as there.
    Returns:
        (B, *), on the device and in the dtype of x or of the network. Gradients flow if x requires them. With
        log_prob: those and a LogProb, whose prior is the one drawn from.
    Raises:
        ValueError, TypeError: an argument that does not fit, or states that are not finite.

    Example:
        >>> import torch
        >>> from scoresde import VP, sample, targets
        >>> target = targets.Gaussian([1.0, -1.0], 0.25)
        >>> model = target.model(VP())
        >>> x = sample(model, (8, 2), seeds=range(8))
        >>> torch.allclose(sample(model, (3, 2), seeds=range(5, 8)), x[5:])
        True
        >>> x, result = sample(model, (8, 2), log_prob=True)
        >>> torch.allclose(result.value, target.log_prob(x), atol=1e-3)
        True

    Reference: Song et al. (2021), arXiv 2011.13456, sec. 3.3; docs/theory, eq. 10-12 (Adams).
    """
    _check(model, sampler)
    _checks.flags(trajectory=trajectory, progress=progress, log_prob=log_prob)
    if log_prob and (not isinstance(sampler, Adams) or grid is not None or trajectory):
        raise ValueError(f"log_prob=True needs sampler=Adams(), without grid and trajectory, got {sampler!r}")
    times = _times(sampler, model, steps, grid)
    x, draw = _start(model, shape, x, times[0], generator, seeds, _begun_late(model, grid, times[0]))
    if log_prob:
        return _with_density(model, x, steps, Probes.draw(divergence, _checks.count("probes", probes), x, generator))
    return _walk(model, sampler, x, times, draw, trajectory, progress)


def _with_density(model: Model, x: Tensor, steps: int, probes: Probes) -> tuple[Tensor, LogProb]:
    with torch.set_grad_enabled(x.requires_grad and torch.is_grad_enabled()):
        goal, prior = suggested(steps, probes.dim), "standard" if model.moments is None else "moments"
        result, data = carry(model, x, probes, goal, BUDGET * steps, inwards=True, prior=prior)
    _checks.finite_result("sample", data)
    return data, result


def encode(
    model: Model,
    x: Tensor,
    sampler: Sampler = DEFAULT,
    steps: int = 20,
    grid: Callable[[Process, int], Tensor] | Tensor | Sequence[float] | None = None,
    *,
    trajectory: bool = False,
    progress: bool = False,
) -> Tensor:
    """The latent x_T of data x: the probability-flow ODE run from t = 0 to t_max, by a deterministic sampler.

    Args:
        model: whose flow is run. x: (B, *), data.
        sampler, steps, grid, trajectory, progress: as in `sample` (the grid is run backwards).
    Raises:
        ValueError: a stochastic sampler; otherwise as `sample`.

    Example:
        >>> import torch
        >>> from scoresde import VP, encode, sample, targets
        >>> model = targets.GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], 0.1).model(VP())
        >>> x = torch.tensor([[0.8], [-1.1]])
        >>> torch.allclose(sample(model, x=encode(model, x, steps=200), steps=200), x, atol=1e-3)
        True

    Reference: Song et al. (2021), arXiv 2011.13456, sec. 4.3.
    """
    _check(model, sampler)
    _checks.flags(trajectory=trajectory, progress=progress)
    if sampler.stochastic:
        raise ValueError(f"sampler must be deterministic to encode, got {sampler!r}; use Adams()")
    _checks.state("x", x)
    times = _times(sampler, model, steps, grid)[::-1]
    result = _walk(model, sampler, x, times, _no_noise, trajectory, progress)
    if not trajectory and x.numel() and _begun_late(model, grid, times[-1]):
        return _as_gaussian(model, result, times[-1], model.process.t_max)
    return result


def _begun_late(model: Model, grid: Any, first: float) -> bool:
    """Whether the sampler could not begin at the pure noise (α = 0) that its grid began at."""
    process = model.process
    return (grid is None or callable(grid)) and first < process.t_max and process.at("alpha", process.t_max) == 0.0


def _as_gaussian(model: Model, x: Tensor, t: float, s: float) -> Tensor:
    """x carried from t to s, both close to pure noise, as if the data were normal with the model's moments."""
    flow = Flow.of(model, x)
    return flow.back(flow.into(x, t), s)


def _walk(
    model: Model, sampler: Sampler, x: Tensor, times: list[float], draw: Draw, trajectory: bool, progress: bool
) -> Tensor:
    """Run the sampler through the times, in either direction, and the rest of the way where σ(0) > 0."""
    count = Count()
    counted, states = model.wrap(count), [x]
    if x.numel():
        short = model.process.at("sigma", 0.0) > 0.0
        bar = tqdm(total=len(times) - 1, desc=type(sampler).__name__, unit="step", disable=not progress)
        with bar, torch.set_grad_enabled(x.requires_grad and torch.is_grad_enabled()):
            first = from_data(counted, x, 0.0) if short and times[0] == 0.0 else x
            for state in sampler.run(counted, first, times, draw):
                states = [*states, state] if trajectory else [state]
                if progress:
                    bar.set_postfix(NFE=count.calls, refresh=False)
                    bar.update()
            if short and times[-1] == 0.0:
                states[-1] = to_data(counted, states[-1], 0.0)
        _checks.finite_result(f"the result of {sampler!r}", states[-1])
    else:
        states = [x] * (len(times) if trajectory else 1)
    return torch.stack(states) if trajectory else states[-1]


def _no_noise(shape: Sequence[int]) -> Tensor:
    raise ValueError("this sampler draws noise although it declares stochastic = False")


def _check(model: Any, sampler: Any) -> None:
    _checks.kind("model", model, Model, "Model(net, VP())")
    _checks.kind("sampler", sampler, Sampler, "DDIM()")


def _times(sampler: Sampler, model: Model, steps: int, grid: Any) -> list[float]:
    steps = _checks.count("steps", steps)
    if grid is None:
        times = sampler.grid(model, steps)
    elif callable(grid):
        times = sampler.begin(model, _checks.table("grid", grid(model.process, steps)).double())
    else:
        times = _checks.table("grid, a function such as grids.karras or a list of times,", grid).double()
    if times.ndim != 1 or len(times) < 2 or not bool((times.diff() < 0).all()):
        raise ValueError(f"grid must be at least two times that decrease strictly, got {times.flatten().tolist()[:8]}")
    model.process.check_time(times)
    if (first := float(sampler.begin(model, times)[0])) != times[0]:
        raise ValueError(
            f"grid must begin below t = {float(times[0]):g} for {sampler!r} on this model; at {first:.4g}, say"
        )
    return times.tolist()


def _start(
    model: Model, shape: Any, x: Tensor | None, t: float, generator: torch.Generator | None, seeds: Any, late: bool
) -> tuple[Tensor, Draw]:
    """The first state, and the source of the noise for the steps."""
    if (shape is None) == (x is None):
        raise ValueError("give shape, to draw the start from the prior, or x, to start from there (one of them)")
    if x is not None:
        like = _checks.state("x", x)
        shape = tuple(x.shape)
    else:
        like = model.like()
        shape = _checks.shape("shape", shape)
    draw = Source(like, shape[0], generator, seeds)
    if x is None:
        flow = Flow.of(model, like.new_empty(1, *shape[1:]))
        x = flow.back(flow.frame.turn(draw(shape)), t)
    elif late and x.numel():
        x = _as_gaussian(model, x, model.process.t_max, t)
    return x, draw
