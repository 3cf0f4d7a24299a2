"""Wrong samplers, planted: the kit names what is wrong with each, and nothing else."""

import os
from dataclasses import replace

import pytest
import torch

from scoresde import VP
from scoresde.samplers import DDIM
from scoresde.testing import PROPERTIES, examine, properties


class Wrong(DDIM):
    """DDIM, or (with η) DDPM; a subclass spoils what goes into a step or comes out of it."""

    def plain(self, model, x, t, s, memory, randn):
        return DDIM.step(self, model, x, t, s, memory, randn)


class Unconverted(Wrong):
    def step(self, model, x, t, s, memory, randn):
        return self.plain(replace(model, prediction="noise"), x, t, s, memory, randn)


class ByTheBatch(Wrong):
    def step(self, model, x, t, s, memory, randn):
        y, memory = self.plain(model, x, t, s, memory, randn)
        return y + (t - s) ** 2 * x.mean(0), memory


class Detached(Wrong):
    def step(self, model, x, t, s, memory, randn):
        return self.plain(model, x.detach(), t, s, memory, randn)


class InPlace(Wrong):
    def step(self, model, x, t, s, memory, randn):
        y, memory = self.plain(model, x, t, s, memory, randn)
        return x.copy_(y), memory


class Remembering(Wrong):
    def step(self, model, x, t, s, memory, randn):
        y, memory = self.plain(model, x, t, s, memory, randn)
        before = vars(self).get("last", 0.0)
        object.__setattr__(self, "last", float(y.abs().max()))
        return y + 0.001 * (t - s) * before, memory


LAST = [0.0]


class RememberingElsewhere(Wrong):
    def step(self, model, x, t, s, memory, randn):
        y, memory = self.plain(model, x, t, s, memory, randn)
        y, LAST[0] = y + 0.001 * (t - s) * LAST[0], float(y.abs().sum()) if len(y) else 0.0
        return y, memory


class RememberingARun(Wrong):
    """What many write for a history: begun anew in each run, so that runs repeat themselves, but one at a time."""

    def step(self, model, x, t, s, memory, randn):
        y, _ = self.plain(model, x, t, s, None, randn)
        if memory is not None:
            y = y + 0.001 * (t - s) * LAST[0]
        LAST[0] = float(y.abs().sum()) if len(y) else 0.0
        return y, True


class Elsewhere(Wrong):
    """Noise from the machine's own source."""

    def step(self, model, x, t, s, memory, randn):
        number = int.from_bytes(os.urandom(4), "big")
        generator = torch.Generator().manual_seed(number)
        return self.plain(
            model, x, t, s, memory, lambda shape: torch.randn(tuple(shape), generator=generator, dtype=x.dtype)
        )


class OneWay(Wrong):
    """Does nothing if it is to go back."""

    def step(self, model, x, t, s, memory, randn):
        return self.plain(model, x, t, s, memory, randn) if s < t else (x, memory)


class NeedingMemory(Wrong):
    def step(self, model, x, t, s, memory, randn):
        y, _ = self.plain(model, x, t, s, None, randn)
        return (y + memory[0]) / 2, (y,)


class Bare(Wrong):
    def step(self, model, x, t, s, memory, randn):
        return self.plain(model, x, t, s, memory, randn)[0]


class Single(Wrong):
    def step(self, model, x, t, s, memory, randn):
        return self.plain(model, x.float(), t, s, memory, randn)


class Undeclared(Wrong):
    stochastic = False


class Idle(Wrong):
    stochastic = True


class OneNoise(Wrong):
    def step(self, model, x, t, s, memory, randn):
        return self.plain(model, x, t, s, memory, lambda shape: randn(shape)[:1].expand(tuple(shape)))


class Global(Wrong):
    def step(self, model, x, t, s, memory, randn):
        return self.plain(model, x, t, s, memory, lambda shape: torch.randn(tuple(shape), dtype=x.dtype))


class Fixed(Wrong):
    def step(self, model, x, t, s, memory, randn):
        generator = torch.Generator().manual_seed(0)
        return self.plain(model, x, t, s, memory, lambda shape: torch.randn(tuple(shape), generator=generator).to(x))


class Loud(Wrong):
    def step(self, model, x, t, s, memory, randn):
        return self.plain(model, x, t, s, memory, lambda shape: 1.02 * randn(shape))


class Backwards(Wrong):
    def step(self, model, x, t, s, memory, randn):
        y, memory = self.plain(model, x, t, s, memory, randn)
        return 2 * x - y, memory


class Abrupt(Wrong):
    def step(self, model, x, t, s, memory, randn):
        y, memory = self.plain(model, x, t, s, memory, randn)
        return (y if s else 0.5 * y), memory


