"""A valid call of every public function of processes, models, equations, samplers and likelihoods, and how each
argument of it may be wrong."""

from functools import partial

import torch

from scoresde import (
    EDM,
    VE,
    VP,
    Cosine,
    Discrete,
    Forward,
    Langevin,
    Model,
    Reverse,
    Sigmoid,
    SubVP,
    bits_per_dim,
    convert,
    ddpm,
    decode,
    distribution,
    elbo,
    encode,
    fit_dequantizer,
    grids,
    interpolate,
    log_prob,
    round_trip,
    sample,
    samplers,
    solve,
    vlb,
)  # fmt: skip
from scoresde.divergence import KINDS
from scoresde.likelihood import Elbo, LogProb
from scoresde.prediction import PREDICTIONS
from scoresde.scaling import Scaling
from tests.fuzz import (
    INF,
    NAN,
    X,
    choice,
    count,
    flag,
    function,
    generator,
    number,
    part,
    path,
    shape,
    state,
    table,
    time,
)  # fmt: skip
from tests.problems import mixture

MODEL = mixture().model(VP())
CHAIN = mixture().model(ddpm(100))
LEVELS = torch.tensor([[0, 3], [1, 2]])

PREDICTION = choice(*PREDICTIONS, functions=True)
PROCESS = part(VP, "VP", MODEL)
MODELS = part(Model, MODEL.net, VP())
POSITIVE = number(0.0, above=True)
UNLIKE = [X[:, :1], X[:1], X[:, :, None], X[None]]
"""States that are not shaped like X."""

WIDE = torch.zeros(3, 5)
"""A state of another dimension than the mixture's."""

STEPS = 2, count()
LAST = 1.0 + 1e-11
"""An end of time, with the rounding that is forgiven."""

RULE = "exact", choice("exact", "published")
NOISE = "independent", choice("independent", "path")
METHOD = choice("multistep", "singlestep")
GENERATOR = None, generator()
SAMPLER = samplers.DDIM(), part(samplers.DDIM, "DDIM")
FLOW = samplers.DDIM(), part(samplers.DDIM, "DDIM", samplers.DDPM())
GRID = part(
    [0.1, 0.9], [1.0, NAN, 0.0], [0.5], torch.ones(2, 2), ["a", "b"], X.to("meta"), "uniform", [1.0, 1j],
    lambda process, steps: None, lambda process, steps: torch.ones(3),
    none=True, functions=True,
)  # fmt: skip
MARKS = part(LEVELS.tolist(), LEVELS.float(), LEVELS.bool(), LEVELS.numpy(), LEVELS - 1, LEVELS + 9, LEVELS.sum())
"""Not levels below 4."""

ONE = torch.ones(1)
LOW, HIGH = (-1.0, table(1.0, 5.0, [0.0, 0.0, 0.0])), (1.0, table(-1.0, -5.0, [0.0, 0.0, 0.0]))


def coefficients(process, *names):
    return {
        f"{type(process).__name__}.{n}": (getattr(process, n), {"t": (0.5, time(process.t_max, numbers=True))})
        for n in names
    }


