"""check_model on networks that something is wrong with, and on healthy ones."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from scoresde import EDM, PREDICTIONS, VE, VP, Model, RectifiedFlow, SubVP, guidance, networks, targets
from scoresde.testing import check_model
from scoresde.testing.mistakes import Bench, Judged
from scoresde.testing.readings import LEVELS, Noised
from tests.problems import mixture, name

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import check_model_mistakes

PROCESSES = (VP(), SubVP(), VE(), EDM(), RectifiedFlow())


def data(n=256):
    return mixture().sample(n, torch.Generator().manual_seed(0))


def said(model, x, draws=256, **cond):
    """What check_model says."""
    try:
        check_model(model, x, draws, **cond)
    except AssertionError as error:
        return str(error)
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("x", [check_model_mistakes.digits()[0], check_model_mistakes.moons()], ids=["digits", "moons"])
def test_planted_mistakes_are_named_right(x):
    """Networks trained here, on three processes: of ten mistakes at least nine (of these 22 twenty)."""
    found = {case.name: (case.right(said := case.verdict()), said) for case in check_model_mistakes.mistakes(x, 300)}
    wrong = {name: said for name, (right, said) in found.items() if not right}
    assert len(found) == 22 and len(wrong) <= 2, wrong


@pytest.mark.slow
def test_nothing_is_said_of_healthy_networks():
    """Trained here, on moons, digits and a table, in turn on seven processes, and with labels."""
    found = {case.name: case.verdict() for case in check_model_mistakes.healthy(300, seed=1, every=2)}
    assert len(found) == 15 and not any(found.values()), found


@pytest.mark.parametrize("process", PROCESSES, ids=name)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_wrong_declaration_of_an_exact_network_is_named(process, prediction):
    exact, x = mixture().model(process, prediction), data()
    same = ("noise", "velocity") if isinstance(process, EDM) and prediction == "velocity" else (prediction,)  # one row
    for declared in PREDICTIONS:
        verdict = said(replace(exact, prediction=declared), x, 128)
        if declared in same or (isinstance(process, EDM) and {declared, prediction} == {"noise", "velocity"}):
            assert verdict == ""
        else:
            assert f"it predicts {same[0]}, not {declared}. Read so" in verdict
            assert verdict.endswith(f'Write Model(net, process, "{same[0]}")')


def exact(process, prediction, time=lambda t: t, sign=1, scale=1.0, shift=0.0):
    """The exact network of data a x + c, that is told something else than the process's time."""
    target = mixture()
    target = targets.GaussianMixture(target.weights, scale * target.means + shift, scale**2 * target.covariances)
    model = target.model(process, prediction)
    return lambda x, t: sign * model.net(x, time(t).to(x))


@pytest.mark.parametrize(
    ("net", "declared", "says"),
    [
        (exact(VP(), "v", lambda t: 1 - t), VP(), "from noise to data for the time, not the process's own t"),
        (exact(VP(), "v", lambda t: (t + 1) / 1000), VP(), "takes the index 0..999"),
        (exact(VP(), "v", lambda t: 1 - t / 1000), VP(), "an index that runs from noise to data"),
        (exact(VP(), "v", lambda t: VP().time(t)), VP(), "takes log-SNR, log α²/σ²"),
        (exact(VP(), "v", lambda t: VP().time(-2 * t)), VP(), "takes log σ/α"),
        (exact(VP(), "v", lambda t: VP().time(-8 * t)), VP(), "takes EDM's c_noise"),
        (exact(EDM(), "v", lambda t: 80 * t), EDM(), "takes the share of t_max, in [0, 1]"),
        (exact(EDM(), "v"), VE(), "takes σ for the time"),
        (exact(VE(), "v"), EDM(), "was trained on VE(), not on EDM()"),
        (exact(RectifiedFlow(), "v"), VP(), "was trained on RectifiedFlow(), not on VP()"),
        (exact(VP(), "v", sign=-1), VP(), "it predicts minus v, not v"),
        (exact(VP(), "v", scale=2.0, shift=-1.0), VP(), "x = 2 * x - 1"),
        (exact(VP(), "v", scale=0.5, shift=0.5), VP(), "x = (x + 1) / 2"),
        (exact(VP(), "v", lambda t: 1 - t, scale=2.0, shift=-1.0), VP(), "from noise to data"),
    ],
)  # fmt: skip
def test_times_processes_scales_and_signs_are_named(net, declared, says):
    assert says in said(Model(net, declared, "v"), data())


