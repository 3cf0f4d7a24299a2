"""The parts that are asked at the edges of what they may be given, and how: the columns of docs/holds.md."""

import copy
from dataclasses import dataclass
from typing import Any

import torch

from scoresde import (
    VE,
    VP,
    Forward,
    Model,
    RectifiedFlow,
    Reverse,
    convert,
    elbo,
    encode,
    guidance,
    log_prob,
    loss,
    networks,
    sample,
    samplers,
    solve,
    targets,
    training,
)  # fmt: skip
from scoresde.testing.certificate import spelled
from tests.problems import NAMES, PROCESSES, classes, mixture

X = torch.tensor([[0.3, -1.2], [1.7, 0.4], [-0.8, 0.6]], dtype=torch.float64)
NOISE = torch.tensor([[0.7, -0.4], [-1.1, 0.2], [0.5, 0.9]], dtype=torch.float64)
MODEL = mixture().model(VP(), "v")
CLASSES = classes()
GIVEN = CLASSES.model(VP()).given(label=torch.tensor(1))

S = samplers
SAMPLERS = [
    S.Adams(), S.Adaptive(1e-3, 1e-3), S.AnnealedLangevin(2), S.DDIM(), S.DDIM(1.0), S.DDPM(), S.DEIS(), S.DPMSolver(),
    S.DPMSolverPP(), S.DPMSolverPP(eta=1.0), S.Euler(), S.EulerMaruyama(), S.Exponential(order=4), S.FlowSDE(),
    S.Heun(), S.Heun(10.0), S.IPNDM(), S.Midpoint(), S.ODE("dopri5", 1e-2, 1e-2), S.ODE("rk4"), S.PNDM(),
    S.PredictorCorrector(), S.Restart(), S.SASolver(), S.SDE(), S.UniPC(),
]  # fmt: skip


@dataclass(frozen=True)
class Probe:
    """A part, and the answer it gives for states x: (B, D): (B, D), or (B,)."""

    part: Any
    ask: Any

    def __call__(self, x):
        return self.ask(self.part, x)


def probes(parts, ask):
    """One for each part, by a short name of its own."""
    named = parts if isinstance(parts, dict) else {short(part, parts): part for part in parts}
    return {name: Probe(part, ask) for name, part in named.items()}


def short(part, among):
    """The name of a part's class, with what is set in it where there are several of the class."""
    alone = sum(type(other) is type(part) for other in among) == 1
    text = part if isinstance(part, str) else type(part).__name__ if alone else spelled(part)
    return text.removesuffix("()")


def times(x):
    """Times that belong to the rows, whatever the batch, and that a small change of x does not move."""
    return 0.25 + 0.1 * torch.sigmoid(x.detach().flatten(1)[:, 0].double().round(decimals=1)).to(x.dtype)


def at_rows(shape, values=NOISE):
    """Noise that belongs to the rows."""
    return values.flatten()[: shape.numel()].reshape(shape)


def stirred(net):
    """With no weight at zero, and none to be trained."""
    generator = torch.Generator().manual_seed(1)
    for parameter in net.requires_grad_(False).double().parameters():
        parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return net.eval()


def ask_network(net, x):
    shape = getattr(net, "shape", None) or net.net.shape
    net = net if x.dtype == torch.float64 else copy.deepcopy(net).to(x.dtype)
    return net(x.reshape(-1, *shape), times(x)).reshape(x.shape)


def ask_solver(part, x):
    dynamics, method, options = part
    noise = {} if dynamics.noise == "none" else {"noise": lambda shape: at_rows(torch.Size(shape)).to(x)}
    return solve(dynamics, x, 1.0, 0.3, method, **options, **noise)


