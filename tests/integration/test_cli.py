"""The command line as people use it: every YAML runs, wrong input gets one sentence, a run ends in a folder that scores."""

from __future__ import annotations

import csv
import gzip
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import lightning.pytorch  # noqa: F401  now: its log handlers keep the stderr there is when they are made, and a test's is closed soon
import pytest
import torch
import yaml
from conftest import program
from safetensors.torch import load_file

from prefrep.cli.friendly import run
from prefrep.cli.main import main
from prefrep.errors import ConfigError, DataError, PrefrepError, UsageError
from prefrep.modules.base import LanguageModule
from prefrep.scoring import Scorer

score = program("score")

ROOT = Path(__file__).parents[2]
# Policies run in test_gpo, test_alignment and test_written_judges, several processes in test_scale, a thousand epochs in test_cyclic.
ELSEWHERE = {"gpo", "gpo-judge", "policy", "dpo", "scale", "cyclic", "sweep"}
CONFIGS = sorted(p for p in (ROOT / "configs").glob("*/*.yaml") if not ELSEWHERE & {p.parent.name, p.stem})
ROWS = [
    {"prompt": f"Say {i}", "chosen": f"{i} it is", "rejected": f"no {i * 7 % 5}, thanks", "id": f"r{i}", "annotator": "ab"[i % 2]}
    for i in range(6)
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


def fit(config: Path, data: Path, out: Path, *more: str) -> None:
    # Loggers and checkpoints of one test must not meet those of another: everything goes below the test's own folder.
    main(
        [
            "fit", "--config", str(config), "--data.train", str(data), "--data.val", str(data), "--trainer.default_root_dir", str(out),
            "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", *more,
        ]
    )  # fmt: skip


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_yaml_runs(config: Path, data: Path, tmp_path: Path) -> None:
    """On a tiny backbone, to the exported folder; everything else is as the file says."""
    out = tmp_path / "run"
    fit(config, data, out, "--model.backbone.path", "bundled:tiny-llama", "--data.batch_size", "2", "--trainer.precision", "32-true")
    assert (out / "export" / "prefrep.json").exists() and list((out / "checkpoints").glob("*.ckpt"))
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert {"train/loss", "train/accuracy", "lr", "train/grad_norm"} <= set(lines[0]) and "val/loss" in lines[-1]
    steps = [line["step"] for line in lines if "train/loss" in line]
    assert steps == sorted(set(steps)), "one line an optimizer step"


def test_tiny_configs_have_the_shape_of_the_real_ones() -> None:
    for tiny in CONFIGS:
        if tiny.parent.name != "tiny":
            continue
        real = yaml.safe_load((ROOT / "configs" / "preference" / tiny.name).read_text())
        mine = yaml.safe_load(tiny.read_text())
        assert mine["model"]["class_path"] == real["model"]["class_path"]
        assert mine["model"]["init_args"]["head"] == real["model"]["init_args"]["head"]
        assert [c["class_path"] for c in mine["trainer"]["callbacks"]] == [c["class_path"] for c in real["trainer"]["callbacks"]]


TINY = ROOT / "configs" / "tiny" / "gpm.yaml"


def test_a_killed_run_goes_on_with_ckpt_path_last(data: Path, tmp_path: Path) -> None:
    """Killed in step 5 of 6, in the middle of an epoch; checkpoints by the clock, here at every step. It ends as if nothing had been."""
    config = yaml.safe_load(TINY.read_text())
    timed = [c["init_args"] for c in config["trainer"]["callbacks"] if "train_time_interval" in c.get("init_args", {})]
    timed[0]["train_time_interval"] = "0:00:00.000001"
    file = tmp_path / "often.yaml"
    file.write_text(yaml.safe_dump(config))
    options = ["--trainer.max_epochs", "2", "--trainer.accumulate_grad_batches", "1"]
    fit(file, data, tmp_path / "whole", *options)

    def die(run: LanguageModule, optimizer: Any) -> None:
        if run.trainer.global_step == 4:
            os.kill(os.getpid(), signal.SIGKILL)

    def killed() -> None:
        LanguageModule.on_before_optimizer_step = die  # type: ignore[method-assign]
        fit(file, data, tmp_path / "run", *options)

    process = multiprocessing.get_context("fork").Process(target=killed)
    process.start()
    process.join(timeout=120)
    assert process.exitcode == -signal.SIGKILL
    fit(file, data, tmp_path / "run", *options, "--ckpt_path", "last")
    whole, found = (load_file(tmp_path / name / "export" / "head.safetensors") for name in ("whole", "run"))
    assert whole.keys() == found.keys() and all(torch.equal(whole[name], found[name]) for name in whole)
    lines = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines() if "train/loss" in line]
    assert lines == [1, 2, 3, 4, 5, 6]
    # A run that begins anew in the folder leaves its own checkpoint under the name, and not last-v1.ckpt beside it.
    fit(file, data, tmp_path / "run", *options, "--model.optimizer.lr", "0.01")
    assert not list((tmp_path / "run").rglob("*-v1.ckpt"))
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["optimizer_states"][0]["param_groups"][0]["initial_lr"] == 0.01


