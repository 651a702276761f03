"""A resumed run knows what it was: what moves numbers stops it, with old and new values; the rest may change."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import program

from prefrep.errors import ConfigError
from prefrep.shipped import config_file
from prefrep.training.provenance import changes, moves_numbers, settings_of

fit = program("fit")


def rows(count: int) -> list[str]:
    return [json.dumps({"prompt": f"Q{i}?", "chosen": "yes " * (i % 3 + 1), "rejected": "no"}) + "\n" for i in range(count)]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps in the folder `run`, and its data."""
    root = tmp_path_factory.mktemp("begun")
    (root / "train.jsonl").write_text("".join(rows(8)))
    resume(root)
    return root


def resume(root: Path, *more: str) -> None:
    options = {
        "data.train": root / "train.jsonl", "trainer.default_root_dir": root / "run", "ckpt_path": "last", "trainer.logger": "false",
        "trainer.enable_progress_bar": "false", "trainer.callbacks": _CALLBACKS % (root / "run"),
    }  # fmt: skip
    fit(["--config", "tiny/gpm", *(f"--{name}={value}" for name, value in options.items()), *more])


_CALLBACKS = '[{"class_path": "Checkpoints", "init_args": {"dirpath": "%s/checkpoints"}}, {"class_path": "MetricsFile"}]'


def refusal(root: Path, *more: str) -> str:
    with pytest.raises(ConfigError) as refused:
        resume(root, *more)
    text = str(refused.value)
    assert text.startswith(f"{root}/run/checkpoints: begun otherwise: ") and text.endswith("go on with --on-change continue")
    return text


def test_the_same_again_and_more_epochs(begun: Path) -> None:
    found = json.loads((begun / "run" / "checkpoints" / "provenance.json").read_text())
    assert found["changes"] == [] and found["settings"]["model.head.dim"] == 4 and found["settings"]["model"] == "GeneralPreference"
    resume(begun)
    resume(begun, "--trainer.max_epochs", "2", "--data.num_workers", "1")
    assert "on_change" not in (begun / "run" / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data.batch_size", "4"], "data.batch_size was 2 and is 4 now"),
        (["--trainer.accumulate_grad_batches", "1"], "trainer.accumulate_grad_batches was 2 and is 1 now"),
        (["--seed_everything", "7"], "seed_everything was 0 and is 7 now"),
        (["--model.optimizer.lr", "0.5"], "model.optimizer.lr was 0.0002 and is 0.5 now"),
        (["--model.schedule.name", "linear"], "model.schedule.name was cosine and is linear now"),
        (["--data.max_length", "128"], "data.max_length was 256 and is 128 now"),
        (["--data.template", "plain"], "data.template was auto and is plain now"),
        (["--model.loss", "RegressionLoss"], "model.loss was LogisticLoss and is RegressionLoss now"),
        (["--trainer.precision", "bf16-mixed"], "trainer.precision was 32-true and is bf16-mixed now"),
    ],
)
def test_what_moves_numbers_stops_the_run(options: list[str], said: str, begun: Path) -> None:
    assert said in refusal(begun, *options)


@pytest.mark.parametrize("change", [lambda each: each + rows(9)[8:], lambda each: each[:-1], lambda each: each[::-1]])
def test_other_rows_stop_the_run(change: Any, begun: Path) -> None:
    file, before = begun / "train.jsonl", rows(8)
    file.write_text("".join(change(before)))
    try:
        assert re.search(r"data.train.0.content was [0-9a-f]{12}\.\.\. and is [0-9a-f]{12}\.\.\. now", refusal(begun))
    finally:
        file.write_text("".join(before))


def test_a_moved_file_is_the_same_data(begun: Path) -> None:
    moved = begun / "elsewhere" / "train.jsonl"
    moved.parent.mkdir()
    moved.write_bytes((begun / "train.jsonl").read_bytes())
    resume(begun, "--data.train", str(moved), "--trainer.max_epochs", "2")


def test_going_on_is_noted(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("".join(rows(8)))
    resume(tmp_path)
    more = ["--trainer.max_epochs", "2", "--model.optimizer.lr", "0.5"]
    assert "model.optimizer.lr" in refusal(tmp_path, *more)
    resume(tmp_path, *more, "--on-change", "continue")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["changed"] for line in lines if "changed" in line] == [{"model.optimizer.lr": [0.0002, 0.5]}]
    found = json.loads((tmp_path / "run" / "checkpoints" / "provenance.json").read_text())
    assert found["changes"] == [{"step": 2, "model.optimizer.lr": [0.0002, 0.5]}] and found["settings"]["model.optimizer.lr"] == 0.5
    resume(tmp_path, *more)


# ---- post-training


def policy(root: Path, *more: str) -> None:
    """Two rounds of two prompts, or as many as `more` says."""
    options = {"data.train": root / "prompts.jsonl", "data.val": root / "val.jsonl", "trainer.default_root_dir": root / "run"}
    plain = ["--trainer.logger=false", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]
    fit(["--config", str(root / "gpo.yaml"), *(f"--{name}={value}" for name, value in options.items()), *plain, *more])


