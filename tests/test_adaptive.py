"""Adaptive: the exact flow on a line, tolerances, each sample for itself, budgets, the pairs' order conditions."""

import math
import warnings
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from scoresde import EDM, VE, VP, Count, Model, RectifiedFlow, encode, grids, sample, targets
from scoresde.flow import Flow
from scoresde.samplers import ODE, Adaptive, Unfinished
from scoresde.samplers.adaptive import PAIRS
from tests.problems import MAIN, exact_flow, gaussian, mixture, name, slope

TIGHT = Adaptive(1e-11, 1e-11, budget=3000)  # what is wrong would creep on for ever


def line():
    """Three unequal modes on a line, where the flow is known: it keeps every sample's rank."""
    return targets.GaussianMixture(
        torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64), [[-1.5], [0.2], [1.3]], [0.04, 0.15, 0.02]
    )


def rank(target, x):
    deviation = target.variances[:, 0].sqrt()
    return torch.special.ndtr((x - target.means[:, 0]) / deviation) @ target.weights


def transported(target, process, x):
    """The exact end of the flow from x at t_max: the point of the same rank at t = 0, by bisection."""
    goal, last = rank(target.marginal(process, process.t_max), x), target.marginal(process, 0.0)
    low, high = torch.full_like(x, -9), torch.full_like(x, 9)
    for _ in range(70):
        middle = (low + high) / 2
        below = (rank(last, middle) < goal)[:, None]
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return low


