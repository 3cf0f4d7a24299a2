"""What scoresde compare measures, and what it refuses."""

import json
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from scoresde import VP, sample, targets
from scoresde.cli import main
from scoresde.compare import cell, compare, report
from scoresde.compare import grid as compare_module
from scoresde.compare.problem import of_data, of_target
from scoresde.compare.row import flow_estimate
from scoresde.data import Data
from scoresde.data import load as load_data
from scoresde.metrics import METRICS, Metric, precision
from scoresde.samplers import DDIM, DDPM, DEIS, Adams, DPMSolverPP, Euler, Heun, Sampler
from tests.comparisons import MINE, SMALL, on_target


def test_a_comparison_is_a_folder(tmp_path, capsys):
    rows = on_target(tmp_path / "run")
    assert [(row.sampler, row.steps) for row in rows] == [
        ("Adams()", 4), ("Adams()", 8), ("DDPM()", 4), ("DDPM()", 8),
    ]  # fmt: skip
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names >= {"config.yaml", "environment.txt", "metrics.jsonl", "results.csv", "pareto.png", "report.html"}
    shown = capsys.readouterr().out
    assert "Adams()" in shown and "floor" in shown and "report.html" in shown
    assert "<script src" not in (tmp_path / "run" / "report.html").read_text()


def test_calls_are_those_of_the_network(tmp_path):
    """One fewer than steps for Adams at few steps; two a step, but for the last, for Heun."""
    rows = on_target(tmp_path, samplers=[Adams(), Heun(), DDPM()], steps=[8])
    assert [row.nfe for row in rows] == [7, 15, 8]


def test_bits_are_those_of_the_target(tmp_path):
    """The exact model's bits/dim are the density's own, to the tolerance of 40 steps, 1e-4 nats a dimension."""
    rows = on_target(tmp_path, bits=50)
    problem, target = of_target("gmm", 60, 50, 0, torch.device("cpu"))
    assert abs(rows[0].bits_per_dim - problem.least[0]) < 2e-4
    held = target.sample(50, torch.Generator().manual_seed(2**32 + 2)).double()
    each = -target.log_prob(held) / (2 * math.log(2))
    assert abs(problem.least[0] - float(each.mean())) < 1e-12
    assert abs(problem.least[1] - float(each.std()) / math.sqrt(50)) < 1e-12


def test_bits_of_raw_data_know_their_scale():
    """A table that is a Gaussian after scaling: the density of the raw numbers has the scale's volume in it."""
    data = load_data("wine")
    train, held = data.split(0.3)
    problem = of_data(train, held, 20, 30, 0)
    scaling, dim = held.scaling, held.shape[0]
    model = targets.Gaussian(torch.zeros(dim), torch.eye(dim)).model(VP())
    x = scaling(held.raw(torch.arange(30)))
    nats = targets.Gaussian(torch.zeros(dim), torch.eye(dim)).log_prob(x.double()) - scaling.scale.log().sum()
    assert abs(problem.bits(model)[0] + float(nats.mean()) / (dim * math.log(2))) < 1e-5


def test_real_samples_are_held_out_and_the_floors_are_trained_on():
    """Told apart by their labels, the rows' own numbers; every row once."""
    values = torch.arange(100.0)[:, None].repeat(1, 2)
    train, held = Data(values, name="numbers").split(0.3)
    problem = of_data(train, held, 25, 0, 0)
    rows = {name: set(x[:, 0].tolist()) for name, x in (("real", problem.real), ("other", problem.other))}
    unseen = set(held.raw(torch.arange(30))[:, 0].tolist())
    assert rows["real"] <= unseen and not rows["other"] & unseen and all(len(found) == 25 for found in rows.values())


def test_the_flow_error_is_that_of_a_known_flow():
    """The end points of a Gaussian's flow are the affine map of the starts: what is added is what is found."""
    target = targets.Gaussian(torch.tensor([1.0, -2.0]).double(), torch.tensor([0.25, 4.0]).double())
    model = target.model(VP())
    ends = cell.flow_ends(model, (2,), 200, 3)
    starts = sample(model, (200, 2), Adams(), 40, seeds=range(3 * cell.ROOM, 3 * cell.ROOM + 200))
    assert (ends - starts).abs().max() < 1e-6
    off = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)).double()
    found = flow_estimate(ends + 0.1 * off, ends)
    squares = off.square().mean(1)
    assert abs(found.value - 0.1 * squares.mean().sqrt()) < 1e-12
    # the delta method: d√m = dm/(2√m)
    assert abs(found.standard_error - 0.05 * squares.std() / math.sqrt(200) / squares.mean().sqrt()) < 1e-12


