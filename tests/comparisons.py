"""Small comparisons, and parts of a user's own for them."""

from scoresde import VP, RectifiedFlow
from scoresde.compare import compare
from scoresde.samplers import DDIM, DDPM, Adams

SMALL = {"num": 60, "bits": 5, "draws": 20, "quiet": True}


def on_target(out, **given):
    options = {"processes": [VP()], "samplers": [Adams(), DDPM()], "steps": [4, 8], **SMALL, **given}
    return compare(out, target="gmm", **options)


def on_moons(out, **given):
    options = {
        "processes": [VP(), RectifiedFlow()], "predictions": ["v"], "samplers": [Adams(), DDIM()], "steps": [3, 6],
        "train_steps": 12, "data_options": {"n": 300}, "config": "data: moons\n", **SMALL, **given,
    }  # fmt: skip
    return compare(out, data="moons", **options)


MINE = """
import torch
from dataclasses import dataclass
from scoresde import Process, targets
from scoresde.samplers import Sampler

class Straight(Process):
    def alpha(self, t):
        return 1 - t
    def sigma(self, t):
        return t

@dataclass(frozen=True)
class Walk(Sampler):
    def step(self, model, x, t, s, memory, randn):
        return x + (s - t) * model.predict("velocity", x, max(t, 1e-3)), memory

def two():
    return targets.GaussianMixture([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], 0.05)
"""
