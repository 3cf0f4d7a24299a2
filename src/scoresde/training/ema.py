"""An exponential moving average of a network's weights."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn

from scoresde import _checks


class EMA:
    """Keeps `net`, a copy of a network whose weights are the running average of the original's.

    After n updates the decay is min(decay, (1 + n)/(10 + n)), so that the first steps are soon forgotten.
    Buffers are copied as they are.

    Args:
        net: the network to follow. decay: in [0, 1).

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

    def __init__(self, net: nn.Module, decay: float = 0.999) -> None:
        _checks.kind("net", net, nn.Module, "model.net")
        self.decay = _checks.number("decay", decay, 0.0, 1.0 - 1e-12)
        self.updates = 0
        self.net = deepcopy(net).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Move the average towards the network's weights as they are now."""
        shapes = [
            [p.shape for p in part.parameters()]
            for part in (_checks.kind("net", net, nn.Module, "model.net"), self.net)
        ]
        if shapes[0] != shapes[1]:
            raise ValueError(f"net must have the shapes of the network followed, got {len(shapes[0])} other parameters")
        self.updates += 1
        share = 1 - min(self.decay, self.updates / (9 + self.updates))
        for mine, theirs in zip(self.net.parameters(), net.parameters()):
            mine.lerp_(theirs, share)
        for mine, theirs in zip(self.net.buffers(), net.buffers()):
            mine.copy_(theirs)
