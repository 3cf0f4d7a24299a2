"""Averages against their sums written out, resume to the last bit, and averages made after the fact."""

import math

import pytest
import torch
from torch import nn

from scoresde import EMA
from scoresde.training.ema import PowerEMA, combination, exponent, post_hoc

STDS = (0.05, 0.10)


def small():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2, bias=False))


def wander(net, steps, seed=0):
    """The network's weights on a path with trend, oscillation and noise: yields the steps from 1."""
    generator = torch.Generator().manual_seed(seed)
    start = [p.detach().clone() for p in net.parameters()]
    walk = [torch.zeros_like(p) for p in start]
    for k in range(1, steps + 1):
        with torch.no_grad():
            for p, origin, step in zip(net.parameters(), start, walk):
                step += 0.01 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
                p.copy_(origin + math.sin(k / 150) + math.log(k) / 3 + step)
        yield k


def flat(state, net):
    return torch.cat([state[name].flatten() for name, _ in net.named_parameters()])


@pytest.mark.parametrize("warmup", [True, False])
def test_ema_is_the_sum_it_says(warmup):
    net = small().double()
    ema, history = EMA(net, 0.9, warmup), [flat(dict(net.named_parameters()), net).detach().clone()]
    decays = [min(0.9, k / (9 + k)) if warmup else 0.9 for k in range(1, 51)]
    for _ in wander(net, 50):
        ema.update(net)
        history.append(flat(dict(net.named_parameters()), net).detach().clone())
    weights = [math.prod(decays)] + [(1 - decays[k]) * math.prod(decays[k + 1 :]) for k in range(50)]
    known = sum(w * h for w, h in zip(weights, history))
    assert sum(weights) == pytest.approx(1.0, abs=1e-12)
    assert torch.allclose(flat(dict(ema.net.named_parameters()), net), known, rtol=1e-12)


def test_ema_is_that_of_single_tensors_and_copies_buffers():
    """The fused update gives the bits of a loop of lerp_, on weights of mixed dtype."""
    net = small()
    net[2].double()
    ema = EMA(net, 0.9)
    mine = [p.detach().clone() for p in net.parameters()]
    for k in wander(net, 20):
        net[1].running_mean.fill_(k)
        net[1].num_batches_tracked.fill_(k)
        ema.update(net)
        for own, other in zip(mine, net.parameters()):
            own.lerp_(other.detach(), 1 - min(0.9, k / (9 + k)))
    assert all(torch.equal(a, b) for a, b in zip(mine, ema.net.parameters()))
    assert ema.net[1].running_mean.eq(20).all() and int(ema.net[1].num_batches_tracked) == 20
    assert not ema.net.training and not any(p.requires_grad for p in ema.net.parameters())


def test_tied_weights_are_averaged_once():
    net = nn.ModuleList([nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)])
    net[1].weight = net[0].weight
    start, ema, power = net[0].weight.detach().clone(), EMA(net, 0.5, warmup=False), PowerEMA(net)
    with torch.no_grad():
        net[0].weight.zero_()
    ema.update(net)
    power.update(net)
    assert torch.allclose(ema.net[0].weight, start / 2) and ema.net[1].weight is ema.net[0].weight
    assert torch.equal(power.state()["1.weight"], net[0].weight) and torch.equal(
        power.state()["0.weight"], net[0].weight
    )


@pytest.mark.parametrize("kind", ["ema", "power"])
def test_resume_to_the_last_bit(kind):
    make = (lambda net: EMA(net, 0.99)) if kind == "ema" else (lambda net: PowerEMA(net, STDS))
    net = small()
    whole, first = make(net), make(net)
    for k in wander(net, 60):
        whole.update(net)
        if k <= 30:
            first.update(net)
            state = {name: torch.as_tensor(v).clone() for name, v in first.state_dict().items()}  # as from a file
            second = make(small())
            second.load_state_dict(state)
        else:
            second.update(net)
    one, two = whole.state_dict(), second.state_dict()
    assert one.keys() == two.keys()
    for name in one:
        assert isinstance(one[name], (torch.Tensor, int, float))
        assert torch.equal(torch.as_tensor(one[name]), torch.as_tensor(two[name])), name


