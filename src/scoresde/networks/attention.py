"""Self-attention."""

from __future__ import annotations

from torch import Tensor, nn


class Attention(nn.Module):
    """Every token sees every other: (B, N, width) -> (B, N, width), by `heads` heads.

    Reference: Vaswani et al. (2017), arXiv 1706.03762, sec. 3.2.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.enter, self.leave = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.enter(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.leave(mixed.transpose(1, 2).flatten(2))
