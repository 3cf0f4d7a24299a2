"""Forward processes: x_t = α(t) x₀ + σ(t) ε, data at t = 0, noise at t_max."""

from scoresde.process.base import Process
from scoresde.process.chain import Discrete, ddpm
from scoresde.process.continuous import EDM, VE, VP, Cosine, RectifiedFlow, Sigmoid, SubVP

__all__ = ["EDM", "VE", "VP", "Cosine", "Discrete", "Process", "RectifiedFlow", "Sigmoid", "SubVP", "ddpm"]
