"""A training and a sampling as one call each, kept in a folder: what the command line runs."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from tqdm import tqdm

from scoresde import data as sets
from scoresde._files import whole
from scoresde.model import Model
from scoresde.networks import MLP, Scaled
from scoresde.process import VP, Process
from scoresde.samplers import Adams, Sampler
from scoresde.samplers.shards import sample_shards
from scoresde.training import fit, load
from scoresde.training.resume import steps_in
from scoresde.training.source import Rows

LOGGED = 50
"""Every so many steps the loss is written to metrics.jsonl: the mean since the last time."""


def train(
    out: Path = Path("runs/train"), data: str = "digits", data_options: dict[str, Any] | None = None,
    process: Process | None = None, prediction: str = "v", net: Callable[[tuple[int, ...]], nn.Module] | None = None,
    steps: int = 4000, batch_size: int = 128, lr: float = 1e-3, ema: float = 0.999, posthoc: bool = False,
    clip: float = 1.0, objective: str = "denoising", weighting: str | None = None, times: str = "noise_level",
    coupling: str = "independent", conditional: bool = False, drop: float = 0.1, accumulate: int = 1,
    bf16: bool = False, compile: bool = False, every: int = 500, held_out: float = 0.1, seed: int = 0,
    device: str = "auto", quiet: bool = False, config: str = "",
) -> Model:  # fmt: skip
    """Train a network on a data set, or go on where an earlier call with the same folder left off.

    Args:
        out: the folder of this training: config.yaml, metrics.jsonl, environment.txt, checkpoints/.
        data: a name (digits, mnist5k, moons, waves, ...) or a path (CSV, Parquet, NPZ, a folder of images or sounds).
        data_options: of the reader, such as --data_options.size 64 or --data_options.label species.
        process: the forward process: VP if not given, VE, EDM, RectifiedFlow, ..., or your own by module.Name.
        prediction: what the network predicts: x0, noise, score, v or velocity.
        net: MLP if not given, UNet, DiT, or your own by module.Name; it is made for the shape of a sample.
        steps: training steps in all.
        batch_size: samples a step, of all processes together.
        lr: the highest learning rate of Adam.
        ema: decay of the average of weights.
        posthoc: keep averages with the checkpoints, to choose the width of the average when sampling.
        clip: largest norm of the gradient.
        objective: denoising, implicit or sliced score matching.
        weighting: of the loss over noise levels: simple, elbo, min_snr, sigmoid, p2, edm, ...
        times: how noise levels are drawn: noise_level, uniform, logit_normal, log_normal, logsnr.
        coupling: of data and noise: independent or optimal.
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
    process, net = process or VP(), net or partial(MLP, highest=32.0)
    team, where = _team(device)
    loaded = sets.load(data, **(data_options or {}))
    rows = loaded.split(held_out, seed=seed)[0] if held_out else loaded
    if conditional and rows.labels is None:
        raise ValueError(f"conditional: the data {data!r} have no labels")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inner = net(rows.shape, **({"classes": len(rows.classes)} if conditional else {}))
    some = rows.batch(torch.arange(min(len(rows), 1000)), torch.Generator().manual_seed(seed))[0]
    model = Model(Scaled(inner, process, float(some.std())).to(where), process, prediction)
    main = team is None or team.is_main_process
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
        _describe(out, config)
    log, values = Log(out / "metrics.jsonl", begun) if main else None, []
    with tqdm(records, "training", steps, initial=begun, unit="step", disable=quiet or not main or None) as bar:
        for record in bar:
            values.append(record.loss)
            if record.step > begun and (record.step % LOGGED == 0 or record.step == steps):
                value = float(torch.stack(values).mean())
                bar.set_postfix(loss=f"{value:.4f}", refresh=False)
                if log is not None:
                    log.add(step=record.step, loss=value)
                values = []
            model = record.model
    return model


def sample(
    run: Path, num: int = 1000, out: Path | None = None, sampler: Sampler | None = None, steps: int = 20,
    label: int | None = None, std: float | None = None, shape: tuple[int, ...] | None = None, seed: int = 0,
    shard: int = 1000, batch: int | None = None, device: str = "auto", quiet: bool = False,
) -> list[Path]:  # fmt: skip
    """Draw samples from a trained model into files, or go on where an earlier call with the same folder left off.

    Started by torchrun (torchrun --nproc_per_node 2 -m -- scoresde sample RUN ...), the processes share the files;
    sample i is the same whatever their number.

    Args:
        run: the folder of a training, or a file that `save` wrote.
        num: how many samples.
        out: the folder for samples-00000.safetensors, ...; RUN/samples, or RUN/samples-label7, if not given.
        sampler: Adams if not given, DDIM, DPMSolverPP, DDPM, SDE, or your own by module.Name.
        steps: of the sampler.
        label: the class to draw from, for a network trained with --conditional.
        std: relative width of the average of weights, of a run trained with --posthoc true.
        shape: of one sample, for a model that does not tell (as of --coupling optimal).
        seed: sample i has the seed SEED + i.
        shard: samples a file.
        batch: samples drawn at once, the whole file if not given.
        device: auto, cpu, cuda, ...
        quiet: no progress bar.
    """
    process, processes = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    model = load(run, device=_device(device), std=std)
    if label is not None:
        model = model.given(label=torch.tensor(label, device=_device(device)))
    home = run.parent.parent if (run / "manifest.json").exists() else run if run.is_dir() else run.parent
    folder = out or home / ("samples" if label is None else f"samples-label{label}")
    if shape is None and model.moments is None:
        raise ValueError("shape must be given for this model, such as --shape [1,28,28]")
    paths = sample_shards(
        model, num, folder, shape=shape, shard=shard, batch=batch, seed=seed, processes=processes, process=process,
        sampler=sampler or Adams(), steps=steps,
    )  # fmt: skip
    total = len(range(process, -(-num // shard), processes))
    return list(tqdm(paths, "sampling", total, unit="file", disable=quiet or process > 0 or None))


def _describe(out: Path, config: str) -> None:
    """Write what a run was asked (config.yaml) and with what it ran (environment.txt) into its folder."""
    packages = "\n".join(sorted(f"{part.name}=={part.version}" for part in metadata.distributions()))
    machine = f"Python {platform.python_version()}, {platform.platform()}, {torch.get_num_threads()} threads"
    for name, text in (("config.yaml", config), ("environment.txt", f"{machine}\n{packages}\n")):
        with whole(out / name) as draft:
            draft.write_text(text)


class Log:
    """metrics.jsonl, a line of JSON each; those of steps that are to be done again are dropped."""

    def __init__(self, path: Path, begun: int) -> None:
        self.path = path
        kept = [line for line in self._lines() if self._step(line) <= begun]
        with whole(path) as draft:
            draft.write_text("".join(line + "\n" for line in kept))

    def add(self, **values: float) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(values) + "\n")

    @staticmethod
    def _step(line: str) -> float:
        try:
            return json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            return math.inf  # somebody else's

    def _lines(self) -> list[str]:
        """The whole lines: a kill may have left the last one without its end."""
        return self.path.read_text().split("\n")[:-1] if self.path.exists() else []


def _device(name: str) -> torch.device:
    """The device of this process: "auto" is its accelerator, if there is one."""
    if name == "auto":
        return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from error
    return torch.device(name)


def _team(device: str) -> tuple[Any, torch.device]:
    """accelerate.Accelerator where a launcher started several processes, else None; and the device."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None, _device(device)
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise ImportError("training in several processes needs accelerate; install scoresde[scale]") from error
    team = Accelerator(cpu=device == "cpu")
    return team, team.device