def test_steps_are_sorted_so_that_pictures_show_the_most(tmp_path, monkeypatch):
    shown = {}
    monkeypatch.setattr(report.pictures, "draw", lambda folder, real, found: shown.update(found) or {})
    rows = on_target(tmp_path, samplers=[DDIM()], steps=[8, 4])
    assert [row.steps for row in rows] == [4, 8]
    model = targets.EXAMPLES["gmm"]().model(VP())
    assert torch.equal(next(iter(shown.values())), sample(model, (60, 2), DDIM(), 8, seeds=range(60)))


def test_models_meet_what_they_have_not_seen(tmp_path, monkeypatch):
    """The part that their own training held out, whatever the default here; of other data or parts, a refusal."""
    words = ["--data", "moons", "--data_options.n", "400", "--net", "MLP(width=8)", "--steps", "5", "--quiet"]
    for name, held_out in (("one", "0.2"), ("two", "0.4")):
        assert main(["train", "--out", str(tmp_path / name), "--held_out", held_out, *words]) == 0
    met, original = [], compare_module.of_data
    monkeypatch.setattr(compare_module, "of_data", lambda *a: met.append(a[:2]) or original(*a))
    compare(tmp_path / "compare", models=[tmp_path / "one"], samplers=[Adams()], steps=[3], **SMALL)
    train, held = load_data("moons", n=400).split(0.2)
    assert torch.equal(met[0][0].rows, train.rows) and torch.equal(met[0][1].rows, held.rows)
    with pytest.raises(ValueError, match="other data, or another part"):
        compare(tmp_path / "both", models=[tmp_path / "one", tmp_path / "two"], **SMALL)
    (tmp_path / "one" / "config.yaml").write_text("held_out: 0.2\n")
    with pytest.raises(ValueError, match="does not say what data it held out"):
        compare(tmp_path / "none", models=[tmp_path / "one"], **SMALL)


def test_seeds_of_comparisons_do_not_overlap(tmp_path):
    """Samples of one seed are not those of the next, moved by one."""
    one, two = (cell.run(targets.EXAMPLES["gmm"]().model(VP()), DDIM(), 3, judge(), None, seed)[1] for seed in (0, 1))
    assert not any(torch.equal(a, b) for a in one for b in two)


def judge():
    real = torch.zeros(50, 2)
    return cell.Judge(real, real, (), lambda: None)


def test_the_floor_is_what_real_samples_score(tmp_path):
    """Its mean and deviation are those of fresh pairs, within 4.5 and 4 standard errors of those of 20 splits."""
    n, target = 200, targets.EXAMPLES["gmm"]()
    problem, _ = of_target("gmm", n, 0, 0, torch.device("cpu"))
    floor, deviation = cell.Judge(problem.real, problem.other, ("energy_distance",), lambda: None).floors[
        "energy_distance"
    ]
    sets = [target.sample(2 * n, torch.Generator().manual_seed(i)).chunk(2) for i in range(300)]
    fresh = torch.tensor([METRICS["energy_distance"].function(*pair) for pair in sets])
    assert abs(floor - fresh.mean()) < 4.5 * fresh.std() / math.sqrt(cell.SPLITS)
    assert abs(deviation / fresh.std() - 1) < 4 * math.sqrt(2 / (cell.SPLITS - 1))


def test_a_shift_is_not_at_the_floor(tmp_path):
    """Eight deviations of perfect samples away, which the cautious error of a single estimate would not tell."""
    n = 150
    source = torch.Generator().manual_seed(0)
    x, real, other = torch.randn(3, n, 8, generator=source, dtype=torch.float64)
    found = cell.Judge(real, other, ("energy_distance", "mmd"), lambda: None)(x + 0.6 / math.sqrt(8))
    for estimate in found.values():
        assert estimate.value - estimate.floor > 4 * estimate.floor_error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one of data, target and models"),
        ({"data": "moons", "target": "gmm"}, "one of data, target and models"),
        ({"target": "gmn"}, "Did you mean 'gmm'"),
        ({"target": "nothing.here"}, "cannot be imported"),
        ({"target": "math.pi"}, "Target"),
        ({"target": "gmm", "train_steps": 5}, "train_steps"),
        ({"target": "gmm", "metrics": ["slice"]}, "sliced_wasserstein"),
        ({"target": "gmm", "steps": [0]}, "steps"),
        ({"target": "gmm", "steps": [5, 5]}, "twice"),
        ({"target": "gmm", "samplers": [Adams(), Adams()]}, "Adams() stands there twice"),
        ({"target": "gmm", "predictions": ["eps"]}, "noise"),
        ({"models": [Path("x")], "predictions": ["v"]}, "their own"),
        ({"models": [Path("nowhere")]}, "does not say what data"),
        ({"target": "gmm", "bits": 1}, "bits"),
        ({"target": "gmm", "inception": True}, "inception"),
        ({"data": "moons", "data_options": {"n": 30}, "metrics": ["mmd"]}, "see held_out, num and metrics"),
        ({"data": "moons", "train_steps": 0}, "train_steps"),
        ({"target": "gmm", "num": 0}, "num"),
        ({"data": "moons", "num": 3}, "num"),
    ],
)
def test_what_cannot_be_compared_is_refused(options, message, tmp_path):
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        compare(tmp_path / "run", quiet=True, **options)
    assert not (tmp_path / "run").exists()