def configured(root: Path, **changes: Any) -> None:
    """Write the configuration: arguments of callbacks, by class and name."""
    content = yaml.safe_load(config_file("tiny/gpo").read_text())
    content["trainer"]["callbacks"] = [each for each in content["trainer"]["callbacks"] if "Monitor" not in each["class_path"]]
    for callback in content["trainer"]["callbacks"]:
        callback.setdefault("init_args", {}).update(changes.get(callback["class_path"], {}))
    (root / "gpo.yaml").write_text(yaml.safe_dump(content))


SAMPLER = {"class_path": "TransformersSampler", "init_args": {"temperature": 0.5, "top_p": 1.0, "max_new_tokens": 12}}
OTHER_JUDGE = {"class_path": "RuleJudge", "init_args": {"rule": "prefrep.judges.rules.conciseness"}}


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Post-training that has ended its first round."""
    root = tmp_path_factory.mktemp("rounds")
    for name in ("prompts", "val"):
        (root / f"{name}.jsonl").write_text("".join(json.dumps({"prompt": f"Say {i}"}) + "\n" for i in range(2)))
    configured(root)
    policy(root, "--trainer.max_epochs", "1")
    return root


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        ({}, ["--model.objective", "SPPOObjective"], "model.objective was GPOObjective and is SPPOObjective now"),
        ({}, ["--model.objective.beta", "0.5"], "model.objective.beta was 0.05 and is 0.5 now"),
        ({"SampleResponses": {"sampler": SAMPLER}}, [], "trainer.callbacks.SampleResponses.sampler.temperature was 1.0 and is 0.5 now"),
        ({"SampleResponses": {"responses": 4}}, [], "trainer.callbacks.SampleResponses.responses was 3 and is 4 now"),
        (
            {"LabelPreferences": {"judge": OTHER_JUDGE}},
            [],
            "trainer.callbacks.LabelPreferences.judge.rule was prefrep.judges.concise and is prefrep.judges.rules.conciseness now",
        ),
    ],
    ids=["objective", "beta", "sampler", "responses", "judge"],
)
def test_what_moves_the_numbers_of_rounds_stops_the_run(changes: Any, options: list[str], said: str, rounds: Path) -> None:
    configured(rounds, **changes)
    try:
        with pytest.raises(ConfigError) as refused:
            policy(rounds, *options)
    finally:
        configured(rounds)
    text = str(refused.value)
    assert text.startswith(f"{rounds}/run/checkpoints: begun otherwise: ") and text.endswith("go on with --on-change continue")
    assert said in text and not (rounds / "run" / "rounds" / "1" / "samples.jsonl").exists()


def test_other_prompts_stop_the_run_unless_it_is_to_go_on(rounds: Path, tmp_path: Path) -> None:
    root = shutil.copytree(rounds, tmp_path / "root")
    (root / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"Say {i}"}) + "\n" for i in (1, 0)))
    with pytest.raises(ConfigError, match=r"data.train.0.content was [0-9a-f]{12}\.\.\. and is [0-9a-f]{12}\.\.\. now"):
        policy(root)
    configured(root, SampleResponses={"sampler": SAMPLER})
    policy(root, "--on-change", "continue")
    noted = json.loads((root / "run" / "checkpoints" / "provenance.json").read_text())["changes"]
    name = "trainer.callbacks.SampleResponses.sampler.temperature"
    assert len(noted) == 1 and noted[0][name] == [1.0, 0.5] and "data.train.0.content" in noted[0]
    lines = [json.loads(line) for line in (root / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["changed"][name] for line in lines if "changed" in line] == [[1.0, 0.5]]
    assert (root / "run" / "rounds" / "1" / "samples.jsonl").exists() and (root / "run" / "export").exists()


# ---- what settings are


def test_settings_of_classes_and_lists() -> None:
    config = {"model": {"class_path": "a.B", "init_args": {"head": {"class_path": "c.D", "init_args": {"dim": 4}}, "betas": [0.9, 0.95]}},
              "trainer": {"callbacks": [{"class_path": "x.LabelPreferences", "init_args": {"judge": "m"}}], "devices": 1}}  # fmt: skip
    found = settings_of(config)
    assert found == {"model": "B", "model.head": "D", "model.head.dim": 4, "model.betas": [0.9, 0.95],
                     "trainer.callbacks.LabelPreferences": "LabelPreferences", "trainer.callbacks.LabelPreferences.judge": "m",
                     "trainer.devices": 1}  # fmt: skip
    assert {name for name in found if not moves_numbers(name)} == {"trainer.devices"}
    assert changes({"a": 1, "b": 2}, {"a": 1, "c": 3}) == {"b": [2, None], "c": [None, 3]}
