"""Sweep files: which points they mean, and what is wrong with them."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from prefrep.errors import ConfigError
from prefrep.sweep.spec import parse_setting, read_sweep

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("gpm.yaml", "bt.yaml"):
        (tmp_path / name).write_text("{}")
    return tmp_path


def write(folder: Path, text: str) -> Path:
    (folder / "sweep.yaml").write_text(text)
    return folder / "sweep.yaml"


def test_points_are_crossed_with_grids_and_seeds(folder: Path) -> None:
    file = write(
        folder,
        """
        set: {data.val: v.jsonl, model.loss.tau: 0.1}
        grid: {data.batch_size: [1, 2]}
        points:
          BT: {base: bt.yaml, set: {model.loss.tau: 1.0}}
          GPM: {base: gpm.yaml, grid: {model.head.dim: [2, 4, 8]}}
        seeds: [0, 7]
        """,
    )
    points = read_sweep(file, {"data.train": "t.jsonl"}).points
    assert len(points) == 2 * (1 + 3) * 2 and len({point.name for point in points}) == 16
    models = [("BT", None), *(("GPM", dim) for dim in (2, 4, 8))]
    found = {(p.values["model"], p.values.get("model.head.dim"), p.values["data.batch_size"], p.seed) for p in points}
    assert found == {(*model, size, seed) for model in models for size in (1, 2) for seed in (0, 7)}
    assert all(p.base.name == ("bt.yaml" if p.values["model"] == "BT" else "gpm.yaml") for p in points)
    assert all(p.settings["model.loss.tau"] == (1.0 if p.values["model"] == "BT" else 0.1) for p in points)
    one = next(p for p in points if p.model == "GPM batch_size=2 dim=8" and p.seed == 7)
    assert one.name == "GPM-batch_size=2-dim=8-seed=7"
    said = one.arguments(Path("out"))
    pairs = dict(zip(said[::2], said[1::2], strict=True))
    assert pairs == {
        "--config": str(folder / "gpm.yaml"), "--data.val": "v.jsonl", "--model.loss.tau": "0.1", "--data.train": "t.jsonl",
        "--data.batch_size": "2", "--model.head.dim": "8", "--seed_everything": "7", "--data.seed": "7",
        "--trainer.default_root_dir": "out",
    }  # fmt: skip


def test_values_are_said_as_the_command_line_reads_them(folder: Path) -> None:
    file = write(folder, "base: gpm.yaml\nset: {a: null, b: true}\ngrid: {c: [{class_path: X, init_args: {k: 1}}]}")
    (point,) = read_sweep(file).points
    said = point.arguments(Path("o"))
    pairs = dict(zip(said[::2], said[1::2], strict=True))
    assert (pairs["--a"], pairs["--b"], pairs["--c"]) == ("null", "true", '{"class_path": "X", "init_args": {"k": 1}}')
    assert point.model == "c=X-1" and point.seed == 0


def test_powers_of_ten_are_numbers(folder: Path) -> None:
    points = read_sweep(write(folder, "base: gpm.yaml\nset: {s: 2E5}\ngrid: {lr: [1e-5, -3e-4, 1.0e-3, 1e-5x, .5]}")).points
    assert [p.values["lr"] for p in points] == [1e-5, -3e-4, 1e-3, "1e-5x", 0.5] and points[0].settings["s"] == 2e5
    assert parse_setting("lr=1e-5") == ("lr", 1e-5)


def test_keys_of_one_last_name_are_told_apart(folder: Path) -> None:
    points = read_sweep(write(folder, "base: gpm.yaml\ngrid: {model.a.dim: [2], model.b.dim: [4]}")).points
    assert points[0].model == "model.a.dim=2 model.b.dim=4"


def test_the_papers_ablation() -> None:
    """BT, and GPM of 4 dimensions with and without gate and normalisation, but for a gate over one block: 15 models, 3 seeds."""
    for name in ("paper-frozen", "paper-lora"):
        points = read_sweep(ROOT / "configs" / "sweep" / f"{name}.yaml").points
        grid = [(p.values.get("model.head.skew"), p.values.get("model.head.normalize"), p.values.get("model.head.dim")) for p in points]
        heads = {(None, None, None), *itertools.product(("BlockSkew", "GatedSkew"), (True, False), (2, 4, 6, 8))}
        assert set(grid) == heads - {("GatedSkew", True, 2), ("GatedSkew", False, 2)} and len(grid) == 45


def test_grids_one_after_the_other(folder: Path) -> None:
    file = write(folder, "base: gpm.yaml\ngrid: {n: [1, 2]}\npoints: {P: {grid: [{a.k: [x], b.k: [4]}, {a.k: [y], m: [5, 6]}]}}")
    points = read_sweep(file).points
    found = [(p.values["n"], p.values["a.k"], p.values.get("b.k"), p.values.get("m")) for p in points]
    assert found == [(1, "x", 4, None), (2, "x", 4, None), *((n, "y", None, m) for n in (1, 2) for m in (5, 6))]
    assert [p.model for p in points[:3]] == ["P n=1 a.k=x b.k=4", "P n=2 a.k=x b.k=4", "P n=1 a.k=y m=5"]
    assert all(p.settings == {key: value for key, value in p.values.items() if key != "model"} for p in points)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", ["not YAML"]),
        ("[]", ["must be names with values"]),
        ("base: gpm.yaml\ngird: {}", ["no key 'gird'", "grid"]),
        ("base: none.yaml", ["none.yaml", "no such file"]),
        ("grid: {a: [1]}", ["no base configuration"]),
        ("base: gpm.yaml\ngrid: {a: 1}", ["a must be a list", "got 1"]),
        ("base: gpm.yaml\ngrid: {a: []}", ["a must be a list"]),
        ("base: gpm.yaml\ngrid: [{a: [1]}, {a: 2}]", ["grid[1]", "a must be a list", "got 2"]),
        ("base: gpm.yaml\ngrid: [{a: [1]}, {b: [2, 2]}, {a: [1]}]", ["two points are called a=1-seed=0"]),
        ("base: gpm.yaml\nset: {b: 1}\ngrid: [{a: [1]}, {b: [1]}]", ["b is set and varied"]),
        ("base: gpm.yaml\nset: {a: 1}\ngrid: {a: [1]}", ["a is set and varied"]),
        ("base: gpm.yaml\ngrid: {data.seed: [1, 2]}", ["data.seed belongs to the sweep", "seeds"]),
        ("base: gpm.yaml\nset: {trainer.default_root_dir: x}", ["belongs to the sweep"]),
        ("base: gpm.yaml\nseeds: 3", ["seeds must be a list"]),
        ("base: gpm.yaml\nseeds: [a]", ["seeds must be a list"]),
        ("base: gpm.yaml\nkeep_models: 3", ["keep_models"]),
        ("base: gpm.yaml\ngrid: {a: [x/y, x-y]}", ["two points are called a=x-y-seed=0"]),
        ("base: gpm.yaml\npoints: {A: {bass: x}}", ["points.A", "no key 'bass'"]),
    ],
)  # fmt: skip
def test_wrong_files_get_one_sentence(text: str, words: list[str], folder: Path) -> None:
    with pytest.raises(ConfigError) as error:
        read_sweep(write(folder, text))
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value), error.value


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_sweep(tmp_path / "none.yaml")


def test_settings_of_the_command_line() -> None:
    assert parse_setting("data.train=a=b.jsonl") == ("data.train", "a=b.jsonl")
    assert parse_setting("x=0.5") == ("x", 0.5) and parse_setting("x=null") == ("x", None) and parse_setting("x=true") == ("x", True)
    for wrong in ("x", "=1", "x=[", "data.seed=1"):
        with pytest.raises(ConfigError):
            parse_setting(wrong)
