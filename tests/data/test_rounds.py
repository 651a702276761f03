"""Tables of rounds: made once, in batches, whatever interrupts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

from prefrep.console import tell
from prefrep.data.rounds import Line, Rounds, batches, digest
from prefrep.errors import DataError


class Maker:
    """Makes lines and remembers which groups were asked for; dies at one of them."""

    def __init__(self, dies_at: int = -1) -> None:
        self.asked: list[int] = []
        self.dies_at = dies_at

    def __call__(self, rows: Sequence[int]) -> Iterator[Line]:
        self.asked.append(rows[0])
        for row in rows:
            if row == self.dies_at:
                raise KeyboardInterrupt
            yield {"square": row * row}


def test_batches_cover_all_rows() -> None:
    assert [list(group) for group in batches(5, 2)] == [[0, 1], [2, 3], [4]]
    assert batches(0, 2) == []


def test_an_interrupted_table_goes_on_after_the_last_whole_batch(tmp_path: Path) -> None:
    rounds, groups = Rounds(tmp_path), batches(5, 2)
    with pytest.raises(KeyboardInterrupt):
        rounds.fill(0, "squares", {"of": "rows"}, groups, Maker(dies_at=3))
    assert sorted(rounds.read(0, "squares")) == [0, 1]
    again = Maker()
    rounds.fill(0, "squares", {"of": "rows"}, groups, again)
    assert again.asked == [2, 4]
    assert [rounds.read(0, "squares")[row]["square"] for row in range(5)] == [0, 1, 4, 9, 16]
    rounds.fill(0, "squares", {"of": "rows"}, groups, again)
    assert again.asked == [2, 4], "a whole table is left alone"


def test_a_table_that_is_asked_to_stop_ends_between_groups(tmp_path: Path) -> None:
    rounds, groups, maker = Rounds(tmp_path), batches(5, 2), Maker()
    rounds.fill(0, "squares", {}, groups, maker, stopping=lambda: len(maker.asked) == 2)
    assert maker.asked == [0, 2] and sorted(rounds.read(0, "squares")) == [0, 1, 2, 3]


@pytest.mark.parametrize("cut", [1, 12, 30])
def test_a_line_that_was_cut_off_is_made_again(tmp_path: Path, cut: int) -> None:
    rounds, groups = Rounds(tmp_path), batches(5, 2)
    rounds.fill(0, "squares", {}, groups, Maker())
    file = rounds.folder(0) / "squares.jsonl"
    whole = file.read_text()
    file.write_text(whole[:-cut])
    rounds.fill(0, "squares", {}, groups, Maker())
    assert file.read_text() == whole


def test_processes_share_the_groups_and_read_the_whole(tmp_path: Path) -> None:
    rounds, groups, makers = Rounds(tmp_path), batches(7, 2), [Maker(), Maker()]
    for rank, maker in enumerate(makers):
        rounds.fill(3, "squares", {}, groups, maker, rank=rank, world_size=2)
    assert [maker.asked for maker in makers] == [[0, 4], [2, 6]]
    assert sorted(rounds.read(3, "squares")) == list(range(7))
    alone = Maker()
    rounds.fill(3, "squares", {}, groups, alone)  # another number of processes finds everything
    assert alone.asked == []


def test_lines_of_another_run_are_not_mixed_in(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path)
    rounds.fill(0, "squares", {"weights": "a", "temperature": 0.7}, batches(2, 2), Maker())
    with pytest.raises(DataError, match=r"another run \(temperature 0.7, not 1.0\).*default_root_dir"):
        rounds.fill(0, "squares", {"weights": "a", "temperature": 1.0}, batches(2, 2), Maker())
    with pytest.raises(DataError, match="other weights"):
        rounds.fill(0, "squares", {"weights": "b", "temperature": 0.7}, batches(2, 2), Maker())
    # Within a round the weights have moved on; what was made before is still right, but nothing can be added.
    rounds.fill(0, "squares", {"weights": "b", "temperature": 0.7}, batches(2, 2), Maker(), fresh=False)
    with pytest.raises(DataError, match="not complete.*checkpoint"):
        rounds.fill(0, "squares", {"weights": "b", "temperature": 0.7}, batches(4, 2), Maker(), fresh=False)


def test_the_way_out_of_other_settings_never_ends_the_run(tmp_path: Path) -> None:
    """Where a round begins it can be made again, and earlier ones cannot; within it nothing can."""
    rounds = Rounds(tmp_path / "rounds")
    rounds.fill(1, "squares", {"temperature": 0.7}, batches(2, 2), Maker())
    with pytest.raises(DataError) as begins:
        rounds.fill(1, "squares", {"temperature": 1.0}, batches(2, 2), Maker())
    assert str(begins.value).endswith(f"or delete {tmp_path / 'rounds' / '1'}")
    with pytest.raises(DataError) as within:
        rounds.fill(1, "squares", {"temperature": 1.0}, batches(2, 2), Maker(), begins=False)
    assert "continue with the settings that produced them" in str(within.value) and "delete" not in str(within.value)


def test_what_an_older_version_wrote_down_beside_the_settings_does_not_matter(tmp_path: Path) -> None:
    rounds, maker = Rounds(tmp_path), Maker()
    rounds.fill(0, "squares", {"batch_size": 8, "sampler": {"class": "S", "temperature": 0.7, "gpu_memory": 0.4}}, batches(2, 2), Maker())
    rounds.fill(0, "squares", {"sampler": {"class": "S", "temperature": 0.7}}, batches(2, 2), maker)
    assert maker.asked == []
    for sampler in ({"class": "S", "temperature": 0.8}, {"class": "S", "temperature": 0.7, "top_p": 0.9}):
        with pytest.raises(DataError, match="another run"):
            rounds.fill(0, "squares", {"sampler": sampler}, batches(2, 2), maker)


def test_a_file_that_someone_edited_is_named(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path)
    rounds.fill(0, "squares", {}, batches(2, 2), Maker())
    (rounds.folder(0) / "squares.jsonl").write_text('{"row": 0}\nnonsense\n')
    with pytest.raises(DataError, match=r"squares.jsonl:2"):
        rounds.read(0, "squares")


def test_a_digest_knows_borders() -> None:
    assert digest(["ab", "c"]) != digest(["a", "bc"]) and digest(["ab"]) == digest([b"ab"])


def test_any_process_may_be_the_first(tmp_path: Path) -> None:
    rounds, groups = Rounds(tmp_path), batches(5, 2)
    for rank in (1, 0):
        rounds.fill(0, "squares", {}, groups, Maker(), rank=rank, world_size=2)
    assert sorted(rounds.read(0, "squares")) == list(range(5))


def test_one_line_tells_how_far_a_batch_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In 80 columns, and never backwards where the work of a batch begins again, as that of a second pass."""
    out = StringIO()

    def bar(**options: Any) -> Any:
        return tqdm(**options | {"disable": False, "file": out, "mininterval": 0})

    def make(rows: Sequence[int]) -> Iterator[Line]:
        for share in (0.1, 0.5, 0.2, 0.75):
            tell(123_456_789, share)
        yield from ({"ids": [[1, 2, 3]]} for _ in rows)

    monkeypatch.setattr("prefrep.data.rounds.tqdm", bar)
    Rounds(tmp_path).fill(1234, "earlier_reference", {}, batches(4096, 2048), make)
    shown = [line.strip() for line in out.getvalue().replace("\n", "\r").split("\r") if line.strip()]
    counts = [int(line.split("/4096")[0].split()[-1]) for line in shown]
    assert max(map(len, shown)) <= 80 and all(line.startswith("round 1234: earlier_reference") for line in shown)
    assert counts == sorted(counts) and {204, 1024, 1536, 2048, 2252, 3072, 3584, 4096} <= set(counts)
    assert all("left" in line and "tok/s" in line for line in shown[1:])
    tell(1, 1.0)  # nobody listens
