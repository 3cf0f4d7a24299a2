"""The folder of a run: what was asked, with what it ran, what was measured, and the model in it."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError, safe_open
from torch import nn
from tqdm import tqdm

from scoresde._files import whole
from scoresde.model import Model
from scoresde.networks import MLP, Scaled
from scoresde.process import VP, Process
from scoresde.training import load
from scoresde.training.resume import newest

MakeNet = Callable[[tuple[int, ...]], nn.Module]


def describe(out: Path, config: str) -> None:
    """Write what a run was asked (config.yaml) and with what it ran (environment.txt) into its folder."""
    packages = "\n".join(sorted(f"{part.name}=={part.version}" for part in metadata.distributions()))
    machine = f"Python {platform.python_version()}, {platform.platform()}, {torch.get_num_threads()} threads"
    for name, text in (("config.yaml", config), ("environment.txt", f"{machine}\n{packages}\n")):
        with whole(out / name) as draft:
            draft.write_text(text)


def said_of(given: dict[str, Any]) -> str:
    """The arguments of a call from Python as the config.yaml that the command line would have written.

    A part of the user's own without a short form is there by its class's name only.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, partial):
            return f"{value.func.__name__}({', '.join(f'{name}={item!r}' for name, item in value.keywords.items())})"
        if is_dataclass(value):
            return repr(value)
        if value is None or isinstance(value, (bool, int, float, str, dict)):
            return value
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        kind = value if hasattr(value, "__qualname__") else type(value)
        return str(value) if isinstance(value, Path) else f"{kind.__module__}.{kind.__qualname__}"

    values = {name: plain(value) for name, value in given.items() if name != "config"}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=10**6)


def asked(run: Path) -> dict[str, Any]:
    """What config.yaml of a run says; nothing, of a file or a folder without one."""
    path = home_of(run) / "config.yaml"
    try:
        said = yaml.safe_load(path.read_text()) if path.is_file() else None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {str(error).splitlines()[0]}") from error
    return said if isinstance(said, dict) else {}


def home_of(run: Path) -> Path:
    """The folder of a run, given itself, one of its checkpoints, or a file."""
    return run.parent.parent if (run / "manifest.json").exists() else run if run.is_dir() else run.parent


def made(net: MakeNet | None, shape: tuple[int, ...], classes: int | None, process: Process, scale: float) -> Scaled:
    """The network of a training: MLP if none is said, for the shape, classes and scale of the data."""
    net = net or partial(MLP, highest=32.0)
    return Scaled(net(shape, **({} if classes is None else {"classes": classes})), process, scale)  # type: ignore[call-arg]


def opened(
    run: Path, device: torch.device | str = "cpu", std: float | None = None, process: Process | None = None,
    net: MakeNet | None = None,
) -> Model:  # fmt: skip
    """The trained model of a run's folder, or of a file that `save` wrote.

    A network or process of your own is not built from what files say, which would run whatever they name: it is
    given, as it was to the training.

    Args:
        run: the folder, a checkpoint in it, or a file. std: width of the average of weights, of a run with posthoc.
        process, net: your own, where the run has them.
    Raises:
        ValueError: your own part is missing (and what to write), or given where the run has another.
        FileNotFoundError: no such run.
    """
    path = newest(run) / "model.safetensors" if run.is_dir() else run
    if not path.is_file():
        raise FileNotFoundError(f"there is no run {str(run)!r}, seen from {os.getcwd()!r}")
    about, said = _note(path), asked(run)
    lacks = [name for name in ("process", "net") if name in about and about[name] is None]
    for name, given in (("process", process), ("net", net)):
        if given is not None and name not in lacks:
            raise ValueError(f"{name}: {run} has its own; leave --{name} out")
    lacks = [name for name in lacks if name == "process" or said.get("net") is not None or net is not None]
    if ("process" in lacks and process is None) or ("net" in lacks and net is None):
        words = " ".join(f"--{name} {str(said.get(name) or 'module.Name')!r}" for name in lacks)
        raise ValueError(f"{run} was trained with code of your own, which no file may run: add {words}")
    trained_on = made_for(run, {}).get("process")
    if process is not None and trained_on is not None and not np.allclose(trained_on, _levels(process), rtol=1e-6):
        raise ValueError(f"process: {run} was trained with another one: add --process {str(said.get('process'))!r}")
    if std is not None and said.get("posthoc") is False:
        raise ValueError(f"std: {run} kept no averages of its weights; train with --posthoc, or leave --std out")
    if about.get("net") is not None or "net" not in about:
        return load(run, device=device, std=std, process=process)
    about = made_for(run)
    with torch.random.fork_rng(devices=[]):
        built = made(net, tuple(about["shape"]), about["classes"], process or VP(), about["scale"])
    model = load(run, device=device, std=std, process=process, net=built)
    built.process = built.arguments["process"] = model.process  # the file's, if none is given
    return model