def test_samples_start_from_the_same_noise(tmp_path, monkeypatch):
    """The first samples of every deterministic sampler are near each other: they are the same digits, so to speak."""
    shown = {}
    monkeypatch.setattr(report.pictures, "draw", lambda folder, real, found: shown.update(found) or {})
    on_target(tmp_path, samplers=[Adams(), DDIM()], steps=[200])
    one, other = shown.values()
    assert (one - other).norm(dim=1).median() < 0.05


@dataclass(frozen=True)
class Explode(Sampler):
    def step(self, model, x, t, s, memory, randn):
        return x * (torch.inf if s else 1.0), memory


def test_what_diverges_is_a_row_without_metrics(tmp_path):
    rows = on_target(tmp_path, samplers=[Explode(), Adams()], steps=[4])
    assert [sorted(row.quality) for row in rows] == [[], ["energy_distance", "flow_error"]]
    assert on_target(tmp_path, samplers=[Explode(), Adams()], steps=[4]) == rows
    assert "Explode()" in (tmp_path / "report.html").read_text()


def test_a_metric_that_real_data_cannot_have_is_said(tmp_path):
    """Too few samples are the data's fault, not the samples'."""
    with pytest.raises(ValueError, match="at least 501 samples"):
        METRICS["mine"] = Metric(lambda x, y: precision(x, y, k=500))
        try:
            on_target(tmp_path, metrics=["mine"])
        finally:
            del METRICS["mine"]


def test_parts_of_ones_own(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine_compare.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    words = ["--target", "mine_compare.two", "--processes", "mine_compare.Straight", "VP(beta_max=15)"]
    words += ["--samplers", "mine_compare.Walk", "DPMSolverPP(order=3)", "--steps", "5", "10", "--num", "60"]
    assert main(["compare", *words, "--draws", "20", "--bits", "0", "--quiet", "--out", "run"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("Straight()", "VP(beta_max=15)", "Walk()", "DPMSolverPP(3)"))


@pytest.mark.slow
def test_the_ranking_is_the_sampler_benchmarks(tmp_path):
    """The benchmark's harness, given the same samplers on their own grids, orders them as `compare` does.

    Its starts are others (512 of them here, 256 there), so pairs within three standard errors are no pairs.
    """
    sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
    import benchmark_samplers

    samplers = [Adams(), DPMSolverPP(), DEIS(), DDIM(), Euler()]
    rows = on_target(tmp_path, samplers=samplers, steps=[10, 20], num=256)
    problem = benchmark_samplers.exact_problem("mixture", "vp", 512, "cpu")
    reference, theirs = problem.reference(), {}
    for row, sampler in zip(rows, [s for s in samplers for _ in range(2)]):
        x = sample(problem.model.on(VP()), x=problem.x, sampler=sampler, steps=row.steps)
        theirs[row.sampler, row.steps] = benchmark_samplers.errors(x, reference)["rmse"]
    for steps in (10, 20):
        mine = {row.sampler: row.quality["flow_error"] for row in rows if row.steps == steps}
        order = sorted(mine, key=lambda name: theirs[name, steps])
        assert order[0] == "Adams()" and order[-1] in ("DDIM()", "Euler()")
        for i, one in enumerate(order):
            for other in order[i + 1 :]:
                apart = mine[other].value - mine[one].value
                assert apart > -3 * math.hypot(mine[one].standard_error, mine[other].standard_error)


def test_features_of_a_network_are_said_with_their_accuracy(tmp_path, monkeypatch):
    """Trained on the data; or Inception's (a stand-in here), or a line that says what is missing."""
    images = {"data": "digits", "processes": [VP()], "predictions": ["v"], "samplers": [Adams()], "steps": [3], **SMALL}
    compare(tmp_path / "own", train_steps=3, **images)
    page, worth = ((tmp_path / "own" / name).read_text() for name in ("report.html", "features.json"))
    assert json.loads(worth)["accuracy"] > 0.85 > 0.3 > json.loads(worth)["chance"]
    assert f"{json.loads(worth)['accuracy']:.1%} right on held-out data" in page
    with pytest.raises(ImportError, match="torchmetrics"):
        compare(tmp_path / "none", train_steps=3, inception=True, **images)
    monkeypatch.setattr("scoresde.compare.problem.inception_features", lambda: lambda x: x.flatten(1)[:, ::3])
    compare(tmp_path / "inception", train_steps=3, inception=True, **images)
    assert "of features, by Inception." in (tmp_path / "inception" / "report.html").read_text()