PROCESSES = {
    "VP": (VP, {"beta_min": (0.1, POSITIVE), "beta_max": (20.0, POSITIVE)}),
    "SubVP": (SubVP, {"beta_min": (0.1, POSITIVE), "beta_max": (20.0, POSITIVE)}),
    "VE": (VE, {"sigma_min": (0.01, POSITIVE), "sigma_max": (50.0, POSITIVE)}),
    "EDM": (EDM, {"sigma_min": (0.002, POSITIVE), "sigma_max": (80.0, POSITIVE)}),
    "Cosine": (Cosine, {"s": (0.008, number(0.0))}),
    "Sigmoid": (Sigmoid, {"start": (-3.0, number()), "end": (3.0, number()), "tau": (1.0, POSITIVE)}),
    "Discrete": (Discrete, {"betas": ([0.1, 0.2], part([0.1, 1.0], [0.1, NAN], [[0.1]], ["a"], X.to("meta")))}),
    "ddpm": (ddpm, {"steps": (100, count(21)), "schedule": ("linear", choice("linear", "cosine", "sigmoid"))}),
    **coefficients(VP(), "alpha", "sigma", "alpha_dot", "sigma_dot", "drift", "diffusion", "logsnr"),
    **coefficients(EDM(), "alpha", "sigma", "drift", "diffusion", "logsnr"),
    **coefficients(ddpm(50), "alpha", "sigma", "logsnr", "index"),
    "Process.time": (VP().time, {"logsnr": (0.5, table(empty=True))}),
    "Process.perturb": (VP().perturb, {
        "x0": (X, state()), "t": (0.5, time()), "noise": (X, state(X, *UNLIKE, none=True)), "generator": GENERATOR,
    }),
    "Process.prior": (VP().prior, {"shape": ((3, 2), shape()), "generator": GENERATOR}),
    "convert": (convert, {
        "y": (X, state(X, *UNLIKE)), "x": (X, state(X)), "t": (0.5, time()), "process": (VP(), PROCESS),
        "source": ("noise", PREDICTION), "target": ("x0", PREDICTION),
    }),
    **{
        f"grids.{name}": (partial(getattr(grids, name)), {"process": (VP(), PROCESS), "steps": (5, count())})
        for name in ("uniform", "quadratic", "logsnr", "karras", "leading", "trailing", "graded")
    },
    "grids of a chain": (partial(grids.trailing, ddpm(30)), {"steps": (5, count(1, 30))}),
    "grids.karras rho": (partial(grids.karras, VP(), 5), {"rho": (7.0, POSITIVE)}),
    "grids.graded scale": (partial(grids.graded, VP(), 5), {"scale": (1.0, POSITIVE)}),
}  # fmt: skip

MODELLED = {
    "Model": (Model, {
        "net": (lambda x, t: x, function()), "process": (VP(), PROCESS), "prediction": ("v", PREDICTION),
        "moments": (None, part((0.0,), (0.0, -1.0), (0.0, 0.0), (NAN, 1.0), (0.0, INF), ("a", "b"), none=True)),
        "scaling": (None, part((0.0, 1.0), Scaling, none=True)),
    }),
    "Model()": (MODEL, {"x": (X, state(X, WIDE, values=False)), "t": (0.5, time(values=False))}),
    "Model.predict": (MODEL.predict, {"prediction": ("x0", PREDICTION), "x": (X, state(X, WIDE)), "t": (0.5, time())}),
    "Model.wrap": (MODEL.wrap, {"function": (lambda model, x, t: x, function())}),
    "Model.on": (MODEL.on, {"process": (EDM(), PROCESS)}),
    "Scaling": (Scaling, {
        "shift": (0.0, table(INF)), "scale": (1.0, table(INF, -1.0, 0.0)),
        "levels": (None, count(2, 2**16, none=True)),
    }),
    "Scaling.of_levels": (Scaling.of_levels, {"levels": (16, count(2, 2**16))}),
    "Forward": (Forward, {"process": (VP(), PROCESS)}),
    "Reverse": (Reverse, {"model": (MODEL, MODELS), "eta": (1.0, number(0.0))}),
    "Langevin": (Langevin, {"model": (MODEL, MODELS), "t": (0.5, number(0.0, LAST, above=True))}),
    "solve": (partial(solve, t0=1.0, t1=0.5), {
        "dynamics": (Reverse(MODEL), part(MODEL, Reverse)), "x": (X, state(X, WIDE)), "steps": (2, count(none=True)),
        "method": ("euler", choice("euler", none=True)), "rtol": (1e-3, POSITIVE), "atol": (1e-3, POSITIVE),
        "brownian": ("light", choice("light", "interval")), "generator": GENERATOR,
        "interpretation": (None, choice("ito", "stratonovich", none=True)), "trajectory": (False, flag()),
        "adaptive": (False, flag()),
        "noise": (None, part(lambda s: X[0], lambda s: None, none=True, functions=True)),
    }),
    "solve between": (partial(solve, Reverse(MODEL, 0.0), X, steps=2, method="euler"), {
        "t0": (1.0, number(0.0, LAST)), "t1": (0.5, number(0.0, LAST)),
    }),
    "solve on a grid": (partial(solve, Reverse(MODEL, 0.0), X, 1.0, 0.5, "euler"), {
        "grid": ([1.0, 0.5], part([1.0, 0.7], [0.5, 1.0], ["a"], [1.0, NAN, 0.5], X.to("meta"), none=True)),
    }),
}  # fmt: skip

