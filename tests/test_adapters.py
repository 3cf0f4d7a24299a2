"""Networks of other conventions as nets (x, t): what time they are given, their labels, and diffusers' as they are."""

import copy
import math
import pickle
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from scoresde import EDM, VP, Discrete, Model, RectifiedFlow, ddpm, log_prob, networks, sample
from scoresde.divergence import Probes
from scoresde.networks import Adapter
from scoresde.samplers import DDIM
from tests.problems import PROCESSES, name


class Spy(nn.Module):
    """Keeps what it was called with; answers with x, or what it was built with."""

    def __init__(self, answer=None):
        super().__init__()
        self.answer = answer

    def forward(self, x, time, **cond):
        self.time, self.cond = time, cond
        return x if self.answer is None else self.answer(x)


def told(process, time, t):
    """What a network of the convention `time` hears at t."""
    spy, t = Spy(), torch.as_tensor(t)
    Adapter(spy, process, time=time)(torch.zeros(len(t), 2, dtype=t.dtype), t)
    return spy.time


CHAIN = ddpm()
SHARES = torch.tensor([0.001, 0.2004, 0.5, 0.9999, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("process", [VP(), CHAIN, EDM(), RectifiedFlow()], ids=name)
def test_each_convention_hears_its_own_number(process):
    t = SHARES * process.t_max
    ratio = process.sigma(t) / process.alpha(t)
    log_ratio = ratio.log().clamp(-20, 20)  # RectifiedFlow has no data left at its end
    heard = {time: told(process, time, t) for time in networks.TIMES}
    assert torch.equal(heard["t"], t)
    assert torch.allclose(heard["index"], 1000 * SHARES - 1, rtol=0, atol=1e-10)
    assert heard["step"].dtype == torch.int64 and heard["step"].tolist() == [0, 199, 499, 999, 999]
    assert torch.allclose(heard["logsnr"], -2 * log_ratio, rtol=1e-9)
    assert torch.allclose(heard["log_sigma"], log_ratio, rtol=1e-9)
    assert torch.allclose(heard["c_noise"], log_ratio / 4, rtol=1e-9)
    if isinstance(process, EDM):  # where σ/α is the time
        assert torch.allclose(heard["c_noise"], t.log() / 4, rtol=1e-12)
    assert all(number.shape == t.shape for number in heard.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("chain", [CHAIN, Discrete([0.1, 0.2, 0.3]), ddpm(777)], ids=name)
def test_a_chains_index_is_whole_at_its_own_times_and_moves_between(chain, dtype):
    index = torch.arange(chain.steps)
    t = ((index + 1).double() / chain.steps).to(dtype)
    for time in ("index", "step"):
        assert torch.equal(told(chain, time, t), index if time == "step" else index.to(dtype))
        assert torch.equal(told(chain, time, t).long(), chain.index(t))
    between = ((index[:-1].double() + 1.25) / chain.steps).to(dtype)
    assert torch.allclose(told(chain, "index", between), (index[:-1] + 0.25).to(dtype), rtol=1e-6)
    assert torch.equal(told(chain, "step", between), chain.index(between))
    assert told(chain, "index", torch.zeros(1, dtype=dtype)).item() == 0  # nothing lies before the first


@pytest.mark.parametrize("process", PROCESSES, ids=name)
@pytest.mark.parametrize("time", networks.TIMES)
def test_numbers_are_finite_at_both_ends(process, time):
    heard = told(process, time, torch.tensor([0.0, process.t_max], dtype=torch.float64))
    assert bool(torch.isfinite(heard).all())
    assert time == "t" or bool((heard.abs() <= 1000).all())


def test_a_convention_of_your_own_is_one_line(monkeypatch):
    monkeypatch.setitem(networks.TIMES, "thousandths", lambda process, t: 1000 * t)
    assert torch.equal(told(RectifiedFlow(), "thousandths", torch.tensor([0.25])), torch.tensor([250.0]))


LABEL = torch.tensor([3, -1, 0])


@pytest.mark.parametrize(("settings", "cond", "wanted"), [
    ({"label": "y", "null": 9}, {"label": LABEL}, {"y": [3, 9, 0]}),
    ({"label": "y", "null": 9}, {}, {"y": [9, 9, 9]}),
    ({"label": "y", "null": 9}, {"label": None, "text": "a"}, {"y": [9, 9, 9], "text": "a"}),
    ({"label": "y", "null": 9}, {"label": torch.tensor(2)}, {"y": [2, 2, 2]}),
    ({"label": "y"}, {"label": LABEL.clamp_min(0)}, {"y": [3, 0, 0]}),
    ({"label": "y"}, {}, {}),
    ({}, {"label": LABEL, "text": "a"}, {"label": [3, -1, 0], "text": "a"}),
])  # fmt: skip
def test_labels_go_by_the_networks_own_name_and_null(settings, cond, wanted):
    spy = Spy()
    Adapter(spy, VP(), **settings)(torch.zeros(3, 2), torch.full((3,), 0.5), **cond)
    assert {k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in spy.cond.items()} == wanted


@pytest.mark.parametrize("answer", [
    lambda y: y, lambda y: SimpleNamespace(sample=y), lambda y: (y,), lambda y: [y, None], lambda y: y.bfloat16()
])  # fmt: skip
@pytest.mark.parametrize("doubled", [False, True])
def test_answers_of_every_kind_are_understood(answer, doubled):
    x = torch.arange(12.0).reshape(2, 3, 2)
    spy = Spy(lambda x: answer(torch.cat([x, 100 + x], 1) if doubled else x))
    y = Adapter(spy, VP())(x, torch.full((2,), 0.5))
    assert y.dtype == x.dtype and torch.equal(y, x)


T, X = torch.full((3,), 0.5), torch.zeros(3, 2)
REFUSED = {
    "time": (lambda: Adapter(Spy(), VP(), time="log_snr"), ValueError, "unknown time 'log_snr'.*Did you mean 'logsnr'"),
    "process": (lambda: Adapter(Spy(), "ddpm"), TypeError, "process must be a Process"),
    "net": (lambda: Adapter(3, VP()), TypeError, "net must be callable"),
    "null alone": (lambda: Adapter(Spy(), VP(), null=10), ValueError, 'write label="class_labels"'),
    "null": (lambda: Adapter(Spy(), VP(), label="y", null=-1), ValueError, "null"),
    "no null": (lambda: Adapter(Spy(), VP(), label="y")(X, T, label=LABEL), ValueError, "no null"),
    "label": (lambda: Adapter(Spy(), VP(), label="y")(X, T, label=X), TypeError, "label must be"),
    "answer": (lambda: Adapter(Spy(lambda x: "a"), VP())(X, T), TypeError, "answer with a tensor.*got str"),
    "no answer": (lambda: Adapter(Spy(lambda x: ()), VP())(X, T), TypeError, "answer with a tensor.*got tuple"),
    "time outside": (lambda: Adapter(Spy(), VP(), time="logsnr")(X, 2 * T + 1), ValueError, "t must lie in"),
}


@pytest.mark.parametrize("key", REFUSED)
def test_bad_input_is_named(key):
    call, error, words = REFUSED[key]
    with pytest.raises(error, match=words):
        call()


def test_an_adapter_is_recorded():
    net = Adapter(networks.MLP(2, width=8), ddpm(), time="index")
    twin = copy.deepcopy(net)
    assert twin.arguments["net"] is twin.net is not net.net and net.arguments["net"] is net.net
    assert pickle.loads(pickle.dumps(net)).arguments.keys() == {"net", "process", "time", "label", "null"}
    assert set(net.state_dict()) == {f"net.{key}" for key in net.net.state_dict()}
    assert type(net)(**net.arguments).time == "index"


@pytest.fixture(scope="module")
def diffusers():
    package = pytest.importorskip("diffusers")
    try:
        import torchvision  # noqa: F401
    except ImportError:
        pass
    except RuntimeError:  # built for another torch; diffusers does without it
        package.utils.import_utils._torchvision_available = False
    return package


@pytest.fixture(scope="module")
def unet(diffusers):
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=2, attention_head_dim=4, num_class_embeds=11,
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def dit(diffusers):
    torch.manual_seed(0)
    return diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=1, out_channels=2, num_layers=2, norm_num_groups=1,
        sample_size=8, patch_size=2, num_embeds_ada_norm=10,
    ).eval()  # fmt: skip


def test_diffusers_unet_is_what_it_is_when_called_by_hand(unet):
    net = Adapter(unet, CHAIN, time="index", label="class_labels", null=10)
    x, index, label = torch.randn(4, 1, 8, 8), torch.tensor([0, 7, 500, 999]), torch.tensor([2, -1, 0, 9])
    t = (index + 1) / 1000
    by_hand = unet(x, index, class_labels=torch.tensor([2, 10, 0, 9])).sample
    assert torch.equal(net(x, t, label=label), by_hand)
    assert torch.equal(net(x, t), unet(x, index, class_labels=torch.full((4,), 10)).sample)
    assert not torch.allclose(net(x, t), by_hand)


def test_diffusers_dit_is_what_it_is_when_called_by_hand(dit):
    net = Adapter(dit, CHAIN, time="index", label="class_labels", null=10)
    x, index, label = torch.randn(4, 1, 8, 8), torch.tensor([0, 7, 500, 999]), torch.tensor([2, -1, 0, 9])
    by_hand = dit(x, index, class_labels=torch.tensor([2, 10, 0, 9])).sample
    assert by_hand.shape == (4, 2, 8, 8)  # the second channel is a variance
    assert torch.equal(net(x, (index + 1) / 1000, label=label), by_hand[:, :1])


def test_diffusers_ddim_on_its_own_unet_is_ours(unet, diffusers):
    """The same path from the same noise, by diffusers' scheduler and by ours, to float32's rounding."""
    chain = diffusers.DDIMScheduler(
        num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=False,
        set_alpha_to_one=True, timestep_spacing="trailing",
    )  # fmt: skip
    chain.set_timesteps(10)
    x = start = torch.randn(2, 1, 8, 8)
    label = torch.tensor([3, 10])
    with torch.no_grad():
        for index in chain.timesteps:
            x = chain.step(unet(x, index, class_labels=label).sample, index, x).prev_sample
    model = Model(Adapter(unet, CHAIN, time="index", label="class_labels", null=10), CHAIN, "noise")
    grid = [*((chain.timesteps + 1).double() / 1000).tolist(), 0.0]
    ours = sample(model.given(label=torch.tensor([3, -1])), x=start, sampler=DDIM(), grid=torch.tensor(grid), steps=10)
    assert torch.allclose(ours, x, rtol=1e-4, atol=1e-4 * float(x.abs().max()))


@pytest.mark.parametrize("which", ["unet", "dit"])
def test_diffusers_networks_have_exact_divergences(which, request):
    """Their fused attention has no forward mode; the adapter puts the elementary one in its place meanwhile."""
    foreign = copy.deepcopy(request.getfixturevalue(which)).double()
    net = Adapter(foreign, CHAIN, time="index", label="class_labels", null=10)
    x, t = torch.randn(2, 1, 8, 8, dtype=torch.float64), torch.tensor([0.3, 0.3104], dtype=torch.float64)
    trace = Probes(64).of(lambda z: net(z.reshape(2, 1, 8, 8), t).flatten(1), x.flatten(1))[1][:, 0]
    jacobian = torch.func.jacrev(lambda z: net(z, t))(x).reshape(2, 64, 2, 64)
    assert torch.allclose(trace, torch.stack([jacobian[i, :, i].trace() for i in range(2)]), rtol=1e-8)


@pytest.mark.parametrize("which", ["unet", "dit"])
def test_gradients_of_divergences_of_diffusers_networks_are_right(which, request):
    """In every parameter, by reverse over forward, and by reverse over reverse; DiT's LayerNorm alone would fail it."""
    foreign = copy.deepcopy(request.getfixturevalue(which)).double()
    net = Adapter(foreign, CHAIN, time="index", label="class_labels", null=10)
    x, v = torch.randn(2, 2, 1, 8, 8, dtype=torch.float64)
    t = torch.tensor([0.3, 0.8], dtype=torch.float64)
    weights = {k: p.detach() + 0.1 * torch.randn_like(p) for k, p in net.named_parameters()}

    def call(weights, z):
        return torch.func.functional_call(net, weights, (z, t))

    def forwards(weights):
        return (v * torch.func.jvp(lambda z: call(weights, z), (x,), (v,))[1]).sum()

    def backwards(weights):
        return (torch.func.vjp(lambda z: call(weights, z), x)[1](v)[0] * v).sum()

    mixed, twice = (torch.func.grad(f)(weights) for f in (forwards, backwards))
    scale = max(float(g.abs().max()) for g in twice.values())
    assert scale > 0 and all(torch.allclose(mixed[k], twice[k], rtol=0, atol=1e-10 * scale) for k in weights)


def test_log_prob_and_training_pass_through_diffusers_unet(unet):
    foreign = copy.deepcopy(unet)
    net = networks.Preconditioned(Adapter(foreign, VP(), label="class_labels", null=10), VP(), 0.5)
    model, x = Model(net, VP(), "x0"), 0.5 * torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        foreign.conv_out.weight.zero_()
        foreign.conv_out.bias.zero_()
    exact = -0.5 * (x.flatten(1).square().sum(1) / 0.25 + 64 * math.log(2 * math.pi * 0.25))  # F = 0: N(0, ¼)
    assert torch.allclose(log_prob(model, x, divergence="hutchinson").value, exact, atol=2e-2)  # float32, 64 dimensions
    (x - model(x, torch.full((2,), 0.5))).square().mean().backward()
    assert float(foreign.conv_out.weight.grad.abs().sum()) > 0
