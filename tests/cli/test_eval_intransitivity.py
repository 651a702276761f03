"""prefrep eval intransitivity from its arguments to its files, on the bundled sample and with tiny random models."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import program

from prefrep.annotators import Annotators
from prefrep.data.encode import EncodeConfig
from prefrep.errors import ConfigError, DataError
from prefrep.evaluation.intransitivity import evaluate
from prefrep.evaluation.pairs import PairRow
from prefrep.evaluation.scores import ScoreLog
from prefrep.evaluation.summary import Bootstrap
from prefrep.evaluation.tables import TableRow
from prefrep.io.folder import save
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import BTHead, GPMHead, PairHead, PreferenceHead
from prefrep.nn.loading import load_tokenizer
from prefrep.nn.people import introduce, members_of
from prefrep.nn.personal import PersonalHead, PersonalSkew
from prefrep.nn.skew import GatedSkew, LearnedSkew
from prefrep.scoring import Scorer, ranked

main = program("eval")

FEW = ["--bootstrap", "50", "--null", "20"]
HEADS: dict[str, Any] = {
    "bt": BTHead,
    "pair": PairHead,
    "block": partial(GPMHead, dim=4, normalize=False),
    "gated": partial(GPMHead, dim=6, skew=GatedSkew),
    "learned": partial(GPMHead, dim=4, skew=LearnedSkew),
}
PROMPTS = [("Why?", ["No.", "Because.", "It rains, and rain is wet", "I would rather not say"]), ("Name a prime", ["7", "9", "eleven"])]


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An exported folder per kind of head, with random weights that are wide enough for scores to differ."""
    folder = tmp_path_factory.mktemp("models")
    backbone, tokenizer = Backbone("bundled:tiny-llama").eval(), load_tokenizer("bundled:tiny-llama")
    torch.manual_seed(0)
    for name, make in HEADS.items():
        head: PreferenceHead = make(backbone.hidden_size)
        for parameter in head.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        save(folder / name, backbone, head, 0.5, EncodeConfig(), tokenizer, {})
    return {name: str(folder / name) for name in HEADS}


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "ranked.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt, "responses": responses}) + "\n" for prompt, responses in PROMPTS))
    return str(path)


def results(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


def rows(out: Path) -> list[TableRow]:
    return [TableRow.parse(json.loads(line)) for line in (out / "tables.jsonl").read_text().splitlines()]


def test_the_bundled_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["intransitivity", "--data", "bundled:ultrafeedback-mini", "--out", str(tmp_path), *FEW]) == 0
    found, tables = results(tmp_path), rows(tmp_path)
    assert found["benchmark"] == "intransitivity" and found["model"] is None and found["data"] == "bundled:ultrafeedback-mini"
    assert found["tables"]["n"] == len(tables) == 150 and found["tables"]["kinds"] == {"majority": 150}
    again, described = evaluate(tables, Bootstrap(50, 0), 20)
    for key, value in json.loads(json.dumps(again)).items():
        if key != "notes":
            assert found[key] == value, key
    lines = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    assert [line["triples"] for line in lines] == [each["triples"] for each in described]
    assert len(lines[0]["texts"]) == 4 and lines[0]["prompt"] == "Give me three tips for sleeping better."
    assert (tmp_path / "intransitivity.png").stat().st_size > 10_000
    shown = capsys.readouterr().out
    assert f"{found['energy']['gradient']['score']:.3f}" in shown and "null of majority" in shown
    cyclic = next(line for line in shown.splitlines() if line.startswith("  cyclic, both"))
    low, high = found["energy"]["cyclic"]["ci95"]
    assert cyclic.endswith(f"[{low:.3f}, {high:.3f}]") and "energy.cyclic" not in found["null"], "no null and no p for energies of ratings"