SAMPLERS = {
    "as it is": (DDIM(), 1, set()),
    "ancestral, as it is": (DDIM(1.0), 1, set()),
    "the order": (DDIM(), 2, {"has its order"}),
    "a network's output for noise": (Unconverted(), 1, {"serves every prediction"}),
    "a mean over the batch": (ByTheBatch(), 1, {"keeps samples apart"}),
    "no gradient": (Detached(), 1, {"lets gradients through"}),
    "in place": (InPlace(), 1, {"leaves its input alone"}),
    "a state of its own": (Remembering(), 1, {"repeats itself"}),
    "a state in its module": (RememberingElsewhere(), 1, {"repeats itself"}),
    "a state for one run": (RememberingARun(), 1, {"keeps no state"}),
    "no first step": (NeedingMemory(), 1, {"steps without a memory"}),
    "no memory": (Bare(), 1, {"steps without a memory"}),
    "float32": (Single(), 1, {"keeps shape and dtype"}),
    "undeclared noise": (Undeclared(0.5), 1, {"is stochastic as declared"}),
    "noise declared, none drawn": (Idle(), 1, {"is stochastic as declared"}),
    "one noise for all": (OneNoise(1.0), 1, {"keeps samples apart"}),
    "the global random state": (Global(1.0), 1, {"draws from randn alone"}),
    "the machine's own noise": (Elsewhere(1.0), 1, {"repeats itself"}),
    "the same noise always": (Fixed(1.0), 1, {"is stochastic as declared"}),
    "2 % more noise": (Loud(1.0), 1, {"has its order"}),
    "the wrong way": (Backwards(), 1, {"moves the law on"}),
    "one way": (OneWay(), 1, {"encodes what it samples"}),
    "a wrong last step": (Abrupt(), 1, {"arrives at the data"}),
}


@pytest.mark.parametrize("what", SAMPLERS)
def test_wrong_samplers(what):
    sampler, order, named = SAMPLERS[what]
    report = examine(sampler, order=order, kind="weak" if sampler.stochastic else "strong", most=64)
    assert set(report.failed) == named, str(report)


class Noised(Wrong):
    """Euler and Maruyama's step, with factors for its noise and its score."""

    stochastic = True
    loud = 1.0
    pull = 1.0

    def step(self, model, x, t, s, memory, randn):
        f, g = model.process.at("drift", t), model.process.at("diffusion", t)
        drift = f * x - self.pull * g**2 * model.predict("score", x, t)
        return x + (s - t) * drift + self.loud * g * (t - s) ** 0.5 * randn(x.shape), memory


class Louder(Noised):
    loud = 1.1


class HalfPulled(Noised):
    pull = 0.5


class Staying(Wrong):
    """Langevin's step."""

    stochastic = True

    def step(self, model, x, t, s, memory, randn):
        size = 0.1 * model.process.at("sigma", t) ** 2
        return x + size * model.predict("score", x, t) + (2 * size) ** 0.5 * randn(x.shape), memory


WRONG_WAY, STAYS = "the step goes the wrong way", 'it all but stays at its level; if it is to, pass kind="bias"'
ASTRAY = {
    Noised: (),
    Backwards: ("mean 0.443, wanted 0.547; variance 0.738, wanted 0.573", "slope is 1.07, wanted 0.939: " + WRONG_WAY),
    Louder: ("variance 0.652, wanted 0.573", "such a slope asks for noise of 0.426; such noise asks for a slope of 0."),
    HalfPulled: ("variance 0.792, wanted 0.573", "such a slope is too great for any noise (below 0.939)"),
    Staying: ("the deviation of its noise 0.316", STAYS),
}


@pytest.mark.parametrize("wrong", ASTRAY, ids=lambda c: c.__name__)
def test_what_is_wrong_with_a_step_is_said(wrong):
    moves = next(case for case in properties(wrong(), order=1) if str(case) == "moves the law on")
    _, first = next(iter(moves.property.examples(moves.subject)))
    what = moves.property.judge(moves.subject, first) or ""
    assert bool(what) == bool(ASTRAY[wrong]) and all(text in what for text in ASTRAY[wrong]), what
    assert (WRONG_WAY in what, STAYS in what) == (wrong is Backwards, wrong is Staying)


class ForVP(Wrong):
    def step(self, model, x, t, s, memory, randn):
        assert model.process.beta_min > 0
        return self.plain(model, x, t, s, memory, randn)


def test_a_sampler_for_some_processes_only():
    finding = properties(ForVP(), order=1)[0].find()
    assert "has no attribute 'beta_min' (at test_kit_plants_samplers.py:" in finding.what
    assert "for some processes only, say for which: processes=[VP()]" in str(finding).replace("\n          ", " ")
    report = examine(ForVP(), order=1, processes=[VP()], most=64)
    assert report.passed and {f.property.name: f.tried for f in report.findings}["arrives at the data"] == 1


class Shapeless(Wrong):
    def step(self, model, x, t, s, memory, randn):
        return self.plain(model, x + 0 * randn(), t, s, memory, randn)


def test_noise_has_a_shape():
    assert "write randn(x.shape)" in properties(Shapeless(), order=1)[0].find().what


def test_every_property_of_a_sampler_can_fail():
    assert set().union(*(named for *_, named in SAMPLERS.values())) == set(map(str, PROPERTIES["sampler"]))
