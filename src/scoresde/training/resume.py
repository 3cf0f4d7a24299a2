"""A folder of checkpoints: each whole or not there, the newest whole one found again."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoresde._files import sweep, whole
from scoresde.model import Model
from scoresde.training.checkpoint import DamagedError, read_tensors, write_model, write_tensors

KEEP = 3
"""How many checkpoints a folder keeps."""

STEP, AVERAGES = re.compile(r"step-\d{9}"), re.compile(r"step-\d{9}\.safetensors")

FILES = {"model.safetensors", "weights.safetensors", "training.pt"}
"""The model with averaged weights, as `save` writes it; the weights in training; optimizer, randomness and place."""


def write(
    folder: Path, step: int, model: Model, average: Mapping[str, Tensor], weights: Mapping[str, Tensor],
    state: Mapping[str, Any], averages: Mapping[str, str],
) -> Path:  # fmt: skip
    """Add the checkpoint of a step, and drop the oldest beyond `KEEP`.

    `average` are the weights of the model; `averages` the digests of what `write_averages` wrote until now.
    """
    path = folder / f"step-{step:09d}"
    if path.exists():
        raise OSError(f"{path} is there already: another training writes to {folder}; name another folder")
    with whole(path) as draft:
        draft.mkdir()
        write_model(model, average, draft / "model.safetensors")
        write_tensors(weights, draft / "weights.safetensors")
        with (draft / "training.pt").open("wb") as file:
            try:
                torch.save(dict(state), file)
            except RuntimeError as error:  # torch's own word for what the file could not take
                raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None
        manifest = {**{name: _digest(draft / name) for name in sorted(FILES)}, "averages": dict(averages)}
        (draft / "manifest.json").write_text(json.dumps(manifest, indent=1))
    for old in [old for old in steps_in(folder) if old.name <= path.name][KEEP:]:
        shutil.rmtree(old, ignore_errors=True)
    sweep(folder)
    return path


def write_averages(folder: Path, step: int, snapshot: Mapping[str, Tensor]) -> tuple[str, str]:
    """Add the averages of a step, from which `load` makes the average of any width; all are kept. Name and digest."""
    path = folder / "averages" / f"step-{step:09d}.safetensors"
    with whole(path) as draft:
        write_tensors(snapshot, draft)
    return path.name, _digest(path)


def averages(checkpoint: Path) -> list[dict[str, Tensor]]:
    """The averages that a checkpoint lists, in order; the last one is of its own step."""
    names = sorted(_manifest(checkpoint)["averages"])
    if not names:
        raise ValueError(f"{checkpoint} has no averages; they are kept by training with posthoc=True")
    return [read_tensors(checkpoint.parent / "averages" / name)[0] for name in names]


def digests(checkpoint: Path) -> dict[str, str]:
    """The names and digests of the averages that a checkpoint lists."""
    return dict(_manifest(checkpoint)["averages"])


def set_aside(checkpoint: Path) -> None:
    """Rename the damaged checkpoints that are newer than this one, so that training can go on from it."""
    for path in steps_in(checkpoint.parent):
        if path.name > checkpoint.name:
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)


def newest(folder: str | Path) -> Path:
    """The newest whole checkpoint in a folder (or in its folder "checkpoints"); a damaged one is passed over, loudly.

    Raises:
        FileNotFoundError: no checkpoint, or no whole one.
    """
    folder = Path(folder)
    if (folder / "manifest.json").is_file():
        check(folder)
        return folder
    found = steps_in(folder) or steps_in(folder / "checkpoints")
    for path in found:
        try:
            check(path)
        except DamagedError as error:
            warnings.warn(f"{error}; taking the one before it", stacklevel=2)
        else:
            return path
    if found:
        raise FileNotFoundError(f"no whole checkpoint in {folder}, only damaged ones; remove them to begin anew")
    raise FileNotFoundError(f"no checkpoint in {folder}; train with checkpoints={str(folder)!r}")


def check(path: Path) -> None:
    """Raise `DamagedError` unless the files of a checkpoint are those that its manifest lists, to the last bit."""
    manifest = _manifest(path)
    files = {path / name: manifest[name] for name in FILES}
    files |= {path.parent / "averages" / name: digest for name, digest in manifest["averages"].items()}
    for file, digest in files.items():
        if file.is_symlink() or not file.is_file() or _digest(file) != digest:
            raise DamagedError(f"the checkpoint {path} is damaged: {file.name} is not what was written")


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / "manifest.json").read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(f"the checkpoint {path} is damaged: no manifest that can be read") from error
    if not isinstance(manifest, dict) or set(manifest) != {*FILES, "averages"}:
        raise DamagedError(f"the checkpoint {path} is damaged: its manifest does not list {', '.join(sorted(FILES))}")
    names = manifest["averages"]
    if not isinstance(names, dict) or not all(AVERAGES.fullmatch(name) for name in names):
        raise DamagedError(f"the checkpoint {path} is damaged: its manifest lists averages by other names")
    return manifest


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights and the state of a checkpoint; code in it is refused, not run."""
    weights, _ = read_tensors(path / "weights.safetensors")
    try:
        state = torch.load(path / "training.pt", map_location="cpu", weights_only=True)
    except Exception as error:  # whatever an unpickler may raise on foreign bytes
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise DamagedError(
            f"{path / 'training.pt'} is damaged or holds more than tensors and numbers: {reason}"
        ) from error
    if not isinstance(state, dict) or not {"step", "optimizer", "settings"} <= set(state):
        raise DamagedError(f"{path / 'training.pt'} is not the state of a training")
    return weights, state


def steps_in(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the newest first."""
    return sorted((path for path in folder.glob("step-*") if STEP.fullmatch(path.name)), reverse=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
