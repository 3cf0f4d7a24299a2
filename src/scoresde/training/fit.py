"""Training as a generator: log, plot or stop as you like, and go on where a checkpoint left off."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scoresde import _checks
from scoresde._files import whole
from scoresde._fingerprint import fingerprint
from scoresde.model import Model
from scoresde.training.checkpoint import read_tensors
from scoresde.training.coupling import KINDS, couple
from scoresde.training.loss import loss
from scoresde.training.lossaware import LossAware
from scoresde.training.matching import implicit_loss, sliced_loss
from scoresde.training.resume import newest, set_aside, steps_in
from scoresde.training.source import Data, Source, noise_of, without
from scoresde.training.state import Training
from scoresde.training.team import Alone, checked, pieces
from scoresde.training.times import draw
from scoresde.training.weighting import is_integrand

OBJECTIVES: dict[str, Callable[..., Tensor]] = {
    "denoising": loss,
    "implicit": implicit_loss,
    "sliced": sliced_loss,
}

FULL_COVARIANCE_UP_TO = 1024
"""The dimension up to which `fit` measures the whole covariance, if the data are twice as many."""


@dataclass(frozen=True)
class Record:
    """One step of training.

    Args:
        step: its number, from 1. loss: of its batch, (). model: with averaged weights, the data's moments and scaling
            (one model for all records, which goes on being averaged).

    Example:
        >>> import torch
        >>> from scoresde import VP, Model, fit, networks, targets
        >>> record = next(fit(Model(networks.MLP(2), VP()), targets.moons(100), steps=3))
        >>> record.step, record.loss.shape, record.model.process
        (1, torch.Size([]), VP(beta_min=0.1, beta_max=20.0))
    """

    step: int
    loss: Tensor
    model: Model


def adam(weights: Iterable[nn.Parameter], lr: float) -> Optimizer:
    """Adam, in one fused pass over the weights."""
    return torch.optim.Adam(weights, lr=lr, fused=True)


def fit(
    model: Model, data: Data, steps: int, *, batch_size: int = 256, lr: float = 1e-3, ema: float = 0.999,
    posthoc: bool = False, clip: float = 1.0, objective: str = "denoising", weighting: Any = None,
    times: Any = "noise_level", low_discrepancy: bool = True, coupling: str = "independent",
    conditional: bool = False, drop: float = 0.0, optimizer: Callable[..., Optimizer] = adam, accumulate: int = 1,
    bf16: bool = False, compile: bool = False, accelerator: Any = None, checkpoints: str | Path | None = None,
    every: int = 1000, generator: torch.Generator | None = None,
) -> Iterator[Record]:  # fmt: skip
    """Train model.net in place, yielding a record a step; with `checkpoints`, go on from the newest one there.

    The rate rises over the first 5 % of the steps and falls to zero as a cosine. The last record's `model` is the
    one to use: it has the averaged weights, and the data's moments, which samplers and likelihoods want (but none for
    coupling="optimal", whose noise depends on the data).

    The result depends on neither the number of processes nor `accumulate`, beyond rounding (and a network's own
    randomness, as dropout): every process draws the randomness of the whole batch and takes its part. A training that
    was killed and goes on ends with the same bits; with another `steps` the rate goes on along another curve.

    Args:
        model: whose net is a torch.nn.Module. data: (N, *), data by rows (scoresde.data.load), or a function
            (n, generator) -> (n, *) or ((n, *), conditions).
        steps: how many in all. batch_size: of all processes together. lr: the highest rate. clip: largest norm of the
            gradient. ema: decay of the average of weights.
        posthoc: keep averages with the checkpoints, from which load(checkpoints, std=...) makes one of any width.
        objective: "denoising", or "implicit" or "sliced" score matching. weighting: a name of WEIGHTINGS or a
            function of log-SNR; None is the prediction's own squared error. times: a name of TIMES, or a LossAware.
        low_discrepancy: times in n equal steps, as `draw_times`.
        coupling: "independent" | "optimal", of data and noise in a batch.
        conditional: give the network the labels of data by rows, as label=. drop: the share of samples that lose
            their conditions, so that the network also learns to do without (labels −1, other numbers 0).
        optimizer: (weights, lr) -> torch.optim.Optimizer. accumulate: pieces that a process splits its part of the
            batch into, to save memory. bf16: the network under autocast to bfloat16. compile: by torch.compile.
        accelerator: accelerate.Accelerator(), to train in several processes (DDP, FSDP2).
        checkpoints: a folder, where the training is kept every so many steps, `every`, and at the end.
        generator: the source of the order of data, dequantization, times and noise; the global one if None.
    Raises:
        ValueError, TypeError: data that do not fit or are not finite; a network without parameters; a loss that is
            not finite; checkpoints of another training. OSError: a full disk.
        torch.OutOfMemoryError: naming the `accumulate` to try.

    Example:
        >>> import torch
        >>> from scoresde import VP, Model, fit, networks, targets
        >>> model = Model(networks.MLP(2, width=16), VP(), "v")
        >>> for record in fit(model, targets.moons(100), steps=3, batch_size=10):
        ...     pass
        >>> record.step, record.model.moments[0].shape
        (3, torch.Size([2]))

    Reference: docs/theory, eq. 16 (the objective).
    """
    _checks.kind("model", model, Model, "Model(net, VP())")
    net = _checks.kind("model.net", model.net, nn.Module, "networks.MLP(2)")
    if not any(p.requires_grad for p in net.parameters()):
        raise ValueError("model.net has no parameters to train; a model of averaged weights: net.requires_grad_(True)")
    for name, value in (("steps", steps), ("batch_size", batch_size), ("accumulate", accumulate), ("every", every)):
        _checks.count(name, value)
    _checks.positive("lr", lr)
    _checks.positive("clip", clip)
    _checks.number("ema", ema, 0.0, 1.0 - 1e-12)
    _checks.number("drop", drop, 0.0, 1.0)
    _checks.flags(posthoc=posthoc, low_discrepancy=low_discrepancy, conditional=conditional, bf16=bf16, compile=compile)
    if not callable(optimizer):
        raise TypeError(f"optimizer must be a function (weights, lr) -> torch.optim.Optimizer, got {optimizer!r}")
    _checks.choice("objective", objective, OBJECTIVES)
    _checks.choice("coupling", coupling, KINDS)
    if posthoc and checkpoints is None:
        raise ValueError("posthoc=True keeps averages with the checkpoints; name a folder for them")
    if objective != "denoising" and weighting is not None:
        raise ValueError(f"weighting belongs to objective='denoising', got {weighting!r} with {objective!r}")
    team = Alone(model.like().device) if accelerator is None else checked(accelerator)
    if batch_size < team.num_processes * accumulate:
        raise ValueError(
            f"batch_size must be at least {team.num_processes} processes × accumulate={accumulate}, got {batch_size}"
        )
    if generator is None and team.num_processes > 1:
        raise ValueError("generator must be given, seeded alike in all processes: torch.Generator().manual_seed(0)")
    source = Source(data, model.like().to(team.device), generator, conditional)
    training = Training(net.to(team.device), optimizer, lr, ema, source, times, team, bf16, compile, posthoc)
    folder = None if checkpoints is None else _checks.path("checkpoints", checkpoints)
    found = newest(folder) if folder is not None and steps_in(folder) else None
    if coupling == "optimal":
        measured = None
    elif found is not None and not source.count:  # a function may draw others now
        kept, _ = read_tensors(found / "model.safetensors", team.device)
        measured = kept["moments.0"], kept["moments.1"]
    else:
        measured = moments(source.sample())
    best = replace(model, net=training.average.net, moments=measured, scaling=source.scaling or model.scaling)
    running = replace(model, net=training.run)
    host = _checks.device_of(generator, torch.device("cpu"))
    part, cuts = pieces(batch_size, team, accumulate)
    share = source.like.new_full((batch_size,), team.num_processes / batch_size)
    integral, options = is_integrand(weighting), {"weighting": weighting} if objective == "denoising" else {}
    given = {
        "process": model.process, "prediction": model.prediction, "batch_size": batch_size, "lr": lr, "ema": ema,
        "clip": clip, "objective": objective, "weighting": weighting, "coupling": coupling, "drop": drop,
        "times": type(times).__name__ if isinstance(times, LossAware) else times, "conditional": conditional,
        "low_discrepancy": low_discrepancy, "bf16": bf16, "optimizer": optimizer, "net": net,
    }  # fmt: skip
    settings = {
        name: (type(value).__name__ if value is net else _shown(value), fingerprint(value, weights=False))
        for name, value in given.items()
    }

    def batch() -> tuple[Tensor, Tensor | None, Tensor, Tensor, dict[str, Tensor]]:
        """The next batch: times and weights of all of it, and this process's x0, noise and conditions."""
        held = slice(None) if coupling == "optimal" else part  # optimal pairs are those of the whole batch
        x0, cond = source.batch(batch_size, held)
        noise = noise_of(x0, batch_size, held, generator)
        if coupling == "optimal":
            if set(cond) - {"label"}:
                raise ValueError(f"coupling='optimal' keeps apart equal labels only, got the conditions {set(cond)}")
            noise = couple(x0, noise, coupling, cond.get("label"))[part]
            x0, cond = x0[part], {name: value[part] for name, value in cond.items()}
        cond = without(cond, drop, batch_size, part, generator)
        t, weight = draw(times, model.process, batch_size, generator, host, low_discrepancy, integral)
        return t, weight, x0, noise, cond

    def descend(step: int) -> None:
        """One step of the optimizer."""
        t, weight, x0, noise, cond = batch()
        shares = share if weight is None else share * weight.to(share)
        values = []
        if objective == "sliced":  # directions of this process's own, by the source that all share
            seed = int(torch.randint(2**62, (), generator=generator, device=host)) + team.process_index
            options["generator"] = torch.Generator(host).manual_seed(seed)
        for p in training.weights:
            p.grad = None
        for cut in cuts:
            here = slice(part.start + cut.start, part.start + cut.stop)
            given = {name: value[cut] for name, value in cond.items()}
            with nullcontext() if cut is cuts[-1] else team.no_sync(training.run):
                each = OBJECTIVES[objective](running, x0[cut], t[here], noise[cut], **options, **given)
                values.append(each.detach())
                team.backward(each @ shares[here])
        norm = team.clip_grad_norm_(training.weights, clip)
        if not math.isfinite(norm):
            raise _checks.Diverged(
                f"the gradient at step {step} is not finite; lower lr (now {lr:g}) or look at the data"
            )
        training.descend(_rate(step, steps))
        values = values[0] if len(values) == 1 else torch.cat(values)
        if len(values) < batch_size:  # the others' are added
            values = team.reduce(nn.functional.pad(values, (part.start, batch_size - part.stop)))
        if isinstance(times, LossAware):
            times.update(t, values)
        training.step, training.loss = step, values @ shares / team.num_processes

    def records() -> Iterator[Record]:
        if training.step == steps:
            yield Record(steps, training.loss, best)
        for step in range(training.step + 1, steps + 1):
            try:
                descend(step)
            except torch.OutOfMemoryError as error:
                raise torch.OutOfMemoryError(
                    f"out of memory at step {step} with {len(range(*part.indices(batch_size)))} samples a process in "
                    f"{accumulate} pieces; accumulate={2 * accumulate} takes half of it at the same result"
                ) from error
            if folder is not None and (step % every == 0 or step == steps):
                training.save(folder, best, settings)
            yield Record(step, training.loss, best)

    if found is not None:
        training.restore(found, best, settings)
        if training.step > steps:
            raise ValueError(f"checkpoints: {found} has {training.step} steps already, more than steps={steps}")
        if team.is_main_process:
            set_aside(found)
    elif folder is not None and team.is_main_process:
        with whole(folder / "begun") as draft:  # is there a place to write?
            draft.touch()
        (folder / "begun").unlink()
    return records()


