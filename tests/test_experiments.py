"""The experiments at reduced sizes: what they judge by is right, and they run."""

import csv
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import benchmark_overhead
import benchmark_stochastic
import peers_stochastic
from benchmark_stochastic import Bench, Cell, Rival, verdict
from exact_mixtures import Exact, Judge, score2
from peer import Peer

from scoresde import samplers
from scoresde.metrics import sliced_wasserstein


@pytest.mark.parametrize("name", benchmark_stochastic.TARGETS)
def test_the_fast_exact_model_is_the_targets_own(name):
    target = benchmark_stochastic.TARGETS[name]()
    exact, x = Exact(target), 2 * torch.randn(200, 2, dtype=torch.float64)
    for alpha, sigma in ((1.0, 157.0), (0.6, 0.8), (0.9999, 0.01)):
        for row in ((0.0, 1.0), (1.0, 0.0), (0.3, -0.7)):
            truth = target.expect(x, *torch.tensor([alpha, sigma, *row], dtype=torch.float64))
            assert (exact.ask(x, alpha, sigma, *row) - truth).abs().max() < 1e-9
            assert (exact.ask(x.float(), alpha, sigma, *row) - truth).abs().max() < 1e-3  # 1e-6/σ
    assert exact.calls == 18


def test_the_judge_measures_what_it_says():
    target = benchmark_stochastic.TARGETS["mixture"]()
    x, y = (target.sample(3000, torch.Generator().manual_seed(s)) for s in (1, 2))
    moved = y + torch.tensor([0.1, 0.2])
    weights, mean, covariance, distance = (np.linalg.norm(e) for e in Judge(target, Judge.projected(x)).errors(moved))
    assert mean == pytest.approx(math.hypot(0.1, 0.2), abs=0.1)
    assert covariance == pytest.approx(float((y.mT.cov() - target.moments[1]).norm()), rel=1e-6)
    assert distance == pytest.approx(sliced_wasserstein(x, moved, 512), rel=0.05)
    share = (target.responsibilities(moved).argmax(1) == 0).double().mean()
    assert abs(weights) < 0.2 and abs(share - 0.2) < 0.1


def test_exact_samples_score_one_and_wrong_ones_more():
    """By the products of different seeds' errors, and by the plain mean of squares; both with the same expectation."""
    bench = Bench("mixture", 500)

    def exact(problem, calls, seed):
        return bench.target.sample(500, torch.Generator().manual_seed(70_000 + seed))

    def shifted(problem, calls, seed):
        return exact(problem, calls, seed) + 0.1

    good, bad = (bench.cell(Rival("scoresde", "a", run), 10, range(30)) for run in (exact, shifted))
    plain = [
        np.mean([score2(cell.gram[:, i : i + 1, i : i + 1], cell.floor) for i in range(30)]) for cell in (good, bad)
    ]
    assert abs(good.square - 1) < 4 * good.spread < 0.3
    assert bad.square > 1 + 4 * bad.spread
    for cell, mean in zip((good, bad), plain):
        assert abs(cell.square - mean) < 4 * bench.chance * math.sqrt(2 / 30)
    assert verdict(good, bad) == "ahead" and verdict(bad, good) == "BEHIND" and verdict(good, good) == "tied"


def test_equal_cells_are_tied_by_the_chance_of_exact_sets():
    """Two seeds that happen to agree say nothing of the spread."""
    one, two = (
        Cell(Rival("scoresde", "a", lambda *_: None), np.full((4, 2, 2), v), np.ones(4), 0.5) for v in (0.0, 0.9)
    )
    assert one.square == 1.0 and two.square == 1.9 and one.spread == 0.5
    assert verdict(one, two) == "tied"


def test_a_contest_chooses_and_reports(capsys):
    bench = Bench("mixture", 300)
    ddim, rough = (
        benchmark_stochastic.ours(name, build, "own")
        for name, build in (("DDIM", lambda: samplers.DDIM(eta=1.0)), ("rough", samplers.EulerMaruyama))
    )
    over = Rival("diffusers", "over", lambda problem, calls, seed: [problem.ask(problem.noise, 1, 1, 0, 1)] * 0 or None)
    exact = Rival("diffusers", "exact", lambda problem, calls, seed: bench.target.sample(300))
    rounds = benchmark_stochastic.contest(bench, [ddim, rough, over, exact], (10, 20), seeds=2, finalists=2)
    rows = [row for found in rounds for row in found]
    shown = capsys.readouterr().out
    assert shown.count("scoresde") == 2 and shown.count("diffusers exact") == 2
    final = [row for row in rows if row["final"]]
    assert [(row["nfe"], row["side"], row["seeds"]) for row in final] == [
        (10, "ours", 2), (10, "peers", 2), (20, "ours", 2), (20, "peers", 2),
    ]  # fmt: skip
    assert all(row["sampler"] != "over" for row in rows)


