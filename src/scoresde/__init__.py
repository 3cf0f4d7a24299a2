"""scoresde: score, diffusion and flow models under one interface, every claim tested against an exact answer.

A `Process` says how data is noised; a `Model` is a network, a process and the name of what it predicts;
everything else is a function of a `Model`.
"""

from typing import TYPE_CHECKING

from scoresde import guidance, metrics, networks, targets
from scoresde.distribution import distribution
from scoresde.dynamics import Dynamics, Forward, Langevin, Reverse
from scoresde.latent import decode, interpolate, round_trip
from scoresde.likelihood import bits_per_dim, elbo, fit_dequantizer, log_prob, vlb
from scoresde.model import Count, Model
from scoresde.prediction import PREDICTIONS, convert
from scoresde.process import EDM, VE, VP, Cosine, Discrete, Process, RectifiedFlow, Sigmoid, SubVP, ddpm
from scoresde.samplers import encode, grids, sample
from scoresde.solve import solve
from scoresde.training import EMA, fit, load, loss, save

if TYPE_CHECKING:
    from scoresde.estimator import ScoreDensity

__version__ = "0.1.0"

__all__ = [
    "EDM", "EMA", "PREDICTIONS", "VE", "VP", "Cosine", "Count", "Discrete", "Dynamics", "Forward", "Langevin",
    "Model", "Process", "RectifiedFlow", "Reverse", "ScoreDensity", "Sigmoid", "SubVP", "bits_per_dim", "convert",
    "ddpm", "decode", "distribution", "elbo", "encode", "fit", "fit_dequantizer", "grids", "guidance", "interpolate",
    "load", "log_prob", "loss", "metrics", "networks", "round_trip", "sample", "save", "solve", "targets", "vlb",
]  # fmt: skip


def __getattr__(name: str):
    if name == "ScoreDensity":  # needs scikit-learn, an extra
        from scoresde.estimator import ScoreDensity

        return ScoreDensity
    raise AttributeError(f"module 'scoresde' has no attribute {name!r}")