def _shown(value: Any) -> str:
    """A setting as text, the same in any process: functions by their names."""
    return getattr(value, "__name__", None) or re.sub(r" at 0x[0-9a-f]+", "", str(value))


def _rate(step: int, steps: int) -> float:
    """The share of lr at a step: it rises over the first 5 %, then falls as a cosine."""
    return min(step / max(1, steps // 20), 0.5 + 0.5 * math.cos(math.pi * step / (steps + 1)))


def moments(data: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of data, and its covariance where D is small against N, else its standard deviation: for `Model`.

    Args:
        data: (N, *), floating.
    Returns:
        Float64: the mean (*), and the covariance (D, D) of flattened samples, for D up to 1024 and N of at least 2 D,
            or the standard deviation (*).
    Raises:
        ValueError, TypeError: data that are empty, not finite or of integers.

    Example:
        >>> import torch
        >>> moments(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]]))[1]
        tensor([[0.5000, 0.0000],
                [0.0000, 2.0000]], dtype=torch.float64)
    """
    _checks.state("data", data)
    if data.ndim < 2 or not data.numel():
        raise ValueError(f"data must have shape (N, *) with at least one number, got {tuple(data.shape)}")
    wide = data.double()
    mean, dim = wide.mean(0), wide[0].numel()
    if 1 < dim <= FULL_COVARIANCE_UP_TO and len(wide) >= 2 * dim:
        return mean, wide.flatten(1).mT.cov(correction=0).reshape(dim, dim)
    return mean, wide.std(0, correction=0)