MLP = stirred(networks.MLP(2, 16, 1, 8))
PARTS = {
    "processes": probes(PROCESSES, lambda p, x: p.perturb(x, times(x) * p.t_max, x)[0]),
    "predictions": probes(NAMES, lambda n, x: convert(x, 2 * x, times(x), VP(), n, "x0" if n == "v" else "v")),
    "models": probes(
        {n: mixture().model(VP(), n) for n in NAMES} | {"on(process)": MODEL.on(VP(0.2, 10.0))},
        lambda m, x: m.predict("v" if m.prediction == "score" else "score", x, times(x)),
    ),
    "guidance": probes(
        {
            "classifier_free": guidance.classifier_free(GIVEN, 2.0),
            "compose": guidance.compose(CLASSES.model(VP()), [{"label": 0}, {"label": 1}], 0.5),
            "autoguidance": guidance.autoguidance(MODEL, mixture().model(VP()), 2.0),
            "classifier": guidance.classifier(CLASSES.model(VP()), CLASSES.classifier(VP()), 1),
            "temperature": guidance.temperature(MODEL, 0.5),
            "threshold": guidance.threshold(MODEL),
            "by an interval": guidance.classifier_free(GIVEN, guidance.interval(2.0, 0.2, 0.3)),
        },
        lambda m, x: m.predict("x0", x, times(x)),
    ),
    "samplers": probes(SAMPLERS, lambda s, x: sample(MODEL, x=x, sampler=s, steps=6, seeds=range(len(x)))),
    "solve": probes(
        {
            "dopri5": (Reverse(MODEL, 0.0), "dopri5", {"rtol": 1e-2, "atol": 1e-2}),
            "rk4": (Reverse(MODEL, 0.0), "rk4", {"steps": 5}),
            "euler": (Reverse(MODEL), "euler", {"steps": 5}),
            "srk": (Reverse(MODEL), "srk", {"steps": 5}),
            "heun": (Forward(VP()), "heun", {"steps": 5}),
        },
        ask_solver,
    ),
    "likelihoods": {
        "log_prob": Probe(MODEL, lambda m, x: log_prob(m, x, 20).value),
        "elbo": Probe(MODEL, lambda m, x: elbo(m, x, 8, generator=torch.Generator().manual_seed(0)).value),
        "encode": Probe(MODEL, lambda m, x: encode(m, x, steps=6)),
    },
    "networks": probes(
        {
            "MLP": MLP,
            "UNet": stirred(networks.UNet((1, 2), 8, (1,), features=8)),
            "DiT": stirred(networks.DiT((1, 2), 1, 8, 1, 2, features=8)),
            "Scaled": networks.Scaled(MLP, VP()),
            "Preconditioned": networks.Preconditioned(MLP, VP(), 0.7),
        },
        ask_network,
    ),
    "training": {
        **probes({n: mixture().model(VP(), n) for n in NAMES}, lambda m, x: loss(m, x, times(x), x)),
        **probes(
            {w.__name__: w() for w in (training.min_snr, training.sigmoid, training.p2, training.edm)},
            lambda w, x: loss(MODEL, x, times(x), x, weighting=w),
        ),
    },
    "targets": {
        "GaussianMixture": Probe(mixture(), lambda target, x: target.log_prob(x)),
        "Empirical": Probe(targets.Empirical(torch.cat([X, NOISE]), 0.5), lambda target, x: target.log_prob(x)),
        "Labelled": Probe(CLASSES, lambda target, x: target.classifier(VP())(x, times(x))),
        "Tilted": Probe(CLASSES.tilted(1, 2.0), lambda target, x: target.log_prob(x)),
    },
}

STEPS = probes(SAMPLERS, lambda s, x: s.step(MODEL, x, 0.6, 0.5, None, lambda shape: at_rows(shape).to(x))[0])
"""One step of each sampler, its times fixed."""


# --- both ends of time --------------------------------------------------------------------------------------------


def ends(column, part):
    """The answers of a part at t = 0 and at t_max: functions, each of which may refuse by a ValueError."""
    if column == "processes":
        names = ("alpha", "sigma", "logsnr", "drift", "diffusion")
        yield from (lambda t=t, n=n: getattr(part, n)(t).nan_to_num(posinf=0.0, neginf=0.0) for t in (0.0, part.t_max)
                    for n in names)  # fmt: skip
        yield from (lambda t=t: part.perturb(X, t)[0] for t in (0.0, part.t_max))
    elif column == "predictions":
        yield from (lambda t=t, n=n, p=p: convert(X, X, t * p.t_max, p, part, n) for t in (0.0, 1.0) for n in NAMES
                    for p in PROCESSES)  # fmt: skip
    elif column in ("models", "guidance"):
        yield from (lambda t=t, n=n: part.predict(n, X, t) for t in (0.0, 1.0) for n in NAMES)
    elif column == "samplers":
        yield from (lambda p=p: sample(mixture().model(p, "v"), (3, 2), part, 6, seeds=range(3))
                    for p in (VP(), RectifiedFlow(), VE()))  # fmt: skip
    elif column == "solve":
        dynamics, method, options = part
        t0, t1 = (0.0, 1.0) if isinstance(dynamics, Forward) else (1.0, 0.0)
        yield lambda: solve(dynamics, X, t0, t1, method, **options)
    elif column == "networks":
        shape = getattr(part, "shape", None) or part.net.shape
        yield from (lambda t=t: part(X.reshape(-1, *shape), torch.full((3,), t).double()) for t in (0.0, 1.0))
    elif column == "targets":
        model = getattr(part, "model", None)
        yield from (lambda t=t: model(VP(), "v").predict("x0", X, t) for t in (0.0, 1.0) if model is not None)
    elif column == "training":
        given = {"weighting": part} if not isinstance(part, Model) else {}
        model = part if isinstance(part, Model) else MODEL
        yield from (lambda t=t: loss(model, X, t, X, **given) for t in (0.0, 1.0))
    else:
        yield lambda: log_prob(part, X, 20).value
        yield from (lambda p=p: encode(mixture().model(p, "v"), X) for p in (VP(), RectifiedFlow(), VE()))