def starts(model, n, dim, seed=0):
    z = torch.randn(n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return Flow.of(model, z).back(z, model.process.t_max)


# --- accuracy --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", MAIN, ids=name)
@pytest.mark.parametrize("prediction", ["v", "x0"])
def test_it_follows_the_exact_flow_to_nine_digits(process, prediction):
    """Both ways, between t_max and t = 0. A sample's rank is kept, so that the answer is known without any solver."""
    target = line()
    model = target.model(process, prediction)
    last = target.marginal(process, 0.0)
    goal = last.sample(40, torch.Generator().manual_seed(3))
    x, _ = TIGHT.step(model, goal, 0.0, process.t_max, None, None)
    assert (rank(target.marginal(process, process.t_max), x) - rank(last, goal)).abs().max() < 1e-9
    end, _ = TIGHT.step(model, x, process.t_max, 0.0, None, None)
    assert (end - transported(target, process, x)).abs().max() < 2e-9


@pytest.mark.parametrize("order", [3, 5])
def test_errors_fall_with_the_tolerance(order):
    model, target = line().model(VP()), line()
    x = starts(model, 64, 1)
    exact, tolerances = transported(target, VP(), x), [1e-4, 1e-6, 1e-8]
    errors = [
        float((sample(model, x=x, sampler=Adaptive(tol, tol, order)) - exact).square().mean().sqrt())
        for tol in tolerances
    ]
    for tol, error in zip(tolerances, errors):
        assert 0.02 * tol < error < 20 * tol
    assert 0.85 < slope(errors, [1 / tol for tol in tolerances]) < 1.3  # error proportional to tolerance


def test_fewer_calls_than_dopri5_over_the_batch_at_equal_errors():
    """Calls of the network for the whole batch, at tolerances that give the same median error or a smaller one."""
    for process in (VP(), EDM(), RectifiedFlow()):
        model = mixture().model(process, "v")
        x = starts(model, 64, 2)
        exact, found = sample(model, x=x, sampler=Adaptive(1e-10, 1e-10)), []
        for sampler in (Adaptive(1e-7, 1e-7), ODE(rtol=1e-7, atol=1e-7)):
            count = Count()
            end = sample(model.wrap(count), x=x, sampler=sampler)
            found.append((count.calls, float((end - exact).norm(dim=1).median())))
        (calls, error), (theirs, their_error) = found
        assert calls < 0.85 * theirs and error < 1.3 * their_error, process


def test_it_needs_no_moments():
    """Without them the slope at pure noise is not zero: it is (m − x₀) over the reach of the angle."""
    for process in (RectifiedFlow(), VP()):
        model = line().model(process, "v")
        x = starts(model, 40, 1)
        end, _ = TIGHT.step(replace(model, moments=None), x, process.t_max, 0.0, None, None)
        assert (end - transported(line(), process, x)).abs().max() < 5e-9


def test_gaussians_take_few_steps():
    """The slope is zero; the step grows by its largest factor from a cautious first one."""
    for process in MAIN:
        count, model = Count(), gaussian().model(process, "v")
        x = starts(model, 5, 2)
        end, _ = Adaptive().step(model.wrap(count), x, process.t_max, 0.0, None, None)
        assert count.calls <= 19
        assert (end - exact_flow(gaussian(), process, x, process.t_max, 0.0)).abs().max() < 1e-9


# --- each sample for itself ------------------------------------------------------------------------------------


def test_a_sample_is_the_same_alone_and_in_any_batch():
    """A hard sample, on the watershed of two modes, among 255 others: the same steps, and the same end."""
    model = line().model(VP(), "v")
    x = starts(model, 256, 1)
    edge = encode(model, torch.tensor([[-0.75]], dtype=torch.float64), TIGHT)
    x[17] = edge[0]
    sampler = Adaptive(1e-6, 1e-6)
    whole, track = sampler.step(model, x, 1.0, 0.0, None, None)
    assert track.calls[17] > 1.2 * track.calls.double().mean()
    for i in (17, 0, 255):
        alone, own = sampler.step(model, x[i : i + 1], 1.0, 0.0, None, None)
        assert (alone[0] - whole[i]).abs().max() < 1e-12
        assert own.calls == track.calls[i] and own.accepted == track.accepted[i] and own.rejected == track.rejected[i]
    coupled = ODE(rtol=1e-6, atol=1e-6)
    apart = sample(model, x=x[:1], sampler=coupled) - sample(model, x=x, sampler=coupled)[:1]
    assert apart.abs().max() > 1e-9  # the test can fail: torchdiffeq's steps are the batch's


def test_finished_samples_leave_the_batch():
    """The network sees each sample as often as its own track says, and no more."""
    seen = []

    def watch(model, x, t):
        seen.append(len(x))
        return model(x, t)

    model = mixture().model(VP())
    x = starts(model, 50, 2)
    _, track = Adaptive().step(model.wrap(watch), x, 1.0, 0.0, None, None)
    assert sum(seen) == int(track.calls.sum()) and len(seen) == int(track.calls.max())
    assert seen[-1] < len(x)
    assert torch.equal(track.calls, 1 + 6 * (track.accepted + track.rejected))


def test_conditions_of_single_samples_stay_with_them():
    """A network that shifts each sample by its own label: with the label given, the batch is kept whole."""
    model = mixture().model(VP(), "v")

    def labelled(inner, x, t, label):
        assert label.shape == (len(x),)
        return inner(x, t) + 0.1 * label[:, None] * x

    labels = torch.linspace(-1, 1, 6, dtype=torch.float64)
    net = model.wrap(labelled)
    x = starts(model, 6, 2)
    whole = sample(net.given(label=labels), x=x, sampler=Adaptive())
    for i in range(6):
        alone = sample(net.given(label=labels[i : i + 1]), x=x[i : i + 1], sampler=Adaptive())
        assert (whole[i] - alone[0]).abs().max() < 1e-12


# --- budgets ---------------------------------------------------------------------------------------------------


def test_a_budget_returns_what_it_has_and_says_so():
    model = mixture().model(VP())
    x = starts(model, 40, 2)
    free, track = Adaptive().step(model, x, 1.0, 0.0, None, None)
    budget, errors = int(track.calls.median()), []
    slow = track.calls > budget
    assert 0 < int(slow.sum()) < 40
    with pytest.warns(Unfinished, match=rf"{int(slow.sum())} of 40 samples used up their budget of {budget} calls"):
        got, spent = Adaptive(budget=budget).step(model, x, 1.0, 0.0, None, None)
    assert torch.equal(spent.spent, slow) and int(spent.calls.max()) <= budget
    assert torch.equal(got[~slow], free[~slow])
    for budget in (2, 7, 13, 19, 25, 31, 61):
        count = Count()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Unfinished)
            end = sample(model.wrap(count), x=x, sampler=Adaptive(budget=budget))
        assert count.calls <= budget
        errors.append(float((end - free).norm(dim=1).mean()))
    assert errors[0] < 1.5 and errors[3] < 0.5 * errors[0] and errors[5] < 0.4 * errors[3]


def test_no_warning_within_the_budget():
    model = mixture().model(VP())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample(model, (20, 2), Adaptive(budget=400), seeds=range(20))


def test_a_budget_of_two_calls_is_exact_for_gaussians():
    model = gaussian().model(VP())
    x = starts(model, 5, 2)
    with pytest.warns(Unfinished):
        end = sample(model, x=x, sampler=Adaptive(budget=2))
    assert (end - sample(model, x=x, sampler=TIGHT)).abs().max() < 1e-9


# --- both directions, grids, other states ----------------------------------------------------------------------


@pytest.mark.parametrize("process", MAIN, ids=name)
def test_there_and_back(process):
    model, x = mixture().model(process, "v"), mixture().sample(20, torch.Generator().manual_seed(1))
    sampler = Adaptive(1e-10, 1e-10)
    limit = 1e-5 if isinstance(process, VE) else 1e-6  # its data lie beyond σ(0) = 0.01, a last call away
    assert (sample(model, x=encode(model, x, sampler), sampler=sampler) - x).abs().max() < limit


