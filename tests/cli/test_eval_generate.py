"""prefrep eval generate and winrate from their arguments to their files, with tiny random models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import program
from scipy.special import expit
from serving import serving
from transformers import AutoConfig, AutoModelForSequenceClassification

from prefrep.data.encode import EncodeConfig
from prefrep.errors import CheckpointError, ConfigError, RecordError, UsageError
from prefrep.io.folder import save
from prefrep.nn.backbone import Backbone
from prefrep.nn.bundled import resolve
from prefrep.nn.heads import GPMHead
from prefrep.nn.loading import load_tokenizer
from prefrep.scoring import Scorer

main = program("eval")

SAMPLES = Path(__file__).parents[2] / "prefrep" / "data" / "samples"
MODEL = ["--model", "bundled:tiny-llama", "--max-new-tokens", "6"]


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    return _write(tmp_path / "prompts.jsonl", [{"instruction": text, "dataset": "d"} for text in ("Why?", "Name a prime", "Say hello")])


@pytest.fixture
def questions(tmp_path: Path) -> str:
    rows = [{"question_id": i, "category": c, "turns": [f"{c}?", "And?"]} for i, c in ((2, "math"), (1, "writing"))]
    return _write(tmp_path / "question.jsonl", rows)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("judge") / "export"
    backbone = Backbone("bundled:tiny-llama").eval()
    save(folder, backbone, GPMHead(backbone.hidden_size, dim=4), 1.0, EncodeConfig(), load_tokenizer("bundled:tiny-llama"), {})
    return str(folder)


def _write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def longer(prompt: str, a: str, b: str) -> float:
    return float(len(a) - len(b))


def test_alpaca_eval_twice_is_the_same(tmp_path: Path, prompts: str) -> None:
    for out in ("one", "two"):
        args = ["generate", *MODEL, "--benchmark", "alpaca_eval", "--data", prompts, "--out", str(tmp_path / out), "--batch-size", "2"]
        assert main(args) == 0
    one, two = (json.loads((tmp_path / out / "model_outputs.json").read_text()) for out in ("one", "two"))
    assert one == two and {row["generator"] for row in one} == {"tiny-llama"}


def test_mt_bench_and_winrate_against_itself(tmp_path: Path, questions: str, judge: str) -> None:
    main(["generate", *MODEL, "--benchmark", "mt_bench", "--data", questions, "--out", str(tmp_path), "--name", "me"])
    path = str(tmp_path / "model_answer" / "me.jsonl")
    out = tmp_path / "w"
    main(["winrate", "--model", path, "--against", path, "--judge", judge, "--data", questions, "--out", str(out), "--bootstrap", "20"])
    found = json.loads((out / "results.json").read_text())
    assert found["win_rate"]["score"] == pytest.approx(0.5) and found["a"] == found["b"] == "me"
    assert [row["prompt"] for row in map(json.loads, (out / "samples.jsonl").read_text().splitlines())] == [["writing?"], ["math?"]]


def test_winrate_is_what_the_judge_says(tmp_path: Path, judge: str, capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = (
        _write(tmp_path / f"{name}.jsonl", [{"instruction": q, "output": a, "generator": name} for q, a in zip(("Why?", "Who?"), texts)])  # noqa: B905
        for name, texts in (("A", ("Because.", "Me")), ("B", ("No.", "You, and him")))
    )
    main(["winrate", "--model", ours, "--against", theirs, "--judge", judge, "--out", str(tmp_path / "ab"), "--bootstrap", "20"])
    main(["winrate", "--model", theirs, "--against", ours, "--judge", judge, "--out", str(tmp_path / "ba"), "--bootstrap", "20"])
    scorer = Scorer.from_pretrained(judge)
    wanted = [float(scorer.table("Why?", ["Because.", "No."])[0, 1]), float(scorer.table("Who?", ["Me", "You, and him"])[0, 1])]
    one, two = (json.loads((tmp_path / out / "results.json").read_text()) for out in ("ab", "ba"))
    assert one["win_rate"]["score"] == pytest.approx(sum(expit(wanted)) / 2, abs=1e-5)
    for key in ("win_rate", "length_controlled_minimal"):
        assert one[key]["score"] + two[key]["score"] == pytest.approx(1, abs=1e-5)
    assert "A against B" in capsys.readouterr().out


def test_winrate_by_a_server_is_that_of_its_folder(tmp_path: Path, judge: str) -> None:
    ours, theirs = (
        _write(tmp_path / f"{name}.jsonl", [{"instruction": q, "output": f"{q} {name}"} for q in ("Why?", "Who?")]) for name in "AB"
    )
    sides = ["winrate", "--model", ours, "--against", theirs, "--bootstrap", "20"]
    main([*sides, "--judge", judge, "--out", str(tmp_path / "folder")])
    with serving({"judge": Path(judge)}) as served:
        main([*sides, "--judge", served.url, "--out", str(tmp_path / "server")])
    here, there = (json.loads((tmp_path / out / "results.json").read_text()) for out in ("folder", "server"))
    assert there["win_rate"]["score"] == pytest.approx(here["win_rate"]["score"], abs=1e-5)
    assert there["judge"]["fingerprint"] == here["judge"]["fingerprint"]


def test_winrate_of_two_models_and_a_rule(tmp_path: Path, prompts: str) -> None:
    args = ["winrate", *MODEL, "--against", "bundled:tiny-qwen2", "--judge", f"{__name__}.longer", "--data", prompts]
    main([*args, "--out", str(tmp_path / "w"), "--bootstrap", "20"])
    rows = [json.loads(line) for line in (tmp_path / "w" / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    for row in rows:
        assert row["log_odds"] == row["length_a"] - row["length_b"]
    a, b = (json.loads((tmp_path / "w" / f"answers-{side}" / "model_outputs.json").read_text()) for side in "ab")
    assert [[row["output"]] for row in a] == [row["a"] for row in rows] and [[row["output"]] for row in b] == [row["b"] for row in rows]


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (["--model", "./nothing"], CheckpointError, "no such folder"),
        (["--data", "question.jsonl"], RecordError, "no text"),
        (["--engine", "vllm"], ConfigError, "vllm is not installed"),
        (["--temperature", "-1"], ConfigError, "temperature"),
        (["--max-new-tokens", "3000"], RecordError, "max_new_tokens 3000"),
    ],
)
def test_bad_input_of_generate(
    tmp_path: Path, prompts: str, questions: str, monkeypatch: pytest.MonkeyPatch, change: list[str], error: type[Exception], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("prefrep.generation.vllm.find_spec", lambda name: None)
    with pytest.raises(error, match=says):
        main(["generate", *MODEL, "--benchmark", "alpaca_eval", "--data", prompts, "--out", "out", *change])


def test_winrate_of_models_needs_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="--data"):
        main(["winrate", *MODEL, "--against", "b.json", "--judge", "math.fsum", "--out", str(tmp_path)])


def test_prompts_of_a_text_file_are_answered(tmp_path: Path) -> None:
    """One a line, as the ones that policies are trained and held out on."""
    lines = (SAMPLES / "held-out-prompts.txt").read_text().splitlines()[:3]
    (tmp_path / "p.txt").write_text("\n".join(lines) + "\n")
    assert main(["generate", *MODEL, "--benchmark", "alpaca_eval", "--data", str(tmp_path / "p.txt"), "--out", str(tmp_path / "out")]) == 0
    answers = json.loads((tmp_path / "out" / "model_outputs.json").read_text())
    assert [answer["instruction"] for answer in answers] == lines and answers[0]["dataset"] == "p"


def test_an_adapter_alone_is_no_model(prompts: str, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="an adapter without its base; export it with ExportPolicy.weights: merged"):
        main(
            [
                "generate",
                "--model",
                str(tmp_path / "adapter"),
                "--benchmark",
                "alpaca_eval",
                "--data",
                prompts,
                "--out",
                str(tmp_path / "out"),
            ]
        )


def test_a_classifier_is_no_policy(prompts: str, tmp_path: Path) -> None:
    """It has no language-model head, and would answer with a random one."""
    config = AutoConfig.from_pretrained(resolve("bundled:tiny-llama"), tie_word_embeddings=False)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "m")
    load_tokenizer("bundled:tiny-llama").save_pretrained(tmp_path / "m")
    with pytest.raises(CheckpointError, match="no language-model head"):
        main(["generate", "--model", str(tmp_path / "m"), "--benchmark", "alpaca_eval", "--data", prompts, "--out", str(tmp_path / "out")])
