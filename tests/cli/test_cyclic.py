"""The program that writes cyclic sub-sets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from prefrep.cli import cyclic
from prefrep.data.sources import read
from prefrep.errors import DataError


def test_files_hold_what_the_source_gives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cyclic.main(["bundled:ultrafeedback-mini", "--out", str(tmp_path)]) == 0
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
        cyclic.main([str(pairs), "--out", str(tmp_path / "out")])
    with pytest.raises(DataError, match=r"no ratings on the aspect 'honesty' \(found: none\)"):
        list(read(f"cyclic:{pairs}?omit=honesty"))
