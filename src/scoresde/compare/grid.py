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
from scoresde.compare.subject import Subject, learned, slug, trained
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
    seed: int = 0, device: str = "auto", quiet: bool = False, config: str = "",
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
        models: instead of processes and predictions, folders of trainings on these data.
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
        seed: of training and sampling.
        device: auto, cpu, cuda, ...
        quiet: no progress bars.
        config: what config.yaml will say.
    """
    config = config or said_of(locals())
    if (data is None) == (target is None):
        raise ValueError("give data or target (one of them), such as --data digits or --target gmm")
    if target is not None and (models or net or train_steps):
        raise ValueError("target has an exact score and trains nothing; leave out models, net and train_steps")
    if models and (processes or predictions):
        raise ValueError("models have their own processes and predictions; leave out processes and predictions")
    preset = PRESETS["quick" if quick and target is None else "target" if target is not None else "full"]
    samplers, steps = list(samplers or preset.samplers), list(steps or preset.steps)
    predictions = [_checks.choice("predictions", name, PREDICTIONS) for name in predictions or preset.predictions]
    pairs = product(processes or preset.processes, predictions)
    where = runs.device_of(device)
    _once("samplers", [spelled(sampler) for sampler in samplers])
    _once("steps", [_checks.count("steps", n) for n in steps])
    _checks.count("draws", draws, 20)
    num, bits = _checks.count("num", num or preset.num, 20), _checks.count("bits", bits, 0)
    if target is not None:
        problem, density = of_target(target, num, bits, seed, where)
        subjects = [Subject(spelled(p), name, partial(density.model, p, name)) for p, name in pairs]
    else:
        assert data is not None
        with waiting(f"loading {data}", quiet):
            train, held = sets.load(data, **(data_options or {})).split(held_out, seed=seed)
        problem = of_data(train, held, num, bits, seed)
        settings: dict[str, Any] = {
            "data": data, "data_options": data_options, "net": net, "steps": train_steps or preset.train_steps,
            "batch_size": batch_size, "lr": lr, "held_out": held_out, "seed": seed, "device": device, "quiet": quiet,
        }  # fmt: skip
        if models:
            subjects = [trained(path, where) for path in models]
        else:
            subjects = [learned(out / "models", *pair, settings, config) for pair in pairs]
    _once("models", [subject.name for subject in subjects])
    chosen = tuple(metrics or defaults(problem))
    for name in chosen:
        about(name)
    _once("metrics", chosen)
    runs.describe(out, config)
    judge = cell.Judge(problem.real, problem.other, chosen, cache(partial(report.features, out, problem, quiet)), draws)
    ready = [(subject, subject.make()) for subject in subjects]
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
        judge = (self.judge.real, self.judge.other, self.judge.metrics, self.judge.draws)
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
            return json.loads(path.read_text())
        try:
            value, error = self.problem.bits(self.model)
            found = {"bits_per_dim": value, "bits_error": error}
        except _checks.NotFinite:  # this model has no density to speak of
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
