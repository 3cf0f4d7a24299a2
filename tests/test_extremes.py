"""What holds for which part at the edges, all of it tried; docs/holds.md is the table of what these tests find.

python -m tests.test_extremes > docs/holds.md
"""

import copy
import pickle
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from scoresde import PREDICTIONS, VP, Model, bits_per_dim, elbo, log_prob, networks, training, vlb
from tests import extremes
from tests.extremes import ANY_DIMENSION, NOISE, PARTS, STEPS, Each, Probe, X, ends
from tests.holds import HEAD, JUDGED, determinism, listed, wrapped
from tests.problems import mixture
from tests.test_determinism import ANSWERS, MAY_DIFFER

MANY = 10**6


def distance(a, b):
    """The largest difference, relative to the size of the answers."""
    a, b = a.double(), b.double()
    return float((a - b).abs().max() / (1 + b.abs().max())) if a.numel() else 0.0


# --- rows: each says how far a probe's answer is from the one it should be ----------------------------------------


def both_ends(probe, column):
    """At t = 0 and t_max: finite numbers, or a refusal that says where."""
    for answer in ends(column, probe.part):
        try:
            assert bool(torch.isfinite(answer()).all())
        except ValueError as error:
            assert re.search(r"\bt\b", str(error)), error
    return 0.0


def in_dtype(dtype):
    """The answer in another dtype is that of float64, in units of the dtype's rounding."""

    def check(probe, column):
        answer = probe(X.to(dtype))
        assert answer.dtype == dtype
        return distance(answer, probe(X)) / torch.finfo(dtype).eps

    return check


def double(probe, column):
    answer = probe(X)
    assert answer.dtype == torch.float64 and bool(torch.isfinite(answer).all())
    return 0.0


def of_dimension(many):
    """So many equal entries have the answer that two of them have; a network's is of the shape, and finite."""

    def check(probe, column):
        x = X[:1, :1].float()
        answer = probe(x.repeat(1, many))
        assert bool(torch.isfinite(answer).all())
        if column == "networks":
            assert answer.shape == (1, many)
            return 0.0
        return distance(answer[..., :1], probe(x.repeat(1, 2))[..., :1]) / torch.finfo(torch.float32).eps

    return check


def batch_zero(probe, column):
    answer, some = probe(X[:0]), probe(X)
    assert answer.shape == (0, *some.shape[1:]) and answer.dtype == X.dtype
    return 0.0


def batch_one(probe, column):
    return distance(probe(X[:1]), probe(X)[:1])


def strided(probe, column):
    turned, spaced = X.T.contiguous().T, torch.stack([X, NOISE], 2)[..., 0]
    assert not turned.is_contiguous() and not spaced.is_contiguous()
    return max(distance(probe(turned), probe(X)), distance(probe(spaced), probe(X)))


def expanded(probe, column):
    return distance(probe(X[:1].expand(3, 2)), probe(X[:1].repeat(3, 1)))


def gradient(probe, column):
    """Along one direction, against a difference quotient."""
    x = X.clone().requires_grad_()
    weights = torch.linspace(0.5, 1.5, probe(X).numel(), dtype=X.dtype)
    (found,) = torch.autograd.grad(probe(x).flatten() @ weights, x)
    up, down = (float(probe(X + h * NOISE).flatten() @ weights) for h in (1e-6, -1e-6))
    slope = float((found * NOISE).sum())
    return abs(slope - (up - down) / 2e-6) / (1 + abs(slope))


def inference(probe, column):
    with torch.inference_mode():
        return distance(probe(X.clone()), probe(X))


def compiled(probe, column):
    torch._dynamo.reset()
    with torch.no_grad():
        return distance(torch.compile(lambda x: probe(x), fullgraph=True, backend="eager")(X), probe(X))


def mapped(probe, column):
    answers = torch.func.vmap(lambda x: probe(x[None])[0])(X)
    return distance(answers, torch.cat([probe(x[None]) for x in X]))


def pickled(probe, column):
    return distance(probe.ask(pickle.loads(pickle.dumps(probe.part)), X), probe(X))


def copied(probe, column):
    return distance(probe.ask(copy.deepcopy(probe.part), X), probe(X))


def in_threads(probe, column):
    """Eight at once, each with states of its own, to the last bit."""
    states = [X + 0.1 * k for k in range(8)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(probe, states))
    assert all(torch.equal(one, probe(x)) for one, x in zip(together, states))
    return 0.0


