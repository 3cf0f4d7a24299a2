"""Which SDE, which prediction, which sampler, how many steps? A grid of them over one data set, with error bars."""

from scoresde.compare.grid import compare
from scoresde.compare.row import Row

__all__ = ["Row", "compare"]
