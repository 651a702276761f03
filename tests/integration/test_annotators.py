"""Models that know people, as they are used: fit, kill -9, resume, export, load, score, adapt, a society as a judge, wrong input."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import program
from safetensors.torch import load_file

from prefrep.callbacks.mixture import ExpectTypes
from prefrep.cli.main import main
from prefrep.errors import CheckpointError, ConfigError, DataError, PrefrepError, UsageError
from prefrep.functional.aggregation import aggregate
from prefrep.modules.base import LanguageModule
from prefrep.nn.backbone import Backbone
from prefrep.records import Message, RankedResponses
from prefrep.scoring import Scorer

score, adapt, sweep, evaluate = (program(name) for name in ("score", "adapt", "sweep", "eval"))
WORDS = "zero one two three four five six seven".split()
KINDS: dict[str, list[str]] = {
    "personal": [],
    "ideal": ["--model.head", "IdealPointHead"],
    "skew": [
        "--model",
        "GeneralPreference",
        "--model.head",
        "GPMHead",
        "--model.head.dim",
        "8",
        "--model.head.skew",
        "PersonalSkew",
        "--model.loss.tau",
        "0.1",
        "--trainer.max_epochs",
        "120",
    ],
    "mixture": ["--model", "MixturePreference", "--model.head", "MixtureHead", "--trainer.callbacks+=ExpectTypes"],
}


def row(i: int, who: str, turned: bool) -> dict[str, str]:
    first, second = f"{WORDS[i]} it is", f"no, {WORDS[(i * 3 + 1) % 8]} please!"
    return {"prompt": f"Say {i}", "chosen": second if turned else first, "rejected": first if turned else second, "annotator": who}


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return file


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ann and Ben, who want the opposite."""
    rows = [row(i, who, who == "Ben") for i in range(8) for who in ("Ann", "Ben")]
    return write(tmp_path_factory.mktemp("data") / "data.jsonl", rows)


def fit(data: Path, out: Path, *more: str, config: str = "tiny/personal") -> Path:
    main(
        [
            "fit", "--config", config, "--data.train", str(data), "--data.val", str(data), "--data.batch_size", "8",
            "--trainer.default_root_dir", str(out), "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false",
            "--trainer.max_epochs", "40", *more,
        ]
    )  # fmt: skip
    return out / "export"


