"""Samplers: frozen rules that carry a state from noise to data, and the one loop that runs them."""

from scoresde.samplers import grids
from scoresde.samplers.adams import Adams
from scoresde.samplers.base import Sampler
from scoresde.samplers.ddim import DDIM, DDPM
from scoresde.samplers.euler import Euler, EulerMaruyama, Heun
from scoresde.samplers.langevin import AnnealedLangevin, LangevinCorrector, PredictorCorrector
from scoresde.samplers.loop import encode, sample
from scoresde.samplers.packages import ODE, SDE

__all__ = [
    "DDIM", "DDPM", "ODE", "SDE", "Adams", "AnnealedLangevin", "Euler", "EulerMaruyama", "Heun",
    "LangevinCorrector", "PredictorCorrector", "Sampler", "encode", "grids", "sample",
]  # fmt: skip
