"""A training as one call."""

from __future__ import annotations

import inspect
import os
import sys
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Annotated, Any, cast

import torch
from tqdm import tqdm

from scoresde import data as sets
from scoresde import plots
from scoresde.data import NAMES, Data
from scoresde.model import Model
from scoresde.prediction import PREDICTIONS
from scoresde.process import VP, Process
from scoresde.runs.folder import Log, MakeNet, describe, device_of, made, note_network, pictured, said_of, waiting
from scoresde.samplers import sample
from scoresde.training import TIMES, WEIGHTINGS, fit, load
from scoresde.training.coupling import KINDS as COUPLINGS
from scoresde.training.fit import OBJECTIVES
from scoresde.training.resume import steps_in
from scoresde.training.source import Rows

LOGGED = 50
"""Every so many steps, or a hundredth of all, the loss goes to metrics.jsonl: the mean since the last time."""

DRAWN = {1: 1000, 2: 8, 3: 64}
"""How many samples a picture shows: of tables and points, of waves, of images."""


def train(
    out: Path = Path("runs/train"), data: Annotated[str, *NAMES] = "digits", data_options: dict[str, Any] | None = None,
    process: Process | None = None, prediction: Annotated[str, *PREDICTIONS] = "v", net: MakeNet | None = None,
    steps: int = 4000, batch_size: int = 128, lr: float = 1e-3, ema: float = 0.999, posthoc: bool = False,
    clip: float = 1.0, objective: Annotated[str, *OBJECTIVES] = "denoising",
    weighting: Annotated[str, *WEIGHTINGS] | None = None, times: Annotated[str, *TIMES] = "noise_level",
    coupling: Annotated[str, *COUPLINGS] = "independent", conditional: bool = False, drop: float = 0.1,
    accumulate: int = 1, bf16: bool = False, compile: bool = False, every: int = 500, held_out: float = 0.1,
    seed: int = 0, device: str = "auto", quiet: bool = False, config: str = "",
) -> Model:  # fmt: skip
    """Train a network on a data set, or go on where an earlier call with the same folder left off.

    Args:
        out: the folder of this training: config.yaml, metrics.jsonl, environment.txt, checkpoints/, losses.png and
            samples.png, tensorboard/ if that is installed.
        data: a name, or the path of a table (CSV, Parquet, NPZ), or of a folder of images or sounds.
        data_options: of the reader, such as --data_options.size 64 or --data_options.label species.
        process: the forward process, VP if not given.
        prediction: what the network predicts.
        net: MLP if not given; it is made for the shape of a sample.
        steps: training steps in all.
        batch_size: samples a step, of all processes together.
        lr: the highest learning rate of Adam.
        ema: decay of the average of weights.
        posthoc: keep averages with the checkpoints, to choose the width of the average when sampling.
        clip: largest norm of the gradient.
        objective: the kind of score matching.
        weighting: of the loss over noise levels; the prediction's own squared error if not given.
        times: how noise levels are drawn.
        coupling: of data and noise.
        conditional: give the network the labels of the data.
        drop: share of labels dropped, for guidance.
        accumulate: pieces to split a batch into, to save memory.
        bf16: mixed precision.
        compile: torch.compile the network.
        every: steps between checkpoints.
        held_out: share of the data not trained on.
        seed: of weights, order, times and noise.
        device: auto, cpu, cuda, ...
        quiet: no progress bar.
        config: what config.yaml will say.
    """
    config = config or said_of(locals())
    process = process or VP()
    team, where = _team(device)
    main = team is None or team.is_main_process
    with waiting(f"loading {data}", quiet or not main):
        loaded = sets.load(data, **(data_options or {}))
    rows = loaded.split(held_out, seed=seed)[0] if held_out else loaded
    if conditional and rows.labels is None:
        raise ValueError(f"conditional: the data {data!r} have no labels; leave --conditional out")
    if conditional and net is not None and not _takes_classes(net):
        raise ValueError("conditional: net takes no classes=, how many labels there are; leave --conditional out")
    classes = len(rows.classes) if conditional else None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        some = rows.batch(torch.arange(min(len(rows), 1000)), torch.Generator().manual_seed(seed))[0]
        inner = made(net, rows.shape, classes, process, scale := float(some.std()))
    model = Model(inner.to(where), process, prediction)
    folder = out / "checkpoints"
    records = fit(
        model, cast(Rows, rows), steps, batch_size=batch_size, lr=lr, ema=ema, posthoc=posthoc, clip=clip,
        objective=objective, weighting=weighting, times=times, coupling=coupling, conditional=conditional,
        drop=drop if conditional else 0.0, accumulate=accumulate, bf16=bf16, compile=compile, accelerator=team,
        checkpoints=folder, every=every,
        generator=torch.Generator(where).manual_seed(seed),
    )  # fmt: skip
    begun = int(steps_in(folder)[0].name[5:]) if steps_in(folder) else 0
    if main:
        describe(out, config)
        note_network(out, rows.shape, classes, scale, process)
    spacing, values = max(1, min(LOGGED, steps // 100)), []
    with closing(Log(out, begun)) if main else nullcontext() as log:
        bar = tqdm(records, "training", steps, initial=begun, unit="step", disable=quiet or not main or None)
        for record in bar:
            values.append(record.loss)
            if log is not None and record.step > begun and (record.step % spacing == 0 or record.step == steps):
                value, values = float(torch.stack(values).mean()), []
                bar.set_postfix(loss=f"{value:.4f}", refresh=False)
                log.add(record.step, loss=value)
            model = record.model
        if log is not None and (begun < steps or not (out / "samples.png").exists()):
            if team is not None:  # whose weights may lie in parts
                inner = made(net, rows.shape, classes, process, scale)
                model = load(folder, device="cpu" if where.type == "cpu" else where, net=inner, process=process)
            pictured(lambda: _pictures(out, model, rows, classes, quiet), quiet)
            log.show(steps, out / "samples.png")
    return model


def _pictures(out: Path, model: Model, rows: Data, classes: int | None, quiet: bool) -> None:
    """losses.png, and samples.png of the model with averaged weights, beside real ones."""
    lines = Log.lines(out / "metrics.jsonl")
    plots.losses(
        {"": [line["loss"] for line in lines]}, out / "losses.png", smooth=1, at=[line["step"] for line in lines]
    )
    num = DRAWN.get(len(rows.shape), 64)
    if classes is not None:
        model = model.given(label=torch.arange(num, device=model.like().device) % classes)
    x = sample(model, (num, *rows.shape), seeds=range(num), progress=not quiet and sys.stderr.isatty())
    real = rows.raw(torch.arange(min(num, len(rows))))
    groups = {"samples": rows.scaling.inverse(x), "real": real}
    plots.samples(groups, out / "samples.png", rows.scaling.levels)


def _takes_classes(net: MakeNet) -> bool:
    takes = inspect.signature(net).parameters
    return "classes" in takes or any(p.kind is p.VAR_KEYWORD for p in takes.values())


def _team(device: str) -> tuple[Any, torch.device]:
    """accelerate.Accelerator where a launcher started several processes, else None; and the device."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None, device_of(device)
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise ImportError("training in several processes needs accelerate; install scoresde[scale]") from error
    team = Accelerator(cpu=device == "cpu")
    return team, team.device