# --- entry by entry: parts of any dimension, that do the same to every entry -------------------------------------


class Each(torch.nn.Module):
    """A network that sees each entry alone; a label moves them all."""

    def forward(self, x, t, label=None):
        y = 0.6 * torch.tanh(x) + 0.2 * x
        return y if label is None else torch.where(label.reshape(-1, *[1] * (x.ndim - 1)) < 0, y, y + 0.1)


EACH = Model(Each(), VP(), "v", moments=(0.1, 0.8))
WEAK = Model(Each(), VP(0.2, 15.0), "noise")


def ask_steps(sampler, x):
    """All steps, with noise that is the same for all entries."""
    path = sampler.run(EACH, x, [0.9, 0.5, 0.3, 0.1], lambda shape: torch.full(shape, 0.3, dtype=x.dtype))
    return [*path][-1]


def ask_wide_solver(part, x):
    dynamics, method, options = part
    noise = {} if dynamics.noise == "none" else {"noise": lambda shape: torch.full(shape, 0.3, dtype=x.dtype)}
    return solve(dynamics, x, 0.9, 0.3, method, **options, **noise)


def ask_width(build, x):
    net = build(x.shape[1])
    return net(x.reshape(-1, *net.shape), times(x)).reshape(x.shape)


ANY_DIMENSION = {
    "processes": PARTS["processes"],
    "predictions": PARTS["predictions"],
    "models": probes(
        {n: Model(Each(), VP(), n, (0.1, 0.8)) for n in NAMES}, lambda m, x: m.predict("x0", x, torch.tensor(0.3))
    ),
    "guidance": probes(
        {
            "classifier_free": guidance.classifier_free(EACH.given(label=1), 2.0),
            "autoguidance": guidance.autoguidance(EACH, WEAK, 2.0),
            "temperature": guidance.temperature(EACH, 0.5),
            "threshold": guidance.threshold(EACH),
        },
        lambda m, x: m.predict("x0", x, torch.tensor(0.3)),
    ),
    "samplers": probes(SAMPLERS, ask_steps),
    "solve": probes(
        {
            "dopri5": (Reverse(EACH, 0.0), "dopri5", {"rtol": 1e-2, "atol": 1e-2}),
            "euler": (Reverse(EACH), "euler", {"steps": 3}),
            "srk": (Reverse(EACH), "srk", {"steps": 3}),
        },
        ask_wide_solver,
    ),
    "likelihoods": {
        "log_prob": Probe(EACH, lambda m, x: log_prob(m, x, 16, divergence="hutchinson").value / x.shape[1]),
        "encode": Probe(EACH, lambda m, x: encode(m, x, steps=4)),
    },
    "networks": probes(
        {
            "MLP": lambda d: networks.MLP(d, 4, 1, 4),
            "UNet": lambda d: networks.UNet((1, d), 4, (1, 1), attention=0, features=4),
            "DiT": lambda d: networks.DiT((1, d), max(1, d // 100), 8, 1, 2, features=4),
        },
        ask_width,
    ),
    "training": probes({n: Model(Each(), VP(), n) for n in NAMES}, lambda m, x: loss(m, x, torch.tensor(0.3), x)),
    "targets": {
        "Empirical": Probe(None, lambda _, x: targets.Empirical(0 * x[:1], 0.5).log_prob(x) / x.shape[1]),
        "GaussianMixture": Probe(None, lambda _, x: targets.Gaussian(0 * x[0], 0.5).log_prob(x) / x.shape[1]),
    },
}
