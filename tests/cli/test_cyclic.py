"""The program that writes cyclic sub-sets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import program

from prefrep.data.sources import read
from prefrep.errors import DataError

main = program("cyclic")


def test_files_hold_what_the_source_gives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundled:ultrafeedback-mini", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out.splitlines()
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == [f"without-{aspect}.jsonl" for aspect in ("brevity", "plainness", "relevance", "warmth")]
    for file in files:
        omit = file.stem.removeprefix("without-")
        expected = [replace(record, source="") for record in read(f"cyclic:bundled:ultrafeedback-mini?omit={omit}")]
        assert [replace(record, source="") for record in read(file)] == expected
        assert any(line == f"{file}: {len(expected)} comparisons, cycles on {len(expected) // 3} prompts" for line in printed)


def test_data_without_ratings_are_refused(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}) + "\n")
    with pytest.raises(DataError, match=r"pairs\.jsonl: no ratings by aspect"):
        main([str(pairs), "--out", str(tmp_path / "out")])
    with pytest.raises(DataError, match=r"no ratings on the aspect 'honesty' \(found: none\)"):
        list(read(f"cyclic:{pairs}?omit=honesty"))


def test_a_sub_set_without_cycles_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The only cycle goes by help, R&D and truth, so only the sub-set without style has it; names may hold anything."""
    ratings = [
        {"help": 3, "R&D": 1, "truth": 2, "style": 1},
        {"help": 2, "R&D": 3, "truth": 1, "style": 1},
        {"help": 1, "R&D": 2, "truth": 3, "style": 1},
    ]
    completions = [
        {"response": f"r{i}", "annotations": {name: {"Rating": str(n)} for name, n in each.items()}} for i, each in enumerate(ratings)
    ]
    file = tmp_path / "ratings.jsonl"
    file.write_text(json.dumps({"instruction": "Q", "completions": completions}) + "\n")
    assert main([str(file), "--out", str(tmp_path / "out")]) == 0
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["without-style.jsonl"]
    said = capsys.readouterr().out
    assert said.count("no file: ") == 3 and "other than 'R&D'" in said and "3 comparisons, cycles on 1 prompts" in said
    file.write_text(file.read_text().replace('"3"', '"2"').replace('"1"', '"2"'))
    with pytest.raises(DataError, match="no prompt has a cycle"):
        main([str(file), "--out", str(tmp_path / "nothing")])
