"""Policies on given responses as people train them: every YAML and loss, a run that is killed and goes on, an export that answers."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import program
from safetensors.torch import load_file

from prefrep.cli.friendly import run
from prefrep.cli.main import main
from prefrep.errors import ConfigError, DataError, PrefrepError, RecordError
from prefrep.modules import DirectAlignment
from prefrep.modules.base import LanguageModule
from prefrep.nn import alignment

ROOT = Path(__file__).parents[2]
TINY = ROOT / "configs" / "tiny" / "dpo.yaml"
CONFIGS = [TINY, *sorted((ROOT / "configs" / "policy").glob("*.yaml"))]
ROWS = [{"prompt": f"Say {i}", "chosen": f"{i} it is", "rejected": f"no {i * 7 % 5}, thanks"} for i in range(6)]
UNPAIRED = [{"prompt": f"Say {i}", "completion": f"{i} it is" if i % 2 else "no, thanks", "label": bool(i % 2)} for i in range(6)]
LOSSES = sorted(name for name in vars(alignment) if name.endswith("Loss") and name not in ("AlignmentLoss",))


def written(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return written(tmp_path / "data.jsonl", ROWS)


def fit(data: Path, out: Path, *more: str, config: Path = TINY) -> None:
    main(
        [
            "fit", "--config", str(config), "--data.train", str(data), "--data.val", str(data), "--trainer.default_root_dir", str(out),
            "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", *more,
        ]
    )  # fmt: skip


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_yaml_runs(config: Path, data: Path, tmp_path: Path) -> None:
    fit(data, tmp_path, "--model.backbone.path", "bundled:tiny-llama", "--data.batch_size", "2", config=config)
    found = metrics(tmp_path)
    assert {"train/loss", "train/accuracy", "train/preferred_logprob", "lr"} <= set(found[0]) and "val/accuracy" in found[-1]
    about = json.loads((tmp_path / "export" / "policy.json").read_text())
    assert about["recipe"]["module"] == "DirectAlignment" and about["recipe"]["objective"]["class"] == "DPOLoss"


def test_the_tiny_configuration_has_the_shape_of_the_real_one() -> None:
    tiny, real = (yaml.safe_load(file.read_text()) for file in (TINY, ROOT / "configs" / "policy" / "dpo.yaml"))
    assert tiny["model"].keys() == real["model"].keys() and tiny["trainer"]["callbacks"] == real["trainer"]["callbacks"]


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_learns_what_is_preferred(loss: str, data: Path, tmp_path: Path) -> None:
    """A class on the command line; after a few epochs the pairs of the training data are ranked rightly."""
    fit(data, tmp_path, "--model.loss", loss, "--trainer.max_epochs", "4")
    found = metrics(tmp_path)
    assert found[-1]["val/accuracy"] == 1.0
    if loss in ("DPOLoss", "RobustDPOLoss", "KTOLoss"):
        assert found[0]["train/preferred_reward"] == pytest.approx(0, abs=1e-4), "the policy begins as its reference"


def test_single_responses_train_kto_alone(tmp_path: Path) -> None:
    data = written(tmp_path / "kto.jsonl", UNPAIRED)
    fit(data, tmp_path / "run", "--model.loss", "KTOLoss")
    assert "train/divergence" in metrics(tmp_path / "run")[0]
    with pytest.raises(DataError, match="without a pair"):
        fit(data, tmp_path / "dpo")


def killed(go: Callable[[], None], step: int) -> None:
    def die(run: LanguageModule, optimizer: Any) -> None:
        if run.trainer.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def target() -> None:
        LanguageModule.on_before_optimizer_step = die  # type: ignore[method-assign]
        go()

    gc.collect()  # temporary files of earlier runs, which the process would delete a second time
    process = multiprocessing.get_context("fork").Process(target=target)
    process.start()
    process.join(timeout=120)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("more", [(), ("--model.backbone.lora", "null", "--model.optimizer.lr", "1e-4", "--model.loss", "KTOLoss")])
def test_a_killed_run_ends_as_if_nothing_had_happened(
    more: tuple[str, ...], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in step 5 of 6, in the middle of an epoch; log pi_0 is not measured again, also where it is kept in the run's folder."""
    config = yaml.safe_load(TINY.read_text())
    config["data"]["cache"] = None
    config["trainer"]["callbacks"][0]["init_args"]["train_time_interval"] = "0:00:00.000001"
    (file := tmp_path / "often.yaml").write_text(yaml.safe_dump(config))
    fit(data, tmp_path / "whole", *more, config=file)
    killed(lambda: fit(data, tmp_path / "run", *more, config=file), 4)

    measured = DirectAlignment.initial_logprobs

    @contextmanager
    def unread(module: DirectAlignment) -> Iterator[Any]:
        def never(batch: Any) -> None:
            raise AssertionError("log pi_0 is measured again")

        with measured(module) as (backbone, _):
            yield backbone, never

    monkeypatch.setattr(DirectAlignment, "initial_logprobs", unread)
    with pytest.raises(AssertionError, match="measured again"):
        fit(data, tmp_path / "fresh", *more, config=file)
    fit(data, tmp_path / "run", *more, config=file)
    whole, found = (load_file(tmp_path / name / "export" / "model.safetensors") for name in ("whole", "run"))
    assert whole.keys() == found.keys() and all(torch.equal(whole[name], found[name]) for name in whole)
    steps = [line["step"] for line in metrics(tmp_path / "run") if "train/loss" in line]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_an_export_answers_and_is_judged(data: Path, tmp_path: Path) -> None:
    fit(data, tmp_path / "run")
    prompts = written(tmp_path / "prompts.jsonl", [{"instruction": row["prompt"]} for row in ROWS[:2]])
    policy, quick = str(tmp_path / "run" / "export"), ["--data", str(prompts), "--max-new-tokens", "6", "--device", "cpu"]
    assert program("eval", "generate")(["--model", policy, "--benchmark", "alpaca_eval", "--out", str(tmp_path / "a"), *quick]) == 0
    assert len(json.loads((tmp_path / "a" / "model_outputs.json").read_text())) == 2
    sides = ["--model", policy, "--against", "bundled:tiny-llama", "--judge", "prefrep.judges.concise"]
    assert program("eval", "winrate")([*sides, "--out", str(tmp_path / "w"), *quick]) == 0
    assert 0 <= json.loads((tmp_path / "w" / "results.json").read_text())["win_rate"]["score"] <= 1


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        (("--model.loss.beta", "0"), ConfigError, "DPOLoss.beta must be a positive number"),
        (("--model.backbone.lora", "null", "--model.backbone.frozen", "true"), ConfigError, "trains its backbone"),
        (("--model.loss", "KTOLoss", "--model.across", "joint"), ConfigError, "set across to refuse"),
        (("--model.loss", "LogisticLoss"), PrefrepError, "LogisticLoss"),
    ],
)
def test_wrong_options_get_a_sentence(options: tuple[str, ...], error: type[PrefrepError], says: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(error, match=says):
        fit(data, tmp_path, *options)


def test_rows_across_prompts(tmp_path: Path) -> None:
    def side(i: int, text: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": f"Say {i}"}, {"role": "assistant", "content": text}]

    data = written(tmp_path / "across.jsonl", [{"chosen": side(i, f"{i} it is"), "rejected": side(i + 1, "no, thanks")} for i in range(6)])
    with pytest.raises(RecordError, match=r"across.jsonl:1: its responses answer different prompts; set --model.across joint"):
        fit(data, tmp_path / "refused")
    fit(data, tmp_path / "run", "--model.across", "joint")
    assert metrics(tmp_path / "run")[-1]["val/accuracy"] == 1.0


def test_a_mixture_is_trained_killed_and_exported(tmp_path: Path) -> None:
    """A policy for each type; the run that is killed between two E-steps ends with the same policies and the same types of people."""
    rows = [
        {"prompt": f"Say {i}", "chosen": "yes" if u % 2 else "no", "rejected": "no" if u % 2 else "yes", "annotator": f"p{u}"}
        for i in range(2) for u in range(4)
    ]  # fmt: skip
    data = written(tmp_path / "people.jsonl", rows)
    config = yaml.safe_load(TINY.read_text())
    config["trainer"]["callbacks"][0]["init_args"]["train_time_interval"] = "0:00:00.000001"
    (file := tmp_path / "often.yaml").write_text(yaml.safe_dump(config))
    more = ["--model", "MixtureAlignment", "--model.types", "2", "--trainer.callbacks+=ExpectTypes", "--data.batch_size", "4"]
    fit(data, tmp_path / "whole", *more, config=file)
    killed(lambda: fit(data, tmp_path / "run", *more, config=file), 3)
    fit(data, tmp_path / "run", *more, config=file)
    for kind in ("export-type-0", "export-type-1"):
        whole, found = (load_file(tmp_path / name / kind / "model.safetensors") for name in ("whole", "run"))
        assert all(torch.equal(whole[name], found[name]) for name in whole)
        recipes = [json.loads((tmp_path / name / kind / "policy.json").read_text())["recipe"] for name in ("whole", "run")]
        assert recipes[0] == recipes[1] and set(recipes[0]["annotators"]) == {"p0", "p1", "p2", "p3"}
    types = [load_file(tmp_path / "whole" / f"export-type-{z}" / "model.safetensors") for z in (0, 1)]
    assert any(not torch.equal(types[0][name], types[1][name]) for name in types[0]), "types have learned different things"


def test_a_community_asks(tmp_path: Path) -> None:
    """Two groups of opposite taste on the same prompts: each gets its own answers only where the policy reads who asks."""
    rows = [
        {"prompt": f"Say {i}", "chosen": "yes" if own else "no", "rejected": "no" if own else "yes", "group": "a" if own else "b"}
        for i in range(4) for own in (True, False)
    ]  # fmt: skip
    data = written(tmp_path / "groups.jsonl", rows)
    quick = ["--trainer.max_epochs", "12", "--data.batch_size", "8", "--model.loss.beta", "1.0", "--model.backbone.lora.rank", "8"]
    fit(data, tmp_path / "told", "--data.context", "group", *quick)
    fit(data, tmp_path / "alike", *quick)
    accuracy = {name: metrics(tmp_path / name)[-1]["val/accuracy"] for name in ("told", "alike")}
    assert accuracy["told"] == 1.0 and accuracy["alike"] <= 0.75
    wrong = written(tmp_path / "wrong.jsonl", [row | {"group": "b" if row["group"] == "a" else "a"} for row in rows])
    fit(data, tmp_path / "wrong", "--data.context", "group", "--data.val", str(wrong), *quick)
    assert metrics(tmp_path / "wrong")[-1]["val/accuracy"] == 0.0, "the control: a wrong group gets the answers of the other"
    prompts = written(tmp_path / "prompts.jsonl", [{"instruction": "Say 1"}])
    ask = ["--benchmark", "alpaca_eval", "--data", str(prompts), "--max-new-tokens", "4", "--device", "cpu", "--community", "a"]
    generate = program("eval", "generate")
    assert generate(["--model", str(tmp_path / "told" / "export"), "--out", str(tmp_path / "o"), *ask]) == 0
    with pytest.raises(ConfigError, match="was not trained to read who asks; drop --community"):
        generate(["--model", str(tmp_path / "alike" / "export"), "--out", str(tmp_path / "p"), *ask])
    # As a preference model it reads who asks, too, and fails the controls.
    policy = ["--reference", "bundled:tiny-llama", "--data", str(data), "--by", "group", "--bootstrap", "20", "--device", "cpu"]
    pairs = program("eval", "pairs")
    for model, control, right in (
        ("told", None, 1.0),
        ("told", "wrong-group", 0.0),
        ("told", "shuffled-groups", None),
        ("alike", None, 0.5),
    ):
        out, more = tmp_path / f"{model}-{control}", ["--control", control] if control else []
        assert pairs(["--model", str(tmp_path / model / "export"), "--out", str(out), *policy, *more]) == 0
        found = json.loads((out / "results.json").read_text())["overall"]["score"]
        dealt = np.random.default_rng(0).permutation(len(rows))  # a row is right where it is dealt its own group
        expected = np.mean([rows[i]["group"] == own["group"] for i, own in zip(dealt, rows, strict=True)]) if right is None else right
        assert found == expected, (model, control)


@pytest.mark.parametrize(("callback", "words"), [("Export", "use the callback ExportPolicy"), ("KLBudget", "a callback needs kl; name it")])
def test_callbacks_that_do_not_fit_get_one_sentence(callback: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = written(tmp_path / "data.jsonl", [{"prompt": "Say it", "chosen": "yes", "rejected": "no"}])
    with pytest.raises(SystemExit) as stop:
        run(lambda: fit(data, tmp_path / "run", f"--trainer.callbacks+={callback}"))
    assert stop.value.code in (1, 2) and words in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("across", ["joint", "conditional"])
def test_pairs_across_prompts_teach_to_rank_answers_to_one_prompt(across: str, tmp_path: Path) -> None:
    """Answers are better the higher their words; training compares answers to different questions only, with noisy labels (related work:
    an accuracy of 0.7 on held-out answers to one question was proposed for a tiny model)."""
    words = "cat dog bird fish horse cow pig hen fox owl ant bee".split()
    value = np.linspace(-1.5, 1.5, len(words))
    draw = np.random.default_rng(0)

    def drawn(noisy: bool) -> tuple[str, str]:
        first, second = (draw.integers(0, len(words), 3) for _ in range(2))
        better = value[first].sum() - value[second].sum()
        won = draw.random() < 1 / (1 + np.exp(-2 * better)) if noisy else better > 0
        a, b = (" ".join(words[i] for i in each) for each in (first, second))
        return (a, b) if won else (b, a)

    def side(answer: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": "Say " + " ".join(draw.choice(words, 3))}, {"role": "assistant", "content": answer}]

    train = [{"chosen": side(a), "rejected": side(b)} for a, b in (drawn(True) for _ in range(320))]
    held = [{"prompt": side("")[0]["content"], "chosen": a, "rejected": b} for a, b in (drawn(False) for _ in range(160)) if a != b]
    files = [written(tmp_path / f"{name}.jsonl", rows) for name, rows in (("train", train), ("held", held))]
    quick = ["--model.loss.beta", "0.5", "--model.optimizer.lr", "3e-3", "--model.backbone.lora", "null", "--data.batch_size", "16"]
    fit(files[0], tmp_path / "run", "--data.val", str(files[1]), "--model.across", across, "--trainer.max_epochs", "4", *quick)
    assert metrics(tmp_path / "run")[-1]["val/accuracy"] >= 0.7
