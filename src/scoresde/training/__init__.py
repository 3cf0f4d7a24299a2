"""Training: the loss of every prediction, the loop as a generator, the average of weights, and checkpoints."""

from scoresde.training.checkpoint import DamagedError, load, save
from scoresde.training.coupling import couple
from scoresde.training.ema import EMA, PowerEMA, post_hoc
from scoresde.training.fit import Record, fit, moments
from scoresde.training.loss import loss
from scoresde.training.lossaware import LossAware
from scoresde.training.matching import implicit_loss, sliced_loss
from scoresde.training.report import Report, loss_by_logsnr
from scoresde.training.times import TIMES, density, draw_times, log_normal, logit_normal
from scoresde.training.weighting import WEIGHTINGS, Integrand, edm, min_snr, p2, sigmoid

__all__ = [
    "EMA", "TIMES", "WEIGHTINGS", "DamagedError", "Integrand", "LossAware", "PowerEMA", "Record", "Report", "couple",
    "density", "draw_times", "edm", "fit", "implicit_loss", "load", "log_normal", "logit_normal", "loss",
    "loss_by_logsnr", "min_snr", "moments", "p2", "post_hoc", "save", "sigmoid", "sliced_loss",
]  # fmt: skip
