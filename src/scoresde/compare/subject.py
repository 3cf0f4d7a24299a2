"""A model of a comparison: exact, trained for it, or trained before."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from scoresde import runs
from scoresde.model import Model
from scoresde.process import Process
from scoresde.runs.folder import opened
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


def trained(path: Path, device: torch.device) -> Subject:
    """A model of an earlier training."""
    model = opened(path, device)
    if not isinstance(model.prediction, str):
        raise ValueError(f"models: {path} has a prediction of its own, which has no name to show")
    return Subject(spelled(model.process), model.prediction, lambda: model)


def learned(folder: Path, process: Process, prediction: str, settings: dict[str, Any], config: str) -> Subject:
    """A model to be trained in a folder of its own, as `scoresde train` does; its config.yaml runs it again."""
    name = spelled(process)
    given = yaml.safe_load(config) or {}
    out = folder / slug(f"{name}-{prediction}")
    plain = {**settings, "net": given.get("net"), "out": str(out), "process": name, "prediction": prediction}
    text = yaml.safe_dump({key: value for key, value in plain.items() if value is not None}, sort_keys=False)
    make = partial(runs.train, **{**settings, "out": out, "process": process, "prediction": prediction, "config": text})
    return Subject(name, prediction, make)
