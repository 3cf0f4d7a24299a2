"""Samplers: frozen rules that carry a state from noise to data, and the one loop that runs them."""

from scoresde.samplers import grids
from scoresde.samplers.adams import Adams
from scoresde.samplers.adaptive import Adaptive, Unfinished
from scoresde.samplers.base import Sampler
from scoresde.samplers.ddim import DDIM, DDPM
from scoresde.samplers.dpm import DEIS, DPMSolver, DPMSolverPP, SASolver
from scoresde.samplers.euler import Euler, EulerMaruyama, Heun, Midpoint
from scoresde.samplers.exponential import Exponential
from scoresde.samplers.flowmatching import FlowSDE
from scoresde.samplers.langevin import AnnealedLangevin, LangevinCorrector, PredictorCorrector
from scoresde.samplers.loop import encode, sample
from scoresde.samplers.packages import ODE, SDE
from scoresde.samplers.pndm import IPNDM, PNDM
from scoresde.samplers.restart import Restart
from scoresde.samplers.shards import sample_shards
from scoresde.samplers.unipc import UniPC

__all__ = [
    "DDIM", "DDPM", "DEIS", "IPNDM", "ODE", "PNDM", "SDE", "Adams", "Adaptive", "AnnealedLangevin", "DPMSolver",
    "DPMSolverPP", "Euler", "EulerMaruyama", "Exponential", "FlowSDE", "Heun", "LangevinCorrector", "Midpoint",
    "PredictorCorrector", "Restart", "SASolver", "Sampler", "Unfinished", "UniPC", "encode", "grids", "sample",
    "sample_shards",
]  # fmt: skip
