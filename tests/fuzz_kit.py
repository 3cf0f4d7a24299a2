"""A valid call of every public function of the conformance kit, and how each argument of it may be wrong."""

from functools import partial

import torch

from scoresde import VP, Model, Reverse, guidance, log_prob, samplers, targets
from scoresde.testing import (
    certify,
    check_dynamics,
    check_guidance,
    check_likelihood,
    check_model,
    check_prediction,
    check_process,
    check_sampler,
    diagnose,
    examine,
    properties,
    properties_of,
    strategies,
)
from scoresde.testing.exact import GAUSSIAN
from tests.fuzz import choice, count, function, generator, number, part, shape, state
from tests.fuzz_core import GRID, MODELS, POSITIVE, PREDICTION, PROCESS, SAMPLER
from tests.problems import classes

TARGET = targets.Gaussian([1.0, -1.0], 0.5)
MODEL = TARGET.model(VP())
LAW = partial(TARGET.marginal, VP())
DATA = TARGET.sample(8, torch.Generator().manual_seed(0))
MANY = [VP()], part([], [3], [VP], VP())
ORDER = 1.0, POSITIVE
KIND = choice("strong", "weak", "bias", "rtol", none=True)
OF = {"part": (VP(), part(VP).filter(lambda v: not isinstance(v, str))), "kind": (None, choice("process", none=True))}
CERTIFYING = {
    "process": (VP(), part(VP, "VP", none=True)), "problems": ([GAUSSIAN], part([3], [])),
    "ends": (None, number(0.0, none=True)), "leaves": (1.0, number(0.0)), "most": (16, count(none=True)),
}  # fmt: skip

CHECKS = {
    "check_process": (check_process, {"process": (VP(), PROCESS)}),
    "check_prediction": (check_prediction, {"prediction": ("v", PREDICTION), "processes": MANY}),
    "check_sampler": (partial(check_sampler), {
        "sampler": (samplers.DDIM(), part(samplers.DDIM, functions=True)), "order": ORDER, "kind": ("strong", KIND),
        "processes": MANY, **CERTIFYING,
    }),
    "check_dynamics": (check_dynamics, {
        "dynamics": (Reverse(MODEL), part(MODEL, Reverse)), "t0": (0.9, number()), "t1": (0.5, number()),
        "law": (LAW, part(lambda t: None, TARGET, none=True, functions=True)), "shape": ((2,), shape(whole=True)),
    }),
    "check_guidance": (check_guidance, {
        "guide": (guidance.classifier_free, function()), "neutral": (1.0, number(none=True)),
        "classes": (classes(), part(TARGET)), "samples": (2, count(2)),
        "toward": (0, count(0, 1, none=True)), "exact": (None, part(none=True, functions=True)),
    }),
    "check_likelihood": (check_likelihood, {
        "function": (log_prob, function()), "tolerance": (1e-3, POSITIVE), "processes": MANY,
    }),
    "examine": (lambda part, kind: examine(part, kind), OF),
}  # fmt: skip
"""Their valid calls take long; other tests make them."""

CALLS = {
    **CHECKS,
    "check_model": (check_model, {"model": (Model(lambda x, t: x * t[:, None], VP()), MODELS), "x": (DATA, state(DATA)),
                                  "draws": (64, count(16))}),
    "properties": (lambda part, kind: properties(part, kind), OF),
    "properties_of": (lambda part, kind: properties_of(part, kind), OF),
    "certify": (certify, {
        "sampler": (samplers.DDIM(), part(samplers.DDIM, functions=True)), "order": ORDER, "kind": ("strong", KIND),
        **CERTIFYING,
    }),
    "diagnose": (diagnose, {
        "model": (MODEL, MODELS), "sampler": SAMPLER, "steps": (3, count()), "target": (TARGET, part(MODEL)),
        "grid": (None, GRID), "shape": ((2,), shape(none=True)), "samples": (50, count(50)),
        "many": (8, count(3, none=True)), "generator": (None, generator()),
    }),
    "strategies.times": (strategies.times, {
        "process": (VP(), PROCESS), "size": (3, count(0, none=True)), "dtype": (torch.float32, part(torch.int64)),
    }),
    "strategies.states": (strategies.states, {
        "shape": ((3, 2), shape(none=True)), "dtype": (torch.float32, part(torch.int64, none=True)),
        "bound": (1.0, POSITIVE),
    }),
    "strategies.mixtures": (strategies.mixtures, {"dim": (2, count(none=True)), "modes": (2, count(none=True))}),
    "strategies.grids": (strategies.grids, {"process": (VP(), PROCESS), "steps": (3, count(none=True))}),
}  # fmt: skip
