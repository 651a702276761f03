"""prefrep eval pairs from its arguments to its files, with a tiny random model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import program

from prefrep.data.encode import EncodeConfig
from prefrep.errors import ConfigError, RecordError
from prefrep.evaluation.pairs import PairRow, evaluate
from prefrep.evaluation.rows import read_scores
from prefrep.evaluation.summary import Bootstrap
from prefrep.io.folder import save
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import GPMHead
from prefrep.nn.loading import load_tokenizer
from prefrep.scoring import Scorer

main = program("eval")

FEW = ["--bootstrap", "50"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "gpm" / "export"
    backbone, tokenizer = Backbone("bundled:tiny-llama").eval(), load_tokenizer("bundled:tiny-llama")
    save(folder, backbone, GPMHead(backbone.hidden_size, dim=4), 0.1, EncodeConfig(), tokenizer, {})
    return str(folder)


def write(path: Path, count: int, first: int = 0) -> str:
    rows = [
        {"id": f"r{i}", "subset": "ab"[i % 2], "prompt": f"Question {i}?", "chosen": "word " * (i % 5 + 1), "rejected": f"No {i}.",
         "margin": i % 3 + 0.5}
        for i in range(first, first + count)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def results(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


def test_files_and_their_recomputation(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, other, out = write(tmp_path / "d.jsonl", 24), write(tmp_path / "v.jsonl", 12, 24), tmp_path / "out"
    assert main(["pairs", "--model", model, "--data", data, "--calibrate-on", other, "--out", str(out), *FEW]) == 0
    found = results(out)
    assert (found["benchmark"], found["data"], found["calibrate_on"]) == ("pairs", data, other)
    assert found["model"]["name"] == "gpm/export" and {"torch", "prefrep"} <= found["versions"].keys()
    assert found["model"]["encoded"]["records"] == 24
    rows, others = read_scores(out / "scores.jsonl", PairRow), read_scores(out / "calibration" / "scores.jsonl", PairRow)
    assert (len(rows), len(others)) == (24, 12) and [row.margin for row in rows[:4]] == [0.5, 1.5, 2.5, 0.5]
    assert rows[3].length_difference == len("word " * 4) - len("No 3.") and {row.subset for row in rows} == {"a", "b"}
    again = evaluate(rows, others, Bootstrap(50))
    assert {key: found[key] for key in again} == json.loads(json.dumps(again))
    wrong = [json.loads(line) for line in (out / "mistakes.jsonl").read_text().splitlines()]
    assert [each["id"] for each in wrong] == [row.id for row in sorted(rows, key=lambda row: row.score) if row.score < 0]
    assert (out / "reliability.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("accuracy", "Brier score", "margin 0.5 to", "model chooses the longer answer"))
    chance = found["calibration"]["ece"]["if_calibrated"]
    assert f"by chance, if calibrated: {chance['mean']:.3f}, 95 % below {chance['p95']:.3f}" in printed


def test_a_finished_run_asks_the_model_nothing(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["pairs", "--model", model, "--data", write(tmp_path / "d.jsonl", 8), "--out", str(tmp_path / "out"), *FEW]
    main(command)
    before = results(tmp_path / "out")
    monkeypatch.setattr(Scorer, "compare", lambda *args, **more: pytest.fail("asked"))
    main(command)
    assert results(tmp_path / "out") == before


def test_ranked_responses(model: str, tmp_path: Path) -> None:
    data = tmp_path / "k.jsonl"
    rows = [{"prompt": f"{i}?", "responses": ["yes", "no", "perhaps"], "scores": [3, 1, 2]} for i in range(3)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    main(["pairs", "--model", model, "--data", str(data), "--out", str(tmp_path / "out"), *FEW])
    found = read_scores(tmp_path / "out" / "scores.jsonl", PairRow)
    assert any(note.startswith("9 comparisons on 3 prompts") for note in results(tmp_path / "out")["notes"])
    assert [row.id for row in found[:3]] == ["0:0-1", "0:0-2", "0:2-1"] and [row.margin for row in found[:3]] == [2.0, 1.0, 1.0]


def test_a_temperature_needs_other_comparisons(model: str, tmp_path: Path) -> None:
    data, part, more = write(tmp_path / "d.jsonl", 8), write(tmp_path / "part.jsonl", 3), write(tmp_path / "more.jsonl", 10, 6)
    command = ["pairs", "--model", model, "--data", data, "--out", str(tmp_path / "out"), *FEW, "--calibrate-on"]
    for same in (data, part):
        with pytest.raises(ConfigError, match="name other comparisons"):
            main([*command, same])
    assert not (tmp_path / "out").exists()
    main([*command, more])
    assert "2 of the 10 comparisons on which the temperature was fitted are also evaluated" in results(tmp_path / "out")["notes"]


def test_what_cannot_be_used_is_refused(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "k.jsonl"
    data.write_text(json.dumps({"prompt": "?", "responses": ["yes", "no"]}) + "\n")
    with pytest.raises(RecordError, match="without scores"):
        main(["pairs", "--model", model, "--data", str(data), "--out", str(tmp_path / "out")])
    for extra in (["--bootstrap", "0"], ["--batch-tokens", "0"]):
        with pytest.raises(ConfigError, match="at least 1"):
            main(["pairs", "--model", model, "--data", str(data), "--out", str(tmp_path / "out"), *extra])
