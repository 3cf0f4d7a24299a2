"""What `check_model` says of networks that something is wrong with, and of healthy ones.

Small networks are trained in the conventions of several libraries, then declared wrongly, one mistake at a time.

    python experiments/check_model_mistakes.py --steps 400
"""

from __future__ import annotations

import argparse
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from scoresde import (
    EDM,
    EMA,
    PREDICTIONS,
    VE,
    VP,
    Cosine,
    Model,
    Process,
    RectifiedFlow,
    SubVP,
    data,
    ddpm,
    fit,
    networks,
    targets,
)
from scoresde.networks import MLP, TIMES, Adapter, Preconditioned, Scaled
from scoresde.testing import check_model

WIDTH = 128


class Foreign(nn.Module):
    """A network as one finds it: it takes times of any size, by sines of many frequencies."""

    def __init__(self, dim: int, drop: float = 0.0, normed: bool = False, blind: bool = False) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.logspace(-3, 2, 32))
        self.time = nn.Sequential(nn.Linear(64, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.enter, self.leave = nn.Linear(dim, WIDTH), nn.Linear(WIDTH, dim)
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.norm = nn.BatchNorm1d(WIDTH) if normed else nn.Identity()
        self.drop, self.blind = nn.Dropout(drop), blind

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angles = t.to(x.dtype)[:, None] * self.frequencies
        known = self.time(torch.cat([angles.sin(), angles.cos()], 1)) * (not self.blind)
        hidden = silu(self.enter(x.flatten(1)) + known)
        for block in self.blocks:
            hidden = hidden + self.drop(silu(self.norm(block(hidden)) + known))
        return self.leave(hidden).reshape(x.shape)


class Told(nn.Module):
    """Sign times a network that is told a function of the time."""

    def __init__(self, net: nn.Module, time: Callable[[Tensor], Tensor] = lambda t: t, sign: int = 1) -> None:
        super().__init__()
        self.net, self.time, self.sign = net, time, sign

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.sign * self.net(x, self.time(t).to(x.dtype))


@dataclass(frozen=True)
class Case:
    """A model as declared, data, and what `check_model` must say of it, in part; nothing if it is healthy."""

    name: str
    model: Model
    x: Tensor
    says: tuple[str, ...] = ()
    cond: dict[str, Tensor] = field(default_factory=dict)

    def verdict(self) -> str:
        """What `check_model` says."""
        try:
            check_model(self.model, self.x, **self.cond)
        except AssertionError as error:
            return str(error)
        return ""

    def right(self, verdict: str) -> bool:
        return all(words in verdict for words in self.says) if self.says else not verdict


def digits(n: int = 512) -> tuple[Tensor, dict[str, Tensor]]:
    """Digits in [−1, 1], and their labels."""
    loaded = data.load("digits")
    rows = torch.randperm(len(loaded), generator=torch.Generator().manual_seed(0))[:n]
    return loaded.batch(rows, torch.Generator().manual_seed(0))


def moons(n: int = 1000) -> Tensor:
    """Two half circles in the plane, in [−1, 1]."""
    x = targets.moons(n, torch.Generator().manual_seed(0))
    return 2 * (x - x.min()) / (x.max() - x.min()) - 1


def wine() -> Tensor:
    """178 rows of 13 columns, standardised."""
    loaded = data.load("wine")
    return loaded.batch(torch.arange(len(loaded)))[0]


def trained(net: nn.Module, process: Process, prediction: str, x: Tensor, steps: int, **cond: Tensor) -> Model:
    """A model with averaged weights."""

    def some(n: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        rows = torch.randint(len(x), (n,), generator=generator)
        return x[rows], {name: value[rows] for name, value in cond.items()}

    source = torch.Generator().manual_seed(0)
    *_, record = fit(Model(net, process, prediction), some, steps, batch_size=128, lr=3e-3, ema=0.98, generator=source)
    return record.model


def mistakes(x: Tensor, steps: int, seed: int = 0) -> Iterator[Case]:
    """Networks that work on x in [−1, 1], wrongly declared; and some that do not work."""
    torch.manual_seed(seed)
    vp, flow, dim = VP(), RectifiedFlow(), x[0].numel()

    def learn(process: Process, prediction: str, time: Callable[[Tensor], Tensor] = lambda t: t) -> Model:
        """Of a network that is told a function of the time."""
        return trained(Told(Foreign(dim), time), process, prediction, x, steps)

    def bare(model: Model) -> Model:
        """The network without what tells it the time."""
        return replace(model, net=model.net.net)

    noise = bare(learn(vp, "noise", lambda t: TIMES["index"](vp, t)))
    index, unit, levels = replace(noise, net=Adapter(noise.net, vp, "index")), (x + 1) / 2, 127.5 * (x + 1)
    cosine = replace(index, process=Cosine(), net=Adapter(noise.net, Cosine(), "index"))
    yield Case("noise, declared as v", replace(index, prediction="v"), x, ("predicts noise, not v.",))
    yield Case("noise, declared as score", replace(index, prediction="score"), x, ("predicts noise, not score.",))
    yield Case("index wanted, t told", noise, x, ("takes the index", 'Adapter(net, process, time="index")'))
    yield Case("x in [0, 1], [−1, 1] wanted", index, unit, ("another scale", "x = 2 * x - 1"))
    yield Case("x in 0..255, [−1, 1] wanted", index, levels, ("another scale", "x = x / 127.5 - 1"))
    yield Case("on VP, declared on Cosine", cosine, x, ("was trained on VP(), not on Cosine()",))

    average = EMA(Foreign(dim), 0.9999, warmup=False)
    for _ in range(steps):
        average.update(noise.net)
    lagging, fresh = (replace(noise, net=Adapter(net, vp, "index")) for net in (average.net, Foreign(dim)))
    yield Case("average that has not caught up", lagging, x, ("does not remove noise", "untrained"))
    yield Case("weights not loaded", fresh, x, ("does not remove noise", "untrained"))

    x0 = bare(learn(vp, "x0"))
    share = replace(x0, net=Adapter(x0.net, vp, "index"))
    yield Case("x0, declared as noise", replace(x0, prediction="noise"), x, ("predicts x0, not noise.",))
    yield Case("t in [0, 1] wanted, index told", share, x, ("takes the process's own t", 'time="t"'))
    back, logsnr = learn(vp, "v", lambda t: 1 - t), learn(vp, "v", lambda t: TIMES["logsnr"](vp, t))
    yield Case("v, declared as x0", replace(back, prediction="x0"), x, ("predicts v, not x0.",))
    yield Case("time runs the other way", bare(back), x, ("from noise to data", "t_max - t"))
    yield Case("log-SNR wanted, t told", bare(logsnr), x, ("takes log-SNR",))
    velocity = bare(learn(flow, "velocity"))
    yield Case("velocity, declared as v", replace(velocity, prediction="v"), x, ("predicts velocity, not v.",))
    other = replace(velocity, net=Told(velocity.net, lambda t: 1 - t, -1))  # t = 0 is noise, and x₀ − ε is learned
    yield Case("flow from noise to data", other, x, ("minus velocity", "from noise to data"))

    shape = tuple(x.shape[1:])
    edm = trained(Preconditioned(MLP(shape, WIDTH, 2), EDM(), 0.7), EDM(), "x0", x, steps)
    score = trained(Preconditioned(MLP(shape, WIDTH, 2), VE(), 0.7, PREDICTIONS["score"]), VE(), "score", x, steps)
    yield Case("σ wanted, VE's t told", replace(edm, process=VE()), x, ("takes σ", 'time="sigma"'))
    yield Case("score, declared as noise", replace(score, prediction="noise"), x, ("predicts score, not noise.",))
    small = trained(Told(Foreign(dim)), vp, "v", unit, steps)
    yield Case("x in [−1, 1], [0, 1] wanted", small, x, ("another scale", "x = (x + 1) / 2"))
    for name, wrap in (("ignored", Told), ("ignored inside", lambda net: Preconditioned(net, vp, 0.7))):
        blind = trained(wrap(Foreign(dim, blind=True)), vp, "x0", x, steps)
        yield Case(f"time {name}", blind, x, ("ignores t",))
    for name, net, says in (
        ("dropout left on", Foreign(dim, drop=0.1), "two calls with the same input differ"),
        ("batch norm left in training", Foreign(dim, normed=True), "depends on the batch around it"),
    ):
        model = trained(Told(net), vp, "v", x, steps // 4)
        model.net.train()
        yield Case(name, model, x, (says, "net.eval()"))


def healthy(steps: int, seed: int = 0, every: int = 1) -> Iterator[Case]:
    """Networks of every kind, as they are; every so many of them."""
    (x, labels), source = digits(), torch.Generator().manual_seed(seed)
    rows: list[Callable[[], Case]] = []

    def add(
        name: str, net: Callable[[], nn.Module], process: Process, prediction: str, x: Tensor, share: int = 1,
        **cond: Tensor,
    ) -> None:  # fmt: skip
        shown = f"{name}, {type(process).__name__}, {prediction}"
        rows.append(lambda: Case(shown, trained(net(), process, prediction, x, steps // share, **cond), x, cond=cond))

    for process, prediction in (
        (VP(), "noise"), (VP(), "v"), (Cosine(), "v"), (RectifiedFlow(), "velocity"), (VE(), "score"), (EDM(), "x0"),
        (SubVP(), "noise"), (ddpm(), "noise"),
    ):  # fmt: skip
        for name, seen in (("moons", moons()), ("digits", x), ("wine", wine())):

            def net(shape: tuple[int, ...] = tuple(seen.shape[1:]), process=process, prediction=prediction):
                if prediction in ("score", "x0"):
                    return Preconditioned(MLP(shape, WIDTH, 2), process, 0.7, PREDICTIONS[prediction])
                return Scaled(MLP(shape, WIDTH, 2), process, 0.7)

            add(name, net, process, prediction, seen)
    add("digits, foreign with Adapter", lambda: Adapter(Foreign(64), VP(), "index"), VP(), "noise", x)
    add("digits, with labels", lambda: Scaled(MLP((1, 8, 8), WIDTH, 2, classes=10), VP(), 0.7), VP(), "v", x, **labels)
    add("digits, U-Net", lambda: Preconditioned(networks.UNet((1, 8, 8), 8, (1, 2)), VP(), 0.7), VP(), "x0", x, 2)
    dit = lambda: Preconditioned(networks.DiT((1, 8, 8), width=32, blocks=2), VP(), 0.7)  # noqa: E731
    add("digits, DiT", dit, VP(), "x0", x, 2)
    for name, target in (
        ("mixture", targets.GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], 0.1)),
        ("normal", targets.Gaussian(torch.zeros(4), 1.0)),
    ):
        rows.append(
            lambda name=name, target=target: Case(f"{name}, exact", target.model(VP()), target.sample(500, source))
        )
    torch.manual_seed(seed)
    for row in rows[::every]:
        yield row()


def shown(verdict: str) -> str:
    """The first sentence of a verdict."""
    short = verdict.removeprefix("the network is not what is declared: ")
    short = short.removeprefix("x are not what the network was trained on: ")
    short = short.split(". Read so")[0].split(", and no ")[0]
    return textwrap.shorten(short, 100, placeholder=" …")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400, help="of training, for every network")
    parser.add_argument("--seed", type=int, default=0, help="of the networks")
    parser.add_argument("--whole", action="store_true", help="print all that check_model says")
    given, began = parser.parse_args(), time.perf_counter()
    torch.set_num_threads(1)
    steps, seed = given.steps, given.seed
    for title, cases in (
        ("mistakes, digits", mistakes(digits()[0], steps, seed)),
        ("mistakes, moons", mistakes(moons(), steps, seed)),
        ("healthy networks", healthy(steps, seed)),
    ):
        print(f"  {title:<41}check_model says")
        rights = []
        for case in cases:
            verdict = case.verdict()
            rights.append(case.right(verdict))
            said = verdict if given.whole else shown(verdict)
            print(f"{'✓' if rights[-1] else '✗'} {case.name:<41}{said or 'nothing'}", flush=True)
        print(f"{sum(rights)} of {len(rights)} right, {time.perf_counter() - began:.0f} s\n")


if __name__ == "__main__":
    main()