@pytest.mark.parametrize("std", [0.01, 0.05, 0.10, 0.2, 0.28])
def test_the_profiles_width_is_the_one_asked_for(std):
    """Mean and standard deviation of a profile that averages k and k², relative to the step, to O(1/n²)."""
    net = nn.Linear(2, 1, bias=False).double()
    power, n = PowerEMA(net, (std,)), 4000
    for k in range(1, n + 1):
        with torch.no_grad():  # the means of τ and τ² over (k − 1, k]
            net.weight.copy_(torch.tensor([[k - 0.5, k * k - k + 1 / 3]], dtype=torch.float64))
        power.update(net)
    mean, square = (power.averages[0][0] / torch.tensor([n, n**2]))[0].tolist()
    gamma = exponent(std)
    assert mean == pytest.approx((gamma + 1) / (gamma + 2), abs=1e-5)
    assert math.sqrt(square - mean**2) == pytest.approx(std, rel=2e-4 / std / 10)
    assert std == pytest.approx(math.sqrt(gamma + 1) / ((gamma + 2) * math.sqrt(gamma + 3)), rel=1e-9)


def test_power_averages_are_the_sums_they_say():
    """Weights (k^{γ+1} − (k − 1)^{γ+1})/n^{γ+1}, whatever the network began as."""
    net = small().double()
    power, history = PowerEMA(net, STDS), []
    for k in wander(net, 100):
        net[1].running_mean.fill_(k)
        power.update(net)
        history.append(flat(dict(net.named_parameters()), net).detach().clone())
    for std in STDS:
        p = exponent(std) + 1
        known = sum(((k / 100) ** p - ((k - 1) / 100) ** p) * h for k, h in enumerate(history, 1))
        assert torch.allclose(flat(power.state(std), net), known, rtol=1e-11)
    net.load_state_dict(power.state())
    assert net[1].running_mean.eq(100).all()


def reconstruct(std, every, steps=2000, at=None, stds=STDS, seed=0):
    """The relative error of an average put together afterwards, beside one that was tracked."""
    net = nn.Linear(6, 5).double()
    power, truth, snapshots, plain = PowerEMA(net, stds), PowerEMA(net, (std,)), [], None
    for k in wander(net, steps, seed):
        power.update(net)
        truth.update(net)
        if k % every == 0:
            snapshots.append(power.snapshot())
        if k == (at or steps):
            plain, goal = flat(dict(net.named_parameters()), net).detach().clone(), flat(truth.state(), net)
    made = flat(post_hoc(snapshots, std, at), net)
    return float((made - goal).norm() / (plain - goal).norm())


@pytest.mark.parametrize("std", [0.03, 0.07, 0.15, 0.20])
def test_an_average_made_afterwards_is_the_tracked_one(std):
    """The error, relative to how far the average is from the last weights, falls with the number of snapshots."""
    errors = [reconstruct(std, every) for every in (500, 200, 80, 40)]
    assert errors[0] > errors[1] > errors[2] > errors[3]
    assert errors[2] < 2e-3 and errors[3] < 2e-4
    assert reconstruct(std, 40, at=1600) < 5e-4  # of an earlier step, from the snapshots up to it


def test_a_width_that_was_tracked_comes_back():
    for std in STDS:
        assert reconstruct(std, 100) < 1e-6


@pytest.mark.parametrize("plant", ["powers", "snapshots of another step"])
def test_planted_errors_are_seen(plant, monkeypatch):
    import scoresde.training.ema as module

    real = module.combination
    wrong = {
        "powers": lambda profiles, goal: real(profiles, (goal[0], 1.05 * goal[1])),
        "snapshots of another step": lambda profiles, goal: real([(n + 10, g) for n, g in profiles], goal),
    }[plant]
    monkeypatch.setattr(module, "combination", wrong)
    with pytest.raises(AssertionError):
        test_an_average_made_afterwards_is_the_tracked_one(0.15)


