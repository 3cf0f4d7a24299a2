"""The grid: processes × predictions × samplers × steps over one data set or one exact target."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from torch import Tensor
from tqdm import tqdm

from scoresde import _checks, runs
from scoresde import data as sets
from scoresde._files import sweep, whole
from scoresde._fingerprint import fingerprint
from scoresde.compare import cell, report
from scoresde.compare.problem import Problem, of_data, of_target
from scoresde.compare.row import Row, about
from scoresde.compare.subject import Subject, data_of, learned, made, slug, trained
from scoresde.data import NAMES
from scoresde.metrics import METRICS
from scoresde.model import Model
from scoresde.prediction import PREDICTIONS
from scoresde.process import EDM, VE, VP, Process, RectifiedFlow, SubVP
from scoresde.runs.folder import MakeNet, said_of, waiting
from scoresde.samplers import DDIM, DDPM, DEIS, Adams, DPMSolver, DPMSolverPP, Euler, Heun, Sampler, UniPC
from scoresde.targets import EXAMPLES
from scoresde.testing.certificate import spelled


@dataclass(frozen=True)
class Preset:
    """A grid to begin with."""

    processes: tuple[Process, ...]
    predictions: tuple[str, ...]
    samplers: tuple[Sampler, ...]
    steps: tuple[int, ...]
    train_steps: int
    num: int


PRESETS = {
    # what is asked: processes, predictions, samplers, steps, training steps, samples a cell
    "target": Preset(
        (VP(), EDM(), RectifiedFlow()), ("noise",),
        (Adams(), UniPC(), DPMSolverPP(), DPMSolver(), DEIS(), DDIM(), Heun(), Euler(), DDPM()),
        (5, 10, 20, 50), 0, 1000,
    ),
    "quick": Preset(
        (VP(), VE(), RectifiedFlow()), ("noise", "v"), (Adams(), DPMSolverPP(), DDIM(), DDPM()), (5, 10, 20, 50),
        1500, 500,
    ),
    "full": Preset(
        (VP(), SubVP(), VE(), RectifiedFlow()), ("x0", "noise", "v", "velocity"),
        (Adams(), UniPC(), DPMSolverPP(), DDIM(), Heun(), DDPM()), (5, 10, 20, 50, 100), 6000, 1000,
    ),
}  # fmt: skip


def compare(
    out: Path = Path("runs/compare"), data: Annotated[str, *NAMES] | None = None,
    data_options: dict[str, Any] | None = None, target: Annotated[str, *EXAMPLES] | None = None,
    models: list[Path] | None = None, processes: list[Process] | None = None,
    predictions: list[Annotated[str, *PREDICTIONS]] | None = None, samplers: list[Sampler] | None = None,
    steps: list[int] | None = None, metrics: list[Annotated[str, *METRICS, "flow_error"]] | None = None,
    quick: bool = False, num: int | None = None, bits: int = 100, net: MakeNet | None = None,
    train_steps: int | None = None, batch_size: int = 128, lr: float = 2e-3, held_out: float = 0.3, draws: int = 200,
    inception: bool = False, seed: int = 0, device: str = "auto", quiet: bool = False, config: str = "",
) -> list[Row]:  # fmt: skip
    """Measure every combination of processes, predictions, samplers and steps; go on where an earlier call left off.

    Writes results.csv, pareto.png, report.html and metrics.jsonl into the folder, and prints the table. Each model is
    a run of its own in models/, each cell a file in cells/; those that are there are not done again. Samples of a cell
    start from the same noise in all of them.

    Args:
        out: the folder of this comparison.
        data: a name or a path, as of train; networks are trained on it.
        data_options: of the reader, such as --data_options.size 64.
        target: instead of data, an exact target whose score is known, or your own by module.name; nothing is trained.
        models: instead of data, folders of trainings, all on the same; samples are held against what they held out.
        processes: such as VP "VE(sigma_max=20)".
        predictions: what the networks predict.
        samplers: such as Adams "DPMSolverPP(order=3)".
        steps: of the samplers, such as 5 10 20 50.
        metrics: the first one ranks.
        quick: fewer of everything.
        num: samples a cell, no more than the data that are held out.
        bits: held-out samples whose bits/dim are computed for each model; 0 for none.
        net: MLP if not given; it is made for the shape of a sample.
        train_steps: of each network.
        batch_size: samples a training step.
        lr: the highest learning rate.
        held_out: share of the data not trained on, which samples are held against.
        draws: of metrics whose error is found by cutting the sets in halves, again and again.
        inception: Fréchet distance, precision and recall by Inception's features of images instead of those of a small
            network trained on the data; needs torchmetrics, torch-fidelity and the weights in place.
        seed: of training and sampling.
        device: auto, cpu, cuda, ...
        quiet: no progress bars.
        config: what config.yaml will say.
    """
    config = config or said_of(locals())
    if sum(given is not None for given in (data, target, models)) != 1:
        raise ValueError("give one of data, target and models, such as --data digits or --target gmm")
    if data is None and train_steps is not None:
        raise ValueError(
            f"train_steps is for networks to be trained; {'models' if models else 'target'} trains nothing"
        )
    if target is not None and (net is not None or inception):
        raise ValueError("net and inception are for data; target has an exact score and points")
    if models is not None and (predictions or len(processes or ()) > 1):
        raise ValueError("models have their own processes and predictions; leave out processes and predictions")
    preset = PRESETS["target" if target is not None else "quick" if quick else "full"]
    samplers, steps = list(samplers or preset.samplers), sorted(steps or preset.steps)
    _once("samplers", [spelled(sampler) for sampler in samplers])
    _once("steps", [_checks.count("steps", n) for n in steps])
    num = _checks.count("num", preset.num if num is None else num, 20)
    if _checks.count("bits", bits, 0) == 1:
        raise ValueError("bits must be 0, or at least 2 for a standard error, got 1")
    _checks.count("draws", draws, 20)
    predictions = [_checks.choice("predictions", name, PREDICTIONS) for name in predictions or preset.predictions]
    pairs, where = list(product(processes or preset.processes, predictions)), runs.device_of(device)
    if target is not None:
        problem, density = of_target(target, num, bits, seed, where)
        subjects = [Subject(spelled(p), name, partial(density.model, p, name)) for p, name in pairs]
    else:
        if models is not None:
            data, data_options, held_out, split = data_of(models)
            subjects = trained(models, where, processes[0] if processes else None, net)
        else:
            split, settings = seed, {
                "data": data, "data_options": data_options, "net": net, "batch_size": batch_size, "lr": lr,
                "held_out": held_out, "seed": seed, "device": device, "quiet": quiet,
                "steps": _checks.count("train_steps", preset.train_steps if train_steps is None else train_steps),
            }  # fmt: skip
            subjects = [learned(out / "models", *pair, settings, config) for pair in pairs]
        with waiting(f"loading {data}", quiet):
            parts = sets.load(str(data), **(data_options or {})).split(held_out, seed=split)
        problem = of_data(*parts, num, bits, seed, inception)
    _once("models", [subject.name for subject in subjects])
    chosen = tuple(metrics or defaults(problem))
    _once("metrics", [name for name in chosen if about(name)])
    judge = cell.Judge(problem.real, problem.other, chosen, cache(partial(report.features, out, problem, quiet)), draws)
    try:
        _ = judge.floors  # before anything is trained
    except ValueError as error:
        few = f"with {len(problem.real)} real samples"
        raise ValueError(f"metrics cannot be measured {few}: {error}; see held_out, num and metrics") from error
    runs.describe(out, config)
    ready = [(subject, made(subject, problem.scaling)) for subject in subjects]
    rows, shown = [], {}
    folder, total = out / "cells", len(ready) * len(samplers) * len(steps)
    sweep(folder)
    with tqdm(total=total, desc="measuring", unit="cell", disable=quiet or None) as bar:
        for subject, model in ready:
            each = Measured(folder, subject, model, problem, judge, bits, seed)
            for sampler, n in product(samplers, steps):
                bar.set_postfix_str(f"{subject.name}, {spelled(sampler)}, {n} steps")
                row, x = each(sampler, n)
                rows.append(row)
                shown[subject.name, row.sampler] = x  # the last and largest number of steps stays
                bar.update()
    report.write(out, problem, rows, shown, chosen, config, quiet)
    return rows


@dataclass(frozen=True)
class Measured:
    """The cells of one model: read from their files, or measured and kept there."""

    folder: Path
    subject: Subject
    model: Model
    problem: Problem
    judge: cell.Judge
    bits: int
    seed: int

    def __call__(self, sampler: Sampler, steps: int) -> tuple[Row, Tensor]:
        name = spelled(sampler)
        path = self._path(f"{slug(name)}-{steps}", "safetensors", sampler, steps)
        if (found := cell.load(path)) is not None:
            return found
        ends = self._ends if "flow_error" in self.judge.metrics and not sampler.stochastic else None
        values, x = cell.run(self.model, sampler, steps, self.judge, ends, self.seed)
        row = Row(self.subject.process, self.subject.prediction, name, steps, **values, **self._bits)
        cell.save(path, row, x)
        return row, x[: cell.SHOWN]

    def _path(self, name: str, suffix: str, *parts: Any) -> Path:
        """Of a file whose name tells what it is of: cells of other settings have other names."""
        metrics = [(name, about(name).function) for name in self.judge.metrics]
        judge = (self.judge.real, self.judge.other, metrics, self.judge.draws)
        by = fingerprint(self._by, judge, self.bits, self.seed, *parts)
        return self.folder / f"{self.subject.slug}-{name}-{by}.{suffix}"

    @cached_property
    def _by(self) -> str:
        return fingerprint(self.model)

    @cached_property
    def _ends(self) -> Tensor | None:
        real = self.judge.real
        return cell.flow_ends(self.model, tuple(real.shape[1:]), min(len(real), cell.STARTS), self.seed)

    @cached_property
    def _bits(self) -> dict[str, Any]:
        """Of the model, on held-out data: once for all its cells."""
        if not self.bits:
            return {}
        path = self._path("bits", "json")
        if path.exists():
            try:
                return json.loads(path.read_text())
            except ValueError as error:
                raise ValueError(f"{path} is no likelihood of a comparison ({error}); remove it") from error
        try:
            value, error = self.problem.bits(self.model)
            found = {"bits_per_dim": value, "bits_error": error}
        except _checks.Diverged:  # this model has no density to speak of
            found = {}
        with whole(path) as draft:
            draft.write_text(json.dumps(found))
        return found


def defaults(problem: Problem) -> tuple[str, ...]:
    """The metrics of exact targets, whose flow is the truth; of points; and of images and sounds."""
    if problem.least is not None:
        return ("flow_error", "energy_distance")
    if problem.real[0].ndim < 2:
        return ("sliced_wasserstein", "energy_distance", "flow_error")
    return ("frechet", "sliced_wasserstein", "precision", "recall", "flow_error")


def _once(what: str, values: Sequence[Any]) -> None:
    twice = sorted({str(value) for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(f"{what}: {twice[0]} stands there twice; write it once")
