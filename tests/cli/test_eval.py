"""bin/eval from its arguments to its files, with tiny random models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import program

from prefrep.data.encode import EncodeConfig
from prefrep.errors import CheckpointError, ConfigError, DataError, RecordError, UsageError
from prefrep.io.folder import save
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import BTHead, GPMHead, PairHead
from prefrep.nn.loading import load_tokenizer
from prefrep.scoring import Scorer
from prefrep.scoring.interface import WINDOW

main = program("eval")

FEW = ["--bootstrap", "100"]


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One exported folder per head, on one tiny random backbone."""
    folder = tmp_path_factory.mktemp("models")
    backbone, tokenizer = Backbone("bundled:tiny-llama").eval(), load_tokenizer("bundled:tiny-llama")
    heads = {"bt": BTHead(backbone.hidden_size), "gpm": GPMHead(backbone.hidden_size, dim=4), "pair": PairHead(backbone.hidden_size)}
    for name, head in heads.items():
        save(folder / name / "export", backbone, head, 1.0, EncodeConfig(), tokenizer, {})
    return {name: str(folder / name / "export") for name in heads}


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    rows = [
        {"id": i, "subset": subset, "prompt": f"Question {i}?", "chosen": "word " * (i % 5 + 1), "rejected": f"No {i}."}
        for i, subset in enumerate(["llmbar-natural", "hep-go"] * 6)
    ]
    return _write(tmp_path / "pairs.jsonl", rows)


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    rows: list[dict[str, Any]] = [
        {"id": str(i), "subset": "Math", "prompt": f"{i}?", "chosen": ["yes"], "rejected": ["no", f"{i}", "perhaps"], "num_correct": 1}
        for i in range(5)
    ]
    rows += [
        {"id": "ref:0", "subset": "Ties", "prompt": "Pi?", "chosen": ["3.14159"], "rejected": ["2.7"], "num_correct": 1},
        {"id": "tied:0", "subset": "Ties", "prompt": "A prime?", "chosen": ["2", "3", "5"], "rejected": ["4", "6"], "num_correct": 3},
    ]
    return _write(tmp_path / "prompts.jsonl", rows)


def _write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _results(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


@pytest.mark.parametrize("head", ["bt", "gpm", "pair"])
def test_rewardbench(head: str, exports: dict[str, str], pairs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["rewardbench", "--model", exports[head], "--data", pairs, "--out", str(out), "--also-swap", *FEW]) == 0
    results = _results(out)
    for value in [results["overall"], *results["sections"].values(), *results["subsets"].values()]:
        assert set(value) == {"score", "n", "ci95"} and len(value["ci95"]) == 2
    assert {"benchmark", "weights", "model", "versions"} <= results.keys()
    assert (results["benchmark"], results["weights"], results["partial"]) == ("rewardbench", "current", True)
    assert set(results["sections"]) == {"Chat Hard", "Reasoning"} and results["overall"]["n"] == 12
    assert results["model"]["name"] == f"{head}/export" and results["model"]["dtype"] == "float32"
    assert {"torch", "transformers", "prefrep"} <= results["versions"].keys()
    assert results["swap"]["n"] == 12
    rows = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
    rewards = {"rewards"} if head == "bt" else set()
    assert [set(row) for row in rows] == [{"id", "subset", "score"} | rewards] * 12
    wins = [row["score"] > 0 for row in rows if row["subset"] == "hep-go"]
    assert results["subsets"]["hep-go"]["score"] == sum(wins) / 6
    assert (out / "eval-set" / head / "export.json").is_file() and (out / "eval-set-scores" / head / "export.json").is_file()
    printed = capsys.readouterr().out
    assert "overall" in printed and "note: partial data: 2 of 23 subsets" in printed

    # The saved scores, scored again with the other weights, know which model gave them; these subsets weigh the same in both.
    again = tmp_path / "again"
    assert main(["rewardbench", "--scores", str(out / "scores.jsonl"), "--out", str(again), "--weights", "0.1.2", *FEW]) == 0
    second = _results(again)
    assert second["weights"] == "0.1.2" and second["model"]["fingerprint"] == results["model"]["fingerprint"]
    assert [second[key] for key in ("overall", "sections", "subsets")] == [results[key] for key in ("overall", "sections", "subsets")]
    with pytest.raises(ConfigError, match="holds the scores themselves.*choose another"):
        main(["rewardbench", "--scores", str(out / "scores.jsonl"), "--out", str(tmp_path / "again" / ".." / "out"), *FEW])
    assert _results(out) == results, "what knew the data is still there"
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "scores.meta.json").write_text('{"benchmark": "pairs"}')
    with pytest.raises(ConfigError, match="holds an evaluation of another kind .pairs."):
        main(["rewardbench", "--scores", str(out / "scores.jsonl"), "--out", str(tmp_path / "pairs"), *FEW])