def truncated_gz(folder: Path) -> Path:
    file = folder / "cut.jsonl.gz"
    file.write_bytes(gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in ROWS))[:60])
    return file


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["--model", "GeneralPreferenc"], ["did you mean GeneralPreference"], 2),
        (["--model.head", "GPHead"], ["did you mean GPMHead"], 2),
        (["--model.head", "BTHead"], ["BTHead does not go there"], 2),
        (["--model.head", "HybridHead"], ["HybridHead does not go there", "HybridPreference HybridHead"], 2),
        (["--model.head", "mypkg.heads.X"], ["head: mypkg.heads.X cannot be used (No module named 'mypkg'); install", "PYTHONPATH"], 2),
        (["--model.head", "prefrep.nn.skew.BlockSkew"], ["BlockSkew cannot be used", "subclass of GPMHead"], 2),
        (["--model.loss", "os.system"], ["os.system cannot be used", "returns PreferenceLoss"], 2),
        (["--data.batch_size=2", "--init-from"], ["--init-from needs a model"], 2),
        (["--model.head.dim", "3"], ["positive even number", "got 3"], 2),
        (["--model.head.dims", "4"], ["'dims' is not accepted"], 2),
        (["--model.loss.tau", "0"], ["tau must be a positive number"], 2),
        (["--model.backbone.path", "./nowhere"], ["./nowhere", "no such folder"], 1),
        (["--data.train", "{tmp}/none.jsonl"], ["none.jsonl", "no such file"], 1),
        (["--data.train", "{tmp}/empty.jsonl"], ["empty.jsonl", "empty"], 1),
        (["--data.train", "{tmp}/column.jsonl"], ["column.jsonl:1", "rejected"], 1),
        (["--data.train", "{tmp}/cut.jsonl.gz"], ["cut.jsonl.gz"], 1),
        (["--data.batch_size", "0"], ["batch_size must be 1 or more"], 1),
        (["--ckpt_path", "{tmp}/none.ckpt"], ["none.ckpt", "not found"], 1),
        (["--trainer.default_root_dir", "{tmp}/data.jsonl"], ["data.jsonl", "directory"], 1),
    ],
    ids=lambda value: value[0].removeprefix("--") + "=" + value[1].rsplit("/")[-1] if isinstance(value, list) and len(value) == 2 else None,
)
def test_wrong_input_gets_one_sentence(
    arguments: list[str], words: list[str], code: int, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "column.jsonl").write_text('{"prompt": "a", "chosen": "b"}\n')
    truncated_gz(tmp_path)
    arguments = [argument.replace("{tmp}", str(tmp_path)) for argument in arguments]
    with pytest.raises(SystemExit) as stop:
        run(lambda: fit(TINY, data, tmp_path / "run", *arguments))
    printed = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == code
    complaints = [line for line in printed if line.startswith("prefrep: ")]
    assert len(complaints) == 1 and printed[-1] == complaints[0], "one sentence, and it comes last"
    assert all(word in complaints[0] for word in words), complaints[0]
    assert not any("Traceback" in line for line in printed)


def test_a_model_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="no model is named; name a configuration with --config"):
        main(["fit"])


@pytest.mark.parametrize("null", [["--model.backbone.lora", "null"], ["--model.backbone.init_args.lora=null"]])
def test_a_flag_can_take_an_option_away(null: list[str], data: Path, tmp_path: Path) -> None:
    """Full fine-tuning from a file that has LoRA, as the README says; flags that follow still count."""
    fit(TINY, data, tmp_path / "run", *null, "--model.backbone.revision", "null", "--model.head.dim", "6")
    about = json.loads((tmp_path / "run" / "export" / "prefrep.json").read_text())
    assert about["backbone"]["lora"] is None and about["backbone"]["revision"] is None and about["head"]["dim"] == 6