def test_two_ratings_have_no_p_of_shared_circles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["intransitivity", "--data", "bundled:ultrafeedback-mini", *FEW]
    assert main([*command, "--out", str(tmp_path / "a")]) == 0
    assert main([*command, "--out", str(tmp_path / "b"), "--against", str(tmp_path / "a")]) == 0
    assert results(tmp_path / "b")["against"]["cyclic"]["p"] is None
    assert "the cyclic parts correlate with r = 1.000 (no p-value without --model" in capsys.readouterr().out


@pytest.mark.parametrize("head", HEADS)
def test_tables_are_those_of_the_scorer(head: str, exports: dict[str, str], data: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["intransitivity", "--model", exports[head], "--data", data, "--out", str(out), *FEW]) == 0
    scorer = Scorer.from_pretrained(exports[head])
    tables, found = rows(out), results(out)
    for row, expected in zip(tables, scorer.tables(ranked(*each) for each in PROMPTS), strict=True):
        np.testing.assert_allclose(row.array(), expected, atol=1e-5)
        np.testing.assert_array_equal(row.array(), -row.array().T)
    blocks = {"block": 2, "gated": 3, "learned": 2}.get(head, 0)
    assert len(found["blocks"]) == blocks and all(len(row.blocks or ()) == blocks for row in tables)
    assert found["model"]["path"] == exports[head] and found["model"]["encoded"]["records"] == 2
    assert {"torch", "numpy", "prefrep"} <= found["versions"].keys()
    if head == "bt":
        assert found["energy"]["cyclic"]["score"] < 1e-9 and found["overall"]["score"] == 0


