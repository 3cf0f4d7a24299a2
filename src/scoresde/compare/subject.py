"""A model of a comparison: exact, trained for it, or trained before."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from scoresde import _checks, runs
from scoresde.model import Model
from scoresde.process import Process
from scoresde.runs.folder import MakeNet, asked, opened
from scoresde.scaling import Scaling
from scoresde.testing.certificate import spelled


@dataclass(frozen=True)
class Subject:
    """process, prediction: as one writes them. make: trains or loads it, if that is to be done."""

    process: str
    prediction: str
    make: Callable[[], Model]

    @property
    def name(self) -> str:
        return f"{self.process}, {self.prediction}"

    @property
    def slug(self) -> str:
        """For the names of files."""
        return slug(f"{self.process}-{self.prediction}")


def slug(text: str) -> str:
    """Letters, digits and what is harmless in names of files: VP(beta_max=15) is VP_beta_max=15."""
    return re.sub(r"[^\w=.\-]+", "_", text.replace("()", "")).strip("_")


def data_of(paths: list[Path]) -> tuple[str, dict[str, Any], float, int]:
    """What earlier trainings were on: data, options, the share held out and the seed of the split, as they all say."""
    found = {}
    for path in paths:
        said = asked(path)
        if not isinstance(said.get("data"), str) or not said.get("held_out"):
            raise ValueError(f"models: {path} does not say what data it held out; give the folder of a training")
        found[path] = said["data"], said.get("data_options") or {}, said["held_out"], said.get("seed", 0)
    first, *rest = found.items()
    for path, about in rest:
        if about != first[1]:
            raise ValueError(f"models: {path} was trained on other data, or another part of them, than {first[0]}")
    return first[1]


def trained(paths: list[Path], device: torch.device, process: Process | None, net: MakeNet | None) -> list[Subject]:
    """The models of earlier trainings; process, net: the user's own, where the runs have them."""
    found = []
    for path in paths:
        model = opened(path, device, process=process, net=net)
        if not isinstance(model.prediction, str):
            raise ValueError(f"models: {path} has a prediction of its own, which has no name to show")
        found.append(Subject(spelled(model.process), model.prediction, partial(_same, model)))
    names = [subject.name for subject in found]
    return [
        replace(subject, process=f"{subject.process} {path}") if names.count(subject.name) > 1 else subject
        for subject, path in zip(found, paths)
    ]


def _same(model: Model) -> Model:
    return model


def made(subject: Subject, scaling: Scaling | None) -> Model:
    """The model, for data of this scaling; a training that diverges is named."""
    try:
        model = subject.make()
    except _checks.Diverged as error:
        raise ValueError(f"{subject.name} cannot be trained: {error}; or leave it out") from error
    if model.scaling is not None and scaling is not None and not _alike(model.scaling, scaling):
        raise ValueError(f"models: {subject.name} scales its data otherwise than these are; have the data changed?")
    return model


def _alike(one: Scaling, other: Scaling) -> bool:
    pairs = ((one.shift, other.shift), (one.scale, other.scale))
    tables = ([torch.as_tensor(value, dtype=torch.float64).cpu() for value in pair] for pair in pairs)
    return one.levels == other.levels and all(torch.equal(*pair) for pair in tables)


def learned(folder: Path, process: Process, prediction: str, settings: dict[str, Any], config: str) -> Subject:
    """A model to be trained in a folder of its own, as `scoresde train` does; its config.yaml runs it again."""
    name = spelled(process)
    given = yaml.safe_load(config) or {}
    out = folder / slug(f"{name}-{prediction}")
    plain = {**settings, "net": given.get("net"), "out": str(out), "process": name, "prediction": prediction}
    text = yaml.safe_dump({key: value for key, value in plain.items() if value is not None}, sort_keys=False)
    make = partial(runs.train, **{**settings, "out": out, "process": process, "prediction": prediction, "config": text})
    return Subject(name, prediction, make)
