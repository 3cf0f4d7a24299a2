"""Everything that changes while a network trains: how it is kept, and taken up again to the last bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scoresde.model import Model
from scoresde.training import resume
from scoresde.training.checkpoint import DamagedError, read_tensors
from scoresde.training.ema import EMA, PowerEMA, followed
from scoresde.training.lossaware import LossAware
from scoresde.training.source import Source
from scoresde.training.team import Mixed


class Training:
    """The weights, their average, the optimizer, the place in the data, and the randomness of one training.

    `net` is the network whose weights are trained; `run` the same, ready to be called: in mixed precision, compiled,
    and joined with those of the other processes.
    """

    def __init__(
        self, net: nn.Module, optimizer: Callable[..., Optimizer], lr: float, ema: float, source: Source, times: Any,
        team: Any, bf16: bool, compile: bool, posthoc: bool,
    ) -> None:  # fmt: skip
        self.net, self.source, self.times, self.team = net.train(), source, times, team
        self.step, self.loss = 0, torch.zeros(())
        self.average = EMA(net, ema)
        run = Mixed(net) if bf16 else net
        run = torch.compile(run) if compile else run
        self.run, self.optimizer = team.prepare(run, optimizer([p for p in net.parameters() if p.requires_grad], lr))
        if any(_is_spread(p) for p in net.parameters()):
            self.average.restart(net)
        self.power = PowerEMA(net) if posthoc else None
        self.followed = followed(net)
        self.weights = [p for p in net.parameters() if p.requires_grad]
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.kept: dict[str, str] = {}

    def save(self, folder: Path, best: Model, settings: Mapping[str, tuple[str, str]]) -> None:
        """Add all of it to a folder of checkpoints."""
        team, generator = self.team, self.source.generator
        cuda = team.device.type == "cuda"
        state = {
            "step": self.step,
            "loss": float(self.loss),
            "settings": {name: list(value) for name, value in settings.items()},
            "optimizer": _gathered(self.optimizer.state_dict()),
            "average": {"updates": self.average.updates},
            "source": self.source.state(),
            "times": self.times.state_dict() if isinstance(self.times, LossAware) else None,
            "generator": None if generator is None else generator.get_state(),
            "cpu": team.gather(torch.get_rng_state()[None].to(team.device)).cpu(),
            "cuda": team.gather(torch.cuda.get_rng_state(team.device)[None].to(team.device)).cpu() if cuda else None,
        }
        weights = _gathered(self.net.state_dict())
        average = _gathered(self.average.net.state_dict())
        if team.is_main_process:
            if self.power is not None:
                name, digest = resume.write_averages(folder, self.step, self.power.snapshot())
                self.kept[name] = digest
            resume.write(folder, self.step, best, average, weights, state, self.kept)
        team.wait_for_everyone()

    def descend(self, share: float) -> None:
        """One step of the optimizer at a share of its rates, and of the averages, by the gradients that are there."""
        for group, rate in zip(self.optimizer.param_groups, self.rates):
            group["lr"] = share * rate
        self.optimizer.step()
        self.average.follow(*self.followed)
        if self.power is not None:
            self.power.update(self.net)

    def restore(self, path: Path, best: Model, settings: Mapping[str, tuple[str, str]]) -> None:
        """Go on from a checkpoint, as if there had been no stop; `best` is the model as this training begins it.

        Raises:
            ValueError: one of another training, or damaged.
        """
        weights, state = resume.read(path)
        for name, (text, mark) in settings.items():
            had, was = state["settings"].get(name, (text, mark))
            if was != mark:
                raise ValueError(
                    f"checkpoints: {path.parent} holds a training with {name}={had[:80]}, not {text[:80]}"
                    f"{' made otherwise' if had == text else ''}; name another folder"
                )
        kept = read_tensors(path / "model.safetensors")[0]
        if self.source.count and best.moments is not None and not _close(best.moments, kept):
            raise ValueError(f"checkpoints: {path.parent} is of other data; name another folder")
        average = {name[4:]: value for name, value in kept.items() if name.startswith("net.")}
        try:
            _load(self.net, weights)
            _load(self.average.net, average)
            self.optimizer.load_state_dict(_spread(state["optimizer"], self.weights))
            self.average.updates = int(state["average"]["updates"])
            self.source.restore(state["source"])
            if self.power is not None:
                self.power.load_state_dict(resume.averages(path)[-1])
                self.kept = resume.digests(path)
            if isinstance(self.times, LossAware):
                self.times.load_state_dict(state["times"])
            self._randomness(state)
            self.step, self.loss = int(state["step"]), torch.tensor(state["loss"])
        except (KeyError, TypeError, RuntimeError, AttributeError) as error:
            raise DamagedError(f"{path} does not fit this training: {str(error)[:300]}") from error

    def _randomness(self, state: Mapping[str, Any]) -> None:
        if (state["generator"] is None) != (self.source.generator is None):
            raise ValueError("checkpoints: give a generator now if one was given before, and none if none was")
        if self.source.generator is not None:
            self.source.generator.set_state(state["generator"])
        rank = self.team.process_index
        if rank < len(state["cpu"]):  # more processes than before: the new ones keep their own
            torch.set_rng_state(state["cpu"][rank].clone())  # given a view, it reads the wrong memory
            if self.team.device.type == "cuda" and state["cuda"] is not None:
                torch.cuda.set_rng_state(state["cuda"][rank].clone(), self.team.device)


def _close(moments: tuple[Any, Any], kept: Mapping[str, Tensor]) -> bool:
    """Whether moments measured now are those of a checkpoint, but for the order of sums."""
    for i, value in enumerate(moments):
        old, new = kept.get(f"moments.{i}"), value.cpu()
        if old is None or old.shape != new.shape or not torch.allclose(new, old, 1e-6, 1e-6 * float(old.abs().max())):
            return False
    return True


def _is_spread(value: Any) -> bool:
    """Whether a tensor is a DTensor, each process holding a part."""
    return hasattr(value, "full_tensor")


def _gathered(tree: Any) -> Any:
    """Nested states with every tensor whole, and on the CPU; all processes must call it together."""
    if isinstance(tree, Mapping):
        return {name: _gathered(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [_gathered(value) for value in tree]
    if isinstance(tree, Tensor):
        return (tree.full_tensor() if _is_spread(tree) else tree).detach().cpu()  # pyright: ignore
    return tree


def _as_spread(value: Tensor, like: Any) -> Tensor:
    """A whole tensor, spread over the processes as `like` is."""
    if not _is_spread(like) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def _spread(state: dict[str, Any], weights: list[nn.Parameter]) -> dict[str, Any]:
    """An optimizer's state, spread as the weights it belongs to."""
    parts = {
        i: {name: _as_spread(value, weights[i]) if isinstance(value, Tensor) else value for name, value in part.items()}
        for i, part in state["state"].items()
    }
    return state | {"state": parts}


def _load(net: nn.Module, weights: Mapping[str, Tensor]) -> None:
    own = net.state_dict()
    net.load_state_dict({name: _as_spread(value, own.get(name)) for name, value in weights.items()})
