"""Post-training as people run it: every YAML, a run that is killed and goes on, wrong input."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from serving import export, serving
from transformers import AutoModelForCausalLM

from prefrep.cli.friendly import run
from prefrep.cli.main import main
from prefrep.data.sources import read
from prefrep.errors import CheckpointError, ConfigError, TrainingError
from prefrep.generation import TransformersSampler
from prefrep.judges import RuleJudge, concise
from prefrep.modules import GPO
from prefrep.nn.loading import load_tokenizer
from prefrep.records import RankedResponses
from prefrep.scoring import Scorer

ROOT = Path(__file__).parents[2]
TINY = ROOT / "configs" / "tiny" / "gpo.yaml"


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"Say {name}\n" for name in ("one", "two and three", "four", "five", "six")))
    return file


def fit(prompts: Path, out: Path, *more: str, config: Path = TINY) -> None:
    main(
        [
            "fit", "--config", str(config), "--data.train", str(prompts), "--data.val", str(prompts),
            "--trainer.default_root_dir", str(out), "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", *more,
        ]
    )  # fmt: skip


def weights(out: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return state


def lines(out: Path, number: int, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "rounds" / str(number) / f"{name}.jsonl").read_text().splitlines()]


def dying(function: Callable[..., Any], call: int) -> Callable[..., Any]:
    """The function, which at some call takes the process with it."""
    calls = 0

    @wraps(function)
    def wrapped(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **options)

    return wrapped


def killed(prompts: Path, out: Path, owner: type, name: str, call: int, *more: str) -> None:
    """A run in a process of its own that is killed -9 at the given call of a method."""

    def go() -> None:
        setattr(owner, name, dying(getattr(owner, name), call))
        fit(prompts, out, *more)

    process = multiprocessing.get_context("fork").Process(target=go)
    process.start()
    process.join(timeout=300)
    assert process.exitcode == -signal.SIGKILL, "it died where it should"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("undisturbed")
    file = folder / "prompts.txt"
    file.write_text("".join(f"Say {name}\n" for name in ("one", "two and three", "four", "five", "six")))
    fit(file, folder / "run")
    return file, folder / "run"


# Five prompts in batches of two: every table takes three calls, the reference six from round 1 on (pi_0 is another policy then), and a
# round three steps. Rounds and held-out prompts take turns, the latter once more after the last round.
PLACES = {
    "sampling, round 0": (TransformersSampler, "sample", 2),
    "reference, round 0": (GPO, "measure", 2),
    "labelling, round 0": (RuleJudge, "judge", 2),
    "training, round 0, before a checkpoint": (GPO, "training_step", 2),
    "training, round 0, behind a checkpoint": (GPO, "training_step", 3),
    "sampling, round 1": (TransformersSampler, "sample", 8),
    "labelling, round 1": (RuleJudge, "judge", 5),
    "training, round 1": (GPO, "training_step", 5),
    "held out, after the last round": (TransformersSampler, "sample", 14),
    "judging, after the last round": (RuleJudge, "judge", 11),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_run_that_is_killed_ends_as_if_nothing_had_happened(place: str, undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    prompts, whole = undisturbed
    killed(prompts, tmp_path / "run", *PLACES[place])
    fit(prompts, tmp_path / "run")
    expected, found = weights(whole), weights(tmp_path / "run")
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)
    for number, name in [(0, "samples"), (1, "samples"), (1, "reference"), (1, "labels"), (2, "held_out"), (2, "verdicts")]:
        assert lines(whole, number, name) == lines(tmp_path / "run", number, name), f"rounds/{number}/{name}.jsonl"


def test_runs_share_the_held_out_answers_of_the_first_policy(prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is trained on them and whatever the prompts are called; but not with other seeds, which are other answers."""
    calls: list[int] = []
    sample = TransformersSampler.sample

    def counted(self: TransformersSampler, *args: Any, **more: Any) -> Any:
        calls.append(1)
        return sample(self, *args, **more)

    monkeypatch.setattr(TransformersSampler, "sample", counted)

    def seeded(callbacks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        next(c for c in callbacks if c["class_path"] == "HeldOut")["init_args"]["seed"] = 1
        return callbacks

    named = tmp_path / "named.jsonl"
    texts = prompts.read_text().splitlines()
    named.write_text("".join(json.dumps({"id": f"name {place}", "prompt": text}) + "\n" for place, text in enumerate(texts)))
    # Three batches of the round, and three of held-out prompts before and after it.
    for name, options, expected in (
        ("one", ["--seed_everything", "1"], 9),
        ("two", ["--seed_everything", "2", "--model.objective", "SPPOObjective", "--data.val", str(named)], 6),
        ("other", ["--config", overlay(tmp_path, seeded)], 9),
    ):
        calls.clear()
        fit(prompts, tmp_path / name, "--trainer.max_epochs", "1", *options)
        assert len(calls) == expected, name
    one, two, other = (lines(tmp_path / name, 0, "held_out") for name in ("one", "two", "other"))
    assert [line.pop("id") for line in two] == [f"name {place}" for place in range(len(texts))] != [line.pop("id") for line in one]
    assert one == two and [line["ids"] for line in other] != [line["ids"] for line in one]


def test_a_checkpoint_of_the_last_step_of_a_round_leads_into_the_next(undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    """Lightning goes on from it with the next epoch, and without calling `on_train_epoch_start`."""
    prompts, whole = undisturbed

    def often(callbacks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for callback in callbacks:
            if callback["class_path"] == "Checkpoints":
                callback["init_args"]["every_n_train_steps"] = 1
        return callbacks

    more = ("--config", overlay(tmp_path, often))
    killed(prompts, tmp_path / "run", *PLACES["sampling, round 1"], *more)
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3
    fit(prompts, tmp_path / "run", *more)
    expected, found = weights(whole), weights(tmp_path / "run")
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_finished_run_stays_as_it_is(undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    prompts, finished = undisturbed
    whole = tmp_path / "run"
    shutil.copytree(finished, whole)
    before = weights(whole)
    fit(prompts, whole)
    after = weights(whole)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_a_run_leaves_behind(undisturbed: tuple[Path, Path]) -> None:
    _, out = undisturbed
    initial, final = weights_of("bundled"), AutoModelForCausalLM.from_pretrained(out / "export").state_dict()
    assert initial.keys() == final.keys() and any(not torch.equal(initial[name], final[name]) for name in initial)
    metrics = json.loads((out / "rounds" / "2" / "metrics.json").read_text())
    assert {
        "held_out_win_rate_initial",
        "held_out_win_rate_low_initial",
        "held_out_score_previous",
        "held_out_kl_initial",
    } <= metrics.keys()
    own, verdicts = lines(out, 2, "held_out"), lines(out, 2, "verdicts")
    assert metrics["held_out_kl_initial"] == pytest.approx(
        sum(sum(line["logprobs"]) - sum(line["initial"]) for line in own) / sum(len(line["logprobs"]) for line in own)
    )
    flat = [value for line in verdicts for row in line["initial"] for value in row]
    assert metrics["held_out_win_rate_initial"] == pytest.approx(sum((v > 0) + 0.5 * (v == 0) for v in flat) / len(flat))
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert {"train/loss", "train/kl_reference", "train/log_ratio_initial", "lr", "train/grad_norm"} <= set(steps[0])
    # pi_0 of round 0 is the policy itself, so that a round begins with ratios of 1.
    assert steps[0]["train/kl_reference"] == pytest.approx(0, abs=1e-4)
    labels = lines(out, 1, "labels")
    records = list(read(str(out / "rounds" / "1" / "labels.jsonl")))
    assert all(isinstance(record, RankedResponses) and record.scores is not None for record in records) and len(records) == len(labels)
    for line in labels:
        scores = [sum(row) / len(row) for row in line["table"]]
        assert line["scores"] == pytest.approx(scores, abs=1e-5) and scores[line["best"]] == max(scores)


def weights_of(name: str) -> dict[str, torch.Tensor]:
    from prefrep.nn.bundled import resolve

    state: dict[str, torch.Tensor] = AutoModelForCausalLM.from_pretrained(resolve(f"{name}:tiny-llama")).state_dict()
    return state


def test_a_preference_model_judges_and_its_blocks_are_kept(prompts: Path, tmp_path: Path) -> None:
    """A folder that `prefrep fit` exported labels the rounds of a policy: tables are the scorer's, blocks add up to them."""
    rows = [{"prompt": f"Say {i}", "chosen": f"{i} it is", "rejected": f"no {i * 7 % 5}"} for i in range(4)]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    main(
        [
            "fit", "--config", str(ROOT / "configs" / "tiny" / "gpm.yaml"), "--data.train", str(file), "--data.val", str(file),
            "--trainer.default_root_dir", str(tmp_path / "gpm"), "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false",
        ]
    )  # fmt: skip
    export = tmp_path / "gpm" / "export"
    fit(prompts, tmp_path / "run", "--config", judged_by(tmp_path, {"class_path": "ModelJudge", "init_args": {"path": str(export)}}))
    line = lines(tmp_path / "run", 1, "labels")[2]
    expected = Scorer.from_pretrained(export).table(line["prompt"][0]["content"], line["responses"])
    torch.testing.assert_close(torch.tensor(line["table"]), torch.from_numpy(expected), atol=1e-4, rtol=0)
    blocks = torch.tensor(line["blocks"])
    assert blocks.shape == (2, 3, 3)
    torch.testing.assert_close(blocks.sum(0), torch.tensor(line["table"]), atol=1e-5, rtol=0)


def test_a_panel_with_a_judge_behind_a_server(prompts: Path, tmp_path: Path) -> None:
    """Labels carry the table of each judge and their weighted mean, training reads them, and a server answers as its folder does."""
    folder = export(tmp_path, "gpm")
    rule = {"class_path": "RuleJudge", "init_args": {"rule": "prefrep.judges.concise"}}
    with serving({"gpm": folder}) as served:
        model = {"class_path": "ModelJudge", "init_args": {"path": served.url}}
        judges = {"judges": {"rule": rule, "model": model}, "weights": {"model": 3}}
        more = ("--config", judged_by(tmp_path, {"class_path": "PanelJudge", "init_args": judges}), "--trainer.max_epochs", "1")
        fit(prompts, tmp_path / "run", *more, "--model.objective", "CaPOObjective")
    scorer = Scorer.from_pretrained(folder)
    for line in lines(tmp_path / "run", 0, "labels"):
        own, served_table = (torch.tensor(line["tables"][name]) for name in ("rule", "model"))
        expected = [[concise("", a, b) for b in line["responses"]] for a in line["responses"]]
        torch.testing.assert_close(own, torch.tensor(expected))
        table = torch.from_numpy(scorer.table(line["prompt"][0]["content"], line["responses"]))
        torch.testing.assert_close(served_table, table, atol=1e-4, rtol=0)
        torch.testing.assert_close(torch.tensor(line["table"]), 0.25 * own + 0.75 * served_table)
    assert lines(tmp_path / "run", 1, "verdicts"), "held-out answers were compared by the same panel"


def overlay(folder: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> str:
    """A configuration whose only content are other callbacks, to be named after the tiny one."""
    callbacks = yaml.safe_load(TINY.read_text())["trainer"]["callbacks"]
    file = folder / "other.yaml"
    file.write_text(yaml.safe_dump({"trainer": {"callbacks": change(callbacks)}}))
    return str(file)


def judged_by(folder: Path, judge: dict[str, Any], **sampling: Any) -> str:
    """Another judge, and other settings of the sampling."""

    def change(callbacks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for callback in callbacks:
            if "judge" in callback.get("init_args", {}):
                callback["init_args"]["judge"] = judge
            if callback["class_path"] == "SampleResponses":
                callback["init_args"].update(sampling)
        return callbacks

    return overlay(folder, change)


@pytest.mark.parametrize(
    "objective",
    ["SPPOObjective", "LNGPOObjective", "DPOObjective", "IPOObjective", "DistillObjective", "NashMDObjective", "CaPOObjective"],
)
def test_every_objective_trains(objective: str, prompts: Path, tmp_path: Path) -> None:
    rule = {"class_path": "RuleJudge", "init_args": {"rule": "prefrep.judges.concise"}}
    changed = judged_by(tmp_path, rule, initial=2 if objective == "NashMDObjective" else 0)
    fit(
        prompts, tmp_path / "run", "--config", changed, "--model.objective", objective, "--model.objective.beta", "0.5",
        "--trainer.max_epochs", "1",
    )  # fmt: skip
    start = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert torch.isfinite(torch.tensor(start["train/loss"])) and start["train/grad_norm"] > 0
    made, labels = lines(tmp_path / "run", 0, "samples"), lines(tmp_path / "run", 0, "labels")
    others = lines(tmp_path / "run", 0, "opponents") if objective == "NashMDObjective" else [{"responses": []} for _ in made]
    for own, other, label in zip(made, others, labels, strict=True):
        expected = [[concise("", a, b) for b in other["responses"]] for a in own["responses"]]
        assert label["initial_table"] == [pytest.approx(row) for row in expected]
    assert len(others[0]["responses"]) == (2 if objective == "NashMDObjective" else 0)


def test_a_tilted_sampler_trains(prompts: Path, tmp_path: Path) -> None:
    """PILAF: its tilted responses get log-probabilities of the policy, in a pass of their own."""

    def tilt(callbacks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        sampler = {"class_path": "TiltedSampler", "init_args": {"tilt": 0.5, "max_new_tokens": 12}}
        next(c for c in callbacks if c["class_path"] == "SampleResponses")["init_args"].update(sampler=sampler, responses=4)
        return callbacks

    fit(prompts, tmp_path / "run", "--config", overlay(tmp_path, tilt), "--model.objective", "DPOObjective")
    made, known = lines(tmp_path / "run", 1, "samples"), lines(tmp_path / "run", 1, "reference")
    assert not any(line["exact"] for line in made)
    # In round 0 the policy is its own reference; in round 1 the third and fourth response come from other policies than pi_1.
    told = [[a - b for a, b in zip(line["logprobs"], own["logprobs"], strict=True)] for line, own in zip(made, known, strict=True)]
    assert max(abs(gap) for gaps in told for gap in gaps[2:]) > 1e-3
    assert all(steps["train/loss"] == pytest.approx(0.693, abs=0.3) for steps in metrics(tmp_path / "run"))


def metrics(out: Path) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()) if "train/loss" in line]


def test_plain_responses_count_from_the_colon_on(prompts: Path, tmp_path: Path) -> None:
    """Lengths are those of the sampled text, whose first blank is on disk beside it: no token more, none less."""
    content = yaml.safe_load(TINY.read_text())
    content["data"]["init_args"].update(template="plain", max_length=256)
    for callback in content["trainer"]["callbacks"]:
        if "sampler" in callback.get("init_args", {}):
            callback["init_args"]["sampler"]["init_args"].update(template="plain")
    file = tmp_path / "plain.yaml"
    file.write_text(yaml.safe_dump(content))
    fit(prompts, tmp_path / "run", "--trainer.max_epochs", "1", config=file)
    tokenizer = load_tokenizer("bundled:tiny-llama")

    def count(prompt: str, response: str) -> int:
        before = f"\n\nHuman: {prompt}\n\nAssistant:"
        return len(tokenizer(before + response)["input_ids"]) - len(tokenizer(before)["input_ids"])

    made, known = lines(tmp_path / "run", 0, "samples"), lines(tmp_path / "run", 0, "reference")
    for line, measured in zip(made, known, strict=True):
        texts = [lead + text for lead, text in zip(line["leads"], line["responses"], strict=True)]
        lengths = [count(line["prompt"][-1]["content"], text) + flag for text, flag in zip(texts, line["finished"], strict=True)]
        assert measured["lengths"] == lengths
    assert all(line["leads"] for line in lines(tmp_path / "run", 0, "held_out"))


@pytest.mark.parametrize("name", ["gpo", "sppo", "quickstart", "quickstart-gpm", "several-judges"])
def test_every_yaml_runs(name: str, prompts: Path, tmp_path: Path) -> None:
    """One round on a tiny random Llama, with a rule as the judge; the recipe is as the file says."""
    config = ROOT / "configs" / "gpo" / f"{name}.yaml"
    content = yaml.safe_load(config.read_text())
    content["trainer"]["max_epochs"] = 1
    for callback in content["trainer"]["callbacks"]:
        options = callback.get("init_args", {})
        if "judge" in options:
            options["judge"] = {"class_path": "RuleJudge", "init_args": {"rule": "prefrep.judges.concise"}}
        if "sampler" in options:
            options["sampler"]["init_args"]["max_new_tokens"] = 8
    content["data"]["init_args"].update(round_size=3, max_length=256, max_prompt_length=128)
    content["model"]["init_args"]["backbone"]["init_args"]["path"] = "bundled:tiny-llama"
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(content))
    fit(prompts, tmp_path / "run", "--trainer.precision", "32-true", config=file)
    assert (tmp_path / "run" / "export" / "config.json").exists()
    (sampling,) = (each["init_args"] for each in content["trainer"]["callbacks"] if each["class_path"] == "SampleResponses")
    count = sampling["responses"]
    assert all(len(line["responses"]) == count for line in lines(tmp_path / "run", 0, "samples"))


def test_steps_alone_may_say_how_long_training_lasts(prompts: Path, tmp_path: Path) -> None:
    """Three steps a round, four in all: the schedule of the second round begins where its first step is."""
    options = ["--trainer.max_epochs", "-1", "--trainer.max_steps", "4", "--model.schedule.name", "linear", "--model.schedule.warmup", "0"]
    fit(prompts, tmp_path / "run", *options)
    rates = [json.loads(line).get("lr") for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [rate for rate in rates if rate is not None] == pytest.approx([2e-3, 2e-3 * 2 / 3, 2e-3 / 3, 2e-3])


def test_a_run_does_not_go_on_under_another_objective(prompts: Path, tmp_path: Path) -> None:
    fit(prompts, tmp_path / "run", "--trainer.max_epochs", "1")
    with pytest.raises(CheckpointError, match="made with the objective GPOObjective.*SPPOObjective"):
        fit(prompts, tmp_path / "run", "--trainer.max_epochs", "2", "--model.objective", "SPPOObjective", "--on-change", "continue")


def test_a_run_does_not_go_on_with_other_rounds(undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    """Five prompts in batches of two: three a round. Which round it is follows from the batches that are done."""
    prompts, whole = undisturbed
    shutil.copytree(whole, tmp_path / "run")
    last = ("--ckpt_path", str(tmp_path / "run" / "checkpoints" / "last.ckpt"), "--trainer.max_epochs", "3")
    changes = {
        "5 batches of 1 prompts": ["--data.batch_size", "1"],
        "2 batches of 2 prompts": ["--data.round_size", "4"],
        "1 batches of 2 prompts": ["--trainer.limit_train_batches", "1"],
    }
    for now, options in changes.items():
        with pytest.raises(CheckpointError, match=f"rounds of 3 batches of 2 prompts, and this run has {now}; .*--data.batch_size"):
            fit(prompts, tmp_path / "run", *last, *options, "--on-change", "continue")
    assert not (tmp_path / "run" / "rounds" / "2" / "samples.jsonl").exists(), "said before anything is sampled"


def test_a_checkpoint_of_an_older_version_goes_on(undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    prompts, whole = undisturbed
    shutil.copytree(whole, tmp_path / "run")
    file = tmp_path / "run" / "checkpoints" / "last.ckpt"
    older = torch.load(file, weights_only=True)
    assert older.pop("round") == "3 batches of 2 prompts"
    torch.save(older, file)
    fit(prompts, tmp_path / "run", "--ckpt_path", str(file))


def test_a_policy_that_diverges_is_not_exported(prompts: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="not finite at step [12]"):
        fit(prompts, tmp_path / "run", "--model.optimizer.lr", "1e30")
    assert not (tmp_path / "run" / "export").exists() and not list(tmp_path.rglob("*.ckpt"))


def test_the_recipe_with_vllm(prompts: Path, tmp_path: Path) -> None:
    """It differs from gpo.yaml in the sampler alone, and says what is missing where vLLM is."""
    with_vllm, without = (yaml.safe_load((ROOT / "configs" / "gpo" / f"{name}.yaml").read_text()) for name in ("gpo-vllm", "gpo"))
    sampler = with_vllm["trainer"]["callbacks"][0]["init_args"]["sampler"]
    assert sampler["class_path"] == "VLLMSampler"
    sampler["class_path"] = "TransformersSampler"
    with_vllm["trainer"]["default_root_dir"] = without["trainer"]["default_root_dir"]
    assert with_vllm == without
    if find_spec("vllm") is None:
        with pytest.raises(ConfigError, match="vllm is not installed"):
            fit(prompts, tmp_path / "run", config=ROOT / "configs" / "gpo" / "gpo-vllm.yaml")


def test_the_paper_s_recipe() -> None:
    content = yaml.safe_load((ROOT / "configs" / "gpo" / "gpo.yaml").read_text())
    sampling = content["trainer"]["callbacks"][0]["init_args"]
    assert sampling["responses"] == 5 and content["trainer"]["max_epochs"] == 3
    assert sampling["sampler"]["init_args"]["temperature"] == 0.7 and sampling["sampler"]["init_args"]["top_p"] == 0.9
    options = content["model"]["init_args"]
    assert options["optimizer"] == {"class_path": "torch.optim.RMSprop", "init_args": {"lr": 5e-7}}
    assert options["objective"]["init_args"]["beta"] == 0.001
    assert content["data"]["init_args"]["batch_size"] * content["trainer"]["accumulate_grad_batches"] == 64


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["--trainer.callbacks", "[]"], ["needs the callbacks SampleResponses, UpdateReference and LabelPreferences"], 1),
        (["--config", "{less}"], ["UpdateReference found no responses", "SampleResponses must come before"], 1),
        (["--config", "{one}"], ["responses must be 2 or more, got 1"], 1),
        (["--data.train", "{tmp}/empty.txt"], ["empty.txt:2: the prompt is empty"], 1),
        (["--data.train", "{tmp}/long.txt"], ["long.txt:1: the prompt has", "max_prompt_length 96"], 1),
        (["--data.train", "{tmp}/none.txt"], ["none.txt", "no such file"], 1),
        (["--data.max_length", "100"], ["max_new_tokens 12", "max_length 100"], 1),
        (["--data.max_length", "4096"], ["more than the 2048 tokens"], 1),
        (["--data.template", "plain"], ["sampler's template is auto and the data's plain"], 1),
        (["--config", "{plain}"], ["reads plain texts", "writes conversations"], 1),
        (["--data.val", "null"], ["HeldOut needs prompts that are not trained on", "--data.val"], 1),
        (["--data.val", "{tmp}/long.txt"], ["long.txt:1: the prompt has", "max_prompt_length 96"], 1),
        (["--config", "{unjudged}"], ["needs the callbacks SampleResponses, UpdateReference and LabelPreferences"], 1),
        (["--config", "{adapter}", "--model.backbone.lora", "null"], ["no LoRA adapter to save", "ExportPolicy.weights"], 1),
        (["--model.objective", "NashMDObjective"], ["NashMDObjective has pi_0 among its opponents", "SampleResponses.initial"], 1),
        (["--model.objective", "GPOObjectiv"], ["did you mean GPOObjective"], 2),
        (["--model.objective.beta", "0"], ["beta must be positive"], 1),
        (["--model.backbone.lora", "null", "--model.backbone.frozen", "true"], ["frozen"], 1),
        (["--trainer.precision", "bf16-true"], ["trainer.precision bf16-true", "--trainer.precision bf16-mixed"], 1),
        (["--trainer.limit_train_batches", "0"], ["trainer.limit_train_batches is 0"], 1),
    ],
)
def test_wrong_input_gets_one_sentence(
    arguments: list[str], words: list[str], code: int, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.txt").write_text("a\n \n")
    (tmp_path / "long.txt").write_text("long " * 60 + "\n")
    rule = {"class_path": "RuleJudge", "init_args": {"rule": "prefrep.judges.concise"}}
    places = {
        "{tmp}": str(tmp_path),
        "{less}": overlay(tmp_path, lambda callbacks: callbacks[1:]),
        "{plain}": "",
        "{one}": "",
        "{adapter}": "",
        "{unjudged}": "",
    }
    if "{one}" in arguments:
        places["{one}"] = judged_by(tmp_path, rule, responses=1)
    if "{unjudged}" in arguments:
        places["{unjudged}"] = overlay(tmp_path, lambda each: [one for one in each if one["class_path"] != "LabelPreferences"])
    if "{adapter}" in arguments:
        places["{adapter}"] = overlay(
            tmp_path, lambda each: [*each[:-1], {"class_path": "ExportPolicy", "init_args": {"weights": "adapter"}}]
        )
    if "{plain}" in arguments:
        places["{plain}"] = judged_by(tmp_path, {"class_path": "ModelJudge", "init_args": {"path": str(plain_judge(tmp_path))}})
    for name, value in places.items():
        arguments = [argument.replace(name, value) for argument in arguments]
    with pytest.raises(SystemExit) as stop:
        run(lambda: fit(prompts, tmp_path / "run", *arguments))
    printed = capsys.readouterr().err.strip().splitlines()
    complaints = [line for line in printed if line.startswith("prefrep: ")]
    assert stop.value.code == code and len(complaints) == 1 and printed[-1] == complaints[0], printed[-3:]
    assert all(word in complaints[0] for word in words), complaints[0]
    assert not list(tmp_path.rglob("samples.jsonl")), "said before anything is sampled"


def plain_judge(folder: Path) -> Path:
    """An exported preference model that reads plain texts."""
    from prefrep.data.encode import EncodeConfig
    from prefrep.io.folder import save
    from prefrep.nn.backbone import Backbone
    from prefrep.nn.heads import BTHead

    backbone = Backbone("bundled:tiny-llama", frozen=True)
    save(folder / "judge", backbone, BTHead(backbone.hidden_size), 1.0, EncodeConfig("plain"), backbone.tokenizer(), {})
    return folder / "judge"


def test_the_reference_may_be_read_in_smaller_batches(undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    """Whoever ran out of memory goes on; tables in which an older version noted the batch size are accepted too."""
    prompts, whole = undisturbed
    shutil.copytree(whole / "rounds", tmp_path / "run" / "rounds")
    file = tmp_path / "run" / "rounds" / "0" / "about.json"
    about = json.loads(file.read_text())
    about["reference"]["batch_size"] = 2
    file.write_text(json.dumps(about))

    def smaller(callbacks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for callback in callbacks:
            if callback["class_path"] == "UpdateReference":
                callback["init_args"]["batch_size"] = 1
        return callbacks

    fit(prompts, tmp_path / "run", "--config", overlay(tmp_path, smaller))
    expected, found = weights(whole), weights(tmp_path / "run")
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_another_run_in_the_same_folder_is_refused(
    undisturbed: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rounds of other settings are not continued; a policy that begins anew says so instead of training on stale samples."""
    prompts, whole = undisturbed
    shutil.copytree(whole / "rounds", tmp_path / "run" / "rounds")
    with pytest.raises(SystemExit) as stop:
        run(lambda: fit(prompts, tmp_path / "run", "--seed_everything", "1"))
    assert stop.value.code == 1 and "made by another run (other weights)" in capsys.readouterr().err