def test_scores_do_not_depend_on_the_batch(exports: dict[str, str], pairs: str, tmp_path: Path) -> None:
    scores = []
    for name, extra in {"one": ["--batch-tokens", "1"], "many": [], "padded": ["--layout", "padded"]}.items():
        main(["rewardbench", "--model", exports["gpm"], "--data", pairs, "--out", str(tmp_path / name), *extra, *FEW])
        scores.append([json.loads(line)["score"] for line in (tmp_path / name / "scores.jsonl").read_text().splitlines()])
    assert scores[0] == pytest.approx(scores[1], abs=1e-4) and scores[1] == pytest.approx(scores[2], abs=1e-4)
    assert len(set(scores[0])) > 5  # a model that says the same of everything would pass too


@pytest.mark.parametrize(("head", "rule"), [("bt", "rewards"), ("gpm", "round-robin"), ("pair", "round-robin")])
def test_rewardbench2(head: str, rule: str, exports: dict[str, str], prompts: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["rewardbench2", "--model", exports[head], "--data", prompts, "--out", str(out), "--ties", "0.1.4", *FEW]) == 0
    results = _results(out)
    assert (results["benchmark"], results["ties"], results["scalarisation"]) == ("rewardbench2", "0.1.4", rule)
    assert results["official"] == (head == "bt") and set(results["subsets"]) == {"Math", "Ties"}
    rows = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
    assert [len(row["scores"]) for row in rows] == [4] * 5 + [2, 5] and rows[-1]["num_correct"] == 3
    again = tmp_path / "again"
    assert main(["rewardbench2", "--scores", str(out / "scores.jsonl"), "--out", str(again), "--ties", "0.1.4", *FEW]) == 0
    assert _results(again)["subsets"] == results["subsets"] and _results(again)["scalarisation"] == rule
    if head == "gpm":
        with pytest.raises(ConfigError, match="made with 'round-robin'"):
            main(["rewardbench2", "--scores", str(out / "scores.jsonl"), "--out", str(again), "--scalarisation", "wins"])
        with pytest.raises(ConfigError, match="no rewards"):
            main(["rewardbench2", "--model", exports[head], "--data", prompts, "--out", str(again), "--scalarisation", "rewards"])


