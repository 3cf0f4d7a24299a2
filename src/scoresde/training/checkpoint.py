"""A model as one file: weights in safetensors, and in its header what gives them a meaning; none of it is executed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from scoresde import _checks, process
from scoresde._files import whole
from scoresde.model import Model
from scoresde.networks import NETWORKS
from scoresde.prediction import PREDICTIONS, Prediction
from scoresde.process import Process
from scoresde.scaling import Scaling
from scoresde.training.ema import post_hoc

FORMAT = 1
LARGEST_HEADER = 10_000_000
"""Bytes; a header names the tensors, 100 bytes each or so."""

PROCESSES = {name: kind for name in process.__all__ if isinstance(kind := getattr(process, name), type)}
TABLES: dict[str, Mapping[str, Callable[..., Any]]] = {"process": PROCESSES, "network": NETWORKS}


class DamagedError(ValueError):
    """A file that is not what `save` wrote: cut off, changed, or made by somebody else.

    Example:
        >>> import pathlib, tempfile
        >>> from scoresde import load, training
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "model.safetensors")
        ...     _ = path.write_bytes(b"cut off")
        ...     try:
        ...         load(path)
        ...     except training.DamagedError as error:
        ...         print("not a safetensors file" in str(error))
        True
    """


def save(model: Model, path: str | Path) -> None:
    """Write a model to one file: its weights, process, prediction, moments and scaling.

    The file is whole or not there. A network of scoresde.networks is written with its arguments, and so is a process
    of scoresde; of your own only the weights are, and `load` asks for the object.

    Args:
        model: whose net is a torch.nn.Module. path: of the file, such as "model.safetensors"; its folders are made.
    Raises:
        TypeError: a net that is no module. ValueError: weights that are not finite. OSError: a full disk, and the like.

    Example:
        >>> import tempfile
        >>> from scoresde import VP, Model, load, networks, save
        >>> model = Model(networks.MLP(2), VP(beta_max=15.0), "v")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(model, folder + "/model.safetensors")
        ...     again = load(folder + "/model.safetensors")
        >>> again.process, again.prediction
        (VP(beta_min=0.1, beta_max=15.0), 'v')
    """
    _checks.kind("model", model, Model, "Model(net, VP())")
    net = _checks.kind("model.net", model.net, nn.Module, "networks.MLP(2)")
    with whole(_checks.path("path", path)) as draft:
        write_model(model, net.state_dict(), draft)


def write_model(model: Model, weights: Mapping[str, Tensor], path: Path) -> None:
    """The file that `save` makes, with weights given apart from the model."""
    tensors = {f"net.{name}": value for name, value in weights.items()}
    about: dict[str, Any] = {
        "format": FORMAT,
        "net": _described(model.net),
        "process": _described(model.process),
        "prediction": model.prediction if isinstance(model.prediction, str) else None,
        "scaling": None,
    }
    if model.moments is not None:
        tensors |= {f"moments.{i}": _checks.table("moments", value) for i, value in enumerate(model.moments)}
    if model.scaling is not None:
        tensors |= {f"scaling.{name}": _checks.table(name, getattr(model.scaling, name)) for name in ("shift", "scale")}
        about["scaling"] = {"levels": model.scaling.levels}
    write_tensors(tensors, path, about)


def load(
    path: str | Path, *, net: nn.Module | None = None, process: Process | None = None,
    prediction: Prediction | None = None, device: torch.device | str = "cpu", std: float | None = None,
) -> Model:  # fmt: skip
    """The model that `save` wrote, on `device`, ready to sample; never executes code from the file.

    Args:
        path: of the file, or of a folder that `fit` keeps checkpoints in (the newest whole one: averaged weights).
        std: the relative width of a power-function average of the weights, in (0, 0.2886], instead of the usual one:
            for a folder of a training with posthoc=True (Karras et al. (2024), arXiv 2312.02696, sec. 3).
        device: of the network. net: your own network, to take the weights in.
        process, prediction: your own, where they are not scoresde's.
    Raises:
        FileNotFoundError. ValueError: a file that is damaged, does not fit `net`, or lacks what only you can give.

    Example:
        >>> import tempfile, torch
        >>> from scoresde import VP, Model, load, networks, save
        >>> model = Model(networks.MLP(2), VP(), "v")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(model, folder + "/model.safetensors")
        ...     again = load(folder + "/model.safetensors")
        >>> torch.equal(again.net.enter.weight, model.net.enter.weight)
        True
    """
    path = _checks.path("path", path)
    weights = None
    if path.is_dir():
        from scoresde.training.resume import averages, newest

        checkpoint = newest(path)
        path = checkpoint / "model.safetensors"
        weights = None if std is None else post_hoc(averages(checkpoint), std)
    elif std is not None:
        raise ValueError(f"std needs the folder of a training with posthoc=True, got the file {path}")
    tensors, about = read_tensors(path, device)
    if about.get("format") != FORMAT:
        raise DamagedError(f"{path} is not a model of scoresde (format {str(about.get('format'))[:20]})")
    try:
        largest = max([4096, len(tensors), *(max(value.shape, default=1) for value in tensors.values())])
        own = _given("process", process, about["process"], largest, path)
        named = prediction if prediction is not None else about["prediction"]
        if named is None:
            raise ValueError(f"{path} was saved with a prediction of your own; write load(path, prediction=...)")
        if isinstance(named, str) and named not in PREDICTIONS:
            raise ValueError(f"{path} has the unknown prediction {named[:40]!r}; write load(path, prediction=...)")
        weights = weights or {name[4:]: value for name, value in tensors.items() if name.startswith("net.")}
        filled = _filled(net, about["net"], weights, largest, path).to(device)
        moments = (tensors["moments.0"], tensors["moments.1"]) if "moments.0" in tensors else None
        scaling = about["scaling"] and Scaling(tensors["scaling.shift"], tensors["scaling.scale"], **about["scaling"])
        return Model(filled, own, named, moments, scaling or None)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{path} is not a model of scoresde: {type(error).__name__} {str(error)[:200]}") from error


def _filled(net: nn.Module | None, about: Any, weights: Mapping[str, Tensor], largest: int, path: Path) -> nn.Module:
    """The network, built anew or given, with the weights; nothing of a size that the file does not hold is made."""
    if net is None:
        with _at_most(len(weights)):
            _compare(_given("net", None, about, largest, path, "meta").state_dict(), weights, path)
        with torch.random.fork_rng(devices=[]):
            net = _given("net", None, about, largest, path)
        assert net is not None
        kinds = {value.dtype for value in weights.values() if value.is_floating_point()}
        if len(kinds) == 1:  # also for buffers that are not in the file
            net.to(kinds.pop())
            net.load_state_dict(weights)
        else:
            net.load_state_dict(weights, assign=True)
    else:
        _checks.kind("net", net, nn.Module, "networks.MLP(2)")
        _compare(net.state_dict(), weights, path)
        net.load_state_dict(weights)
    for name, value in net.named_parameters():
        if not bool(torch.isfinite(value).all()):
            raise DamagedError(f"{path} is damaged: {name} is not finite")
    return net.eval()


@contextmanager
def _at_most(count: int) -> Iterator[None]:
    """Refuse networks of more than so many tensors while they are built."""
    left = count

    def taken(*about: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise TypeError(f"the network would have more than the {count} tensors in the file")

    hook = register_module_parameter_registration_hook(taken)
    try:
        yield
    finally:
        hook.remove()


def _compare(wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor], path: Path) -> None:
    for name in sorted({*wanted, *weights}):
        want, have = (tuple(side[name].shape) if name in side else "nothing" for side in (wanted, weights))
        if want != have:
            raise DamagedError(
                f"{path} does not fit the network: {name[:80]} is {have} in the file, {want} in the network"
            )


def write_tensors(tensors: Mapping[str, Tensor], path: Path, about: Mapping[str, Any] | None = None) -> None:
    """A safetensors file with a note in its header; NaN is refused."""
    apart: dict[str, Tensor] = {}
    seen: set[int] = set()  # safetensors refuses tied weights: the second one is written as a copy
    for name, value in tensors.items():
        value = value.detach().cpu().contiguous()
        if value.is_floating_point() and bool(value.isnan().any()):
            raise ValueError(f"cannot save {name}: it is not a number; lower lr, or go back to an earlier checkpoint")
        apart[name] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    save_file(apart, path, {"scoresde": json.dumps(about or {})})


def read_tensors(path: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the note of a safetensors file."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; save(model, {str(path)!r}) would write it")
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if not 2 <= header <= min(LARGEST_HEADER, path.stat().st_size - 8):
        raise DamagedError(f"{path} is not a safetensors file, or was cut off: its header would take {header} bytes")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            note = json.loads((file.metadata() or {}).get("scoresde", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, RecursionError) as error:
        raise DamagedError(f"{path} is damaged or no safetensors file: {str(error)[:200]}") from error
    if not isinstance(note, dict):
        raise DamagedError(f"{path} is not a file of scoresde: its note is no table")
    for name, value in tensors.items():
        if value.is_floating_point() and bool(value.isnan().any()):
            raise DamagedError(f"{path} is damaged: {name[:80]} is not a number")
    return tensors, note


def _described(value: Any) -> Any:
    """A number, text, process, prediction or network as what JSON can hold; None for what is somebody's own."""
    kind = type(value).__name__
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return [_described(item) for item in value]
    if PROCESSES.get(kind) is type(value) and is_dataclass(value):
        arguments = {f.name: getattr(value, f.name) for f in fields(value)}
        return {"process": kind, "arguments": {name: _typed(type(value), name, arguments[name]) for name in arguments}}
    for name, row in PREDICTIONS.items():
        if value is row:
            return {"prediction": name}
    if NETWORKS.get(kind) is type(value):
        arguments = {name: _typed(type(value), name, item) for name, item in value.arguments.items()}
        lost = [name for name, item in value.arguments.items() if item is not None and arguments[name] is None]
        return None if lost else {"network": kind, "arguments": arguments}
    return None


