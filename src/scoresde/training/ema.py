"""Averages of a network's weights: an exponential one, and power functions that can be recombined afterwards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scoresde import _checks


class EMA:
    """Keeps `net`, a copy of a network whose weights are the running average of the original's.

    After n updates the decay is min(decay, (1 + n)/(10 + n)), so that the first steps are soon forgotten.
    Buffers are copied as they are.

    Args:
        net: the network to follow. decay: in [0, 1). warmup: whether the decay rises; else it is constant.
    Raises:
        ValueError: decay outside [0, 1); in `update`, a network of other shapes. TypeError: net is no module.

    Example:
        >>> import torch
        >>> from scoresde import EMA
        >>> net = torch.nn.Linear(1, 1)
        >>> ema = EMA(net, decay=0.0)
        >>> _ = torch.nn.init.constant_(net.weight, 3.0)
        >>> ema.update(net)
        >>> float(ema.net.weight)
        3.0

    Reference: Polyak and Juditsky (1992); Ho et al. (2020), arXiv 2006.11239, app. B (0.9999).
    """

    def __init__(self, net: nn.Module, decay: float = 0.999, warmup: bool = True) -> None:
        _checks.kind("net", net, nn.Module, "model.net")
        self.decay = _checks.number("decay", decay, 0.0, 1.0)
        if self.decay == 1:
            raise ValueError("decay must be below 1, got 1, which never learns anything")
        _checks.flags(warmup=warmup)
        self.warmup = bool(warmup)
        self.updates = 0
        self.net = deepcopy(net).eval().requires_grad_(False)
        self._weights, self._others = _averaged(self.net), _rest(self.net)

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Move the average towards the network's weights as they are now."""
        _checks.kind("net", net, nn.Module, "model.net")
        weights, others = followed(net)
        self.follow(_both(self._weights, weights)[1], others)

    @torch.no_grad()
    def follow(self, weights: list[Tensor], others: list[Tensor]) -> None:
        """`update` by who keeps `followed(net)` at hand: to walk through a network takes longer than to average it."""
        self.updates += 1
        share = 1 - (min(self.decay, self.updates / (9 + self.updates)) if self.warmup else self.decay)
        if weights:
            torch._foreach_lerp_(self._weights, weights, share)  # pyright: ignore[reportPrivateImportUsage]
        for own, other in zip(self._others, others):
            own.copy_(other)

    def restart(self, net: nn.Module) -> None:
        """Begin anew at the network's weights as they are now, spread over processes (FSDP2) as they are."""
        for name, value in net.named_parameters():
            part, _, last = name.rpartition(".")
            setattr(self.net.get_submodule(part), last, nn.Parameter(value.detach().clone(), requires_grad=False))
        self.updates, self._weights, self._others = 0, _averaged(self.net), _rest(self.net)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers: `updates`, and the averaged network's own state as "net.…"."""
        return {"updates": self.updates, **{f"net.{name}": value for name, value in self.net.state_dict().items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict()`, to the last bit."""
        updates = _checks.count("updates", int(_entry(state, "updates")), 0)
        _load(self.net, {name[4:]: value for name, value in state.items() if name.startswith("net.")})
        self.updates = updates


class PowerEMA:
    """Averages of a network's weights over all of training, with weights that grow like a power of the step.

    After n updates the weights θ₁, …, θ_n are averaged by (k^{γ+1} − (k − 1)^{γ+1})/n^{γ+1}: a profile ∝ τ^γ, whose
    standard deviation is a share `std` of n whatever n is. From `snapshot`s of two such averages, taken now and
    then, `post_hoc` makes the average of any other width.

    Args:
        net: the network to follow. stds: relative widths, in (0, 0.2886]; the default serves for 0.015 to 0.25.
    Raises:
        ValueError: a width outside (0, 0.2886]; in `update`, a network of other shapes. TypeError: net is no module.

    Example:
        >>> import torch
        >>> from scoresde.training import PowerEMA, post_hoc
        >>> net = torch.nn.Linear(1, 1)
        >>> averages, snapshots = PowerEMA(net), []
        >>> for step in range(1, 101):
        ...     _ = torch.nn.init.constant_(net.weight, float(step))
        ...     averages.update(net)
        ...     if step % 20 == 0:
        ...         snapshots.append(averages.snapshot())
        >>> round(float(post_hoc(snapshots, 0.15)["weight"]), 1)
        82.6

    Reference: Karras et al. (2024), arXiv 2312.02696, sec. 3.1 and app. C; docs/theory, eq. 51-52.
    """

    def __init__(self, net: nn.Module, stds: Sequence[float] = (0.05, 0.10)) -> None:
        _checks.kind("net", net, nn.Module, "model.net")
        if not isinstance(stds, (tuple, list)) or not stds:
            raise ValueError(f"stds must hold at least one width, such as (0.05, 0.10), got {stds!r}")
        self.exponents = [exponent(std, "stds: std") for std in stds]
        self.stds = tuple(float(std) for std in stds)
        self.updates = 0
        self.names = [name for name, _ in net.named_parameters(remove_duplicate=False)]
        self.averages = [[p.detach().clone() for p in _parameters(net)] for _ in self.stds]
        self.buffers = {name: value.detach().clone() for name, value in _buffers(net).items()}

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Take the network's weights as they are now into every average."""
        _checks.kind("net", net, nn.Module, "model.net")
        for gamma, average in zip(self.exponents, self.averages):
            mine, theirs = _both(average, _parameters(net))
            # 1 − (1 − 1/n)^{γ + 1} without cancellation
            share = -math.expm1((gamma + 1) * math.log1p(-1 / (self.updates + 1))) if self.updates else 1.0
            if mine:
                torch._foreach_lerp_(mine, theirs, share)  # pyright: ignore[reportPrivateImportUsage]
        self.updates += 1
        for own, other in zip(self.buffers.values(), _buffers(net).values()):
            own.copy_(other)

    def snapshot(self) -> dict[str, Tensor]:
        """All averages as they are now, on the host: what `post_hoc` and `load_state_dict` want."""
        about = {"step": torch.tensor(self.updates), "stds": torch.tensor(self.stds, dtype=torch.float64)}
        weights = {
            f"{i}.{name}": value.detach().cpu().clone()
            for i, average in enumerate(self.averages)
            for name, value in zip(self.names, average)
        }
        return {**about, **weights, **{f"buffer.{name}": value.cpu().clone() for name, value in self.buffers.items()}}

    def state(self, std: float | None = None) -> dict[str, Tensor]:
        """One of the averages, for net.load_state_dict; the first without a width."""
        if std is not None and std not in self.stds:
            raise ValueError(f"std must be one of {self.stds}, got {std}; for others, post_hoc(snapshots, std)")
        average = self.averages[self.stds.index(std) if std is not None else 0]
        return {name: value.clone() for name, value in (*zip(self.names, average), *self.buffers.items())}

    state_dict = snapshot

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a `snapshot()`, to the last bit."""
        stds = _entry(state, "stds").tolist()
        if tuple(stds) != self.stds:
            raise ValueError(
                f"state is of the widths {tuple(stds)}, not {self.stds}; write PowerEMA(net, {tuple(stds)})"
            )
        mine = {f"{i}.{n}": v for i, average in enumerate(self.averages) for n, v in zip(self.names, average)}
        mine |= {f"buffer.{name}": value for name, value in self.buffers.items()}
        for name, value in mine.items():  # all of them before any
            _checks.shape_like(f"state[{name!r}]", _entry(state, name), value, "the network's")
        for name, value in mine.items():
            value.copy_(state[name])
        self.updates = int(_entry(state, "step"))


def exponent(std: float, name: str = "std") -> float:
    """γ with √(γ + 1)/((γ + 2) √(γ + 3)) = std: the power of the profile τ^γ on [0, 1] of that standard deviation.

    Example:
        >>> round(exponent(0.05), 2), round(exponent(0.10), 2)
        (16.97, 6.94)
    """
    if _checks.number(name, std, 0.0, 12**-0.5) <= 0:
        raise ValueError(f"{name} must be above 0, got {std:g}")
    return float(np.roots([1, 7, 16 - std**-2, 12 - std**-2]).real.max())


def post_hoc(snapshots: Sequence[dict[str, Tensor]], std: float, step: int | None = None) -> dict[str, Tensor]:
    """The average of relative width `std` at `step`, as a state for net.load_state_dict: a combination of snapshots.

    The profile ∝ τ^γ is approximated by the snapshots' own profiles, by least squares with weights that add up to
    one. Snapshots later than `step` are left aside. Buffers are the last snapshot's.

    Args:
        snapshots: of one PowerEMA, in any order. std: in (0, 0.2886]. step: the last one's by default.
    Raises:
        ValueError: no snapshots up to the step, or snapshots of different networks.

    Example:
        >>> import torch
        >>> from scoresde.training import PowerEMA, post_hoc
        >>> net = torch.nn.Linear(2, 1)
        >>> averages = PowerEMA(net)
        >>> averages.update(net)
        >>> torch.allclose(post_hoc([averages.snapshot()], 0.15)["weight"], net.weight)  # of one step, itself
        True

    Reference: Karras et al. (2024), arXiv 2312.02696, sec. 3.2 and app. C; docs/theory, eq. 52.
    """
    if not isinstance(snapshots, (tuple, list)) or not snapshots or not all(isinstance(s, dict) for s in snapshots):
        raise ValueError(f"snapshots must be a list of at least one PowerEMA.snapshot(), got {str(snapshots)[:80]}")
    steps = [int(_entry(snapshot, "step")) for snapshot in snapshots]
    step = max(steps) if step is None else _checks.count("step", step)
    chosen = [(n, snapshot) for n, snapshot in sorted(zip(steps, snapshots), key=lambda pair: pair[0]) if 0 < n <= step]
    if not chosen:
        raise ValueError(f"snapshots must hold one of step 1 to {step}, got steps {sorted(steps)}")
    profiles = [(n, exponent(s), i, snap) for n, snap in chosen for i, s in enumerate(snap["stds"].tolist())]
    shares = combination([(n, gamma) for n, gamma, *_ in profiles], (step, exponent(std)))
    last = chosen[-1][1]
    names = [name[2:] for name in last if name.startswith("0.")]
    result = {name[7:]: value.clone() for name, value in last.items() if name.startswith("buffer.")}
    for name in names:
        parts = [_entry(snapshot, f"{i}.{name}") for _, _, i, snapshot in profiles]
        total = sum(float(w) * _checks.shape_like(name, part, parts[-1]).double() for w, part in zip(shares, parts))
        result[name] = torch.as_tensor(total).to(parts[-1].dtype)
    return result


def combination(profiles: Sequence[tuple[int, float]], target: tuple[int, float]) -> np.ndarray:
    """Weights, adding up to one, with which profiles (step, γ) come closest to the target's in the square mean.

    Σ w_i p_i ≈ p,   p_{n,γ}(τ) = (γ + 1) τ^γ/n^{γ+1} on [0, n]                            (docs/theory, eq. 52)
    """
    every = [*profiles, target]
    n, gamma = (np.array([float(profile[i]) for profile in every]) for i in (0, 1))
    low = np.minimum(n[:, None], n)
    # ∫ p_i p_j dτ, divided by the profiles' own norms so that no scale is left
    powers = (gamma[:, None] + 0.5) * np.log(low / n[:, None]) + (gamma + 0.5) * np.log(low / n)
    gram = np.exp(powers) * np.sqrt((2 * gamma + 1)[:, None] * (2 * gamma + 1)) / (gamma[:, None] + gamma + 1)
    size = (gamma + 1) / np.sqrt((2 * gamma + 1) * n)
    k = len(profiles)
    # weights w/size of unit profiles; the sum to one as a row of its own, by elimination of its Lagrange multiplier
    values, vectors = np.linalg.eigh(gram[:k, :k])
    keep = values > 1e-13 * values[-1]
    inverse = (vectors[:, keep] / values[keep]) @ vectors[:, keep].T
    ones = 1 / size[:k]
    free, pull = inverse @ (gram[:k, k] * size[k]), inverse @ ones
    unit = free + pull * (1 - ones @ free) / (ones @ pull)
    return unit / size[:k]


def followed(net: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """What an average follows of a network, for `EMA.follow`."""
    return _averaged(net), _rest(net)


def _averaged(net: nn.Module) -> list[Tensor]:
    return [p for p in net.parameters() if p.is_floating_point() or p.is_complex()]


def _rest(net: nn.Module) -> list[Tensor]:
    """What is copied: buffers, and parameters of whole numbers."""
    return [*net.buffers(), *(p for p in net.parameters() if not (p.is_floating_point() or p.is_complex()))]


def _parameters(net: nn.Module) -> list[Tensor]:
    return [p for _, p in net.named_parameters(remove_duplicate=False)]


def _buffers(net: nn.Module) -> dict[str, Tensor]:
    """What a state holds beside the parameters."""
    parameters = {name for name, _ in net.named_parameters(remove_duplicate=False)}
    return {name: value for name, value in net.state_dict().items() if name not in parameters}


def _both(mine: list[Tensor], theirs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The averages and the network's parameters, which must have the same shapes."""
    if len(mine) != len(theirs) or any(a.shape != b.shape for a, b in zip(mine, theirs)):
        raise ValueError(f"net must have the shapes of the network followed, got {len(theirs)} other parameters")
    return mine, theirs


def _entry(state: Any, name: str) -> Any:
    if not isinstance(state, dict) or name not in state:
        raise ValueError(f"state has no {name!r}; it must be what state_dict() or snapshot() returned")
    return state[name]


def _load(net: nn.Module, state: dict[str, Tensor]) -> None:
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"state does not fit the network followed: {str(error)[:300]}") from None
