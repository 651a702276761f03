"""The engine: whatever shares a batch, scores are those of `Scorer`; what is shared is read once; nobody starves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import HEADS, random_records

from prefrep.errors import RecordError
from prefrep.records import RankedResponses
from prefrep.scoring import Scorer, ranked
from prefrep.scoring.reading import Reading
from prefrep.server.engine import Engine, QueueFull


class Meter:
    """What was read, batch by batch."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int, int]] = []
        self.gone = 0

    def batch(self, sequences: int, read: int, asked: int) -> None:
        self.batches.append((sequences, read, asked))

    def dropped(self, count: int) -> None:
        self.gone += count


class Held:
    """A scorer that reads when it is let."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer, self.gate, self.reading = scorer, threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scorer, name)

    def read(self, trees: Any) -> Any:
        self.reading.set()
        assert self.gate.wait(30)
        return self._scorer.read(trees)


@contextmanager
def engine(scorer: Any, **options: Any) -> Iterator[tuple[Engine, Meter]]:
    meter = Meter()
    found = Engine(scorer, meter, **options)
    try:
        yield found, meter
    finally:
        found.close()
        assert found.waiting == 0


def results(futures: list[Any]) -> list[Any]:
    return [each.result(60).value for each in futures]


@pytest.mark.parametrize(("layout", "budget"), [("trees", 300), ("trees", 5000), ("padded", 1000)])
@pytest.mark.parametrize("name", HEADS)
def test_scores_are_those_of_scorer(name: str, layout: Any, budget: int, folders: dict[str, Path], scorers: dict[str, Scorer]) -> None:
    records = random_records(0, 24, 4)
    expected = list(scorers[name].tables(records))
    with engine(Scorer.from_pretrained(folders[name], batch_tokens=budget, layout=layout)) as (it, meter):
        found = results(it.submit(records, Reading.table))
    assert max(np.abs(table).max() for table in expected) > 0.3
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape and np.array_equal(a, -a.T)
        np.testing.assert_allclose(a, b, atol=1e-4)
    if budget == 5000:
        most = max(len(record.responses) for record in records)
        assert max(sequences for sequences, _, _ in meter.batches) > most, "several records were read together"
    else:
        assert len(meter.batches) > 5


def test_order_does_not_matter(scorers: dict[str, Scorer]) -> None:
    records = random_records(1, 16, 3)
    with engine(scorers["gpm"]) as (it, _):
        forwards, backwards = results(it.submit(records, Reading.table)), results(it.submit(records[::-1], Reading.table))
    for a, b in zip(forwards, backwards[::-1], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def read_together(held: Held, it: Engine, records: list[RankedResponses]) -> None:
    """Send each record as a request of its own while another one is being read, and wait for all answers."""
    first = it.submit([ranked("hold", ["the", "line"])], Reading.table)
    held.reading.wait(30)
    futures = [future for record in records for future in it.submit([record], Reading.table)]
    while len(it._jobs) < len(records):
        threading.Event().wait(0.01)
    held.gate.set()
    results(first + futures)


def test_one_prompt_of_many_requests_is_read_once(folders: dict[str, Path]) -> None:
    held = Held(Scorer.from_pretrained(folders["gpm"], batch_tokens=20_000))
    prompt = " ".join(["once upon a time"] * 30)
    records = [ranked(prompt, [f"answer {i} of {client}" for i in range(8)]) for client in range(8)]
    alone = held.encoded(records[0]).trees[0]
    with engine(held) as (it, meter):
        read_together(held, it, records)
    assert len(meter.batches) == 2
    sequences, read, asked = meter.batches[1]
    assert sequences == 64
    # The prompt once, and of each answer at most what lies behind it; the requests alone would be 64 times the prompt.
    assert alone.prompt > 100 and alone.prompt <= read <= alone.prompt + 64 * (max(map(len, alone.sequences)) - alone.prompt + 2)
    assert asked > 64 * alone.prompt


def test_what_answers_have_in_common_is_read_and_counted_once(folders: dict[str, Path]) -> None:
    held = Held(Scorer.from_pretrained(folders["gpm"], batch_tokens=20_000))
    rubric = " ".join(["once upon a time"] * 30)
    records = [ranked(f"{rubric} number {i}", ["yes", "no"]) for i in range(4)]
    whole = [[ids.tolist() for ids in held.encoded(record).trees[0].sequences] for record in records]
    sequences = [ids for own in whole for ids in own]
    distinct = [prefix for own in whole for prefix in {tuple(ids[:end]) for ids in own for end in range(1, len(ids) + 1)}]
    with engine(held) as (it, meter):
        read_together(held, it, records)
    assert meter.batches[1] == (8, len(distinct), sum(map(len, sequences)))
    assert len(distinct) < 0.6 * sum(map(len, sequences))


def test_what_has_arrived_together_is_read_together(folders: dict[str, Path]) -> None:
    records = random_records(2, 12, 12)
    with engine(Scorer.from_pretrained(folders["gpm"], batch_tokens=20_000)) as (it, meter):
        results(it.submit(records, Reading.table))
    assert len(meter.batches) == 1


def test_a_full_batch_waits_for_nobody(folders: dict[str, Path]) -> None:
    scorer, gate = Scorer.from_pretrained(folders["gpm"], batch_tokens=100), threading.Event()
    inner = scorer.encoded

    def encoded(record: RankedResponses, rendered: bool = False) -> Any:
        assert record.source != "last" or gate.wait(30)
        return inner(record, rendered)

    scorer.encoded = encoded  # type: ignore[method-assign]
    full = ranked("fills a batch", [f"{i} " * 40 for i in range(4)])
    last = RankedResponses(full.prompt, full.responses, source="last")
    with engine(scorer) as (it, meter):
        futures = it.submit([full, last], Reading.table)
        for _ in range(2000):
            if meter.batches:
                break
            threading.Event().wait(0.01)
        assert meter.batches and not gate.is_set()
        gate.set()
        first, second = results(futures)
    np.testing.assert_allclose(first, second, atol=1e-4)


def test_equal_sequences_are_read_once(scorers: dict[str, Scorer]) -> None:
    record = ranked("Name a prime", ["7", "9", "7"])
    with engine(scorers["gpm"]) as (it, meter):
        (table,) = results(it.submit([record], Reading.table))
    assert meter.batches[0][0] == 2
    assert table[0, 2] == 0 and table[0, 1] == table[2, 1] != 0


def test_a_pair_model_reads_nothing_of_one_response(scorers: dict[str, Scorer]) -> None:
    with engine(scorers["pair"]) as (it, meter):
        (table,) = results(it.submit([ranked("Name a prime", ["7"])], Reading.table))
    assert table.tolist() == [[0]] and not meter.batches


def test_a_large_request_does_not_starve_a_small_one(folders: dict[str, Path]) -> None:
    held = Held(Scorer.from_pretrained(folders["gpm"], batch_tokens=200))
    done: list[str] = []
    with engine(held) as (it, meter):
        first = it.submit([ranked("hold", ["the", "line"])], Reading.table)
        held.reading.wait(30)
        futures = []
        for name, record in (("large", ranked("large", [f"{i} " * 40 for i in range(40)])), ("small", ranked("small", ["a", "b"])),
                             ("late", ranked("late", [f"{i} " * 40 for i in range(40)]))):  # fmt: skip
            (future,) = it.submit([record], Reading.table)
            future.add_done_callback(lambda _, name=name: done.append(name))
            futures.append(future)
        held.gate.set()
        results(first + futures)
    assert done.index("small") < done.index("late") and done.index("large") < done.index("late")
    assert max(read for _, read, _ in meter.batches) <= 200


def test_who_has_gone_is_not_read(folders: dict[str, Path]) -> None:
    held = Held(Scorer.from_pretrained(folders["gpm"]))
    with engine(held) as (it, meter):
        first = it.submit([ranked("hold", ["the", "line"])], Reading.table)
        held.reading.wait(30)
        gone, stays = (it.submit([ranked(name, ["a", "b"])], Reading.table) for name in ("gone", "stays"))
        assert gone[0].cancel()
        held.gate.set()
        results(first + stays)
    assert meter.gone == 1 and sum(sequences for sequences, _, _ in meter.batches) == 4


def test_a_full_queue_takes_no_more_but_always_one(folders: dict[str, Path]) -> None:
    held = Held(Scorer.from_pretrained(folders["gpm"]))
    with engine(held, limit=4) as (it, _):
        first = it.submit([ranked("larger than the queue", [str(i) for i in range(9)])], Reading.table)
        with pytest.raises(QueueFull, match="the queue is full"):
            it.submit([ranked("more", ["a"])], Reading.table)
        assert it.waiting == 9, "what was refused does not wait"
        held.gate.set()
        results(first)
        while it.waiting:
            threading.Event().wait(0.01)
        results(it.submit([ranked("again", ["a", "b"])], Reading.table))


def test_a_record_that_cannot_be_read_fails_alone(scorers: dict[str, Scorer]) -> None:
    long = ranked("word " * 3000, ["a", "b"])
    with engine(scorers["gpm"], text_tokens=100) as (it, _):
        bad, good = it.submit([long, ranked("fine", ["a", "b"])], Reading.table)
        with pytest.raises(RecordError, match=r"prompt: it is longer than the 100 tokens that"):
            bad.result(60)
        assert good.result(60).value.shape == (2, 2)


def test_a_defect_fails_its_batch_and_no_text_is_logged(scorers: dict[str, Scorer], caplog: pytest.LogCaptureFixture) -> None:
    quoted = "cannot read 'my secret'"

    class Broken(Held):
        def read(self, trees: Any) -> Any:
            if self.gate.is_set():
                return self._scorer.read(trees)
            raise RuntimeError(quoted)

    broken = Broken(scorers["gpm"])
    with engine(broken) as (it, _):
        with pytest.raises(RuntimeError):
            results(it.submit([ranked("my secret", ["a", "b"])], Reading.table))
        broken.gate.set()
        assert results(it.submit([ranked("next", ["a", "b"])], Reading.table))[0].shape == (2, 2)
    assert "RuntimeError while scoring" in caplog.text and "secret" not in caplog.text


def test_rendered_texts_are_read_as_they_are(scorers: dict[str, Scorer]) -> None:
    scorer = scorers["gpm"]
    unrendered = ranked("Name a prime", ["7", "9"])
    whole = [scorer._encoder._render.single(unrendered.prompt, each).text for each in unrendered.responses]
    before = scorer._encoder._render.prompt(unrendered.prompt).text
    assert all(each.startswith(before) for each in whole)
    rendered = RankedResponses(ranked(before, ["x"]).prompt, tuple(ranked("", [each[len(before) :]]).responses[0] for each in whole))
    with engine(scorer) as (it, _):
        a, b = results(it.submit([unrendered], Reading.table) + it.submit([rendered], Reading.table, rendered=True))
    np.testing.assert_allclose(a, b, atol=1e-5)