def test_a_second_run_reads_what_is_there(exports: dict[str, str], data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    command = ["intransitivity", "--model", exports["block"], "--data", data, "--out", str(out), *FEW]
    assert main(command) == 0
    first, before = results(out), rows(out)
    kept = (out / "tables.jsonl").read_text().splitlines(keepends=True)[0]
    (out / "tables.jsonl").write_text(kept + '{"id": "1"')
    assert main(command) == 0
    assert (out / "tables.jsonl").read_text().startswith(kept)
    for one, other in zip(before, rows(out), strict=True):  # other batches, other last bits
        np.testing.assert_allclose(one.array(), other.array(), atol=1e-5)
    for name, value in first["energy"].items():
        assert results(out)["energy"][name]["score"] == pytest.approx(value["score"], abs=1e-5)
    with pytest.raises(ConfigError, match="another data"):
        main(["intransitivity", "--data", "bundled:ultrafeedback-mini", "--out", str(out), *FEW])
    assert main(["intransitivity", "--data", "bundled:ultrafeedback-mini", "--out", str(out), "--restart", *FEW]) == 0


@pytest.mark.parametrize("kind", ["transitive people", "people of one mind"])
def test_circles_by_annotator(kind: str, exports: dict[str, str], data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """People with rewards have no circles within them; people of one mind, none between them."""
    backbone = Backbone("bundled:tiny-llama").eval()
    torch.manual_seed(0)
    one_mind = kind == "people of one mind"
    make: Any = partial(GPMHead, dim=4, normalize=False, skew=PersonalSkew) if one_mind else partial(PersonalHead, rank=4)
    head: PreferenceHead = make(backbone.hidden_size)
    introduce(head, Annotators({"Ann": 3, "Ben": 2, "Cy": 1}))
    torch.nn.init.normal_(head.value_head.weight, std=0.3)  # type: ignore[union-attr, arg-type]
    for members in members_of(head):
        torch.nn.init.normal_(members.offsets, std=0.0 if one_mind else 2.0)  # type: ignore[arg-type]
    save(tmp_path / "model", backbone, head, 0.5, EncodeConfig(), load_tokenizer("bundled:tiny-llama"), {})
    ask = ["intransitivity", "--data", data, "--by", "annotator", *FEW]
    assert main([*ask, "--model", str(tmp_path / "model"), "--out", str(tmp_path / "out")]) == 0
    found = results(tmp_path / "out")["by_annotator"]
    whole, between, within = (found[f"society.{part}"]["score"] for part in ("cyclic", "between", "within"))
    assert found["annotators"] == 3 and whole > 1e-4 and between + within == pytest.approx(whole)
    assert (between if one_mind else within) == 0
    if one_mind:
        assert found["annotators.energy"]["score"] == pytest.approx(whole, rel=1e-4) and found["majority.of_orders"]["score"] == 0
        assert found["annotators.cyclic"]["score"] == found["majority.cyclic"]["score"]
    else:
        assert found["annotators.energy"]["score"] == 0 == found["annotators.cyclic"]["score"]
        assert found["majority.of_orders"]["score"] == found["majority.cyclic"]["score"]
        assert found["null"]["society.within"]["mean"] == pytest.approx(0, abs=1e-7) and found["null"]["society.within"]["p"] == 1
    shown = capsys.readouterr().out
    assert "of 3 annotators" in shown and f"{whole:.3f}" in shown
    for model, words in ((["--model", exports["block"]], "answers everybody alike"), ([], "name a --model that knows annotators")):
        with pytest.raises(ConfigError, match=words):
            main([*ask, "--out", str(tmp_path / "no"), *model])


def test_comparisons_that_share_a_prompt(exports: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pairs.jsonl"
    pairs = [("a", "b"), ("b", "c"), ("c", "a")]
    path.write_text("".join(json.dumps({"prompt": "?", "chosen": a, "rejected": b}) + "\n" for a, b in pairs))
    assert main(["intransitivity", "--data", str(path), "--out", str(tmp_path / "own"), *FEW]) == 0
    found = results(tmp_path / "own")
    assert found["overall"]["score"] == 1 and found["energy"]["curl"]["score"] == pytest.approx(1)
    assert "voted on twice" in capsys.readouterr().out.replace("\n      ", " ")
    against = ["--against", str(tmp_path / "own")]
    assert main(["intransitivity", "--data", str(path), "--model", exports["bt"], "--out", str(tmp_path / "bt"), *FEW, *against]) == 0
    assert results(tmp_path / "bt")["overall"]["score"] == 0 and len(rows(tmp_path / "bt")[0].table) == 3
    printed = capsys.readouterr().out  # a circle has no order, and rewards have no circle
    assert "transitive parts: one of the two has none" in printed and "cyclic parts: one of the two has none" in printed


def test_what_is_wrong_is_said(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match="name a --model"):
        main(["intransitivity", "--data", data, "--out", str(tmp_path / "x"), *FEW])
    for wrong in (["--null", "0"], ["--bootstrap", "0"], ["--batch-tokens", "0"]):
        with pytest.raises(ConfigError, match="at least 1"):
            main(["intransitivity", "--data", data, "--out", str(tmp_path / "x"), *wrong])


def test_against_another_evaluation(exports: dict[str, str], data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("block", "gated"):
        assert main(["intransitivity", "--model", exports[name], "--data", data, "--out", str(tmp_path / name), *FEW]) == 0
    command = ["intransitivity", "--model", exports["block"], "--data", data, "--out", str(tmp_path / "block"), *FEW]
    assert main([*command, "--against", str(tmp_path / "gated")]) == 0
    found = results(tmp_path / "block")["against"]
    assert found["n"] == 2 and abs(found["cyclic"]["correlation"]) <= 1 and 0 < found["cyclic"]["p"] <= 1
    assert "the transitive parts correlate" in capsys.readouterr().out
    assert not any("other data" in note for note in results(tmp_path / "block")["notes"])
    other = tmp_path / "gated" / "scores.meta.json"
    other.write_text(json.dumps(json.loads(other.read_text()) | {"data": "another digest"}))
    assert main([*command, "--against", str(tmp_path / "gated")]) == 0
    assert any("is of other data" in note and "matched by subset and id" in note for note in results(tmp_path / "block")["notes"])
    with pytest.raises(ConfigError, match="an evaluation of another kind .intransitivity.; choose another --out"):
        ScoreLog(tmp_path / "block", PairRow, {"benchmark": "pairs"}, [])
    with pytest.raises(DataError, match="no such file; name the --out of an earlier"):
        main([*command, "--against", str(tmp_path / "nowhere")])
