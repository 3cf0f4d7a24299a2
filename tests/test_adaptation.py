"""The Adams method of `log_prob` against the same method written plainly, and its pieces against their definitions."""

import math

import numpy as np
import pytest
import torch

from scoresde.adaptation import _integrals, _leading, integrate
from scoresde.density import gauss, within


def places(size, count, seed=0):
    """Descending places (size, count), as those of past steps are."""
    gaps = 0.05 + 0.1 * torch.rand(size, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 0.9 - gaps.cumsum(1)


# --- weights ---------------------------------------------------------------------------------------------------


def test_integrals_are_exact_for_polynomials_through_the_used_places():
    nodes, count = places(8, 8), torch.arange(1, 9)
    used = torch.arange(8) < count[:, None]
    a, b = nodes[:, 0], nodes[:, 0] + torch.linspace(-0.3, 0.2, 8, dtype=torch.float64)
    weights = _integrals(nodes, used, a, b)
    assert (weights[~used] == 0).all()
    for k in range(8):
        found, exact = (weights * nodes**k).sum(1), (b ** (k + 1) - a ** (k + 1)) / (k + 1)
        assert torch.allclose(found[count > k], exact[count > k], rtol=0, atol=1e-11)  # weights are below 1e4: rounding
    assert torch.allclose(weights[0], (b - a)[0] * torch.eye(8, dtype=torch.float64)[0], atol=1e-15)


def test_leading_is_the_difference_of_two_correctors():
    fresh = places(5, 8, seed=1)
    b, a = fresh[:, 0], fresh[:, 1]
    index = torch.arange(8)
    orders = torch.tensor([[2, 3, 4], [3, 4, 5], [6, 7, 8], [2, 2, 3], [7, 8, 8]])
    found = _leading(fresh, orders, a, b)
    for j in range(3):
        q = orders[:, j, None]
        apart = _integrals(fresh, index < q, a, b) - _integrals(fresh, index < q - 1, a, b)
        assert torch.allclose(found[:, j], apart, rtol=1e-7, atol=1e-14)


def test_gauss_is_exact_for_polynomials_and_so_are_the_coarser_rules():
    where, weights, coarser = gauss(12, 0.9, 0.2)
    for k in range(24):
        exact = (0.2 ** (k + 1) - 0.9 ** (k + 1)) / (k + 1)
        assert float(weights @ where**k) == pytest.approx(exact, rel=1e-13)
        for some, size in zip(coarser, (6, 3)):
            assert k >= size or float(some @ where**k) == pytest.approx(exact, rel=1e-12)
    assert [some.nonzero().flatten().tolist() for some in coarser] == [[0, 2, 4, 6, 8, 10], [1, 5, 9]]
    assert ((where > 0.2) & (where < 0.9)).all() and (where.diff() < 0).all()


# --- the method ------------------------------------------------------------------------------------------------


def polynomial(nodes, values, a, b):
    """∫ₐᵇ of the polynomial through values (k, N) at nodes."""
    nodes = np.asarray(nodes) - a
    powers = np.array([(b - a) ** (k + 1) / (k + 1) for k in range(len(nodes))])
    return np.linalg.solve(np.vander(nodes, increasing=True).T, powers) @ np.asarray(values)


def plainly(slopes, state, history, end, rate, dim, highest, budget, nodes=()):
    """What `integrate` says it does, for one sample, step by step. Also the places asked for."""
    history = list(history[:highest])
    start = place = history[0][0]
    state, way, order, step = np.array(state), np.sign(end - history[0][0]), min(len(history) + 1, highest), 1 / 40
    calls, error, asked, found = 0, 0.0, [], {}
    while place != end:
        left = abs(end - place)
        least = left / max(budget - calls, 1) / 8  # eight times shorter than the calls left allow
        length = max(step, least)
        ahead = calls / budget - 1 + left / abs(end - start) - 0.1
        allowed = rate * 10 ** (max(ahead, 0.0) / 0.1)
        length = left if length > 0.9 * left else length
        to = end if length == left else place + way * length
        past = [w for w, _ in history], [s for _, s in history]
        guess = state + polynomial(past[0][: order - 1], past[1][: order - 1], place, to)
        slope, score = slopes(guess, to)
        asked.append(to)
        new = ([to, *past[0]], [slope, *past[1]])

        def correct(q, upto, state=state, new=new, place=place):
            return state + polynomial(new[0][:q], new[1][:q], place, upto)

        def lost(q, to=to, correct=correct, score=score, known=len(past[0])):  # noqa: B008
            if q > known + 1:
                return math.inf
            apart = correct(q, to) - correct(q - 1, to)
            return abs(apart[:dim] @ score) + (abs(apart[dim:].mean()) if len(apart) > dim else 0.0)

        mine = lost(order)
        good = mine <= allowed * length or length <= 1.001 * least or length < 1e-9
        orders = [min(max(order + i, 2), highest) for i in (-1, 0, 1)]
        factors = [0.65 * (allowed * length / max(lost(q), 1e-300)) ** (1 / q) for q in orders]
        factors = factors if good else [min(factors[1], 0.9)] * 3
        best = int(np.argmax([f * (1.05 if i == 1 else 1.0) for i, f in enumerate(factors)]))
        calls += 1
        if good:
            for node in nodes:
                if (node - place) * way > 0 >= (node - to) * way:
                    found[node] = correct(order, node)
            state, error, place = correct(order, to), error + mine, to
            history = list(zip(*new))[:highest]
        factor = min(max(factors[best], 0.2), 2.0)
        step = min(2 ** (math.floor(8 * math.log2(length * factor)) / 8), 0.25)
        order = orders[best]
    return asked, state, history[0][1], error, calls, [found.get(node) for node in nodes]


def swing(frequency, strength):
    """Two coordinates and two estimates of the trace, whose slopes depend on place and state; a score of each."""

    def slopes(state, w):
        wave = math.sin(frequency * w) + w
        slope = np.array([wave, math.cos(3 * w), wave * w, w**2 - wave]) - 0.3 * state
        return strength * slope, np.array([1.0 + w, -0.5]) * strength

    return slopes


def together(each):
    """Slopes of a batch from those of its samples."""

    def slopes(state, w, rows):
        found = [each[r](s.numpy(), float(p)) for s, p, r in zip(state, w, rows.tolist())]
        slope, score = (np.stack(v) for v in zip(*found))
        asked = [[] for _ in each]
        for r, p in zip(rows.tolist(), w.tolist()):
            asked[r].append(p)
        slopes.asked = [old + new for old, new in zip(slopes.asked, asked)]
        return torch.tensor(slope), torch.tensor(score)

    slopes.asked = [[] for _ in each]
    return slopes


BATCH = [swing(3.0, 1.0), swing(25.0, 2.0), swing(0.5, 0.02)]
NODES = torch.tensor([0.25, 0.4, 0.41, 0.8], dtype=torch.float64)


@pytest.mark.parametrize("way", [(0.05, 0.95), (0.95, 0.05)], ids=["outwards", "inwards"])
@pytest.mark.parametrize(
    ("highest", "rate", "budget", "known"),
    [
        (2, 5e-2, 400, 1),
        (4, 1e-4, 400, 4),
        (8, 1e-6, 1000, 1),
        (8, 1e-3, 60, 4),
        (8, 1e-9, 20, 1),
        (3, 1e-12, 8, 4),
        (None, 1e-4, 300, 9),
    ],
)
def test_a_batch_takes_the_steps_of_the_method_written_plainly(way, highest, rate, budget, known):
    """Steps, orders, rejections and what a budget forces, of three samples that share nothing but the batch."""
    start, end = way
    rates = [rate, 3 * rate, rate]
    where = [start - (end - start) * 0.02 * i for i in range(known)]
    state = np.array([[0.1, -0.2, 0.0, 0.3], [1.0, 0.0, 0.0, 0.0], [0.0, 0.5, 0.1, 0.0]])
    history = [(w, torch.tensor(np.stack([f(s, w)[0] for f, s in zip(BATCH, state)]))) for w in where]
    slopes = together(BATCH)
    path = integrate(
        slopes, torch.tensor(state), history, end, torch.tensor(rates, dtype=torch.float64), dim=2, budget=budget,
        nodes=NODES,
        **({"highest": highest} if highest else {}),
    )  # fmt: skip
    for i, each in enumerate(BATCH):
        mine = [(w, s[i].numpy()) for w, s in history]
        asked, last, slope, error, calls, found = plainly(
            each, state[i], mine, end, rates[i], 2, highest or 8, budget, NODES.tolist()
        )
        # rounding, through weights of up to a thousand and steps that feed on one another
        assert slopes.asked[i] == pytest.approx(asked, rel=1e-12)
        assert path.calls[i] == calls and float(path.error[i]) == pytest.approx(error, rel=1e-4)
        for one, two in ((path.state[i], last), (path.slope[i], slope), (path.nodes[:, i], np.stack(found))):
            assert torch.allclose(one, torch.tensor(two), rtol=0, atol=1e-9)


def test_the_state_alone_is_carried_too():
    """Without columns for the trace, as between Gauss's nodes; a budget of each sample's own."""
    each = [lambda s, w: (np.array([math.exp(w)]), np.array([2.0])), lambda s, w: (np.array([1.0]), np.array([0.5]))]
    start, rates = torch.zeros(2, 1, dtype=torch.float64), torch.full((2,), 1e-6, dtype=torch.float64)
    slopes, budgets = together(each), torch.tensor([300, 5])
    history = [(0.0, torch.ones(2, 1, dtype=torch.float64))]
    path = integrate(slopes, start, history, 1.0, rates, dim=1, budget=budgets)
    assert path.state[:, 0].tolist() == pytest.approx([math.e - 1, 1.0], abs=1e-6) and path.nodes.shape == (0, 2, 1)
    for i in range(2):
        asked, last, *_ = plainly(each[i], [0.0], [(0.0, np.ones(1))], 1.0, 1e-6, 1, 8, budgets[i].item())
        assert slopes.asked[i] == pytest.approx(asked, rel=1e-12) and float(path.state[i]) == pytest.approx(*last)


def test_samples_that_missed_are_integrated_again_with_smaller_steps():
    """Half the tolerance is aimed at, by the error made; the others keep their path. At most three times."""
    tolerance, budget = 1e-4, 600
    start, history = torch.zeros(3, 4, dtype=torch.float64), [(0.0, torch.zeros(3, 4, dtype=torch.float64))]
    slopes = together(BATCH)
    path = within(tolerance, slopes, start, history, 1.0, 2, 8, budget, NODES)
    again = []
    for i, each in enumerate(BATCH):
        rate, calls, rounds = 4 * tolerance, 0, 0
        while True:
            _, last, slope, error, more, found = plainly(
                each, np.zeros(4), [(0.0, np.zeros(4))], 1.0, rate, 2, 8, budget - calls, NODES.tolist()
            )
            calls, rounds = calls + more, rounds + 1
            if error <= tolerance or 2 * calls >= budget or rounds == 4:
                break
            rate *= 0.5 * tolerance / error
        again.append(rounds)
        assert path.calls[i] == calls and float(path.error[i]) == pytest.approx(error, rel=1e-4)
        for one, two in ((path.state[i], last), (path.slope[i], slope), (path.nodes[:, i], np.stack(found))):
            assert torch.allclose(one, torch.tensor(two), rtol=0, atol=1e-9)
    assert max(again) > 1 == min(again), again