def test_a_grid_says_where_to_look_and_changes_nothing():
    model = mixture().model(VP(), "v")
    x, sampler = starts(model, 8, 2), Adaptive(1e-9, 1e-9)
    path = sample(model, x=x, sampler=sampler, steps=7, grid=grids.logsnr, trajectory=True)
    for t, state in list(zip(grids.logsnr(VP(), 7).tolist(), path))[1:]:
        assert (sample(model, x=x, sampler=sampler, grid=[1.0, t]) - state).abs().max() < 2e-7
    assert (path[-1] - sample(model, x=x, sampler=sampler)).abs().max() < 2e-7
    short = [1.0, 0.5, VP().t_min / 3, 0.0]  # a stop below the least time at which the network is asked otherwise
    assert (sample(model, x=x, sampler=sampler, grid=short) - path[-1]).abs().max() < 2e-7


def test_images_floats_constant_pixels_and_gradients():
    data = torch.rand(50, 3, 3, generator=torch.Generator().manual_seed(0))
    data[:, 0] = 0.5
    model = replace(targets.Empirical(data, 0.1).model(VP(), "v"), moments=(data.mean(0), data.std(0)))
    x = torch.randn(4, 3, 3)
    end = sample(model, x=x, sampler=Adaptive(1e-3, 1e-3))
    assert end.shape == x.shape and end.dtype == torch.float32
    wide = sample(model, x=x.double(), sampler=Adaptive(1e-9, 1e-9))
    assert (end - wide).abs().max() < 0.02
    smooth = gaussian().model(VP(), "v")
    start = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(sample(replace(smooth, moments=None), x=start, sampler=TIGHT)[:, 0].sum(), start)
    moved = start.detach() + 1e-6 * torch.tensor([1.0, 0.0], dtype=torch.float64)
    ends = [sample(replace(smooth, moments=None), x=x, sampler=TIGHT)[:, 0] for x in (moved, start.detach())]
    assert torch.allclose((ends[0] - ends[1]) / 1e-6, grad[:, 0], atol=1e-4)


# --- the pairs -------------------------------------------------------------------------------------------------


def trees(order):
    """Rooted trees of `order` nodes, as sorted tuples of their branches."""
    if order == 1:
        return [()]
    found = set()
    for tree in trees(order - 1):
        found |= set(grafted(tree))
    return sorted(found, key=repr)


def grafted(tree):
    """The trees with a leaf more."""
    yield tuple(sorted((*tree, ()), key=repr))
    for i, branch in enumerate(tree):
        for grown in grafted(branch):
            yield tuple(sorted((*tree[:i], grown, *tree[i + 1 :]), key=repr))


def size(tree):
    return 1 + sum(size(branch) for branch in tree)


def density(tree):
    return size(tree) * math.prod(density(branch) for branch in tree)


def stages(tree, matrix):
    """Φ of a tree at every stage."""
    values = [Fraction(1)] * (len(matrix))
    for branch in tree:
        inner = stages(branch, matrix)
        values = [v * sum((a * b for a, b in zip(row, inner)), Fraction(0)) for v, row in zip(values, matrix)]
    return values


@pytest.mark.parametrize("order", [3, 5])
def test_pairs_satisfy_their_order_conditions(order):
    """Butcher's Σ b_i Φ_i(τ) = 1/γ(τ) over all trees τ: the solution is of its order, the embedded one of one less."""
    pair = PAIRS[order]
    matrix = [(), *pair.matrix]
    exact = [[Fraction(a).limit_denominator(10**6) for a in row] for row in matrix]
    for node, row in zip(pair.nodes, exact[1:]):
        assert abs(float(sum(row)) - node) < 1e-14
    solution = [*exact[-1], Fraction(0)]
    embedded = [b - Fraction(e).limit_denominator(10**6) for b, e in zip(solution, pair.error)]
    counts = {1: 1, 2: 1, 3: 2, 4: 4, 5: 9, 6: 20}

    def holds(weights, tree):
        return sum(b * v for b, v in zip(weights, stages(tree, exact))) == Fraction(1, density(tree))

    for n in range(1, order + 2):
        assert len(trees(n)) == counts[n]
        assert all(holds(solution, tree) for tree in trees(n)) == (n <= order)
        assert all(holds(embedded, tree) for tree in trees(n)) == (n < order)


# --- refusals --------------------------------------------------------------------------------------------------


def test_refusals():
    for options, match in (
        ({"rtol": 0.0}, "rtol"), ({"atol": -1.0}, "atol"), ({"rtol": "small"}, "rtol"), ({"order": 4}, "3 or 5"),
        ({"budget": 1}, "at least 2"), ({"budget": 2.5}, "budget"),
    ):  # fmt: skip
        with pytest.raises((ValueError, TypeError), match=match):
            Adaptive(**options)


def test_a_network_that_breaks_down_is_named():
    def net(x, t):
        return torch.where((t < 0.3)[:, None], torch.nan, x)

    with pytest.raises(ValueError, match=r"cannot proceed at sigma/alpha = 1\..* sample 0 "):
        sample(Model(net, VP(), "v"), x=torch.ones(3, 2).double(), sampler=Adaptive())