def test_one_mistake_after_the_other():
    """Where the one that is named leaves another, mending it brings that one to light."""
    net = exact(SubVP(), "v", lambda t: (t + 1) / 1000)
    assert "takes the index" in said(Model(net, VP(), "v"), data())
    assert "on SubVP(), not on VP()" in said(Model(networks.Adapter(net, VP(), "index"), VP(), "v"), data())
    assert said(Model(networks.Adapter(net, SubVP(), "index"), SubVP(), "v"), data()) == ""


@pytest.mark.parametrize(
    ("net", "says"),
    [
        (lambda x, t: 0.01 * torch.sin(3 * x + t[:, None]), "does not remove noise"),  # as at initialisation
        (lambda x, t: x * (1 + t[:, None]), "does not remove noise"),
    ],
)
def test_untrained_weights_are_named(net, says):
    verdict = said(Model(net, VP(), "noise"), data())
    assert says in verdict and "untrained" in verdict


def test_a_linear_denoiser_passes_on_normal_data_and_fails_on_others():
    """On normal data nothing is better; on a mixture only an untrained network, of Preconditioned, is no better."""
    normal, net = torch.randn(256, 2), networks.Preconditioned(nn.Identity(), VP())
    net.net.forward = lambda x, t: 1e-3 * torch.sin(t)[:, None] * x
    assert said(Model(net, VP(), "x0"), normal) == ""
    x = data() - data().mean(0)
    assert "untrained" in said(Model(net, VP(), "x0"), x.float() / x.std())


def test_what_is_wrong_is_sure_and_the_same_every_time():
    """A different sample of the data, of any size from 32, changes no verdict; nor does asking again."""
    model = mixture().model(VP(), "v")
    state = torch.get_rng_state()
    for n in (32, 100, 1000):
        x = mixture().sample(n, torch.Generator().manual_seed(n))
        assert said(model, x) == "" and "predicts v, not x0" in said(replace(model, prediction="x0"), x)
        assert said(replace(model, prediction="x0"), x) == said(replace(model, prediction="x0"), x)
    assert torch.equal(torch.get_rng_state(), state)


def test_few_samples_are_judged_by_behaviour_alone():
    wrong = replace(mixture().model(VP(), "v"), prediction="noise")
    check_model(wrong, data(31))
    assert said(wrong, data(32))


def test_the_share_is_what_it_says():
    """The linear denoiser's own is ½, a perfect one's 0; a worse reading is told only if the difference is sure."""
    bench = Bench(Noised.of(data(), 512, {}))
    assert bench.judge(bench.linear).share == pytest.approx(0.5, abs=1e-12)
    assert bench.judge(torch.zeros_like(bench.linear)).share == 0.0
    assert bench.judge(torch.full_like(bench.linear, torch.nan)).share == pytest.approx(0.5, abs=1e-12)
    assert bench.judge(torch.full_like(bench.linear, torch.inf)).share == pytest.approx(1.0)
    noise = 1 + 0.5 * torch.randn(len(LEVELS), 400, dtype=torch.float64)
    one, two = Judged(None, noise), Judged(None, 1.1 * noise)
    assert two.worse(one) and not one.worse(two)
    assert not Judged(None, 1.03 * noise).worse(one)  # surely, but not by much
    assert not Judged(None, noise.flip(1) * 1.05).worse(one)  # by much, but not surely


