"""Every benchmark runs with its smallest settings, and what they compute with is right. Peers are never needed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import common, models, pairs, report, training  # noqa: E402
from prefrep.data.trees import Datum, Tree  # noqa: E402

CASES = {  # name -> arguments that leave the peers out, tables that come out
    "train_throughput": (["--others", "official manner"], 4),
    "utilisation": (["--precision", "fp32"], 2),
    "scoring": (["--dtype", "float32"], 2),
    "ranking": (["--k", "2"], 2),
    "readers": ([], 2 + (find_spec("trl") is not None)),
    "memory": (["--variants", "trees"], 2),
    "start": ([], 1),
    "reliability": ([], 1),
    "serve": ([], 5),
    "reliability_programs": ([], 1),
    "kernels": ([], 2),
    "sampling": ([], 1),
    "frozen_sweep": ([], 1),
    "steps": ([], 1),
    "rounds": (["--without-trl", "--dtype", "float32"], 3),
    "growth": (["--programs", "inspect"], 1),
}


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PREFREP_BENCHMARKS", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", CASES)
def test_it_runs(name: str, out: Path) -> None:
    arguments, tables = CASES[name]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((out / f"{name}.json").read_text())
    assert result["quick"] and result["goals"] and len(result["tables"]) == tables
    for table in result["tables"]:
        assert table["rows"] and all(len(row) == len(table["head"]) for row in table["rows"])
    if name == "train_throughput":
        assert all(" agree to 1e-05" in note for note in result["notes"] if "losses" in note)
    assert "| goal | target | figure | |" in report.collect(out)


def test_the_gpu_script_goes_on_after_a_part_that_fails(out: Path) -> None:
    """Here on the CPU; FlexAttention has no gradients there, which kernels reports and survives. A part without time is cut off."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--quick", "--device", "cpu", "--parts"]
    done = subprocess.run([*command, "kernels", "sampling"], cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0 and "kernels, fp32: largest error" in done.stdout and (out / "sampling-gpu.json").exists(), done.stdout
    done = subprocess.run([*command, "ranking", "--seconds", "1"], cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 1 and "ranking  cut off" in done.stdout
    assert done.stdout.startswith("1 parts on cpu with tiny models, at most 1 s: ranking 1 s")
    assert done.stdout.splitlines()[-1] == f"JSON files: {out / '*-gpu.json'}"


def test_goals() -> None:
    assert common.Goal("speed", 9.0, 8.0, unit="x").cells == ["speed", "≥ 8x", "9x", "met"]
    assert common.Goal("speed", 6.0, 8.0).cells[3] == "missed by 25%"
    assert common.Goal("memory", 0.5, 0.5, at_least=False).met
    assert common.Goal("memory", 0.6, 0.5, at_least=False).cells[3] == "missed by 20%"
    assert not common.Goal("nothing", None, 0.0).met


def test_interleaved_runs_alternate() -> None:
    order: list[str] = []
    variants = {name: lambda name=name: order.append(name) or float(len(order)) for name in "ab"}  # type: ignore[misc]
    assert common.interleave(variants, 3) == {"a": [1.0, 4.0, 5.0], "b": [2.0, 3.0, 6.0]}
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert common.median_ratio([2.0, 9.0, 4.0], [1.0, 3.0, 1.0]) == 3.0


def test_failed_goals_and_real_results_survive_quick_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "ROOT", tmp_path)
    monkeypatch.setattr(common, "RESULTS", tmp_path / "real")
    monkeypatch.setattr(common, "QUICK_RESULTS", tmp_path / "quick")
    for quick, value in ((False, 1.0), (True, 2.0)):
        found = common.Report("x", Namespace(quick=quick))
        found.goal("g", value, 3.0)
        found.save()
    assert json.loads((tmp_path / "real" / "x.json").read_text())["goals"][0]["figure"] == 1.0
    assert "| g | ≥ 3 | 1 | missed by 67% |" in report.collect(tmp_path / "real")


def test_what_is_cut_off_leaves_its_tables(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = """
import os, signal
from argparse import Namespace
from benchmarks.common import Report
report = Report("x", Namespace(quick=True))
report.note("before a table")
report.goal("g", 1.0, 2.0)
if os.environ["TABLE"]:
    report.table("t", ["", "n"], [["a", 1]])
os.kill(os.getpid(), signal.SIGKILL)
"""
    path, old = out / "x.json", '{"old": 1}'
    path.write_text(old)
    for table in ("", "1"):
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=os.environ | {"TABLE": table}, capture_output=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert table or path.read_text() == old
    result = json.loads(path.read_text())
    assert not result["complete"] and result["tables"][0]["rows"] == [["a", "1"]] and result["notes"] == ["before a table"]
    assert "| x (not finished; tables in its JSON: 1) | | | |\n| g |" in report.collect(out)

    monkeypatch.setattr(common, "QUICK_RESULTS", out)
    finished = common.Report("x", Namespace(quick=True))
    finished.goal("g", 1.0, 2.0)
    finished.save()
    assert json.loads(path.read_text())["complete"] and "not finished" not in report.collect(out)


def test_generated_pairs_have_the_lengths_of_the_tables() -> None:
    tokenizer = models.tokenizer_of(models.TINY)
    data = pairs.generated(tokenizer, 2000, shared=True)
    shared = np.array([datum.trees[0].shared for datum in data])
    lengths = np.array([[len(ids) for ids in datum.trees[0].sequences] for datum in data])
    for found, table in ((shared, pairs.SHARED), (lengths[:, 0] - shared, pairs.CHOSEN), (lengths[:, 1] - shared, pairs.REJECTED)):
        for percentile in (20, 50, 80):
            assert np.percentile(found, percentile) == pytest.approx(table[pairs.PERCENTILES.index(percentile)], rel=0.12, abs=2)
    assert all(ids[-1] == tokenizer.eos_token_id for datum in data for ids in datum.trees[0].sequences)

    unshared = pairs.generated(tokenizer, 500, shared=False)
    assert all(datum.trees[0].shared == 0 for datum in unshared)
    assert np.median([len(datum.trees[0].sequences[0]) for datum in unshared]) == pytest.approx(153, rel=0.12)


def test_work_is_counted_right() -> None:
    data = pairs.generated(models.tokenizer_of(models.TINY), 3, shared=True, scale=0.5)
    begin = np.arange(20, 27, dtype=np.int32)  # a system prompt
    data = [Datum((Tree(tuple(np.append(begin, ids) for ids in datum.sequences), datum.trees[0].prompt + 7),)) for datum in data]
    # One by one: a token of a branch sees what it shares with others and its own branch.
    paths = {tuple(ids[: i + 1].tolist()) for datum in data for ids in datum.sequences for i in range(len(ids))}
    distinct, visible = len(paths), sum(map(len, paths))
    assert (pairs.distinct(data), pairs.seen(data)) == (distinct, visible)
    assert pairs.padded(data) == 6 * max(len(ids) for datum in data for ids in datum.trees[0].sequences)

    backbone = training.Ours(models.TINY, models.tokenizer_of(models.TINY), training.VARIANTS["trees"], "fp32", "cpu").module.backbone
    attention, mlp = 2 * 32 * 32 + 2 * 32 * 16, 3 * 32 * 64  # q and o; k and v of one group; gate, up, down
    assert models.matrices(backbone.transformer) == 2 * (attention + mlp)


def test_trainers_agree_on_losses_and_gradients() -> None:
    torch.manual_seed(0)
    tokenizer = models.tokenizer_of(models.TINY)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    data = pairs.generated(tokenizer, 3, shared=True, scale=0.2)
    ours = training.Ours(models.TINY, tokenizer, training.VARIANTS["trees"], "fp32", "cpu")
    nn.init.normal_(ours.module.head.value_head.weight)  # rewards of a size at which a wrong reading shows
    others = [
        training.stepper(name, models.TINY, tokenizer, "fp32", "cpu", ours) for name in ("padded", "trees, dense mask", "official manner")
    ]
    weights = [p.clone() for p in ours.parameters()]
    assert ours.step(data) > 0
    gradient = ours.module.backbone.model.model.layers[0].mlp.up_proj.weight.grad.clone()
    assert gradient.norm() > 1e-3
    for other in others:
        ours.clear()
        assert other.step(data) > 0
        assert other.loss == pytest.approx(ours.loss, abs=1e-5)
        if isinstance(other, training.Ours):
            torch.testing.assert_close(other.module.backbone.model.model.layers[0].mlp.up_proj.weight.grad, gradient, rtol=1e-3, atol=1e-5)
    assert all(torch.equal(before, after) for before, after in zip(weights, ours.parameters(), strict=True))  # learning rate 0
    assert all(other.optimizer is ours.optimizer for other in others if not isinstance(other, training.TRL))  # moments in memory once
    moments = sum(state["exp_avg"].numel() for state in ours.optimizer.state.values())
    assert moments == sum(p.numel() for p in ours.parameters() if p.requires_grad)
    assert abs(ours.loss - np.log(2)) > 0.01
    first = ours.loss
    ours.step(pairs.generated(tokenizer, 3, shared=True, scale=0.2, seed=1))
    assert abs(ours.loss - first) > 1e-3


def test_a_league_of_objectives_sets_up_equal_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of a league differ in objective, judge and seed alone, and are started where they are not finished."""
    import yaml

    from benchmarks import league

    started: list[Path] = []

    def fit(command: list[str], **_: object) -> Namespace:
        started.append(Path(command[-1]).parent)
        return Namespace(returncode=0)

    monkeypatch.setattr(league.subprocess, "run", fit)
    options = Namespace(out=tmp_path, rounds=2, prompts=8, model="bundled:tiny-llama")
    held_out = league.prompts_of(3, tmp_path / "held-out.txt")
    assert len(held_out.read_text().splitlines()) == 3
    for name, objective in league.OBJECTIVES.items():
        league.train(options, "circular", name, objective, 1, held_out)
    assert [folder.name for folder in started] == [f"{name}-1" for name in league.OBJECTIVES]
    contents = {folder.name: yaml.safe_load((folder / "run.yaml").read_text()) for folder in started}
    whole = contents["GPO-1"]
    assert [each["class_path"] for each in whole["trainer"]["callbacks"]].count("Baselines") == 1
    for name, content in contents.items():
        judges = [each["init_args"]["judge"] for each in content["trainer"]["callbacks"] if each["class_path"] == "LabelPreferences"]
        (kind,) = (judge["class_path"] for judge in judges)
        assert kind == ("PanelJudge" if name == "CaPO-1" else "RuleJudge")
        assert content["data"] == whole["data"] and content["seed_everything"] == 1
        assert content["model"]["init_args"].keys() == whole["model"]["init_args"].keys()
    done = tmp_path / "circular" / "GPO-1"
    for folder in (done / "export", done / "rounds" / "2"):
        folder.mkdir(parents=True)
    (done / "rounds" / "2" / "metrics.json").write_text(json.dumps({"held_out_win_rate_initial": 0.75}))
    started.clear()
    league.train(options, "circular", "GPO", league.OBJECTIVES["GPO"], 1, held_out)
    assert started == [] and league.metrics(done, 2) == {"held_out_win_rate_initial": 0.75}


def test_the_quickstart_over_seeds_beside_an_older_version(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of both versions in turn, none twice; win rates 0.6, 0.8 now and 0.7, 0.7 before: equal means."""
    import yaml

    from benchmarks import league, quickstart

    started: list[tuple[str, Path | None]] = []

    def fit(command: list[str], cwd: Path | None, env: dict[str, str], **_: object) -> Namespace:
        folder = Path(command[-1]).parent
        started.append((folder.name, cwd))
        assert cwd is None or env["PYTHONPATH"] == str(cwd)
        for made in (folder / "export", folder / "rounds" / "1"):
            made.mkdir(parents=True)
        win = {"now-0": 0.6, "now-1": 0.8}.get(folder.name, 0.7)
        values = {f"held_out_win_rate{end}_initial": win + shift for end, shift in (("", 0.0), ("_low", -0.1), ("_high", 0.1))}
        (folder / "rounds" / "1" / "metrics.json").write_text(json.dumps(values))
        return Namespace(returncode=0)

    monkeypatch.setattr(league.subprocess, "run", fit)
    monkeypatch.setattr(common, "QUICK_RESULTS", out)
    monkeypatch.setattr(common, "machine", lambda device: {"device": "a CPU", "threads": 1, "load": 0.0, "versions": {}})
    old = tmp_path / "old"
    (old / "configs" / "gpo").mkdir(parents=True)
    shipped = (ROOT / "configs" / "gpo" / "quickstart.yaml").read_text()
    (old / "configs" / "gpo" / "quickstart.yaml").write_text(shipped.replace("rank: 16", "rank: 8"))
    for _ in range(2):
        quickstart.main(["--quick", "--seeds", "2", "--out", str(tmp_path / "runs"), "--before", str(old)])
    assert started == [("now-0", None), ("before-0", old), ("now-1", None), ("before-1", old)]
    contents = {name: yaml.safe_load((tmp_path / "runs" / name / "run.yaml").read_text()) for name, _ in started}
    ranks = [each["model"]["init_args"]["backbone"]["init_args"]["lora"]["rank"] for each in contents.values()]
    seeds = [
        {each["seed_everything"], *(c["init_args"]["seed"] for c in each["trainer"]["callbacks"] if "seed" in c.get("init_args", {}))}
        for each in contents.values()
    ]
    assert ranks == [16, 8, 16, 8] and seeds == [{0}, {0}, {1}, {1}]
    result = json.loads((out / "quickstart.json").read_text())
    assert result["tables"][0]["rows"][0][:4] == ["now, seed 0", "0.6", "0.5", "0.7"]
    assert len(result["raw"]["seconds"]["now"]) == 2 and result["goals"][0]["figure"] > 0
    assert result["goals"][1]["figure"] == pytest.approx(0, abs=1e-9)
    assert quickstart.below({"before": [0.7, 0.9], "now": [0.5, 0.7]}) == pytest.approx(0.2 / np.sqrt(2 * 0.02 / 2))
    assert quickstart.below({"now": [0.5, 0.7]}) is None


def test_means_over_seeds_of_a_league() -> None:
    """Student's t of two degrees of freedom at 97.5 %: 4.303; the standard error of 1, 2, 3 is 1 / sqrt(3)."""
    from benchmarks import league

    assert league.mean([1.0, 2.0, 3.0]) == "2 ± 2.5" and league.mean([0.5]) == "0.5" and league.mean([]) == "-"
