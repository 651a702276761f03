"""Labels of a judge, and pairs on which it says nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from conftest import COMPARISONS, program

from prefrep.judges import Judge, Verdict
from prefrep.labels import Verdicts
from prefrep.labels.base import Work
from prefrep.labels.rows import pairs_of
from prefrep.records import Comparison, RankedResponses


class Said(Judge):
    """Says what it is told to."""

    def __init__(self, values: Sequence[float]) -> None:
        self.values = list(values)

    def verdicts(self, records: Sequence[RankedResponses]) -> Iterator[Verdict]:
        raise NotImplementedError

    def compare(self, comparisons: Iterable[Comparison], *, progress: str | None = None) -> Iterator[float]:
        return iter(self.values)


@pytest.mark.parametrize(("action", "labels"), [("note", [1, 1, 1, 1]), ("soft", [0.75, 0.25, 1, 0.5]), ("hard", [1, 0, 1, 0.5])])
def test_a_pair_without_a_verdict_keeps_its_label(action: str, labels: list[float], tmp_path: Path) -> None:
    pairs = [each for record in COMPARISONS for each in pairs_of(record)]
    judge = Said([math.log(3), -math.log(3), math.nan, 0.0])
    found = Verdicts(judge, action).apply(pairs, Work("bundled:tiny-llama", tmp_path))  # type: ignore[arg-type]
    assert [each.comparison.probability for each in found.pairs] == pytest.approx(labels)
    assert [each.columns["verdict"] for each in found.pairs] == [pytest.approx(math.log(3)), pytest.approx(-math.log(3)), None, 0.0]
    assert found.numbers == {"pairs": 4, "without a verdict": 1, "verdict against the label": 1}


def test_the_program_asks_a_judge_that_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefrep.judges.writing.kept.cache_folder", lambda: tmp_path)
    data, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"Say {n}", "chosen": f"{n}", "rejected": "no"}) + "\n" for n in range(4)))
    step = "Verdicts action=soft judge.class=GenerativeJudge judge.model=bundled:tiny-llama judge.style=letter judge.constraint=choice"
    assert program("label")([str(data), "--out", str(out), "--step", step]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert all(row["probability"] == pytest.approx(1 / (1 + math.exp(-row["verdict"]))) for row in rows) and len(rows) == 4