class _Labelled(nn.Module):
    """Exact for two classes, and nonsense without a label."""

    def __init__(self):
        super().__init__()
        means = torch.tensor([[-1.0, 0.0], [1.0, 0.5]])
        self.classes = nn.ModuleList(targets.Gaussian(mean, 0.05).model(VP(), "v").net for mean in means)

    def forward(self, x, t, label):
        both = torch.stack([net(x, t) for net in self.classes])
        return both[label, torch.arange(len(x))]


def test_conditions_go_with_their_samples():
    label = torch.arange(200) % 2
    x = torch.tensor([[-1.0, 0.0], [1.0, 0.5]])[label] + 0.05**0.5 * torch.randn(200, 2)
    model = Model(_Labelled(), VP(), "v")
    check_model(model, x, label=label)
    assert "predicts v, not noise" in said(replace(model, prediction="noise"), x, label=label)
    for wrong in (1 - label, label[torch.randperm(200)]):
        assert "Check that each row of label belongs" in said(model, x, label=wrong)
    assert "write model.given" in said(model, x)
    assert "boolean" in said(Model(lambda x, t, label: x * bool(x), VP()), x, label=label).lower()  # it cannot answer
    with pytest.raises(ValueError, match="check_model\\(model, x, label=label\\)"):
        check_model(model.given(label=label), x)


@pytest.mark.parametrize("process", PROCESSES, ids=name)
@pytest.mark.parametrize("factor", [2.0, 0.5, -2.0, 3.0])
def test_a_factor_of_the_output_is_named(process, factor):
    for prediction in ("v", "noise", "x0"):
        model = mixture().model(process, prediction)
        verdict = said(model.wrap(lambda model, x, t: factor * model(x, t)), data(), 128)
        shown = float(verdict.split("predicts ")[1].split(" times")[0])
        assert shown == pytest.approx(factor, rel=0.1) and f"net(x, t, **cond) / {shown:.2g}" in verdict  # 128 draws


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_a_little_less_or_more_than_declared_is_no_mistake(factor):
    """As of networks that learned little."""
    model = mixture().model(VP(), "v")
    assert said(replace(model, net=lambda x, t: factor * model.net(x, t)), data()) == ""


def narrow():
    """Exact, and with the moments of its data, of deviation 0.4 or so; and such data."""
    target = mixture()
    target = targets.GaussianMixture(target.weights, 0.3 * target.means + 0.1, 0.09 * target.covariances)
    x = target.sample(256, torch.Generator().manual_seed(0))
    return replace(target.model(VP(), "v"), moments=(x.mean(0), x.std(0))), x


@pytest.mark.parametrize(("scale", "shift"), [(3.0, 0.0), (1.0, 2.0), (7.0, -3.0), (0.1, 0.0)])
def test_the_scale_of_the_models_moments_is_named(scale, shift):
    model, x = narrow()
    assert said(model, x) == ""
    verdict = said(model, scale * x + shift)
    assert verdict.startswith("x are not what the network was trained on: it wants data of another scale")
    mended = eval(verdict.split("Write x = ")[1].split(";")[0], {"x": scale * x + shift})
    assert float((mended - x).abs().max()) < 1e-2  # four digits are written


def test_data_far_from_the_models_moments_are_named_where_no_scale_serves():
    model, x = narrow()
    verdict = said(model, x * torch.tensor([1.0, 30.0]))
    assert "x have mean" in verdict and "model.moments" in verdict and "untrained" not in verdict


def test_moments_that_are_wrong_accuse_nobody():
    model, x = narrow()
    for moments in ((0.0, 1.0), (5.0, 0.01), (torch.zeros(3), torch.ones(3))):
        assert said(replace(model, moments=moments), x) == ""


def test_a_network_of_standardised_columns_is_told_raw_ones():
    """The process reaches only some of the levels, and at those the network fails."""
    z, stretch = data(), torch.tensor([1.0, 100.0])
    model = replace(mixture().model(VP(), "v"), moments=None)
    verdict = said(model, z * stretch)
    assert "does not remove noise" in verdict and "columns of x have deviations from 1." in verdict
    verdict = said(model, z * stretch**2)
    assert "the noise of VP goes from" in verdict and "to 152, σ/α" in verdict