def test_a_finished_run_asks_the_model_nothing(
    exports: dict[str, str], pairs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["rewardbench", "--model", exports["bt"], "--data", pairs, "--out", str(tmp_path / "out"), *FEW]
    main(command)
    before = _results(tmp_path / "out")
    assert before["model"]["encoded"]["records"] == 12
    monkeypatch.setattr(Scorer, "compare", lambda *args, **more: pytest.fail("asked"))
    main(command)
    after = _results(tmp_path / "out")
    assert [after[key] for key in ("subsets", "notes", "model")] == [before[key] for key in ("subsets", "notes", "model")]
    with pytest.raises(ConfigError, match="another model"):
        main(["rewardbench", "--model", exports["gpm"], *command[3:]])


def test_truncation_is_said_and_a_cut_off_run_too(exports: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The tiny tokenizer reads bytes, so 5000 letters are beyond max_length = 2048.
    data = _write(
        tmp_path / "long.jsonl",
        [
            {"id": i, "subset": "hep-go", "prompt": "x" * (5000 if i < 3 else 1), "chosen": "yes", "rejected": "no"}
            for i in range(WINDOW + 2)
        ],
    )
    out = tmp_path / "out"
    command = ["rewardbench", "--model", exports["bt"], "--data", data, "--out", str(out), *FEW]
    main(command)
    assert "while encoding: 3 truncated prompts" in " ".join(capsys.readouterr().out.split())
    lines = (out / "scores.jsonl").read_text().splitlines(keepends=True)
    sidecar = json.loads((out / "scores.meta.json").read_text())
    sidecar["model"]["encoded"] = {}  # as a killed run leaves it
    (out / "scores.meta.json").write_text(json.dumps(sidecar))
    (out / "scores.jsonl").write_text("".join(lines[: WINDOW + 1]))  # one whole window, and a row of the next
    main(command)
    assert (out / "scores.jsonl").read_text() == "".join(lines)
    assert any(f"counted for 2 of {WINDOW + 2} rows" in note for note in _results(out)["notes"])


def test_official_scores_are_read_back_without_knowing_the_model(tmp_path: Path) -> None:
    rows = [{"id": "ref:0", "subset": "Ties", "num_correct": 1, "scores": [[3.0], [0.0]]},
            {"id": "tied:0", "subset": "Ties", "num_correct": 2, "scores": [[2.0], [2.5], [0.0]]}]  # fmt: skip
    saved = _write(tmp_path / "s.jsonl", rows)
    assert main(["rewardbench2", "--scores", saved, "--out", str(tmp_path / "out"), "--name", "a/b", *FEW]) == 0
    results = _results(tmp_path / "out")
    assert results["overall"]["score"] == pytest.approx(1.0099505475368673, abs=1e-12)  # tests/golden, nested_scores
    assert results["model"] == {"name": "a/b"} and any("is unknown" in note for note in results["notes"])


def test_what_cannot_be_used_is_refused(exports: dict[str, str], pairs: str, prompts: str, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with pytest.raises(CheckpointError):
        main(["rewardbench", "--model", str(tmp_path / "none"), "--data", pairs, "--out", out])
    with pytest.raises(DataError):
        main(["rewardbench", "--model", exports["bt"], "--data", str(tmp_path / "none.jsonl"), "--out", out])
    with pytest.raises(RecordError, match=r"prompts.jsonl:1"):
        main(["rewardbench", "--model", exports["bt"], "--data", prompts, "--out", out])
    with pytest.raises(DataError, match="no such file"):
        main(["rewardbench", "--scores", str(tmp_path / "none.jsonl"), "--out", out])
    wrong = _write(tmp_path / "wrong.jsonl", [{"id": "1", "subset": "Math", "num_correct": 1, "scores": [1, 0]}])
    with pytest.raises(RecordError, match=r"wrong.jsonl:1: no 'score'.*its own sub-command"):
        main(["rewardbench", "--scores", wrong, "--out", out])
    assert not Path(out).exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rewardbench", "--out", "o"], "--model"),
        (["rewardbench", "--scores", "s", "--out", "o", "--also-swap"], "--also-swap needs --model"),
        (["rewardbench", "--scores", "s", "--out", "o", "--bootstrap", "0"], "bootstrap draws must be at least 1"),
        (["rewardbench", "--model", "m", "--out", "o", "--weights", "0.1.3"], "--weights: must be one of 'current', '0.1.2'"),
        (["rewardbench2", "--model", "m", "--out", "o", "--ties", "0.1.2"], "--ties: must be one of 'main', '0.1.4'"),
    ],
)
def test_usage_errors(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        main(arguments)


def test_pairs_of_one_criterion(exports: dict[str, str], tmp_path: Path) -> None:
    """Data with two labels hold two questions, and rated responses have no order before somebody names the aspect."""
    labelled = {"prompt": "q", "response_0": "a", "response_1": "b", "better_response_id": 0, "safer_response_id": 1}
    safe = _write(tmp_path / "safe.jsonl", [{**labelled, "prompt": f"q{i}"} for i in range(3)])
    rated = _write(tmp_path / "rated.jsonl", [{"prompt": "q", "response": f"r{i}", "helpfulness": i, "verbosity": 1} for i in range(3)])

    def pairs_in(data: str, *options: str) -> int:
        out = tmp_path / f"{Path(data).stem}{len(options)}"
        assert main(["pairs", "--model", exports["gpm"], "--data", data, "--out", str(out), *options, *FEW]) == 0
        return int(json.loads((out / "results.json").read_text())["overall"]["n"])

    assert pairs_in(safe) == 6 and pairs_in(safe, "--criterion", "safer") == 3
    assert pairs_in(rated, "--criterion", "helpfulness") == 3
    with pytest.raises(RecordError, match="name the rating that counts with criterion: helpfulness, verbosity"):
        pairs_in(rated)
    with pytest.raises(DataError, match="no record has a label for criterion 'beauty'"):
        pairs_in(rated, "--criterion", "beauty", "--restart")
