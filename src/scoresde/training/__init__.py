"""Training: the loss of every prediction, the loop as a generator, and the average of weights."""

from scoresde.training.ema import EMA
from scoresde.training.fit import Record, fit, moments
from scoresde.training.loss import draw_times, loss

__all__ = ["EMA", "Record", "draw_times", "fit", "loss", "moments"]