@pytest.mark.parametrize("scale", [0.003, 10.0, 300.0, 3000.0])
def test_data_large_or_small_are_no_mistake_of_a_network_that_knows_them(scale):
    """Although VP's noise reaches few of the levels at which it could be judged, or none."""
    target = mixture()
    target = targets.GaussianMixture(target.weights, scale * target.means, scale**2 * target.covariances)
    for process in (VP(), VE(), RectifiedFlow()):
        assert said(target.model(process, "v"), target.sample(256, torch.Generator().manual_seed(0))) == ""


def test_batch_norms_in_training_do_not_ignore_t():
    """t is the same in all of the batch, so they remove it."""

    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.net, self.steady = nn.BatchNorm1d(3), nn.Linear(3, 2), nn.LayerNorm(2)

        def forward(self, x, t):
            return self.steady(self.net(self.norm(torch.cat([x, t[:, None]], 1))))

    net = Normed()
    verdict = said(Model(net, VP()), data(16).float())
    assert verdict.endswith("depends on the batch around it; call net.eval() (in training mode: BatchNorm1d)")
    net.norm.eval()
    assert said(Model(net, VP()), data(16).float()) == ""


def test_layers_are_named_and_not_what_holds_them():
    class DropNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, x, t):
            return self.drop(x * t[:, None])

    assert said(Model(DropNet(), VP()), data(16)).endswith("(in training mode: Dropout)")


def test_tuples_are_told_of_the_adapter_which_takes_them():
    model = mixture().model(VP(), "v")
    pair: Any = lambda x, t: (model.net(x, t), None)  # noqa: E731
    assert "networks.Adapter(net, process), which takes tuples" in said(Model(pair, VP(), "v"), data())
    assert said(Model(networks.Adapter(pair, VP()), VP(), "v"), data()) == ""


def test_large_data_do_not_drown_the_time():
    net = lambda x, t: x + t[:, None]  # noqa: E731
    assert "ignores t" not in said(Model(net, VP()), 1e7 * torch.randn(8, 2))


def test_a_network_that_refuses_t_is_told_what_it_takes():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(1000, 1)
            self.table.weight.data = (torch.arange(1000.0)[:, None] + 1) / 1000

        def forward(self, x, t):
            return mixture().model(VP(), "noise").net(x, self.table(t)[:, 0].to(x))

    verdict = said(Model(Table(), VP(), "noise"), data().float())
    assert "cannot be called as net(x, t)" in verdict and 'Adapter(net, process, time="step")' in verdict
    check_model(Model(networks.Adapter(Table(), VP(), "step"), VP(), "noise"), data().float())


def test_guided_models_are_judged_by_behaviour_alone():
    model = mixture().model(VP(), "noise")
    hot = guidance.temperature(model, 0.2)
    assert said(hot, data()) == ""
    assert "predicts 5 times noise, not noise" in said(Model(lambda x, t: 5 * model.net(x, t), VP(), "noise"), data())


def test_the_network_inside_wrappers_must_hear_the_time():
    class Blind(nn.Module):
        def forward(self, x, t):
            return torch.tanh(x)

    for net in (networks.Scaled(Blind(), VE()), networks.Preconditioned(networks.Adapter(Blind(), VE()), VE())):
        assert "the Blind inside ignores t" in said(Model(net, VE(), "x0"), torch.randn(8, 2))


def test_wrong_arguments_are_refused():
    model = mixture().model(VP())
    for call, message in (
        (lambda: check_model(model.net, data()), "model must"),
        (lambda: check_model(model, data(3)), "at least four"),
        (lambda: check_model(model, data(), draws=10), "draws must be at least 32"),
        (lambda: check_model(model, data().long()), "x must"),
        (lambda: check_model(model, torch.zeros(8, 2)), "x must differ from sample to sample"),
        (lambda: check_model(model, data()[:1].expand(8, 2)), "x must differ from sample to sample"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            call()