def test_a_device_that_is_not_there(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(TINY, data, tmp_path / "run")
    for device in ("meta:9x", "nonsense"):
        with pytest.raises(SystemExit) as stop:
            arguments = ["--model", str(tmp_path / "run" / "export"), "--data", str(data), "--out", str(tmp_path / "o.jsonl")]
            run(lambda arguments=arguments, device=device: score([*arguments, "--device", device]))  # type: ignore[misc]
        assert stop.value.code == 1 and f"prefrep: device '{device}' cannot be used here" in capsys.readouterr().err


def test_a_fitted_model_scores_files(data: Path, tmp_path: Path) -> None:
    """fit -> export -> prefrep score; a second run continues a file that was cut in the middle of a line."""
    fit(TINY, data, tmp_path / "run")
    export = tmp_path / "run" / "export"
    options = ["--model", str(export), "--data", str(data), "--out"]
    assert score([*options, str(tmp_path / "a.jsonl")]) == 0
    whole = (tmp_path / "a.jsonl").read_text()
    rows: list[dict[str, Any]] = [json.loads(line) for line in whole.splitlines()]
    assert [row["id"] for row in rows] == [row["id"] for row in ROWS] and [row["row"] for row in rows] == list(range(6))
    table = Scorer.from_pretrained(export).table("Say 3", ["3 it is", "no 1, thanks"])
    assert rows[3]["score"] == pytest.approx(float(table[0, 1]), abs=1e-4)
    assert score([*options, str(tmp_path / "b.jsonl")]) == 0
    (tmp_path / "b.jsonl").write_text(whole[: whole.index('"r3"') + 2])
    assert score([*options, str(tmp_path / "b.jsonl")]) == 0
    again = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert [row["row"] for row in again] == list(range(6))
    assert [row["score"] for row in again] == pytest.approx([row["score"] for row in rows], abs=1e-4)
    other = tmp_path / "other.jsonl"
    other.write_text(data.read_text().replace("Say 3", "Say 4"))
    with pytest.raises(DataError, match="begun with other data"):
        score(["--model", str(export), "--data", str(other), "--out", str(tmp_path / "b.jsonl")])
    (export / "head.safetensors").write_bytes((export / "head.safetensors").read_bytes() + b" ")
    with pytest.raises(DataError, match="begun with other model"):
        score([*options, str(tmp_path / "b.jsonl")])


def test_columns_of_ones_own(data: Path, tmp_path: Path) -> None:
    """Training, scores, evaluation and labels of a CSV file with other names are those of the rows under ours."""
    theirs = {"rejected": "worse", "chosen": "better", "prompt": "question"}
    table = tmp_path / "own.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, [theirs.get(name, name) for name in ROWS[0]])
        writer.writeheader()
        writer.writerows({theirs.get(name, name): value for name, value in row.items()} for row in ROWS)
    source = {"path": str(table), "columns": theirs, "limit": 4, "weight": 2}
    (tmp_path / "own.yaml").write_text(json.dumps({"data": {"class_path": "PreferenceData", "init_args": {"train": [source]}}}))
    (tmp_path / "first.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*ROWS[:4], *ROWS[:4]]))
    common = ["--config", str(TINY), "--data.val", str(data), "--trainer.accelerator", "cpu", "--trainer.default_root_dir"]
    main(["fit", *common, str(tmp_path / "theirs"), "--config", str(tmp_path / "own.yaml"), "--data.val", str(data)])
    main(["fit", *common, str(tmp_path / "ours"), "--data.train", str(tmp_path / "first.jsonl")])
    heads = [load_file(tmp_path / name / "export" / "head.safetensors") for name in ("theirs", "ours")]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])

    model, columns = str(tmp_path / "ours" / "export"), [f"--column={ours}={name}" for ours, name in theirs.items()]
    for file, more in ((table, columns), (data, [])):
        out = tmp_path / file.stem
        assert score(["--model", model, "--data", str(file), "--out", f"{out}.scores.jsonl", *more]) == 0
        main(["eval", "pairs", "--model", model, "--data", str(file), "--out", f"{out}.pairs", *more])
        main(["label", str(file), "--out", f"{out}.labels.jsonl", "--step", "Duplicates", *more])
    assert (tmp_path / "own.scores.jsonl").read_text() == (tmp_path / "data.scores.jsonl").read_text()
    labelled = [[json.loads(line) for line in (tmp_path / f"{each}.labels.jsonl").read_text().splitlines()] for each in ("own", "data")]
    assert labelled[0] == labelled[1] and ROWS[0].items() <= labelled[0][0].items(), "own rows, with new columns"
    own, ours = (json.loads((tmp_path / f"{each}.pairs" / "results.json").read_text()) for each in ("own", "data"))
    assert own["overall"] == ours["overall"]
    with pytest.raises(DataError, match="begun with other settings"):
        score(["--model", model, "--data", str(table), "--out", str(tmp_path / "own.scores.jsonl"), *columns[:2]])


