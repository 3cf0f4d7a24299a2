"""Metrics of neighbours and classifiers, and networks of features: known answers."""

import sys
import types

import pytest
import torch
from scipy.stats import binom, norm

from scoresde import metrics
from scoresde.metrics import METRICS


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- precision and recall -------------------------------------------------------------------------------------------


def test_precision_and_recall_of_sets_with_known_answers():
    near, far = torch.arange(20.0)[:, None], 1000 + torch.arange(20.0)[:, None]
    both = torch.cat([near, far])
    assert metrics.precision(near + 0.5, both) == 1.0 and metrics.recall(near + 0.5, both) == 0.5  # a lost mode
    assert metrics.precision(both, near) == 0.5 and metrics.recall(both, near) == 1.0  # an invented one
    assert metrics.precision(near, near) == metrics.recall(near, near) == 1.0
    assert metrics.precision(near, far) == metrics.recall(near, far) == 0.0
    edge = torch.tensor([[19.0 + 5.0], [19.0 + 5.001]])  # the fifth neighbour of 19 is 14
    assert metrics.precision(edge, near) == 0.5
    assert metrics.precision(edge, near, k=4) == 0.0


def test_copies_lie_on_a_manifold_of_no_width():
    y = normal(4, 3).repeat_interleave(6, 0)  # five copies of each: the fifth neighbour is at distance 0
    assert metrics.precision(y[::6], y) == 1.0
    assert metrics.precision(y[::6] + 1e-3, y) == 0.0
    assert metrics.precision(y[::6] + 1e4, y + 1e4) == 1.0


def test_half_sets_have_their_own_neighbours(monkeypatch):
    from scoresde.metrics import neighbours

    seen = []
    monkeypatch.setattr(neighbours, "half_sampling", lambda value, *_: seen.append(value) or 0.0)
    x, y = normal(90, 3) * 1.3, normal(80, 3, seed=1)
    neighbours.precision_estimate(x, y, 200, torch.Generator(), k=3)
    for seed in range(5):
        source = torch.Generator().manual_seed(seed)
        i, j = torch.randperm(90, generator=source)[:45], torch.randperm(80, generator=source)[:40]
        assert seen[0](i, j) == metrics.precision(x[i], y[j], k=3)


# --- the classifier -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delta,dim,short", [(0.0, 2, 0.0), (1.0, 2, 0.03), (2.0, 2, 0.03), (2.0, 16, 0.06)])
def test_classifier_comes_near_the_bayes_accuracy(delta, dim, short):
    # held-out answers: at most chance above Φ(δ/2); below it by what 800 samples do not teach (`short`, in 2 and 16-D)
    x, y = normal(500, dim, seed=2), normal(500, dim, seed=3)
    x[:, 0] += delta
    value, error = METRICS["classifier_test"].estimate(x, y, 200, None)
    assert -short - 3 * error < value - norm.cdf(delta / 2) < 3 * error
    assert error < 0.03


def test_classifier_has_no_view_of_what_it_is_asked():
    # identical laws, many dimensions, few samples: training answers would be right, held-out ones are chance
    x, y = normal(40, 200), normal(40, 200, seed=1)
    value = metrics.classifier_test(x, y)
    low, high = binom.ppf([1e-4, 1 - 1e-4], 36, 0.5) / 36  # 80 answers with 2.25 times the variance
    assert low <= value <= high
    assert metrics.classifier_test(x, y, generator=torch.Generator().manual_seed(5)) != value
    assert metrics.classifier_test(x, y) == value


def test_classifier_sees_what_no_line_divides():
    x = 4 * torch.rand(2000, 2, generator=torch.Generator().manual_seed(0))
    odd = x.floor().sum(1) % 2 == 1
    assert metrics.classifier_test(x[odd], x[~odd]) > 0.7
    assert metrics.classifier_test(x[odd][:300], x[~odd][:900]) > 0.6  # 0.5 is chance whatever the sizes


# --- features -------------------------------------------------------------------------------------------------------


def digits():
    from sklearn.datasets import load_digits

    found = load_digits()
    return torch.tensor(found.images, dtype=torch.float32)[:, None], torch.tensor(found.target)


def test_features_of_digits():
    x, labels = digits()
    features = metrics.fit_features(x, labels)
    assert features.accuracy > 0.9 and features.chance < 0.2 and features.task == "label"
    assert float(features(x).var(0).mean()) == pytest.approx(1.0, rel=0.1)
    assert not any(p.requires_grad for p in features.parameters()) and not features.training
    with torch.no_grad():
        assert torch.equal(features(x[:3]), features(x[:1].expand(3, -1, -1, -1) * 0 + x[:3]))
    noisy = x[:800] + 2 * torch.randn(800, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    estimate = metrics.measure("frechet", noisy, x, features=features)
    assert estimate.interval()[0] > 2 * estimate.floor


def test_features_without_labels():
    x, _ = digits()
    features = metrics.fit_features(x)
    assert features.task == "cluster" and features.accuracy > 0.75 and features.chance < 0.3
    again = metrics.fit_features(x)
    assert torch.equal(features(x[:5]), again(x[:5])) and features.accuracy == again.accuracy


def test_accuracy_is_of_samples_that_were_held_out():
    x = normal(400, 30).float()
    labels = torch.randint(2, (400,), generator=torch.Generator().manual_seed(1))
    low, high = binom.ppf([1e-4, 1 - 1e-4], 80, 0.5) / 80
    features = metrics.fit_features(x, labels)
    assert low <= features.accuracy <= high
    seen = float((features.head(features(x) * features.unit).argmax(1) == labels).double().mean())
    assert seen > high, "training answers would be seen"


@pytest.mark.parametrize("shape", [(2,), (1, 50), (3, 9, 12), (1, 130, 70), (1, 10, 10, 10), (2, 2, 2, 2, 2)])
def test_features_of_any_shape(shape):
    x = torch.randn(60, *shape, generator=torch.Generator().manual_seed(0))
    features = metrics.fit_features(x, steps=3, width=5)
    assert features(x[:7]).shape == (7, 5) and 0 <= features.chance <= 1
    assert torch.isfinite(features(x.double())).all()


def test_inception_says_what_it_lacks(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(ImportError, match="pip install torchmetrics torch-fidelity"):
        metrics.inception_features()

    class Net(torch.nn.Module):
        def __init__(self, name, features, path):
            super().__init__()
            self.drawn = torch.rand(())

        def forward(self, x):
            assert x.dtype == torch.uint8 and x.shape[1] == 3
            return x.double().mean((2, 3)).float()

    fid = types.ModuleType("torchmetrics.image.fid")
    fid.NoTrainInceptionV3 = Net
    for name in ("torch_fidelity", "torchmetrics", "torchmetrics.image"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", fid)
    with pytest.raises(FileNotFoundError, match=r"6726825d\.pth"):
        metrics.inception_features(tmp_path / "none.pth")
    weights = tmp_path / "there.pth"
    weights.touch()
    state = torch.get_rng_state()
    features = metrics.inception_features(weights)
    assert torch.equal(state, torch.get_rng_state())
    x = torch.tensor([-1.0, 0.0, 1.0, 2.0])[:, None, None, None].expand(4, 1, 5, 5)
    assert features(x)[:, 0].tolist() == [0.0, 128.0, 255.0, 255.0]
