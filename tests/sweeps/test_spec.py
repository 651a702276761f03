"""Sweep files: which points they mean, and what is wrong with them."""

from __future__ import annotations

import argparse
import itertools
from math import inf, isnan
from pathlib import Path

import pytest
import yaml

from prefrep.errors import ConfigError
from prefrep.sweeps.spec import parse_setting, read_sweep

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
    flag, base, *said = one.arguments(Path("out"))
    assert (flag, base) == ("--config", str(folder / "gpm.yaml"))
    assert dict(argument.split("=", 1) for argument in said) == {
        "--data.val": "v.jsonl", "--model.loss.tau": "0.1", "--data.train": "t.jsonl",
        "--data.batch_size": "2", "--model.head.dim": "8", "--seed_everything": "7", "--data.seed": "7",
        "--trainer.default_root_dir": "out",
    }  # fmt: skip


def test_values_are_said_as_the_command_line_reads_them(folder: Path) -> None:
    file = write(folder, "base: gpm.yaml\nset: {a: null, b: true}\ngrid: {c: [{class_path: X, init_args: {k: 1}}]}")
    (point,) = read_sweep(file).points
    said = point.arguments(Path("o"))
    assert said[2:5] == ["--a=null", "--b=true", '--c={"class_path": "X", "init_args": {"k": 1}}']
    assert point.model == "c=X-1" and point.seed == 0


def test_powers_of_ten_are_numbers(folder: Path) -> None:
    points = read_sweep(write(folder, "base: gpm.yaml\nset: {s: 2E5}\ngrid: {lr: [1e-5, -3e-4, 1.0e-3, 1e-5x, .5]}")).points
    assert [p.values["lr"] for p in points] == [1e-5, -3e-4, 1e-3, "1e-5x", 0.5] and points[0].settings["s"] == 2e5
    assert parse_setting("lr=1e-5") == ("lr", 1e-5)


def test_numbers_reach_the_parser_as_they_are(folder: Path) -> None:
    """-1e-05 looks like an option, and JSON spells infinity as no YAML does."""
    text = "base: gpm.yaml\nset: {model.opt: {eps: [.inf, 1.0]}}\ngrid: {model.lr: [-1.0e-5, .inf, -.inf, .nan]}"
    parser = argparse.ArgumentParser()
    for name in ("config", "model.lr", "model.opt", "seed_everything", "data.seed", "trainer.default_root_dir"):
        parser.add_argument(f"--{name}")
    read = [vars(parser.parse_args(point.arguments(Path("o")))) for point in read_sweep(write(folder, text)).points]
    numbers = [yaml.safe_load(each["model.lr"]) for each in read[1:]]
    assert float(read[0]["model.lr"]) == -1e-5 and numbers[:2] == [inf, -inf] and isnan(numbers[2])
    assert yaml.safe_load(read[0]["model.opt"]) == {"eps": [inf, 1.0]}


def test_names_fit_a_file_system(folder: Path) -> None:
    """A name of 255 bytes at most, with the word that its lock has in front of it; one that fits stays as it is."""
    for size in (100, 240, 241, 400):
        letters = "é" * (size // 2) + "x" * (size % 2)
        points = read_sweep(write(folder, f"base: gpm.yaml\npoints: {{{letters}: {{grid: {{a: [1, 2]}}}}}}")).points
        whole = [f"{letters}-a={a}-seed=0" for a in (1, 2)]
        names = [point.name for point in points]
        assert len(set(names)) == 2 and all(name[:100] == longer[:100] for name, longer in zip(names, whole, strict=True))
        if len(f"point {whole[0]}".encode()) <= 255:
            assert names == whole
        for name in names:
            (folder / name).mkdir()
            (folder / f"point {name}").touch()


def test_parts_of_a_varied_object_may_vary_beside_it(folder: Path) -> None:
    """Where only one of the two says what the part is; the object comes first, so that the parser refuses a part that it has not."""
    file = write(folder, "base: gpm.yaml\ngrid: {m.h.dim: [2, 4], m.h: [GPMHead, {class_path: GPMHead, init_args: {normalize: false}}]}")
    points = read_sweep(file).points
    assert [p.model for p in points] == ["dim=2 h=GPMHead", "dim=2 h=GPMHead-False", "dim=4 h=GPMHead", "dim=4 h=GPMHead-False"]
    assert all(list(p.settings) == ["m.h", "m.h.dim"] for p in points)
    file = write(folder, "base: gpm.yaml\nset: {m.h: {dim: 6}, m.l.tau: 1}\ngrid: {m.h.dim: [2], m.l: [{tau: 3}, null]}")
    one, two = read_sweep(file).points
    assert list(one.settings) == ["m.h", "m.l.tau", "m.l", "m.h.dim"] and two.model == "dim=2 l=null", "what varies is over what is set"


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
        ("[]", ["must be a mapping"]),
        ("base: gpm.yaml\ngird: {}", ["no key 'gird'", "grid"]),
        ("base: none.yaml", ["none.yaml", "no such file"]),
        ("grid: {a: [1]}", ["no base configuration"]),
        ("base: gpm.yaml\ngrid: {a: 1}", ["a must be a list", "got 1"]),
        ("base: gpm.yaml\ngrid: {a: []}", ["a must be a list"]),
        ("base: gpm.yaml\ngrid: [{a: [1]}, {a: 2}]", ["grid[1]", "a must be a list", "got 2"]),
        ("base: gpm.yaml\ngrid: [{a: [1]}, {b: [2, 2]}, {a: [1]}]", ["two points are called a=1-seed=0"]),
        ("base: gpm.yaml\nset: {b: 1}\ngrid: [{a: [1]}, {b: [1]}]", ["b is set and varied"]),
        ("base: gpm.yaml\nset: {a: 1}\ngrid: {a: [1]}", ["a is set and varied"]),
        ("base: gpm.yaml\ngrid: {m.h.dim: [2], m.h: [{class_path: X, init_args: {dim: 6}}]}", ["m.h.dim is varied", "m.h=X-6 sets it"]),
        ("base: gpm.yaml\ngrid: {m.h: [{dim: 6}], m.h.init_args.dim: [2]}", ["m.h.init_args.dim is varied", "sets it too"]),
        ("base: gpm.yaml\ngrid: {m.h.dim: [2]}\npoints: {A: {grid: {m.h: [null]}}}", ["points.A", "m.h.dim is varied", "m.h=null sets it"]),
        ("base: gpm.yaml\ngrid: {a: [2024-01-01]}", ["grid: a must consist of text", "date", "quotes"]),
        ("base: gpm.yaml\nset: {a: {b: 2024-01-01}}", ["a must consist of text", "date", "quotes"]),
        ("base: gpm.yaml\ngrid: {data.seed: [1, 2]}", ["data.seed is set by the sweep", "seeds"]),
        ("base: gpm.yaml\nset: {trainer.default_root_dir: x}", ["is set by the sweep"]),
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