def test_weights_add_up_to_one_and_are_the_least_squares_ones():
    """Against a dense solution on a fine grid of τ."""
    profiles, target = [(n, exponent(s)) for n in (200, 400, 600, 800, 1000) for s in STDS], (1000, exponent(0.15))
    w = torch.from_numpy(combination(profiles, target))
    assert float(w.sum()) == pytest.approx(1.0, abs=1e-12)
    tau = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200

    def profile(n, gamma):
        return torch.where(tau < n, (gamma + 1) / n * (tau / n) ** gamma, 0.0)

    table = torch.stack([profile(*p) for p in profiles], 1)
    null = torch.linalg.svd(torch.ones(1, len(profiles), dtype=torch.float64)).Vh[1:].mT  # directions that keep Σ = 1
    start = torch.full((len(profiles),), 1 / len(profiles), dtype=torch.float64)
    rest = torch.linalg.lstsq(table @ null, (profile(*target) - table @ start)[:, None]).solution
    known = start + (null @ rest)[:, 0]
    assert torch.allclose(table @ w, table @ known, atol=1e-4 * float((table @ known).abs().max()))


def test_a_constant_comes_back_whatever_the_snapshots():
    net = nn.Linear(2, 1)
    power, snapshots = PowerEMA(net), []
    for k in range(1, 31):
        power.update(net)
        if k % 10 == 0:
            snapshots.append(power.snapshot())
    state = post_hoc(snapshots, 0.02, 25)
    assert torch.allclose(state["weight"], net.weight, rtol=1e-6)
    net.load_state_dict(state)


def test_sixteen_bits_do():
    """Snapshots in half precision, as one would keep them: an error of their own rounding, not of the solution."""
    net = nn.Linear(6, 5)
    power, truth, snapshots = PowerEMA(net), PowerEMA(net, (0.15,)), []
    for k in wander(net, 1000):
        power.update(net)
        truth.update(net)
        if k % 50 == 0:
            snapshot = power.snapshot()
            snapshots.append({n: v.half() if v.dtype == torch.float32 else v for n, v in snapshot.items()})
    made = post_hoc(snapshots, 0.15)
    assert made["weight"].dtype == torch.float16
    assert (made["weight"].float() - truth.state()["weight"]).abs().max() < 0.02


NET = nn.Linear(2, 1)
SHOT = {**PowerEMA(NET).snapshot(), "step": torch.tensor(5)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: EMA(3), "net must be"),
        (lambda: EMA(NET, 1.0), "decay must be"),
        (lambda: EMA(NET).update(nn.Linear(3, 1)), "shapes of the network followed"),
        (lambda: EMA(NET).update(3), "net must be"),
        (lambda: EMA(NET).load_state_dict({}), "no 'updates'"),
        (lambda: EMA(NET).load_state_dict({"updates": 1, "net.weight": torch.ones(1, 2)}), "does not fit"),
        (lambda: EMA(NET).load_state_dict({"updates": -1}), "updates must be"),
        (lambda: PowerEMA(NET, ()), "stds must hold"),
        (lambda: PowerEMA(NET, (0.3,)), "std must be a finite number in"),
        (lambda: PowerEMA(NET, (0.0,)), "std must be above 0"),
        (lambda: PowerEMA(NET).update(nn.Linear(3, 1)), "shapes of the network followed"),
        (lambda: PowerEMA(NET).state(0.07), "std must be one of"),
        (lambda: PowerEMA(NET).load_state_dict(PowerEMA(NET, (0.1,)).snapshot()), "of the widths"),
        (lambda: PowerEMA(nn.Linear(3, 1)).load_state_dict(SHOT), "shape of the network's"),
        (lambda: PowerEMA(NET).load_state_dict({"stds": SHOT["stds"]}), "state has no"),
        (lambda: post_hoc([], 0.1), "at least one"),
        (lambda: post_hoc([SHOT], 0.1, 3), "of step 1 to 3, got steps"),
        (lambda: post_hoc([SHOT], 0.5), "std must be"),
        (
            lambda: post_hoc([SHOT, {**PowerEMA(nn.Linear(3, 1)).snapshot(), "step": torch.tensor(7)}], 0.1),
            "shape of x",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