def test_steps_keep_the_calls_within_the_budget():
    singlestep = lambda: samplers.DPMSolverPP(2, 1.0, "singlestep")  # noqa: E731
    exact = Exact(benchmark_stochastic.TARGETS["mixture"]())
    exact.noise = torch.zeros(2, 2)
    for build in (singlestep, samplers.DDPM):
        for calls in (10, 25):
            benchmark_stochastic.ours("x", build, "own").run(exact, calls, 0)
            assert calls - 2 <= exact.calls <= calls


def test_increments_handed_to_k_diffusion_are_those_of_one_path():
    """Over [0, ½] and then [0, 1] of one path the normalised increments correlate by √½; of [1, 2] with neither."""
    path = peers_stochastic.Path(torch.zeros(100_000))
    half, whole, later = path(1.0, 0.5), path(1.0, 0.0), path(0.0, -1.0)
    correlations = np.corrcoef(torch.stack([half, whole, later]).numpy())
    truth = np.array([[1, math.sqrt(0.5), 0], [math.sqrt(0.5), 1, 0], [0, 0, 1]])
    assert np.abs(correlations - truth).max() < 5 / math.sqrt(100_000)
    assert abs(whole.var() - 1) < 5 * math.sqrt(2 / 100_000)


@pytest.mark.filterwarnings("ignore")
def test_peers_stay_within_the_budget_and_draw_the_mixture():
    bench, peers = Bench("mixture", 200), peers_stochastic.stochastic_peers()
    if not peers:
        pytest.skip("needs the extra bench")
    some: list[Peer] = peers[::9]
    cells = [bench.cell(benchmark_stochastic.theirs(peer), 50, range(1)) for peer in some]
    assert None not in cells
    assert np.median([cell.square for cell in cells]) < 3


@pytest.mark.filterwarnings("ignore")
def test_the_overhead_of_every_rival():
    rows = benchmark_overhead.measure("MLP", "cpu", steps=4, repeats=2, clock="cpu")
    calls = {row["sampler"]: row["calls"] for row in rows}
    assert calls["hand-written Euler"] == calls["DDIM()"] == calls["DPMSolverPP(2)"] == 4 and calls["Heun()"] == 7
    assert calls["Adams()"] in (3, 4)
    for row in rows:
        assert row["inside"] > 1.0 and row["ratio"] > 0.0 and row["first"] > 0.0, row


@pytest.mark.filterwarnings("ignore")
def test_overhead_writes_its_table(tmp_path, monkeypatch, capsys):
    out = tmp_path / "overhead.csv"
    monkeypatch.setattr(sys, "argv", ["x", "--steps", "2", "--repeats", "1", "--networks", "MLP", "--out", str(out)])
    benchmark_overhead.main()
    rows, shown = list(csv.DictReader(out.read_text().splitlines())), capsys.readouterr().out
    assert {"network", "sampler", "calls", "ratio", "inside"} <= set(rows[0])
    assert all(row["sampler"] in shown for row in rows)


def test_the_figure_is_drawn_from_the_tables(tmp_path):
    import figure_steps

    keys = ("target", "nfe", "package", "sampler", "rmse", "side", "final", "score")
    for name, part in (("ode", "default"), ("sde", "DDPM(fixed_small) trailing")):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, keys)
            writer.writeheader()
            for nfe in (5, 10, 100):
                for package, side in (("scoresde", "ours"), ("diffusers", "peers")):
                    for final in (0, 1):
                        row = ("mixture", nfe, package, part, 1 / nfe, side, final, 1 + 10 / nfe)
                        writer.writerow(dict(zip(keys, row)))
    out = tmp_path / "steps.png"
    figure_steps.draw(tmp_path / "ode.csv", tmp_path / "sde.csv", ["mixture", "mixture"], "mixture", out)
    assert 5_000 < out.stat().st_size < 60_000
    rows = figure_steps.read(tmp_path / "ode.csv")
    rows[0]["rmse"] = "nan"
    assert figure_steps.least(rows, "rmse") == ([5, 10, 100], [0.2, 0.1, 0.01])