COMPILED = {part: probes for part, probes in PARTS.items() if part not in ("solve", "likelihoods", "targets")}
COMPILED["samplers"] = STEPS
ROWS = {
    # what: (check, the largest distance it may find, probes)
    "t = 0 and t_max": (both_ends, 0, PARTS),
    "float16": (in_dtype(torch.float16), 64, PARTS),
    "bfloat16": (in_dtype(torch.bfloat16), 64, PARTS),
    "float32": (in_dtype(torch.float32), 64, PARTS),
    "float64": (double, 0, PARTS),
    "D = 1": (of_dimension(1), 16, ANY_DIMENSION),
    "D = 1,000,000": (of_dimension(MANY), 64, ANY_DIMENSION),
    "batch of 0": (batch_zero, 0, PARTS),
    "batch of 1": (batch_one, 1e-12, PARTS),
    "not contiguous": (strided, 1e-12, PARTS),
    "expanded": (expanded, 1e-12, PARTS),
    "requires_grad": (gradient, 1e-6, PARTS),
    "inference_mode": (inference, 1e-12, PARTS),
    "torch.compile": (compiled, 1e-12, COMPILED),
    "vmap": (mapped, 1e-12, PARTS),
    "pickle": (pickled, 0, PARTS),
    "deepcopy": (copied, 0, PARTS),
    "8 threads": (in_threads, 0, PARTS),
}
CELLS = [(row, part) for row, (_, _, parts) in ROWS.items() for part in parts]
SLOW = ("torch.compile", "8 threads", "D = 1,000,000")

DOPRI5, RK4 = "ODE(rtol=0.01, atol=0.01)", "ODE('rk4')"
EXCEPT = {
    # (row, part): {reason: the probes for which the row does not hold}
    ("D = 1,000,000", "targets"): {"covariance": ["GaussianMixture"]},
    ("batch of 1", "samplers"): {"shared steps": [DOPRI5]},
    ("batch of 1", "solve"): {"shared steps": ["dopri5"]},
    ("batch of 1", "likelihoods"): {"draws": ["elbo"]},
    ("requires_grad", "samplers"): {"steps": ["Adaptive", DOPRI5]},
    ("requires_grad", "solve"): {"steps": ["dopri5"]},
    ("requires_grad", "likelihoods"): {"control variate": ["elbo"]},
    ("torch.compile", "guidance"): {"values": ["classifier"]},
    ("torch.compile", "samplers"): {"values": ["Adaptive"], "packages": [DOPRI5, RK4, "SDE"]},
    ("vmap", "samplers"): {"values": ["Adaptive"], "packages": [DOPRI5, RK4, "SDE"]},
    ("vmap", "solve"): {"packages": list(PARTS["solve"])},
    ("vmap", "likelihoods"): {"vmap inside": ["log_prob"], "draws": ["elbo"]},
}
WHY = {
    "covariance": "covariances (D, D) and their axes are kept, for D of some thousands. `Empirical` has a density at "
    "any D, but its `model` wants the covariance too.",
    "shared steps": "torchdiffeq's adaptive methods choose steps for the whole batch: a sample alone has the same "
    "answer within the tolerance. `Adaptive` and `log_prob` give each sample steps of its own.",
    "draws": "times and noise are drawn for the whole batch, from one generator.",
    "steps": "the gradient is that of the steps taken, which move with x themselves: right within the tolerance.",
    "control variate": "the share of its control variate is held fixed: the gradient is right in the mean.",
    "values": "which step comes next, or how many classes there are, depends on the values of tensors.",
    "packages": "the loops of torchdiffeq and torchsde can be neither traced nor mapped: compile the network instead.",
    "vmap inside": "it maps Jacobian products itself, and takes a batch as it is.",
}


def faults(row, part):
    """The probes of a cell for which the row does not hold, and how."""
    check, limit, parts = ROWS[row]
    found = {}
    for name, probe in parts[part].items():
        try:
            far = check(probe, part)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {str(error)[:300]}"
        else:
            if not far <= limit:
                found[name] = f"off by {far:.2g}, beyond {limit:g}"
    return found


@pytest.mark.parametrize(
    ("row", "part"),
    [
        pytest.param(*cell, marks=[pytest.mark.slow] * (cell[0] in SLOW), id=" ".join(cell))
        for cell in sorted(CELLS, key=lambda cell: cell[0] != "torch.compile")  # slow once a process knows many times
    ],
)
def test_what_is_said_to_hold_does_and_nothing_else(row, part):
    found = faults(row, part)
    assert set(found) == {name for names in EXCEPT.get((row, part), {}).values() for name in names}, found


