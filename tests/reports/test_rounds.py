"""Rounds of post-training in a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prefrep.reports.document import Example, Notes, Section, Table, Text
from prefrep.reports.rounds import answers, tables

WON = {"win_rate": 0.6, "win_rate_low": 0.5, "win_rate_high": 0.7}


def named(kind: str, against: str, **changed: float) -> dict[str, float]:
    return {f"{kind}_{key}_{against}": value for key, value in {**WON, **changed}.items()}


def test_policies_without_training_stand_in_the_same_table() -> None:
    """Columns that nobody fills are left out, cells that a policy does not have are dashes."""
    first = {
        "baseline_responses": 8.0,
        "best_of_n_kl_initial": 1.2,
        "best_of_n_words": 7.0,
        "held_out_kl_initial": 0.0,
        "held_out_words": 9.0,
    }
    first |= named("best_of_n", "initial", win_rate=0.9) | named("rejection", "initial", win_rate=0.8)
    second = {"held_out_kl_initial": 2.5, "held_out_words": 3.0, "budget_batches": 4.0, "budget_kl": 0.75}
    second |= named("held_out", "initial") | named("held_out", "previous") | {"held_out_overoptimised_since": 0.0}
    table, said = tables({0: first, 1: second})
    assert isinstance(table, Table) and isinstance(said, Notes)
    assert table.head == ("policy", "wins against the start, 95 %", "wins against the round before, 95 %", "KL to the start, nats", "words")
    cells = {row[0]: row[1:] for row in table.rows}
    assert list(cells) == ["best of 8", "rejection sampling of 8", "0", "1"]
    assert cells["best of 8"] == ("0.900 [0.500, 0.700]", "-", "1.2", "7") and cells["0"] == ("-", "-", "0", "9")
    assert cells["1"] == ("0.600 [0.500, 0.700]", "0.600 [0.500, 0.700]", "2.5", "3")
    assert "round 1: since round 0" in said.items[0] and "round 1: training ended after 4 batches" in said.items[1]


def test_a_second_judge_has_columns_of_its_own() -> None:
    (table,) = tables({0: {}, 1: named("held_out", "initial") | named("held_out_second", "initial", win_rate=0.25)})
    assert isinstance(table, Table) and table.head == ("policy", "wins against the start, 95 %", "second judge: against the start, 95 %")
    assert table.rows[1] == ("1", "0.600 [0.500, 0.700]", "0.250 [0.500, 0.700]")


def write(folder: Path, number: int, name: str, lines: list[dict[str, Any]]) -> None:
    place = folder / "rounds" / str(number)
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{name}.jsonl").write_text("".join(json.dumps({"row": row, **line}) + "\n" for row, line in enumerate(lines)))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Ten prompts, three rounds; in the last one the odds of prompt i are i - 4."""
    for number in range(3):
        write(tmp_path, number, "held_out", [{"prompt": f"Q{i}", "responses": [f"{i} in round {number}", "other"]} for i in range(10)])
        if number:
            write(tmp_path, number, "verdicts", [{"initial": [[i - 5.0, i - 3.0]], "previous": [[0.0]]} for i in range(10)])
    return tmp_path


def test_answers_to_the_same_prompts(run: Path) -> None:
    """The prompts that gained most come first, those that lost most last."""
    (section,) = answers(run)
    assert isinstance(section, Section) and all(isinstance(block, Example) for block in section.blocks)
    examples = [block for block in section.blocks if isinstance(block, Example)]
    assert [example.title for example in examples] == [f"prompt {i}" for i in (9, 8, 7, 2, 1, 0)]
    assert examples[0].parts == (
        ("Prompt", "Q9"),
        ("Round 0", "9 in round 0"),
        ("Round 1, mean log-odds over the start +5.00", "9 in round 1"),
        ("Round 2, mean log-odds over the start +5.00", "9 in round 2"),
    )


def test_a_run_that_goes_on_is_shown_as_far_as_it_is(run: Path) -> None:
    """The last round has three answers, the third in a part of a second process, and no verdicts yet."""
    (run / "rounds" / "2" / "verdicts.jsonl").unlink()
    lines = (run / "rounds" / "2" / "held_out.jsonl").read_text().splitlines(keepends=True)
    (run / "rounds" / "2" / "held_out.jsonl").write_text("".join(lines[:2]))
    (run / "rounds" / "2" / "held_out.1.jsonl").write_text(lines[4])
    (section,) = answers(run)
    assert isinstance(section, Section)
    assert {block.title for block in section.blocks if isinstance(block, Example)} == {"prompt 0", "prompt 1", "prompt 4"}


def test_damage_is_named(run: Path, tmp_path: Path) -> None:
    (run / "rounds" / "1" / "verdicts.jsonl").write_text('{"row": 0}\n')
    (found,) = answers(run)
    assert isinstance(found, Text) and "not in the format of this version" in found.text
    (run / "rounds" / "1" / "verdicts.jsonl").write_text("no\n")
    (found,) = answers(run)
    assert isinstance(found, Text) and "verdicts.jsonl:1: not JSON" in found.text
    assert answers(tmp_path / "elsewhere") == []
