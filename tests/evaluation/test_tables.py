"""Tables from comparisons, ratings and models: what becomes of each record, and files that are carried on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import comparison

from prefrep.errors import ConfigError, DataError, RecordError
from prefrep.evaluation import tables
from prefrep.evaluation.tables import PromptTable, TableRow, gather, own_table
from prefrep.evaluation.transitive_null import agreement
from prefrep.records import Comparison, Message, RankedResponses
from prefrep.scoring import Floats, ranked

SAID = {"benchmark": "intransitivity", "model": {}, "data": "d"}
CYCLE = [comparison("?", "a", "b"), comparison("?", "b", "c"), comparison("?", "c", "a")]


def rated(**ratings: tuple[float, ...]) -> RankedResponses:
    count = len(next(iter(ratings.values())))
    return RankedResponses((Message("user", "?"),), tuple((Message("assistant", str(i)),) for i in range(count)), ratings=ratings)


class Model:
    """Gives the table of the circle to every prompt; counts what it is asked."""

    def __init__(self, dies_after: int = 10**9) -> None:
        self.asked, self.dies_after = 0, dies_after

    def tables(self, records: Iterable[RankedResponses], *, progress: str | None = None) -> Iterator[Floats]:
        for record in records:
            if self.asked == self.dies_after:
                raise KeyboardInterrupt
            self.asked += 1
            angle = 2 * np.pi * np.arange(len(record.responses)) / len(record.responses)
            yield np.sin(np.subtract.outer(angle, angle)).astype(np.float32)


def test_comparisons_that_share_a_prompt_are_one_table() -> None:
    records = [*CYCLE, comparison("other", "a", "b"), comparison("?", "a", "b", probability=0.5), comparison("?", "a", "c", subset="s")]
    prompts = gather(records)
    assert [len(prompt.record.responses) for prompt in prompts] == [3, 2, 2]
    row = own_table(prompts[0], "0")
    assert row is not None and row.kind == "votes" and row.compared is None
    # a against b: one win and one tie.
    assert row.table == ((0, 0.5, -1), (-0.5, 0, 1), (1, -1, 0))
    assert row.wins == ((0, 1, 0), (0, 0, 1), (1, 0, 0)) and row.ties == ((0, 1, 0), (1, 0, 0), (0, 0, 0))


def test_texts_without_a_prompt_share_none_and_equal_ones_are_no_pair() -> None:
    bare = [Comparison((), (Message("assistant", a),), (Message("assistant", b),)) for a, b in ("ab", "bc", "ca")]
    assert len(gather(bare)) == 3
    (same,) = gather([comparison("?", "a", "a")])
    assert same.verdicts == () and len(same.record.responses) == 1


def test_soft_labels_and_weights_are_averaged() -> None:
    (prompt,) = gather([comparison("?", "a", "b", probability=0.9, weight=3.0), comparison("?", "b", "a"), comparison("?", "a", "c")])
    row = own_table(prompt, "x")
    assert row is not None and row.kind == "probabilities" and row.wins is None
    np.testing.assert_allclose(row.table[0], [0, (3 * 0.8 - 1) / 4, 1])
    assert row.compared == ((0, 1, 1), (1, 0, 0), (1, 0, 0)), "b and c were not compared"


def test_ratings_vote_and_incomplete_aspects_do_not() -> None:
    record = rated(x=(3.0, 2.0, 1.0), y=(1.0, 3.0, 2.0), z=(2.0, 1.0, 3.0), w=(5.0, float("nan"), 1.0))
    row = own_table(PromptTable(record, ()), "r")
    assert row is not None and row.kind == "majority" and row.ratings is not None and len(row.ratings) == 3
    np.testing.assert_allclose(row.table, np.array([[0, 1, -1], [-1, 0, 1], [1, -1, 0]]) / 3)


def test_scores_alone_give_an_order_and_nothing_gives_nothing() -> None:
    record = RankedResponses((Message("user", "?"),), tuple((Message("assistant", x),) for x in "abc"), (0.1, 7.0, 0.1))
    row = own_table(PromptTable(record, ()), "r")
    assert row is not None and row.kind == "scores" and row.table == ((0, -1, 0), (1, 0, 1), (0, -1, 0))
    assert own_table(PromptTable(ranked("?", ["a", "b"]), ()), "r") is None


def test_too_many_responses_are_refused() -> None:
    with pytest.raises(RecordError, match="1001 responses to one prompt, but a table has at most 1000"):
        gather([ranked("?", [str(i) for i in range(1001)])])


def test_blocks_add_up_to_the_table() -> None:
    rng = np.random.default_rng(0)
    blocks = rng.standard_normal((3, 4, 4)).astype(np.float32)
    row = tables.model_table(blocks - np.swapaxes(blocks, 1, 2), "id", "s")
    assert row.blocks is not None
    np.testing.assert_allclose(np.sum(row.blocks, axis=0), row.array())
    np.testing.assert_array_equal(row.array(), -row.array().T)


def test_rows_survive_the_file(tmp_path: Path) -> None:
    prompts = gather([*CYCLE, rated(x=(1.0, 2.0, 3.0), y=(3.0, 2.0, 1.0))])
    rows = tables.write(prompts, tmp_path, SAID)
    parsed = [TableRow.parse(json.loads(line)) for line in (tmp_path / "tables.jsonl").read_text().splitlines()]
    assert parsed == rows and [row.kind for row in rows] == ["votes", "majority"] and rows[1].id == "1"
    assert tables.write(prompts, tmp_path, SAID) == rows


def test_tables_have_names_of_their_own(tmp_path: Path) -> None:
    """The same id twice, also in another sub-set, and one that is called as a second one would be: no table stands for another."""
    names = ["a", "a", "a#2", "a", "", "b"]
    records = [replace(rated(x=(3.0, 2.0, 1.0), y=(1.0, 3.0, 2.0)), id=name, subset="st"[i > 2]) for i, name in enumerate(names)]
    prompts = gather(records)
    found = tables.named(prompts)
    assert [name for name, _ in found] == ["a", "a#2", "a#2#2", "a#3", "4", "b"]
    assert "".join(subset for _, subset in found) == "sssttt"
    rows = tables.write(prompts, tmp_path, SAID)
    assert [(row.id, row.subset) for row in rows] == found
    assert agreement(rows, rows[::-1], 9, 0)["n"] == 6


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    prompts = gather([ranked(f"{i}?", ["a", "b", "c"]) for i in range(6)])
    whole = tables.write(prompts, tmp_path / "whole", SAID, Model())
    with pytest.raises(KeyboardInterrupt):
        tables.write(prompts, tmp_path / "cut", SAID, Model(dies_after=4))
    with (tmp_path / "cut" / "tables.jsonl").open("a") as file:
        file.write('{"id": "4", "sub')
    second = Model()
    assert tables.write(prompts, tmp_path / "cut", SAID, second) == whole and second.asked == 2
    assert (tmp_path / "cut" / "tables.jsonl").read_bytes() == (tmp_path / "whole" / "tables.jsonl").read_bytes()
    third = Model()
    tables.write(prompts, tmp_path / "cut", SAID, third)
    assert third.asked == 0
    with pytest.raises(ConfigError, match="of another data"):
        tables.write(prompts, tmp_path / "cut", {**SAID, "data": "e"}, Model())


@pytest.mark.parametrize("model", [None, Model()])
def test_pairs_alone_cannot_run_in_circles(model: Model | None, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no prompt has three responses that were compared"):
        tables.write(gather([comparison("1?", "a", "b"), comparison("2?", "a", "b")]), tmp_path, SAID, model)


def test_what_cannot_be_used_is_said(tmp_path: Path) -> None:
    class Broken(Model):
        def tables(self, records: Iterable[RankedResponses], **more: Any) -> Iterator[Floats]:
            yield np.full((3, 3), np.nan, np.float32)

    three = gather([ranked("?", ["a", "b", "c"])])
    with pytest.raises(DataError, match="name a --model"):
        tables.write(three, tmp_path, SAID)
    with pytest.raises(DataError, match="not finite"):
        tables.write(three, tmp_path, SAID, Broken())
    (tmp_path / "tables.jsonl").write_text('{"id": "0", "subset": "", "kind": "model", "table": [[0, 1]]}\n')
    with pytest.raises(RecordError, match=r'a table must be square; each line must be \{"id", "subset", "kind"'):
        tables.write(three, tmp_path, SAID, Model())