def note_network(out: Path, shape: tuple[int, ...], classes: int | None, scale: float, process: Process) -> None:
    """Keep for what a network was made (network.json), so that one of the user's own can be made again."""
    about = {"shape": shape, "classes": classes, "scale": scale, "process": _levels(process)}
    with whole(out / "network.json") as draft:
        draft.write_text(json.dumps(about) + "\n")


def _levels(process: Process) -> list[float]:
    """α and σ at nine times: what a process is, however its code is written."""
    t = torch.linspace(0.0, process.t_max, 9, dtype=torch.float64)
    return [float(level) for of in (process.alpha, process.sigma) for level in torch.as_tensor(of(t)).expand(9)]


def made_for(run: Path, otherwise: dict[str, Any] | None = None) -> dict[str, Any]:
    """The shape, classes and scale that `note_network` kept."""
    path = home_of(run) / "network.json"
    try:
        kept = json.loads(path.read_text())
        return {**kept, "shape": [int(size) for size in kept["shape"]], "scale": float(kept["scale"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        if otherwise is not None:
            return otherwise
        raise ValueError(f"{path} does not say what the network was made for; is {run} the folder of a run?") from error


def _note(path: Path) -> dict[str, Any]:
    """What a file says of its model; nothing where it cannot be read, which `load` will say."""
    try:
        with safe_open(path, framework="pt") as file:
            note = json.loads((file.metadata() or {}).get("scoresde", "{}"))
    except (SafetensorError, ValueError, OSError, RecursionError):
        note = None
    return note if isinstance(note, dict) else {}


class Log:
    """metrics.jsonl, a line of JSON each, and TensorBoard's events where it is installed.

    What belongs to steps after `begun`, which are to be done again, is dropped.
    """

    def __init__(self, out: Path, begun: int) -> None:
        self.path, self.board, self.begun = out / "metrics.jsonl", _board(out / "tensorboard", begun), begun
        kept = [line for line in self.lines(self.path) if line.get("step", math.inf) <= begun]
        with whole(self.path) as draft:
            draft.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def add(self, step: int, **values: float) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)

    def show(self, step: int, picture: Path) -> None:
        """A picture for TensorBoard, if there is one."""
        if self.board is not None and picture.exists():
            from matplotlib.image import imread

            self.board.add_image(picture.stem, imread(picture)[..., :3], step, dataformats="HWC")

    def close(self) -> None:
        if self.board is not None:
            self.board.close()

    @staticmethod
    def lines(path: Path) -> list[dict[str, Any]]:
        """The whole lines: a kill may have left the last one without its end; somebody else's are left out."""
        found = []
        for line in path.read_text().split("\n")[:-1] if path.exists() else []:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return [line for line in found if isinstance(line, dict)]


def _board(folder: Path, begun: int) -> Any:
    """A writer of TensorBoard's events, or None without the package (the extra "tensorboard")."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=begun + 1)


def device_of(name: str) -> torch.device:
    """The device of this process: "auto" is its accelerator, if there is one."""
    if name == "auto":
        return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0][:60]
        raise ValueError(f"device {name!r} cannot be used ({why} ...); write auto, cpu, cuda, cuda:1, ...") from error
    return torch.device(name)


@contextmanager
def waiting(what: str, quiet: bool) -> Iterator[None]:
    """A clock in the terminal beside what takes longer than two seconds and cannot tell how long."""
    done = Event()

    def tick() -> None:
        if not done.wait(2):
            with tqdm(desc=what, bar_format="{desc}: {elapsed}", leave=False, disable=quiet or None) as bar:
                while not done.wait(0.5):
                    bar.refresh()

    clock = Thread(target=tick, daemon=True)
    clock.start()
    try:
        yield
    finally:
        done.set()
        clock.join()


def pictured(draw: Callable[[], None], quiet: bool) -> None:
    """Draw a picture; a run without one is still a run, so that what is in the way is only said."""
    try:
        draw()
    except (ImportError, ValueError) as error:
        if not quiet:
            print(f"no picture: {error}", file=sys.stderr)