def _typed(kind: type, name: str, value: Any) -> Any:
    """`_described`, with a whole number as a float where the class wants one: only sizes are held against the file."""
    wanted = signature(kind).parameters[name].annotation
    return float(value) if wanted in (float, "float") and isinstance(value, int) else _described(value)


def _given(name: str, given: Any, about: Any, largest: int, path: Path, device: str = "cpu") -> Any:
    """The object itself, or one built from its description."""
    if given is not None:
        return given
    if about is None:
        raise ValueError(f"{path} was saved with a {name} of your own; write load(path, {name}=...)")
    return _built(about, largest, device)


def _built(about: Any, largest: int, device: str) -> Any:
    """The object of a description: only of the two tables, with no number beyond the file's own sizes."""
    if isinstance(about, dict):
        if about.get("prediction") in PREDICTIONS:
            return PREDICTIONS[about["prediction"]]
        for word, table in TABLES.items():
            if about.get(word) in table:
                arguments = {key: _built(value, largest, device) for key, value in about["arguments"].items()}
                with torch.device(device if word == "network" else "cpu"):
                    return table[about[word]](**arguments)
        raise TypeError(f"unknown part {str(about)[:60]!r}")
    if isinstance(about, list):
        if len(about) > largest and not all(isinstance(value, float) for value in about):
            raise TypeError("a table is longer than anything in the file")
        return tuple(_built(value, largest, device) for value in about)
    if isinstance(about, int) and abs(about) > largest:
        raise TypeError(f"the number {str(about)[:20]} is beyond every size in the file")
    return about