def test_predict_and_validate_need_a_checkpoint(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The head of a fresh model is random; the log-odds of a trained one are written, as prefrep score gives them."""
    out = tmp_path / "run"
    fit(TINY, data, out)
    common = ["--config", str(TINY), "--trainer.default_root_dir", str(out), "--trainer.logger", "false"]
    for command in ("validate", "predict"):
        with pytest.raises(ConfigError, match="--ckpt_path"):
            main([command, *common, f"--data.{command.removesuffix('idate')}", str(data)])
    checkpoint = str(out / "checkpoints" / "last.ckpt")
    assert main(["predict", *common, "--data.predict", str(data), "--ckpt_path", checkpoint]) == 0
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert score(["--model", str(out / "export"), "--data", str(data), "--out", str(tmp_path / "s.jsonl")]) == 0
    scored = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert [row["row"] for row in rows] == list(range(len(scored)))
    assert [row["score"] for row in rows] == pytest.approx([row["score"] for row in scored], abs=1e-4)


def test_predictions_say_what_they_are_of(data: Path, tmp_path: Path) -> None:
    """Records that are dropped have none and do not shift the others; of several responses each pair is named."""
    fit(TINY, data, tmp_path / "run")
    long = {"prompt": "word " * 200, "chosen": "a", "rejected": "b"}
    ranked = {"prompt": "Rank", "responses": ["one", "two", "three"], "scores": [2, 2, 3], "id": "k"}
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [long, {"prompt": "Say", "chosen": "x", "rejected": "y"}]))
    (tmp_path / "k.jsonl").write_text(json.dumps(ranked) + "\n")
    config = {"data": {"class_path": "PreferenceData", "init_args": {"predict": [str(tmp_path / "p.jsonl"), str(tmp_path / "k.jsonl")]}}}
    (tmp_path / "more.yaml").write_text(json.dumps(config))
    out, checkpoint = tmp_path / "run", str(tmp_path / "run" / "checkpoints" / "last.ckpt")
    common = [
        "--config",
        str(TINY),
        "--config",
        str(tmp_path / "more.yaml"),
        "--trainer.default_root_dir",
        str(out),
        "--trainer.logger",
        "false",
    ]
    assert main(["predict", *common, "--data.truncation", "drop", "--data.max_length", "96", "--ckpt_path", checkpoint]) == 0
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert [(row["row"], row["id"], row.get("pair")) for row in rows] == [(1, "", None), (2, "k", [2, 0]), (2, "k", [2, 1])]
    one = ["--data.max_length", "96", "--data.truncation", "drop", "--data.batch_size", "1", "--trainer.limit_predict_batches", "1"]
    assert main(["predict", *common, *one, "--ckpt_path", checkpoint]) == 0
    assert len((out / "predictions.jsonl").read_text().splitlines()) == 1, "as many as were asked for"


def test_score_leaves_other_files_alone(data: Path, tmp_path: Path) -> None:
    """Also one whose only line has no end."""
    fit(TINY, data, tmp_path / "run")
    out = tmp_path / "notes.json"
    out.write_text('{"precious": true}')
    options = ["--model", str(tmp_path / "run" / "export"), "--data", str(data), "--out"]
    with pytest.raises(DataError, match="notes.json: it is not known what wrote it"):
        score([*options, str(out)])
    assert out.read_text() == '{"precious": true}' and not (tmp_path / "notes.json.about.json").exists()
    with pytest.raises(DataError, match=r"drop .gz from its name"):
        score([*options, str(tmp_path / "s.jsonl.gz")])
    assert score([*options, str(tmp_path / "s.jsonl")]) == 0
    (tmp_path / "s.jsonl").write_text("no line\n")
    with pytest.raises(DataError, match="s.jsonl:1: not a line that this program wrote"):
        score([*options, str(tmp_path / "s.jsonl")])


def test_score_notices_that_a_folder_has_changed(data: Path, tmp_path: Path) -> None:
    """A file that is new in it comes first, and all rows after it have other numbers."""
    fit(TINY, data, tmp_path / "run")
    folder, out = tmp_path / "folder", tmp_path / "s.jsonl"
    folder.mkdir()
    (folder / "b.jsonl").write_text(data.read_text())
    options = ["--model", str(tmp_path / "run" / "export"), "--out", str(out), "--data"]
    assert score([*options, str(folder)]) == 0
    assert score([*options, str(folder.parent / "run" / ".." / "folder")]) == 0, "the same folder by another name"
    (folder / "a.jsonl").write_text(data.read_text())
    with pytest.raises(DataError, match="begun with other data"):
        score([*options, str(folder)])


def test_exports_say_which_step_they_are_of(data: Path, tmp_path: Path) -> None:
    """The best one's own step and metric, not the last one's; what is not a number is null, which every JSON reader knows."""
    fit(TINY, data, tmp_path / "run", "--model.optimizer.lr", "0.05", "--trainer.max_epochs", "4")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines() if "val/loss" in line]
    best = min(lines, key=lambda line: line["val/loss"])
    recipe = json.loads((tmp_path / "run" / "export" / "prefrep.json").read_text())["recipe"]
    assert recipe["step"] == best["step"] and recipe["metrics"] == {"val/loss": pytest.approx(best["val/loss"])}
    assert recipe["checkpoint"] == f"best-step{best['step']}.ckpt"
    ties = tmp_path / "ties.jsonl"
    ties.write_text("".join(json.dumps({**row, "probability": 0.5}) + "\n" for row in ROWS))
    config = yaml.safe_load(TINY.read_text())
    next(c for c in config["trainer"]["callbacks"] if c["class_path"] == "Export")["init_args"] = {"which": "last"}
    (tmp_path / "last.yaml").write_text(yaml.safe_dump(config))
    fit(tmp_path / "last.yaml", ties, tmp_path / "ties")
    metrics = json.loads((tmp_path / "ties" / "export" / "prefrep.json").read_text())["recipe"]["metrics"]
    assert metrics["val/accuracy"] is None and metrics["val/loss"] > 0


def test_a_run_that_is_told_to_end_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """Lightning ends it with a SystemExit that has no code, which the shell would take for success."""
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    def ends() -> int:
        raise SIGTERMException

    with pytest.raises(SystemExit) as stop:
        run(ends)
    assert stop.value.code == 143 and capsys.readouterr().err == "prefrep: terminated\n"


def test_the_installed_command_ends_in_one_sentence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["prefrep", "fit", "--config", str(TINY), "--data.train", "/nowhere.jsonl"])
    name, _, function = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["prefrep"].partition(":")
    with pytest.raises(SystemExit) as stop:
        getattr(import_module(name), function)()
    assert stop.value.code == 1 and capsys.readouterr().err.strip().splitlines()[-1].startswith("prefrep: /nowhere.jsonl: no such file")


def test_a_message_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    """A message may quote a file of unknown origin, and a terminal would obey what is in it."""

    def fail() -> int:
        raise PrefrepError("m: unknown \x1b[2J\x07 head \u202e\nprefrep: grüße")

    with pytest.raises(SystemExit):
        run(fail)
    assert capsys.readouterr().err == "prefrep: m: unknown \ufffd[2J\ufffd head \ufffd\nprefrep: grüße\n"


def test_score_ranks_many_responses(data: Path, tmp_path: Path) -> None:
    fit(TINY, data, tmp_path / "run")
    ranked = tmp_path / "ranked.jsonl"
    ranked.write_text(json.dumps({"prompt": "Say hi", "responses": ["hi", "hello", "go away"]}) + "\n")
    out = tmp_path / "out.jsonl"
    score(["--model", str(tmp_path / "run" / "export"), "--data", str(ranked), "--out", str(out), "--tables"])
    line = json.loads(out.read_text())
    assert sorted(line["order"]) == [0, 1, 2]
    assert line["scores"] == pytest.approx([sum(row) / 3 for row in line["table"]])
    assert line["order"] == sorted(range(3), key=lambda i: -line["scores"][i])


def test_two_processes_give_the_curve_of_one(data: Path, tmp_path: Path) -> None:
    """DDP over gloo; seven records, so that batches do not divide evenly."""
    data.write_text(data.read_text() + json.dumps({"prompt": "odd", "chosen": "one", "rejected": "out"}) + "\n")
    curves = []
    for devices, strategy in (("1", "auto"), ("2", "ddp")):
        out = tmp_path / devices
        arguments = ["fit", "--config", str(TINY), "--data.train", str(data), "--data.val", str(data), "--data.batch_size", "4"]
        arguments += [f"--trainer.default_root_dir={out}", "--trainer.accelerator=cpu", f"--trainer.devices={devices}"]
        arguments += [f"--trainer.strategy={strategy}", "--trainer.enable_progress_bar=false", "--trainer.max_epochs=2"]
        arguments += ["--trainer.accumulate_grad_batches=1"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            [sys.executable, "-m", "prefrep", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-2000:]
        curves.append([json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()])
    for name in ("train/loss", "val/loss", "val/accuracy"):
        one, two = ([line[name] for line in curve if name in line] for curve in curves)
        assert len(one) == len(two) >= 2 and one == pytest.approx(two, abs=1e-5), name
