"""A valid call of every public function of targets, guidance, networks, metrics, training and data, and how each
argument of it may be wrong."""

import tempfile
from pathlib import Path

import torch

from scoresde import EMA, VP, Model, ddpm, fit, guidance, load, loss, metrics, networks, save, targets, training
from scoresde.data import Data, dequantize, digits, waves_law
from scoresde.data import load as load_data
from scoresde.training import TIMES, WEIGHTINGS
from tests.fuzz import (
    BELOW_ONE,
    INF,
    NAN,
    X,
    choice,
    count,
    flag,
    function,
    junk,
    number,
    part,
    path,
    shape,
    state,
    table,
    time,
)  # fmt: skip
from tests.fuzz_core import GENERATOR, LAST, LEVELS, MODEL, MODELS, POSITIVE, PREDICTION, PROCESS, UNLIKE, WIDE
from tests.problems import classes, mixture

CLASSES = classes()
GIVEN = CLASSES.model(VP()).given(label=torch.tensor([0, 1, 1]))
SET, REAL = torch.randn(2, 40, 2, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(40) % 2
NET = networks.MLP(2, width=8, blocks=1, features=8)
TRAINED = Model(NET, VP(), "v")
WEIGHT = table(INF, torch.ones(2, 2), torch.tensor([1.0, NAN]), functions=True)
WEIGHTING = None, choice(*WEIGHTINGS, none=True, functions=True)
LAW = "noise_level", choice(*TIMES, functions=True)
SETS = state(SET, SET[:0], SET[:, :1], SET[:, 0])
N = 5, count()
NOISE = 0.05, number(0.0)
SIZE = 8, count()
CLASS_COUNT = None, count(none=True)
FEATURES = 8, count()
OWN = Path("of its own")


def saving(path, **given):
    """`save`, to a file of its own if no path is given."""
    with tempfile.TemporaryDirectory() as folder:
        save(path=Path(folder) / "model.safetensors" if path is OWN else path, **given)


def loading(path, **given):
    """`load`, of a file that is there if no path is given."""
    with tempfile.TemporaryDirectory() as folder:
        save(TRAINED, Path(folder) / "model.safetensors")
        return load(Path(folder) / "model.safetensors" if path is OWN else path, **given)


def averaged():
    average = training.PowerEMA(NET)
    average.update(NET)
    return average.snapshot()


TARGETS = {
    "GaussianMixture": (targets.GaussianMixture, {
        "weights": ([0.5, 0.5], table([1.0, -1.0], [1.0], [[1.0, 1.0]], [0.0, 1.0], [INF, 1.0])),
        "means": ([[0.0], [1.0]], table([0.0, 1.0], [[0.0]], [[INF], [0.0]])),
        "covariances": (1.0, table(-1.0, [1.0, 1.0, 1.0], [[[1.0]]], INF)),
    }),
    "Gaussian": (targets.Gaussian, {
        "mean": ([0.0, 1.0], table([[0.0, 1.0]], 1.0, [INF, 0.0])),
        "covariance": (1.0, table(-1.0, [1.0, 1.0, 1.0], [[1.0, 2.0], [2.0, 1.0]], [[1.0, 0.5], [0.0, 1.0]], INF)),
    }),
    "Empirical": (targets.Empirical, {"data": (X, state(X, X[:0])), "bandwidth": (0.1, POSITIVE)}),
    "Labelled": (targets.Labelled, {
        "mixture": (mixture(), part(MODEL, targets.Gaussian)),
        "labels": ([0, 1, 0], table([0, 1], [0, 2, 0], [0.0, 1.0, 0.0], 1)),
    }),
    "Labelled.given": (CLASSES.given, {"label": (0, count(0, 1))}),
    "Labelled.tilted": (CLASSES.tilted, {"label": (0, count(0, 1)), "weight": (1.0, number())}),
    "Labelled.sample": (CLASSES.sample, {"n": (5, count(0)), "generator": GENERATOR}),
    "Labelled.model": (CLASSES.model, {"process": (VP(), PROCESS), "prediction": ("x0", PREDICTION)}),
    "Labelled.classifier": (CLASSES.classifier, {"process": (VP(), PROCESS)}),
    "Tilted.sample": (CLASSES.tilted(0, 1.0).sample, {"n": (5, count(0)), "generator": GENERATOR}),
    "Tilted.log_prob": (CLASSES.tilted(0, 1.0).log_prob, {"x": (X, state(X, WIDE))}),
    **{
        f"{type(target).__name__}.{key}": (getattr(target, key), arguments)
        for target in (mixture(), targets.Empirical(X, 0.1))
        for key, arguments in {
            "sample": {"n": (5, count(0)), "generator": GENERATOR},
            "log_prob": {"x": (X, state(X, WIDE))},
            "marginal": {"process": (VP(), PROCESS), "t": (0.5, number(0.0, LAST))},
            "model": {"process": (VP(), PROCESS), "prediction": ("x0", PREDICTION)},
        }.items()
    },
    "GaussianMixture.responsibilities": (mixture().responsibilities, {"x": (X, state(X, WIDE))}),
    "moons": (targets.moons, {"n": N, "generator": GENERATOR, "noise": NOISE}),
    "rings": (targets.rings, {"n": N, "generator": GENERATOR, "noise": NOISE}),
    "swiss_roll": (targets.swiss_roll, {"n": N, "generator": GENERATOR, "noise": NOISE}),
    "checkerboard": (targets.checkerboard, {"n": N, "generator": GENERATOR}),
    "pinwheel": (targets.pinwheel, {"n": N, "generator": GENERATOR, "arms": (5, count())}),
}  # fmt: skip

GUIDANCE = {
    "classifier_free": (guidance.classifier_free, {
        "model": (GIVEN, MODELS), "weight": (2.0, WEIGHT), "null": (None, part([1], none=True)),
        "rescale": (0.0, number(0.0, 1.0)),
    }),
    "compose": (guidance.compose, {
        "model": (CLASSES.model(VP()), MODELS),
        "conditions": ([{"label": 0}, {"label": 1}], part({"label": 0}, [{}], [1])), "weight": (2.0, WEIGHT),
        "null": (None, part([1], {"other": 1}, none=True)),
    }),
    "autoguidance": (guidance.autoguidance, {
        "model": (MODEL, MODELS), "weak": (MODEL, MODELS), "weight": (2.0, WEIGHT),
    }),
    "classifier": (guidance.classifier, {
        "model": (MODEL, MODELS), "net": (CLASSES.classifier(VP()), function()), "weight": (2.0, WEIGHT),
        "label": (0, table(-1, 0.5, [[0]], [0, -1], True)),
    }),
    "fit_classifier": (guidance.fit_classifier, {
        "process": (VP(), PROCESS), "x": (SET, state(SET, SET[:0])),
        "labels": (LABELS, part(LABELS[:3], LABELS.float(), LABELS - 1)), "steps": (1, count()),
        "net": (None, part(lambda x, t: x, none=True, functions=True)), "width": SIZE, "batch_size": SIZE,
        "lr": (1e-3, POSITIVE), "generator": GENERATOR,
    }),
    "interval": (guidance.interval, {
        "weight": (2.0, WEIGHT), "low": (0.2, number(high=0.6)), "high": (0.6, number(0.2)), "outside": (1.0, number()),
    }),
    "temperature": (guidance.temperature, {"model": (MODEL, MODELS), "value": (0.5, POSITIVE)}),
    "threshold": (guidance.threshold, {
        "model": (MODEL, MODELS), "percentile": (0.9, number(0.0, 1.0)), "bound": (1.0, POSITIVE),
    }),
    "from_ho_salimans": (guidance.from_ho_salimans, {"scale": (2.0, WEIGHT)}),
    "to_ho_salimans": (guidance.to_ho_salimans, {"weight": (2.0, WEIGHT)}),
}  # fmt: skip

IMAGE = 1, 4, 4
NETWORKS = {
    "MLP": (networks.MLP, {
        "shape": (2, shape(whole=True)), "width": SIZE, "blocks": (1, count()), "features": FEATURES,
        "classes": CLASS_COUNT, "highest": (10.0, number(1.0)),
    }),
    "Classifier": (networks.Classifier, {
        "shape": (2, shape(whole=True)), "classes": (2, count()), "width": SIZE, "blocks": (1, count()),
        "features": FEATURES, "highest": (10.0, number(1.0)),
    }),
    "UNet": (networks.UNet, {
        "shape": (IMAGE, shape()), "width": SIZE, "multipliers": ((1, 1), part((0, 1), (1, 2.5), ("a",), 1)),
        "blocks": (1, count()), "attention": (1, count(0, 2)), "classes": CLASS_COUNT, "features": FEATURES,
        "dropout": (0.0, number(0.0, BELOW_ONE)),
    }),
    "DiT": (networks.DiT, {
        "shape": (IMAGE, shape()), "patch": (2, count(1, 4)), "width": SIZE, "blocks": (1, count()),
        "heads": (2, count(1, 8)), "classes": CLASS_COUNT, "features": FEATURES,
    }),
    "TimeEmbedding": (networks.TimeEmbedding, {"features": FEATURES, "highest": (10.0, number(1.0))}),
    "Scaled": (networks.Scaled, {
        "net": (NET, function()), "process": (VP(), part(VP, "VP", NET)), "scale": (1.0, POSITIVE),
    }),
    "Preconditioned": (networks.Preconditioned, {
        "net": (NET, function()), "process": (VP(), part(VP, "VP", NET)), "scale": (1.0, POSITIVE),
        "row": (None, part(none=True, functions=True)),
    }),
    "Adapter": (networks.Adapter, {
        "net": (NET, function()), "process": (ddpm(50), part(VP, "VP", NET)), "time": ("t", choice(*networks.TIMES)),
        "label": ("class_labels", part(none=True).filter(lambda v: not isinstance(v, str))),
        "null": (None, count(0, none=True)),
    }),
    **{
        f"{type(net).__name__}()": (net, {
            "x": (x, state(x, x[:, :, :1], x.double(), values=False)),
            "t": (torch.full((3,), 0.5), part(torch.rand(2), torch.rand(3, 1), 0.5, torch.rand(3).double())),
            "label": (None, part(LABELS[:2], LABELS[:3].float(), LABELS[:3] + 9, none=True)),
        })
        for net, x in (
            (networks.MLP(IMAGE, 8, 1, 8, classes=3), torch.zeros(3, *IMAGE)),
            (networks.UNet(IMAGE, 8, (1, 1), classes=3, features=8), torch.zeros(3, *IMAGE)),
            (networks.DiT(IMAGE, width=8, blocks=1, heads=2, classes=3, features=8), torch.zeros(3, *IMAGE)),
        )
    },
}  # fmt: skip

EYE = torch.eye(2)
PAIR = {"x": (SET, SETS), "y": (REAL, SETS)}
METRICS = {
    "sliced_wasserstein": (metrics.sliced_wasserstein, {**PAIR, "projections": SIZE, "generator": GENERATOR}),
    "wasserstein": (metrics.wasserstein, PAIR),
    "energy_distance": (metrics.energy_distance, PAIR),
    "mmd": (metrics.mmd, {**PAIR, "bandwidth": (None, number(0.0, above=True, none=True))}),
    "precision": (metrics.precision, {**PAIR, "k": (5, count())}),
    "recall": (metrics.recall, {**PAIR, "k": (5, count())}),
    "frechet": (metrics.frechet, {**PAIR, "features": (None, function().filter(lambda v: v is not None))}),
    "frechet_gaussians": (metrics.frechet_gaussians, {
        **{f"m{i}": (torch.zeros(2), state(torch.zeros(2), torch.zeros(2, 1))) for i in (1, 2)},
        **{f"C{i}": (EYE, state(EYE, torch.eye(3), -EYE, EYE + EYE[[1, 1]])) for i in (1, 2)},
    }),
    "classifier_test": (metrics.classifier_test, {**PAIR, "folds": (2, count(2)), "generator": GENERATOR}),
    "fit_features": (metrics.fit_features, {
        "x": (SET.repeat(2, 1), SETS), "labels": (None, part(LABELS, LABELS.repeat(2).float(), none=True)),
        "width": SIZE, "steps": (1, count()), "generator": GENERATOR,
    }),
    "measure": (metrics.measure, {
        "metric": ("energy_distance", choice(*metrics.METRICS)), "samples": (SET, SETS), "real": (REAL, SETS),
        "other": (None, part(SET[:3], SET * NAN, SET.long(), none=True)),
        "floor": (None, part((NAN, 1.0), (1.0,), ("a", "b"), none=True)),
        "features": (None, function().filter(lambda v: v is not None)), "draws": (20, count(20)),
        "generator": GENERATOR,
    }),
    "Metric": (metrics.Metric, {"function": (metrics.mmd, function()), "better": ("lower", choice("lower", "higher"))}),
    "Estimate.interval": (metrics.Estimate(1.0, 0.1, 0.0, 0.1).interval, {"level": (0.9, number(0.0, 1.0))}),
}  # fmt: skip

LOSS = {
    "model": (TRAINED, MODELS), "x0": (X, state(X)), "t": (None, time(none=True)),
    "noise": (X, state(X, *UNLIKE, none=True)), "generator": GENERATOR, "times": LAW,
}  # fmt: skip
LOSSES = torch.rand(3)
TRAINING = {
    "loss": (loss, {**LOSS, "weighting": WEIGHTING}),
    "implicit_loss": (training.implicit_loss, LOSS),
    "sliced_loss": (training.sliced_loss, {**LOSS, "projections": (1, count())}),
    "fit": (lambda **wrong: next(fit(**wrong)), {
        "model": (TRAINED, part(NET, VP())), "data": (SET, state(SET, SET[:0]).filter(lambda v: not callable(v))),
        "steps": (1, count()), "batch_size": SIZE, "lr": (1e-3, POSITIVE), "ema": (0.9, number(0.0, BELOW_ONE)),
        "posthoc": (False, flag()), "clip": (1.0, POSITIVE),
        "objective": ("denoising", choice("denoising", "implicit", "sliced")), "weighting": WEIGHTING, "times": LAW,
        "low_discrepancy": (True, flag()), "coupling": ("independent", choice("independent", "optimal")),
        "conditional": (False, flag()), "drop": (0.0, number(0.0, 1.0)), "optimizer": (torch.optim.SGD, function()),
        "accumulate": (1, count(1, 8)), "bf16": (False, flag()), "compile": (False, flag()),
        "checkpoints": (None, path().filter(lambda v: v is not None)), "accelerator": (None, part(none=True)),
        "every": (10, count()), "generator": GENERATOR,
    }),
    "loss_by_logsnr": (training.loss_by_logsnr, {
        "model": (TRAINED, MODELS), "data": (SET, state(SET, SET[:0])), "bins": (2, count()),
        "samples": (2, count(2)), "target": (None, part(MODEL, targets.Gaussian, none=True)), "weighting": WEIGHTING,
        "generator": GENERATOR,
    }),
    "draw_times": (training.draw_times, {
        "process": (VP(), PROCESS), "n": (5, count(0)), "generator": GENERATOR, "times": LAW,
        "low_discrepancy": (True, flag()),
    }),
    "density": (training.density, {"process": (VP(), PROCESS), "t": (LOSSES, time(numbers=True)), "times": LAW}),
    "LossAware": (training.LossAware, {
        "times": LAW, "bins": (4, count()), "uniform": (0.1, number(0.0, 1.0, above=True)),
        "memory": (0.9, number(0.0, BELOW_ONE)), "warm_up": (1, count()),
    }),
    "LossAware.draw": (training.LossAware().draw, {
        "process": (VP(), PROCESS), "n": (5, count(0)), "generator": GENERATOR,
    }),
    "couple": (training.couple, {
        "x0": (X, state(X)), "noise": (X, state(X, *UNLIKE)), "kind": ("optimal", choice("independent", "optimal")),
        "label": (None, part(LABELS, none=True)),
    }),
    "moments": (training.moments, {"data": (SET, state(SET, SET[:0], SET[:, 0]))}),
    "log_normal": (training.log_normal, {"mean": (-1.2, number()), "std": (1.2, POSITIVE)}),
    "logit_normal": (training.logit_normal, {"mean": (0.0, number()), "std": (1.0, POSITIVE)}),
    "min_snr": (training.min_snr, {"gamma": (5.0, POSITIVE)}),
    "p2": (training.p2, {"k": (1.0, POSITIVE), "gamma": (1.0, number(0.0))}),
    "edm": (training.edm, {"sigma_data": (0.5, POSITIVE)}),
    "sigmoid": (training.sigmoid, {"bias": (0.0, number())}),
    "EMA": (EMA, {
        "net": (NET, part(TRAINED, torch.nn.Linear)), "decay": (0.9, number(0.0, BELOW_ONE)), "warmup": (True, flag()),
    }),
    "EMA.update": (EMA(NET).update, {"net": (NET, part(TRAINED, torch.nn.Linear, torch.nn.Linear(2, 2)))}),
    "PowerEMA": (training.PowerEMA, {
        "net": (NET, part(TRAINED)), "stds": ((0.1,), part((), (0.5,), ("a",), (-0.1,), (NAN,))),
    }),
    "post_hoc": (training.post_hoc, {
        "snapshots": ([averaged()], part([1], [])), "std": (0.1, number(0.0, 0.2887, above=True)),
        "step": (None, count(none=True)),
    }),
    "save": (saving, {"model": (TRAINED, part(NET)), "path": (OWN, path())}),
    "load": (loading, {
        "path": (OWN, path()), "net": (None, part(TRAINED, none=True)), "process": (None, part(VP, "VP", none=True)),
        "prediction": (None, choice("v", none=True, functions=True)), "std": (None, number(none=True)),
        "device": ("cpu", choice("cpu", "meta")),
    }),
}  # fmt: skip

ROWS = Data(torch.zeros(5, 2))
DATA = {
    "Data": (Data, {
        "values": (SET, part(SET.tolist(), SET[:, 0], SET.long(), SET * NAN).filter(lambda v: v is not X)),
        "labels": (None, part(LABELS[:3], LABELS.float(), none=True)), "scaling": (ROWS.scaling, part((0.0, 1.0))),
    }),
    "Data.raw": (ROWS.raw, {"rows": (torch.tensor([0, 1]), table([9], [-1], [0.5], [[0]], 1))}),
    "Data.split": (ROWS.split, {"held_out": (2, table(0, 5, 9, -1, 0.0, 1.0, 1.5, True)), "seed": (0, count(0))}),
    "data.load": (load_data, {"name_or_path": ("moons", path())}),
    "dequantize": (dequantize, {
        "x": (LEVELS, junk(empty=True)), "levels": (4, count(2)), "low": (-1.0, number()), "high": (1.0, number()),
        "generator": GENERATOR,
    }),
    "digits": (digits, {"held_out": (297, count(1, 1796)), "seed": (0, count(0))}),
    "waves_law": (waves_law, {"length": (16, count())}),
}  # fmt: skip

CALLS = {**TARGETS, **GUIDANCE, **NETWORKS, **METRICS, **TRAINING, **DATA}