SAMPLERS = {
    "Adams": (samplers.Adams, {"order": (None, count(2, 5, none=True))}),
    "Adaptive": (samplers.Adaptive, {
        "rtol": (1e-3, POSITIVE), "atol": (1e-3, POSITIVE), "order": (5, part(4, 2.5, NAN, (5,))),
        "budget": (None, count(2, none=True)),
    }),
    "AnnealedLangevin": (samplers.AnnealedLangevin, {
        "inner": (10, count()), "step_size": (0.2, number(0.0, 2.0, above=True)),
    }),
    "LangevinCorrector": (samplers.LangevinCorrector, {"snr": (0.16, POSITIVE), "inner": (1, count(0))}),
    "PredictorCorrector": (samplers.PredictorCorrector, {
        "predictor": (samplers.DDIM(), part(samplers.DDIM, "DDIM")),
        "corrector": (samplers.LangevinCorrector(), part(samplers.LangevinCorrector)),
    }),
    "DDIM": (samplers.DDIM, {"eta": (0.0, number(0.0, 1.0)), "noise": NOISE}),
    "DDPM": (samplers.DDPM, {"variance": ("beta", choice("posterior", "beta")), "noise": NOISE}),
    "DEIS": (samplers.DEIS, {"order": (3, count(1, 4)), "rule": RULE}),
    "DPMSolver": (samplers.DPMSolver, {
        "order": (2, count(1, 3)), "method": ("singlestep", METHOD), "rule": RULE,
    }),
    "DPMSolverPP": (samplers.DPMSolverPP, {
        "order": (2, count(1, 3)), "eta": (0.0, number(0.0)), "method": ("multistep", METHOD), "rule": RULE,
        "noise": NOISE,
    }),
    "Exponential": (samplers.Exponential, {
        "prediction": ("x0", choice("x0", "noise")), "order": (3, count(1, 4)), "eta": (0.0, number(0.0)),
        "method": ("multistep", METHOD), "corrector": (0, count(0)), "rule": RULE, "noise": NOISE,
    }),
    "SASolver": (samplers.SASolver, {
        "order": (2, count(1, 4)), "corrector": (2, count(0)), "eta": (1.0, number(0.0)), "rule": RULE,
        "noise": NOISE,
    }),
    "UniPC": (samplers.UniPC, {
        "order": (3, count(1, 3)), "variant": ("bh2", choice("bh1", "bh2")),
        "prediction": ("x0", choice("x0", "noise")),
    }),
    "IPNDM": (samplers.IPNDM, {"order": (4, count(1, 4))}),
    "EulerMaruyama": (samplers.EulerMaruyama, {"eta": (1.0, number(0.0)), "noise": NOISE}),
    "Heun": (samplers.Heun, {
        "churn": (0.0, number(0.0)), "churn_noise": (1.0, number(0.0)), "rule": RULE,
        "churn_range": ((0.0, INF), part((1.0, 0.5), (NAN, 1.0), (0.0,), (-1.0, 1.0), ("a", "b"))),
    }),
    "FlowSDE": (samplers.FlowSDE, {
        "diffusion": ("sigma", choice("sigma", functions=True)), "order": (1, part(3, 1.5, NAN, (1,))),
        "noise": NOISE,
    }),
    "Restart": (samplers.Restart, {
        "inner": (samplers.DDIM(), part(samplers.DDIM)), "low": (0.1, number(0.0, 1.0)),
        "high": (1.0, number(0.1, above=True)), "repeats": (2, count(0)), "inner_steps": (4, count()),
    }),
    "ODE": (samplers.ODE, {"method": ("dopri5", choice("dopri5")), "rtol": (1e-3, POSITIVE), "atol": (1e-3, POSITIVE)}),
    "SDE": (samplers.SDE, {"method": ("euler", choice("euler")), "eta": (1.0, POSITIVE), "noise": NOISE}),
    "sample": (sample, {
        "model": (MODEL, MODELS), "shape": ((3, 2), shape()), "sampler": SAMPLER, "steps": STEPS,
        "grid": (None, GRID), "generator": GENERATOR, "seeds": (None, part([1, 2], [0.5] * 3, ["a"] * 3, none=True)),
        "trajectory": (False, flag()), "progress": (False, flag()),
    }),
    "sample from x": (partial(sample, sampler=samplers.DDIM(), steps=2), {
        "model": (MODEL, MODELS), "x": (X, state(X, WIDE)), "generator": GENERATOR,
    }),
    "sample with densities": (partial(sample, shape=(1, 2), steps=2), {
        "model": (MODEL, MODELS), "log_prob": (True, flag()), "divergence": ("exact", choice(*KINDS)),
        "probes": (1, count()),
    }),
    "sample_shards": (samplers.sample_shards, {
        "model": (MODEL, MODELS), "num": (2, count()), "folder": ("none", path()),
        "shape": ((2,), shape(none=True, numbers=True)),
        "shard": (2, count()), "batch": (None, count(none=True)), "seed": (0, count(0)), "processes": (1, count()),
        "process": (0, count(0, 0)),
    }),
    "encode": (encode, {
        "model": (MODEL, MODELS), "x": (X, state(X, WIDE)), "sampler": FLOW, "steps": STEPS, "grid": (None, GRID),
        "trajectory": (False, flag()), "progress": (False, flag()),
    }),
    "decode": (decode, {"model": (MODEL, MODELS), "latent": (X, state()), "sampler": FLOW, "steps": STEPS}),
    "round_trip": (round_trip, {"model": (MODEL, MODELS), "x": (X, state(X, WIDE)), "sampler": FLOW, "steps": STEPS}),
    "interpolate": (interpolate, {
        "model": (MODEL, MODELS), "first": (X, state(X)), "second": (X, state(X, *UNLIKE)), "count": (2, count(2)),
        "sampler": FLOW, "steps": STEPS,
    }),
}  # fmt: skip