# --- the page -----------------------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[1] / "docs" / "holds.md"


def cell(row, part):
    if (row, part) not in CELLS:
        return "–"
    excepted = EXCEPT.get((row, part), {})
    notes = ", ".join(f"[{list(WHY).index(reason) + 1}]" for reason in excepted)
    every = sum(map(len, excepted.values())) == len(ROWS[row][2][part])
    return f"no {notes}" if every else f"but {notes}" if excepted else "yes"


def note(i, reason):
    """Why some cells say other than yes, and for which parts."""
    found = {}
    for (_, part), excepted in EXCEPT.items():
        found.setdefault(part, {}).update(dict.fromkeys(excepted.get(reason, [])))
    every = {part: len(names) == len(PARTS[part]) for part, names in found.items()}
    parts = [f"{part} {'(all)' if every[part] else listed(names)}" for part, names in found.items() if names]
    return wrapped(f"{i}. {'; '.join(parts)}: {WHY[reason]}", "   ")


def page():
    """docs/holds.md, as the tables above say."""
    return "\n".join([
        HEAD, f"| | {' | '.join(PARTS)} |", "|---" * (len(PARTS) + 1) + "|",
        *(f"| {row} | {' | '.join(cell(row, part) for part in PARTS)} |" for row in ROWS), "",
        *(note(i, reason) for i, reason in enumerate(WHY, 1)), "", JUDGED,
        *(wrapped(f"- {part}: {listed(probes)}", "  ") for part, probes in PARTS.items()), "",
        determinism(ANSWERS, MAY_DIFFER),
    ])  # fmt: skip


def test_the_page_is_what_the_tables_say():
    assert PAGE.read_text() == page(), "write it again: python -m tests.test_extremes > docs/holds.md"


def test_a_planted_fault_is_found():
    """In each check that compares: a part that forgets its batch's order, its dtype, its gradient or its threads."""
    plants = {
        "float16": Probe(None, lambda _, x: x.double()),
        "float32": Probe(None, lambda _, x: x + 1e-4 * (x.dtype == torch.float32)),
        "batch of 0": Probe(None, lambda _, x: x + x.mean() if len(x) else x.sum()),
        "batch of 1": Probe(None, lambda _, x: x - x.mean(0)),
        "not contiguous": Probe(None, lambda _, x: torch.as_strided(x, x.shape, (x.shape[1], 1))),
        "expanded": Probe(None, lambda _, x: x + x.stride(0)),
        "requires_grad": Probe(None, lambda _, x: x * x.detach()),
        "pickle": Probe(threading.Lock(), lambda lock, x: x),
        "torch.compile": Probe(None, lambda _, x: x * float(x.sum() > 0) if bool(x.sum() > 0) else x),
        "vmap": Probe(None, lambda _, x: x if bool(x.sum() > 0) else 2 * x),
    }
    for row, probe in plants.items():
        check, limit, _ = ROWS[row]
        try:
            far = check(probe, "models")
        except Exception:
            continue
        assert not far <= limit, row


def test_results_are_copied_to_the_bit():
    """What calls answer with survives a pickle and a deepcopy: every tensor and number in it."""
    from scoresde import ddpm, fit, metrics
    from scoresde.training import loss_by_logsnr

    model, levels = extremes.MODEL, torch.tensor([[0, 3], [1, 2]])
    trained = Model(networks.MLP(2, 8, 1, 8), VP(), "v")
    results = [
        log_prob(model, X, 10), elbo(model, X, 4), bits_per_dim(model, levels, 4, steps=5),
        vlb(mixture().model(ddpm(30)), levels, 4, 2), metrics.measure("mmd", X.repeat(9, 1), X.repeat(9, 1) + 0.1),
        loss_by_logsnr(model, X, 2, 10), next(fit(trained, X.float().repeat(9, 1), 1, batch_size=8)),
    ]  # fmt: skip
    for result in results:
        for copied in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result)):
            for name, value in vars(result).items():
                other = getattr(copied, name)
                same = torch.equal(other, value) if isinstance(value, torch.Tensor) else repr(other) == repr(value)
                assert same, (result, name)


def test_closures_have_no_pickle_but_copies():
    for made in (training.log_normal(), Model(Each(), VP(), PREDICTIONS["v"])):
        copy.deepcopy(made)
        with pytest.raises((AttributeError, pickle.PicklingError)):
            pickle.dumps(made)


if __name__ == "__main__":
    print(page(), end="")
