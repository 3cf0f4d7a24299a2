"""A multilayer perceptron with the time in every block."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scoresde.networks import _checks
from scoresde.networks.elementary import standardise
from scoresde.networks.embedding import LabelEmbedding, TimeEmbedding, add_label
from scoresde.networks.recorded import Recorded, zeroed


class Norm(nn.LayerNorm):
    """LayerNorm in elementary operations: torch's own has a wrong gradient under a forward-mode derivative (2.13)."""

    def forward(self, input: Tensor) -> Tensor:
        scaled = standardise(input, self.eps)
        return scaled if self.weight is None else torch.addcmul(self.bias, scaled, self.weight)


class _Block(nn.Module):
    """x + W₂ φ((1 + scale) W₁ norm(x) + shift), scale and shift linear in the embedding of time (FiLM)."""

    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        self.norm = Norm(width)
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.film = nn.Linear(features, 2 * width)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.film(time).chunk(2, 1)
        return x + self.second(nn.functional.silu(self.first(self.norm(x)) * (1 + scale) + shift))


class MLP(Recorded):
    """Residual blocks with sinusoidal time embedding and feature-wise modulation in every block.

    Args:
        shape: of one sample, D or a tuple. width: of the blocks. blocks: how many. features: of the embedding.
            Times are expected in [0, 1]; wrap it in `Scaled` for other processes and scales of x.
        classes: how many class labels there are, or None; net(x, t, label) then takes a label, () or (B,) int64, of
            which a negative one (or None) stands for no condition. highest: frequency of the time embedding.
    Raises:
        ValueError: sizes that make no network; in a call, x, t or label of another shape, or a label without classes.
        TypeError: in a call, x of another dtype than the network's, or a label not of int64.

    Example:
        >>> import torch
        >>> y = MLP((8, 8))(torch.randn(3, 8, 8), torch.rand(3))
        >>> y.shape, bool((y == 0).all())  # untrained it says 0
        (torch.Size([3, 8, 8]), True)

    Reference: He et al. (2016), arXiv 1512.03385 (residual); Perez et al. (2018), 1709.07871 (FiLM).
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        width: int = 256,
        blocks: int = 3,
        features: int = 64,
        classes: int | None = None,
        highest: float = 1000.0,
    ) -> None:
        super().__init__()
        self.shape: tuple[int, ...] = (shape,) if isinstance(shape, int) else _checks.several("shape", shape)
        _checks.whole(shape=self.shape, width=width, blocks=blocks, features=features)
        _checks.even("features", features)
        dim = math.prod(self.shape)
        self.embedding = nn.Sequential(TimeEmbedding(features, highest), nn.Linear(features, features), nn.SiLU())
        self.enter, self.leave = nn.Linear(dim, width), zeroed(nn.Linear(width, dim))
        self.blocks = nn.ModuleList(_Block(width, features) for _ in range(blocks))
        self.label = None if classes is None else LabelEmbedding(classes, features)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return self._answer(x, t, label).reshape(x.shape).to(x.dtype)

    def _answer(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        _checks.state(x, t, self.shape, self.enter.weight)
        condition, hidden = add_label(self.label, self.embedding(t), t, label), self.enter(x.flatten(1))
        for block in self.blocks:
            hidden = block(hidden, condition)
        return self.leave(hidden)


class Classifier(MLP):
    """`MLP` with a logit for each class instead of a sample: (B, *shape), (B,) -> (B, classes).

    Args:
        shape: of one sample, D or a tuple. classes: how many. width, blocks, features, highest: as `MLP`.
    Raises:
        ValueError, TypeError: as `MLP`.

    Example:
        >>> import torch
        >>> logits = Classifier((8, 8), classes=4)(torch.randn(1, 8, 8), torch.rand(1))
        >>> logits.softmax(1).tolist()  # untrained it knows nothing
        [[0.25, 0.25, 0.25, 0.25]]

    Reference: Dhariwal and Nichol (2021), arXiv 2105.05233, sec. 4 (for guidance).
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        classes: int,
        width: int = 128,
        blocks: int = 3,
        features: int = 64,
        highest: float = 1000.0,
    ) -> None:
        super().__init__(shape, width, blocks, features, highest=highest)
        _checks.whole(classes=classes)
        self.leave = zeroed(nn.Linear(width, classes))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._answer(x, t, None).to(x.dtype)