LIKELIHOODS = {
    "log_prob": (partial(log_prob), {
        "model": (MODEL, MODELS), "x": (X[:1], state(X[:1])), "steps": (3, count()),
        "divergence": ("exact", choice(*KINDS)), "probes": (1, count()),
        "tolerance": (None, number(0.0, above=True, none=True)), "solver": (samplers.Adams(), part(samplers.DDIM())),
        "t": (0.0, number(0.0, LAST)), "prior": ("auto", choice("auto", "moments", "standard", "model")),
        "nodes": (None, count(8, none=True)), "gradient": (None, choice("direct", "adjoint", none=True)),
        "chunk": (64, count()), "generator": GENERATOR,
    }),
    "elbo": (elbo, {
        "model": (MODEL, MODELS), "x": (X, state()), "samples": (2, count()), "t": (0.0, number(0.0, LAST)),
        "generator": GENERATOR, "chunk": (64, count()),
    }),
    "vlb": (vlb, {
        "model": (CHAIN, part(MODEL, Model)), "x": (LEVELS, MARKS), "levels": (4, count(2)),
        "samples": (2, count(none=True)), "variance": ("beta", choice("posterior", "beta")), "low": LOW,
        "high": HIGH, "generator": GENERATOR, "chunk": (64, count()),
    }),
    "bits_per_dim": (partial(bits_per_dim, steps=3), {
        "model": (MODEL, MODELS), "x": (LEVELS, MARKS), "levels": (4, count(2)),
        "dequantize": ("uniform", choice("uniform", "truncated_normal", "variational")), "samples": (1, count()),
        "low": LOW, "high": HIGH, "generator": GENERATOR,
        "density": (lambda model, x, **_: torch.zeros(len(x)), part(lambda model, x, **_: None, functions=True)),
    }),
    "fit_dequantizer": (fit_dequantizer, {
        "model": (MODEL, MODELS), "x": (LEVELS, MARKS), "levels": (4, count(2)), "steps": (1, count()), "low": LOW,
        "high": HIGH, "width": (4, count()), "batch_size": (2, count()), "lr": (1e-3, POSITIVE),
        "net": (None, part(lambda x: x, none=True, functions=True)), "generator": GENERATOR,
    }),
    "LogProb.interval": (LogProb(ONE, ONE, ONE, 1, ONE, 1, ONE > 0, "model", ONE, ONE).interval, {
        "level": (0.95, number(0.0, 1.0)),
    }),
    "Elbo.interval": (Elbo(ONE, ONE, ONE, 1).interval, {"level": (0.95, number(0.0, 1.0))}),
    "distribution": (distribution, {
        "model": (MODEL, MODELS), "event_shape": (2, shape(whole=True)), "sampler": SAMPLER, "sample_steps": STEPS,
        "steps": STEPS, "generator": GENERATOR,
    }),
    "ModelDistribution.log_prob": (distribution(MODEL, 2, steps=3).log_prob, {"value": (X[:1], state(X[:1], WIDE))}),
}  # fmt: skip

CALLS = {**PROCESSES, **MODELLED, **SAMPLERS, **LIKELIHOODS}
