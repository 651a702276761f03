"""The package of configs/README.md, built from the page: it trains, exports, is scored, evaluated, reported and swept as it is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "configs" / "README.md").read_text()
BLOCKS = {name: text for name, text in re.findall(r"```(?:python|toml)\n# (\S+)\n(.*?)```", PAGE, re.S)}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package beside prefrep, and data."""
    place = tmp_path_factory.mktemp("site")
    for name, text in BLOCKS.items():
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text(text)
    words = "one two three four five six seven eight".split()
    rows = [{"prompt": f"Say {word}", "chosen": f"{word}, of course", "rejected": f"no {len(word)}"} for word in words]
    for name in ("train", "val"):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ranked = [{"prompt": row["prompt"], "responses": [row["chosen"], row["rejected"], "well"], "scores": [3, 1, 2]} for row in rows]
    (place / "ranked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ranked))
    (place / "prompts.jsonl").write_text("".join(json.dumps({"prompt": row["prompt"]}) + "\n" for row in rows[:2]))
    return place


def run(site: Path, *arguments: str, code: int = 0, more: str = "") -> str:
    """A program in a process of its own, which is another person's: nothing is imported yet."""
    path = os.pathsep.join(filter(None, [str(site), str(ROOT), more]))
    done = subprocess.run(
        [sys.executable, "-m", "prefrep", *arguments], cwd=site, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


DATA = ["--data.train", "train.jsonl", "--data.val", "val.jsonl"]
PARTS = [
    "--model.head", "CubicHead", "--model.head.power", "5", "--model.head.skew", "ScaledSkew", "--model.head.skew.start", "2.0",
    "--model.loss", "FocalLoss", "--model.loss.focus", "1.5", "--model.loss.tau", "0.2",
]  # fmt: skip


@pytest.fixture(scope="module")
def model(site: Path) -> Path:
    """A trained and exported model of other people's parts."""
    run(site, "fit", "--import", "cubist", "--config", "tiny/gpm", *DATA, *PARTS, "--trainer.default_root_dir", "run")
    return site / "run" / "export"


def scores(file: Path) -> list[float]:
    return [json.loads(line)["score"] for line in file.read_text().splitlines()]


def test_the_page_has_one_of_each_kind() -> None:
    assert {"heads", "operators", "losses", "objectives", "judges", "formats"} <= {Path(name).stem for name in BLOCKS}
    assert all(len([line for line in text.splitlines() if line.strip()]) <= 26 for text in BLOCKS.values())


def test_the_folder_holds_the_recipe(model: Path) -> None:
    about = json.loads((model / "prefrep.json").read_text())
    skew = {"class": "cubist.operators.ScaledSkew", "start": 2.0}
    assert about["head"] == {"class": "cubist.heads.CubicHead", "power": 5, "dim": 4, "skew": skew, "normalize": True}
    loss = {"class": "cubist.losses.FocalLoss", "focus": 1.5, "tau": 0.2, "smoothing": 0.0, "learn_tau": False}
    assert about["recipe"]["loss"] == loss and about["tau"] == 0.2
    assert load_file(model / "head.safetensors")["skew.logarithm"].shape == (2,)


def test_scores_are_those_of_the_head(site: Path, model: Path) -> None:
    """The power and the operator come back: |s| <= (2 scale)^5 / tau in units of its embeddings, and Python gives the same numbers."""
    run(site, "score", "--import", "cubist", "--model", str(model), "--data", "val.jsonl", "--out", "scores.jsonl")
    code = f"""
import cubist, json, torch
from prefrep.scoring import Scorer
scorer = Scorer.from_pretrained({str(model)!r})
head = scorer.model.head
rows = [json.loads(line) for line in open("val.jsonl")]
tables = [scorer.table(row["prompt"], [row["chosen"], row["rejected"]]) for row in rows]
head.power = 1
plain = [scorer.table(row["prompt"], [row["chosen"], row["rejected"]]) for row in rows]
print(json.dumps([type(head).__name__, type(head.skew).__name__, [float(t[0, 1]) for t in tables], [float(t[0, 1]) for t in plain]]))
"""
    environment = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-c", code], cwd=site, capture_output=True, text=True, check=True, env=environment)
    head, skew, tables, plain = json.loads(done.stdout.splitlines()[-1])
    assert (head, skew) == ("CubicHead", "ScaledSkew")
    found = scores(site / "scores.jsonl")
    assert found == pytest.approx(tables, rel=1e-4)  # embeddings differ in the last digit, and five times as much to the power
    assert found == pytest.approx([(0.2 * each) ** 5 / 0.2 for each in plain], rel=1e-3) and max(map(abs, plain)) > 1e-3


def test_workers_import_it_too(site: Path, model: Path) -> None:
    arguments = ["score", "--import", "cubist", "--model", str(model), "--data", "val.jsonl", "--out"]
    run(site, *arguments, "one.jsonl")
    run(site, *arguments, "two.jsonl", "--workers", "2")
    assert (site / "one.jsonl").read_text() == (site / "two.jsonl").read_text()


@pytest.mark.parametrize("program", [["score", "--out", "none.jsonl"], ["eval", "pairs", "--out", "none"]])
def test_without_its_word_there_is_a_sentence(program: list[str], site: Path, model: Path) -> None:
    said = run(site, *program, "--model", str(model), "--data", "val.jsonl", code=1)
    assert "belongs to the package cubist" in said and "--import cubist.heads" in said


def test_evaluated_and_reported(site: Path, model: Path) -> None:
    whose = ["--import", "cubist", "--model", str(model)]
    run(site, "eval", "pairs", *whose, "--data", "val.jsonl", "--bootstrap", "10", "--out", "run/pairs")
    more = ["--bootstrap", "10", "--null", "10", "--out", "run/intransitivity"]
    run(site, "eval", "intransitivity", *whose, "--data", "ranked.jsonl", *more)
    run(site, "score", *whose, "--data", "ranked.jsonl", "--tables", "--out", "tables.jsonl")
    files = (site / "run" / "intransitivity" / "tables.jsonl", site / "tables.jsonl")
    tables = [[json.loads(line)["table"] for line in file.read_text().splitlines()] for file in files]
    assert np.allclose(*tables, rtol=1e-4), "the blocks of the base class do not add up to the power"
    run(site, "report", "run", "--out", "page.html")
    assert "CubicHead" in (site / "page.html").read_text()
    for layout in ("official", "seqcls"):
        assert "CubicHead" in run(site, "export", "--import", "cubist", "--model", str(model), "--to", layout, "--out", "other", code=1)


def test_data_in_its_format(site: Path, model: Path) -> None:
    rows = [{"question": f"Which, {i}?", "stars": {"this": i % 5, "that": 2.5, "none": 1}} for i in range(6)]
    (site / "reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = run(site, "inspect", "--import", "cubist", "reviews.jsonl")
    assert re.search(r"^format +reviews$", said, re.M)
    run(site, "score", "--import", "cubist", "--model", str(model), "--data", "reviews.jsonl", "--out", "reviewed.jsonl", "--workers", "2")
    assert len((site / "reviewed.jsonl").read_text().splitlines()) == 6
    run(site, "fit", "--import", "cubist", "--config", "tiny/gpm", "--data.train", "reviews.jsonl", "--trainer.default_root_dir", "stars")
    assert "no format fits the columns found: question (text), stars (an object)" in run(site, "inspect", "reviews.jsonl", code=1)


@pytest.mark.parametrize("frozen", [True, False])
def test_swept(frozen: bool, site: Path) -> None:
    name = "frozen" if frozen else "full"
    settings = "set: {model.head: CubicHead, model.head.skew: ScaledSkew, trainer.accelerator: cpu"
    settings += ", model.backbone.lora: null, model.backbone.frozen: true}" if frozen else "}"
    (site / f"{name}.yaml").write_text(f"base: {ROOT}/configs/tiny/gpm.yaml\n{settings}\ngrid: {{model.head.power: [1, 3]}}\n")
    more = ["--set", "data.train=train.jsonl", "--set", "data.val=val.jsonl"] + ([] if frozen else ["--workers", "2"])
    run(site, "sweep", "--import", "cubist", "--config", f"{name}.yaml", "--out", name, *more)
    found = [json.loads((folder / "point.json").read_text()) for folder in sorted((site / name / "points").iterdir())]
    assert [each["engine"] for each in found] == ["frozen" if frozen else "fit"] * 2
    assert all(each["state"] == "complete" for each in found)


def test_a_policy_trains_with_them(site: Path) -> None:
    judge = {"class_path": "BrevityJudge", "init_args": {"characters": 5.0}}
    sampler = {"class_path": "TransformersSampler", "init_args": {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 8}}
    callbacks: list[Any] = [
        {"class_path": "SampleResponses", "init_args": {"sampler": sampler, "responses": 3, "batch_size": 2}},
        {"class_path": "UpdateReference", "init_args": {"batch_size": 2}},
        {"class_path": "LabelPreferences", "init_args": {"batch_size": 2, "judge": judge}},
        {"class_path": "ExportPolicy"},
    ]
    run(
        site, "fit", "--import=cubist", "--config", "tiny/gpo", "--data.train", "prompts.jsonl", "--trainer.default_root_dir", "policy",
        "--model.objective", "HingeObjective", "--model.objective.beta", "0.3", "--trainer.callbacks", json.dumps(callbacks),
        "--trainer.max_epochs", "1",
    )  # fmt: skip
    recipe = json.loads((site / "policy" / "export" / "policy.json").read_text())["recipe"]
    assert recipe["objective"] == {"class": "cubist.objectives.HingeObjective", "beta": 0.3}
    labels = [json.loads(line) for file in (site / "policy" / "rounds").rglob("labels*.jsonl") for line in file.read_text().splitlines()]
    lengths = [[len(each) for each in row["responses"]] for row in labels]
    assert labels and all(row["table"][0][1] == pytest.approx((n[1] - n[0]) / 5) for row, n in zip(labels, lengths, strict=True))


def test_an_installed_distribution_declares_its_parts(site: Path, model: Path, tmp_path: Path) -> None:
    """What installing leaves behind: metadata with the entry point. No flag is needed then, in training neither."""
    info = tmp_path / "cubist-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cubist\nVersion: 1.0\n")
    group = re.search(r'\[project\.entry-points\."(.*)"\]\n(\S+) = "(\S+)"', BLOCKS["pyproject.toml"])
    assert group is not None
    (info / "entry_points.txt").write_text(f"[{group[1]}]\n{group[2]} = {group[3]}\n")
    run(site, "score", "--model", str(model), "--data", "val.jsonl", "--out", "declared.jsonl", more=str(tmp_path))
    run(site, "score", "--import", "cubist", "--model", str(model), "--data", "val.jsonl", "--out", "named.jsonl")
    assert (site / "declared.jsonl").read_text() == (site / "named.jsonl").read_text()
    arguments = ["--config", "tiny/gpm", *DATA, *PARTS, "--trainer.default_root_dir", "declared", "--trainer.max_steps", "1"]
    run(site, "fit", *arguments, more=str(tmp_path))
    assert (site / "declared" / "export" / "prefrep.json").exists()
    assert "there is no class CubicHead" in run(site, "fit", *arguments, code=2)