@pytest.fixture(scope="module")
def models(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One trained model of each kind."""
    place = tmp_path_factory.mktemp("models")
    return {kind: fit(data, place / kind, *options) for kind, options in KINDS.items()}


ASK = ("Say 3", ["three it is", "no, two please!", "seven"])


@pytest.mark.parametrize("kind", KINDS)
def test_people_who_disagree_get_their_own_answers(kind: str, models: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    about = json.loads((models[kind] / "prefrep.json").read_text())
    assert about["annotators"] == {"Ann": 8, "Ben": 8} and "Ann" not in json.dumps({**about, "annotators": None})
    scorer = Scorer.from_pretrained(models[kind])
    tables = scorer.table(*ASK, annotator=["Ann", "Ben", "nobody"])
    assert tables.shape == (3, 3, 3) and np.array_equal(tables, -tables.transpose(0, 2, 1))
    assert tables[0, 0, 1] > 0 > tables[1, 0, 1]
    assert "does not know annotator 'nobody': the population answers" in caplog.text
    for name, table in zip(("Ann", "Ben", ""), tables, strict=True):
        np.testing.assert_allclose(scorer.table(*ASK, annotator=name), table, atol=1e-5)
    assert np.array_equal(scorer.table(*ASK), scorer.table(*ASK, annotator="somebody else"))
    strict = Scorer.from_pretrained(models[kind], unknown_annotator="error")
    with pytest.raises(ConfigError, match="knows no annotator 'ann' among its 2; it knows 'Ann'; adapt it"):
        strict.table(*ASK, annotator="ann")
    social = scorer.aggregate(*ASK, rule="majority")
    np.testing.assert_allclose(social.table, aggregate(tables[:2].astype(float), "majority").table, atol=1e-6)


def test_any_number_of_people_costs_k_reads(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = Scorer.from_pretrained(models["personal"])
    read: list[int] = []
    forward = Backbone.forward

    def counted(self: Backbone, ids: torch.Tensor, *more: Any, **options: Any) -> Any:
        read.append(ids.numel())
        return forward(self, ids, *more, **options)

    monkeypatch.setattr(Backbone, "forward", counted)
    for people in (["Ann"], ["Ann", "Ben"], ["Ann", "Ben"] * 500):
        assert scorer.table(*ASK, annotator=people).shape == (len(people), 3, 3)
    scorer.aggregate(*ASK, rule="borda")
    scorer.table(*ASK)
    assert len(read) == 5 and len(set(read)) == 1, "one forward pass over the same tokens, whoever is asked"


@pytest.mark.parametrize("kind", KINDS)
def test_a_newcomer_is_learned_and_nobody_else_changes(kind: str, models: dict[str, Path], tmp_path: Path) -> None:
    few = write(tmp_path / "few.jsonl", [row(i, "Zoe", turned=True) for i in (0, 2, 5)] + [row(1, "Ann", turned=True)])
    before = {file: file.read_bytes() for file in models[kind].iterdir()}
    assert adapt(["--model", str(models[kind]), "--data", str(few), "--annotator", "Zoe", "--out", str(tmp_path / "new")]) == 0
    assert {file: file.read_bytes() for file in models[kind].iterdir()} == before, "hard links are not written to"
    assert json.loads((tmp_path / "new" / "prefrep.json").read_text())["annotators"] == {"Ann": 8, "Ben": 8, "Zoe": 3}
    old, new = Scorer.from_pretrained(models[kind]), Scorer.from_pretrained(tmp_path / "new")
    for name in ("Ann", "Ben", ""):
        assert np.array_equal(old.table(*ASK, annotator=name), new.table(*ASK, annotator=name))
    assert new.table(*ASK, annotator="Zoe")[0, 1] < 0, "three labels like Ben's, held out here"
    with pytest.raises(DataError, match="no row has a label of 'Eve'"):
        adapt(["--model", str(tmp_path / "new"), "--data", str(few), "--annotator", "Eve", "--out", str(tmp_path / "no")])
    assert not (tmp_path / "no").exists()


def test_scores_say_who_answered(models: dict[str, Path], tmp_path: Path) -> None:
    pairs = write(tmp_path / "pairs.jsonl", [row(3, "Ann", False), row(3, "Zoe", False), row(4, "", False)])
    ranked = write(tmp_path / "ranked.jsonl", [{"prompt": ASK[0], "responses": ASK[1], "annotator": "Ben"}])

    def lines(name: str, file: Path, *more: str) -> list[dict[str, Any]]:
        assert score(["--model", str(models["personal"]), "--data", str(file), "--out", str(tmp_path / name), *more]) == 0
        return [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]

    assert [line["answered_by"] for line in lines("own", pairs)] == ["annotator", "population", "population"]
    (own,) = lines("ranked", ranked, "--tables")
    scorer = Scorer.from_pretrained(models["personal"])
    tables = scorer.table(*ASK, annotator=["Ann", "Ben"])
    np.testing.assert_allclose(own["table"], tables[1], atol=1e-5)
    assert own["annotator"] == "Ben" and own["answered_by"] == "annotator"
    (every,) = lines("every", ranked, "--annotators", "all", "--tables")
    np.testing.assert_allclose([every["annotators"][name]["table"] for name in ("Ann", "Ben")], tables, atol=1e-5)
    for rule in ("mean", "minimum", "maximal-lottery"):
        (found,) = lines(rule, ranked, "--annotators", "all", "--aggregate", rule)
        pair = lines(f"{rule} of pairs", pairs, "--annotators", "all", "--aggregate", rule)[0]
        expected = aggregate(tables.astype(float), rule)  # type: ignore[arg-type]
        np.testing.assert_allclose(found["scores"], expected.scores, atol=1e-5)
        assert found["order"] == np.argsort(-expected.scores, kind="stable").tolist() and set(pair) == {"row", "id", "score"}
    both = lines("two", pairs, "--annotators", "Ben", "--annotators", "Zoe", "--workers", "2")
    assert both[0]["annotators"]["Zoe"]["answered_by"] == "population" and both[0]["annotators"]["Ben"]["score"] < 0


def test_a_killed_mixture_ends_as_if_nothing_had_been(data: Path, tmp_path: Path) -> None:
    """Killed in the middle of an epoch, behind an E-step; responsibilities come back with the checkpoint."""
    options = [*KINDS["mixture"], "--trainer.max_epochs", "6", "--data.batch_size", "4"]
    config = (Path(__file__).parents[2] / "configs" / "tiny" / "personal.yaml").read_text().replace("0:10:00", "0:00:00.000001")
    (tmp_path / "often.yaml").write_text(config)
    often = str(tmp_path / "often.yaml")
    whole = load_file(fit(data, tmp_path / "whole", *options, config=often) / "head.safetensors")

    def die(run: LanguageModule, optimizer: Any) -> None:
        if run.trainer.global_step == 13:
            os.kill(os.getpid(), signal.SIGKILL)

    def killed() -> None:
        LanguageModule.on_before_optimizer_step = die  # type: ignore[method-assign]
        fit(data, tmp_path / "run", *options, config=often)

    process = multiprocessing.get_context("fork").Process(target=killed)
    process.start()
    process.join(timeout=120)
    assert process.exitcode == -signal.SIGKILL
    found = load_file(fit(data, tmp_path / "run", *options, "--ckpt_path", "last", config=often) / "head.safetensors")
    assert whole.keys() == found.keys() and all(torch.equal(whole[name], found[name]) for name in whole)
    assert "types.responsibilities" in whole and float(whole["types.responsibilities"].std()) > 0.1
    with pytest.raises(PrefrepError, match="knows 2 annotators, and these data have 1"):
        other = write(tmp_path / "other.jsonl", [row(i, "Someone", False) for i in range(8)])
        fit(other, tmp_path / "run", *options, "--ckpt_path", "last", "--on-change", "continue", config=often)


def test_a_frozen_sweep_scores_people_as_runs_of_their_own_do(data: Path, tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    base = Path(__file__).parents[2] / "configs" / "tiny" / "personal.yaml"
    spec.write_text(f"base: {base}\nset: {{trainer.accelerator: cpu, trainer.max_epochs: 10}}\ngrid: {{model.head.rank: [2, 3]}}\n")
    more = ["--set", f"data.train={data}", "--set", f"data.val={data}"]
    assert sweep(["--config", str(spec), "--out", str(tmp_path / "sweep"), *more]) == 0
    points = sorted((tmp_path / "sweep" / "points").iterdir())
    assert [json.loads((each / "point.json").read_text())["engine"] for each in points] == ["frozen", "frozen"]
    for point in points:
        scorer = Scorer.from_pretrained(next(point.rglob("prefrep.json")).parent)
        rows = [json.loads(line) for line in next(point.glob("*scores*.jsonl")).read_text().splitlines()]
        from prefrep.data.sources import Source, read

        expected = list(scorer.compare(list(read(Source(str(data))))))  # type: ignore[arg-type]
        np.testing.assert_allclose([each["score"] for each in rows], expected, atol=1e-4)


def test_a_society_judges_a_policy(models: dict[str, Path], tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Say 1\nSay 2\nSay 3\n")
    judge = {"class_path": "SocietyJudge", "init_args": {"path": str(models["personal"]), "rule": "minimum", "device": "cpu"}}
    sampler = {"class_path": "TransformersSampler", "init_args": {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 8}}
    callbacks: list[Any] = [
        {"class_path": "SampleResponses", "init_args": {"sampler": sampler, "responses": 3, "batch_size": 2}},
        {"class_path": "UpdateReference", "init_args": {"batch_size": 2}},
        {"class_path": "LabelPreferences", "init_args": {"batch_size": 2, "judge": judge}},
        {"class_path": "ExportPolicy"},
    ]
    main(
        [
            "fit", "--config", "tiny/gpo", "--data.train", str(prompts), "--trainer.default_root_dir", str(tmp_path / "policy"),
            "--trainer.callbacks", json.dumps(callbacks), "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu",
            "--trainer.enable_progress_bar", "false",
        ]
    )  # fmt: skip
    labels = [
        json.loads(line) for file in (tmp_path / "policy" / "rounds").rglob("labels*.jsonl") for line in file.read_text().splitlines()
    ]
    scorer = Scorer.from_pretrained(models["personal"])
    assert labels
    for label in labels:
        responses = tuple((Message("assistant", each),) for each in label["responses"])
        record = RankedResponses((Message("user", label["prompt"][0]["content"]),), responses)
        (tables,) = scorer.tables_of([record], ["Ann", "Ben"])
        worst = tables.mean(-1).min(0)
        np.testing.assert_allclose(label["table"], worst[:, None] - worst[None, :], atol=1e-4)


# ---- communities


def test_a_model_that_reads_its_group_fails_the_two_controls(tmp_path: Path) -> None:
    """Two groups of opposite taste: a right answer for one is wrong for the other, so each control has a known accuracy."""
    rows = [{**row(i, "", group == "south"), "group": group} for i in range(8) for group in ("north", "south")]
    data = write(tmp_path / "data.jsonl", rows)
    context = ["--data.context", "group", "--model.optimizer.lr", "0.01"]
    told, untold = fit(data, tmp_path / "told", *context, config="tiny/bt"), fit(data, tmp_path / "untold", config="tiny/bt")

    def found(model: Path, *control: str) -> dict[str, Any]:
        out = tmp_path / "-".join(("out", model.parent.name, *control))
        assert (
            evaluate(
                ["pairs", "--model", str(model), "--data", str(data), "--by", "group", "--out", str(out), "--bootstrap", "50", *control]
            )
            == 0
        )
        return dict(json.loads((out / "results.json").read_text()))

    own, wrong, dealt = found(told), found(told, "--control", "wrong-group"), found(told, "--control", "shuffled-groups")
    assert (own["by"], own["control"], dealt["control"]) == ("group", None, "shuffled-groups")
    assert {name: each["score"] for name, each in own["subsets"].items()} == {"north": 1, "south": 1}
    assert {name: each["score"] for name, each in wrong["subsets"].items()} == {"north": 0, "south": 0}, "named by their own group"
    groups = [each["group"] for each in rows]
    same = np.array([groups[i] == own for i, own in zip(np.random.default_rng(0).permutation(16), groups, strict=True)])
    assert {name: each["score"] for name, each in dealt["subsets"].items()} == {"north": same[::2].mean(), "south": same[1::2].mean()}
    assert found(untold)["overall"]["score"] == 0.5 == found(untold, "--control", "wrong-group")["overall"]["score"]
    assert any("name no group, so that the control wrong-group" in note for note in found(untold, "--control", "wrong-group")["notes"])


# ---- wrong input


def test_doubts_about_annotators_are_said_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row(i, who, False) for i, who in enumerate(("Ann", "ann ", "", "Cy", "Dee"))]
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"]
    fit(write(tmp_path / "odd.jsonl", rows), tmp_path / "run", *short)
    said = capsys.readouterr().err
    assert "1 of 5 rows name no annotator; they count for the population alone" in said
    assert "'Ann' and 'ann ' differ in case or blanks alone" in said
    assert "4 of 4 annotators have a single label" in said
    fit(write(tmp_path / "one.jsonl", rows), tmp_path / "em", *KINDS["mixture"], *short)
    assert "types cannot be told apart: 4 of 4 annotators have a single label" in capsys.readouterr().err


def test_ten_thousand_annotators_with_one_label_each(tmp_path: Path) -> None:
    from prefrep.annotators import counted
    from prefrep.data.sources import Source, read

    file = write(tmp_path / "crowd.jsonl", [row(i % 8, f"worker {i}", False) for i in range(10_000)])
    found, doubts = counted(read(Source(str(file))), "train")
    assert len(found) == 10_000 and found.index("worker 9999") == 9999
    assert len(doubts) == 1 and "10000 of 10000 annotators have a single label" in doubts[0]


@pytest.mark.parametrize(
    ("who", "words"),
    [("", "no row names its annotator, and the head asks who judged"), (" ", "the name of an annotator is blank; name the person")],
)
def test_nobody_and_blank_names_are_refused(who: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        fit(write(tmp_path / "data.jsonl", [row(i, who, False) for i in range(4)]), tmp_path / "run")


def test_questions_that_make_no_sense(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    plain = fit(data, tmp_path / "bt", "--trainer.max_epochs", "1", config="tiny/bt")
    scorer = Scorer.from_pretrained(plain)
    assert "annotators" not in json.loads((plain / "prefrep.json").read_text())
    with pytest.raises(ConfigError, match="BTHead answers everybody alike"):
        scorer.table(*ASK, annotator="Ann")
    with pytest.raises(ConfigError, match="BTHead answers everybody alike"):
        scorer.aggregate(*ASK, rule="mean")
    arguments = ["--model", str(models["personal"]), "--data", str(data), "--out", str(tmp_path / "x.jsonl")]
    with pytest.raises(UsageError, match="--aggregate needs to know whose answers: add --annotators all"):
        score([*arguments, "--aggregate", "borda"])
    with pytest.raises(UsageError, match="dictator"):
        score([*arguments, "--annotators", "all", "--aggregate", "dictator"])
    with pytest.raises(ConfigError, match="knows no annotator 'Zoe' among its 2; adapt it"):
        score([*arguments, "--annotators", "Zoe", "--unknown-annotator", "error"])
    unnamed = write(tmp_path / "unnamed.jsonl", [row(0, "", False)])
    for name, model, words in (
        ("Ann", models["personal"], "knows 'Ann' already"),
        ("Zoe", plain, "everybody alike"),
        (" ", models["personal"], "blank"),
    ):
        with pytest.raises(PrefrepError, match=words):
            adapt(["--model", str(model), "--data", str(unnamed), "--annotator", name, "--out", str(tmp_path / "y")])
    with pytest.raises(ConfigError, match="ExpectTypes is for MixturePreference"):
        fit(data, tmp_path / "z", "--trainer.callbacks+=ExpectTypes")
    with pytest.raises(UsageError, match="at least 1"):
        ExpectTypes(0)


def test_a_folder_with_damaged_annotators_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "model"
    for annotators, words in (({"Ann": 8}, "does not fit"), ({"Ann": "many", "Ben": 1}, "damaged"), ({"": 1, "Ben": 1}, "damaged")):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(models["personal"], folder)
        about = json.loads((folder / "prefrep.json").read_text())
        (folder / "prefrep.json").write_text(json.dumps(about | {"annotators": annotators}))
        with pytest.raises(CheckpointError, match=words):
            Scorer.from_pretrained(folder)
