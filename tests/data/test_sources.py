"""Containers give back what was written, with places; damaged ones give one sentence."""

import gzip
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from prefrep.data.notes import Notes
from prefrep.data.sources import Source, content, read, read_mixed, rows
from prefrep.errors import ConfigError, DataError, PrefrepError, RecordError
from prefrep.records import Comparison, text

ROWS = [{"prompt": f"q{i}", "chosen": f"ä\u2028{i}", "rejected": "no", "margin": i / 2} for i in range(5)]


def lines(items: list[Any]) -> str:
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)


def write(path: Path, items: list[Any]) -> Path:
    """Writes rows in the container that the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(items), path)
        return path
    content = json.dumps(items, indent=1) if ".json" in path.suffixes else lines(items)
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz", "a.parquet"])
def test_containers_round_trip(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, ROWS)
    assert list(rows(path)) == [(row, f"{path}:{i}") for i, row in enumerate(ROWS, start=1)]


def test_parquet_keeps_conversations(tmp_path: Path) -> None:
    turns = [[{"role": "user", "content": "q"}, {"role": "assistant", "content": answer}] for answer in ("a", "b")]
    path = write(tmp_path / "a.parquet", [{"chosen": turns[0], "rejected": turns[1]}])
    (record,) = read(path)
    assert isinstance(record, Comparison)
    assert [text(part) for part in (record.prompt, record.chosen, record.rejected)] == ["q", "a", "b"]
    assert record.source == f"{path}:1"


def test_json_file_of_lines_and_blank_lines_and_bom(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf\n" + lines(ROWS[:1]).encode() + b"  \n" + lines(ROWS[1:2]).encode())
    assert list(rows(path)) == [(ROWS[0], f"{path}:2"), (ROWS[1], f"{path}:4")]
    path = tmp_path / "b.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROWS).encode())
    assert [row for row, _ in rows(path)] == ROWS


def test_folder_is_read_in_order_whatever_the_containers(tmp_path: Path) -> None:
    b, a, c = (write(tmp_path / name, [row]) for name, row in (("b.jsonl", ROWS[0]), ("a.parquet", ROWS[1]), ("sub/c.json", ROWS[2])))
    (tmp_path / "README.md").write_text("not data")
    assert list(rows(tmp_path)) == [(ROWS[1], f"{a}:1"), (ROWS[0], f"{b}:1"), (ROWS[2], f"{c}:1")]


def test_folder_keeps_splits_apart(tmp_path: Path) -> None:
    for name, row in (("train-0.jsonl", ROWS[0]), ("test.jsonl", ROWS[1]), ("valid.jsonl", ROWS[2]), ("more.jsonl", ROWS[3])):
        write(tmp_path / name, [row])
    found = {split: [row["prompt"] for row, _ in rows(tmp_path, split=split)] for split in ("train", "test", "validation")}
    assert found == {"train": ["q3", "q0"], "test": ["q1"], "validation": ["q2"]}, "what names no split is for training"
    for role, expected in (("train", 2), ("validation", 1), ("test", 1)):
        assert len(read_mixed([str(tmp_path)], role=role)) == expected
    with pytest.raises(DataError, match=r"the folder holds several splits \(test, train, validation\); name one file, or one folder in it"):
        list(read(tmp_path))
    with pytest.raises(DataError, match=r"no file for split 'other' \(found: test, train, validation\)"):
        list(rows(tmp_path, split="other"))


def test_sub_folders_are_splits_too(tmp_path: Path) -> None:
    for name, row in (("train/0.jsonl", ROWS[0]), ("Test/train-like.jsonl", ROWS[1]), ("dev/a/b.jsonl", ROWS[2])):
        write(tmp_path / name, [row])
    found = {
        role: [str(record.source).rsplit("/", 1)[1] for record in read(tmp_path, role=role)] for role in ("train", "test", "validation")
    }
    assert found == {"train": ["0.jsonl:1"], "test": ["train-like.jsonl:1"], "validation": ["b.jsonl:1"]}
    assert len(list(read(tmp_path / "Test", role="validation"))) == 1, "one split: nothing to choose"


def test_folder_with_one_split_needs_no_split(tmp_path: Path) -> None:
    write(tmp_path / "validation.jsonl", ROWS)
    assert len(list(rows(tmp_path))) == len(ROWS)


def broken(tmp_path: Path, name: str) -> tuple[str, str]:
    """A damaged source and what must be said of it."""
    path = tmp_path / name
    good = lines(ROWS * 400).encode()
    contents: dict[str, tuple[bytes, str]] = {
        "empty.jsonl": (b"", "the file is empty"),
        "blank.jsonl": (b"\n \n", "the file holds no rows"),
        "none.json": (b"[]", "the file holds no rows"),
        "short.jsonl.gz": (gzip.compress(good)[:-400], "the compressed file is truncated after row"),
        "plain.jsonl.gz": (good, "not a valid gzip file"),
        "line.jsonl": (lines(ROWS[:1]).encode() + b'{"prompt": "q', ":2: broken JSON: Unterminated string starting at at character 12"),
        "list.json": (
            b'[{"prompt": "q"},\n {"prompt"]',
            ":2: broken JSON: Expecting ':' delimiter at character 11; the file must be one list",
        ),
        "object.json": (b'{"data": [\n1]}', ":1: broken JSON"),
        "latin.jsonl": ('{"prompt": "ä"}\n'.encode("latin-1"), ":1: the line is not UTF-8 text"),
        "number.jsonl": (b"17\n", ":1: a row must be an object {...}, found a number"),
        "a.csv": (b"prompt,chosen\n", "the file holds no rows"),
        "a.xlsx": (b"PK", "unknown file type '.xlsx'; known: .jsonl, .json, .jsonl.gz"),
        "a.parquet": (b"PAR1 and no more", "not a valid Parquet file"),
    }
    if name == "missing.jsonl":
        return str(path), "no such file or folder"
    if name == "folder":
        path.mkdir()
        return str(path), "the folder holds no .jsonl"
    content, sentence = contents[name]
    path.write_bytes(content)
    return str(path), sentence


NAMES = ["missing.jsonl", "folder", "empty.jsonl", "blank.jsonl", "none.json", "short.jsonl.gz", "plain.jsonl.gz", "line.jsonl"]
NAMES += ["list.json", "object.json", "latin.jsonl", "number.jsonl", "a.csv", "a.xlsx", "a.parquet"]


@pytest.mark.parametrize("name", NAMES)
def test_damage_gives_one_sentence(tmp_path: Path, name: str) -> None:
    path, sentence = broken(tmp_path, name)
    for reader in (rows, read):
        with pytest.raises((DataError, RecordError)) as caught:
            list(reader(path))
        said = str(caught.value)
        assert said.startswith(path) and sentence in said and "\n" not in said


def test_missing_relative_file_is_not_looked_for_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)  # an import would fail
    with pytest.raises(DataError, match=r"data/no\.jsonl: no such file or folder"):
        list(rows("data/no.jsonl"))


# ---- hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A hub that holds one data set; the calls it gets."""
    calls: list[tuple[Any, ...]] = []

    def load_dataset(name: str, config: str | None, *, split: str, streaming: bool) -> list[dict[str, Any]]:
        calls.append((name, config, split, streaming))
        if name != "some/set":
            raise ConnectionError("Couldn't reach it\nand more")
        return [] if split == "empty" else ROWS

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return calls


def test_hub_data_are_read_from_the_split_that_they_are_for(hub: list[tuple[Any, ...]]) -> None:
    for source in ("some/set", Source("some/set", split="dev"), "some/set:test"):
        list(read(source, role="validation"))
    assert [call[2] for call in hub] == ["validation", "dev", "test"], "what is named wins"


@pytest.mark.parametrize(
    ("path", "call"),
    [
        ("some/set", (None, "train", False)),
        ("some/set:filtered", (None, "filtered", False)),
        ("some/set@harmless:test[:5]", ("harmless", "test[:5]", False)),
    ],
)
def test_hub(hub: list[tuple[Any, ...]], path: str, call: tuple[Any, ...]) -> None:
    assert list(rows(path)) == [(row, f"some/set[{call[1]}]:{i}") for i, row in enumerate(ROWS, start=1)]
    assert hub == [("some/set", *call)]


def test_hub_streaming(hub: list[tuple[Any, ...]]) -> None:
    assert next(rows("some/set", split="x", streaming=True)) == (ROWS[0], "some/set[x]:1")
    assert len(list(read(Source("some/set", split="y", streaming=True)))) == 5
    assert hub == [("some/set", None, "x", True), ("some/set", None, "y", True)]


def test_hub_errors(hub: list[tuple[Any, ...]]) -> None:
    with pytest.raises(DataError, match=r"^no/set: not a file or folder here, and the hub could not give it \(Couldn't reach it\)$"):
        list(rows("no/set"))
    with pytest.raises(DataError, match=r"^some/set\[empty\]: the dataset holds no rows$"):
        list(rows("some/set:empty"))


# ---- records


def test_bad_rows_stop_or_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(lines([ROWS[0], {"prompt": "q"}]) + "{broken\n" + lines([ROWS[1], 3]))
    with pytest.raises(RecordError, match=r"a\.jsonl:2: no 'chosen' \(found: prompt\)"):
        list(read(path))
    skipped: list[RecordError] = []
    notes = Notes()
    records = list(read(path, "skip", skipped, notes))
    assert [record.source for record in records] == [f"{path}:1", f"{path}:4"]
    assert [error.source for error in skipped] == [f"{path}:2", f"{path}:3", f"{path}:5"]
    assert notes.formats == {"standard-explicit": 2}


def test_nothing_usable_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"x": 1}, {"x": 2}])
    with pytest.raises(DataError, match=r"none of its 2 rows can be used; the first: .*a\.jsonl:1: no format fits"):
        list(read(path, "skip"))


def test_truncated_file_stops_even_when_skipping(tmp_path: Path) -> None:
    path, _ = broken(tmp_path, "short.jsonl.gz")
    with pytest.raises(DataError, match="is truncated after row"):
        list(read(path, "skip"))


def test_the_first_row_decides_the_format_of_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [ROWS[0], {"chosen": "a", "rejected": "b"}])
    with pytest.raises(
        RecordError, match=r":2: no 'prompt' .*: the file began as standard-explicit, this row looks like standard-implicit"
    ):
        list(read(path))
    path = write(tmp_path / "a.jsonl", [{"chosen": "a", "rejected": "b"}, ROWS[0]])
    with pytest.raises(RecordError, match=r":2: it has a prompt, and this format has none"):
        list(read(path))
    talk = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    turns = {"chosen": talk, "rejected": [talk[0], {"role": "assistant", "content": "b"}]}
    path = write(tmp_path / "a.jsonl", [turns, {"prompt": talk[:1], "chosen": talk[1:], "rejected": talk[1:]}])
    with pytest.raises(RecordError, match=r":2: it has a prompt, and this format has none"):
        list(read(path))
    assert len(list(read(write(tmp_path / "a.jsonl", [turns, {"prompt": "u", **turns}])))) == 2, "the conversations hold it too"
    bare = {"chosen": "a", "rejected": "b"}
    assert len(list(read(write(tmp_path / "a.jsonl", [bare, {"prompt": "", **bare}])))) == 2
    other = write(tmp_path / "folder/a.jsonl", [ROWS[0]]).parent
    write(other / "b.jsonl", [{"chosen": "a", "rejected": "b"}])
    assert len(list(read(other))) == 2  # but each file may have its own


def test_limit_and_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"q": "x", "good": "a", "bad": "b", "rejected": "old"}] * 3)
    columns = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    records = list(read(Source(str(path), limit=2, columns=columns)))
    assert len(records) == 2 and isinstance(records[0], Comparison)
    assert [text(part) for part in (records[0].prompt, records[0].chosen, records[0].rejected)] == ["x", "a", "b"]
    assert next(rows(path, columns=columns))[0] == {"prompt": "x", "chosen": "a", "rejected": "b"}
    with pytest.raises(RecordError, match="no 'worse', which columns names as 'rejected'"):
        list(read(Source(str(path), columns={"rejected": "worse"})))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"weight": 0.0}, "weight of a source must be above 0, got 0"),
        ({"weight": -1.0}, "got -1"),
        ({"weight": float("nan")}, "got nan"),
        ({"limit": 0}, "limit of a source must be at least 1"),
        ({"format": "csv"}, "there is no format 'csv'"),
    ],
)
def test_settings_are_checked_where_they_are_made(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Source("a.jsonl", **settings)
    assert issubclass(ConfigError, PrefrepError)


def test_weights(tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", [{**ROWS[0], "id": f"a{i}"} for i in range(10)])
    b = write(tmp_path / "b.jsonl", [{**ROWS[0], "id": f"b{i}"} for i in range(10)])
    ids = [record.id for record in read_mixed([Source(str(a), weight=2.3), str(b)], seed=1)]
    ordered = [f"a{i}" for i in range(10)]
    part = ids[20:23]
    assert ids[:20] == ordered * 2 and ids[23:] == [f"b{i}" for i in range(10)]
    assert part == sorted(set(part)) and set(part) <= set(ordered)  # a subset, in order


def test_the_random_part_depends_on_the_seed_only(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{**ROWS[0], "id": str(i)} for i in range(50)])

    def drawn(seed: int, *more: str) -> list[str]:
        return [record.id for record in read_mixed([Source(str(path), weight=0.5), *more], seed=seed)][:25]

    assert drawn(3) == drawn(3) == drawn(3, str(path)) != drawn(4)
    assert len(read_mixed([Source(str(path), weight=0.001)], seed=0)) == 1  # a named source is never left out


def test_source_is_built_from_yaml_and_from_a_path() -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--train", type=list[Source | str])
    built = parser.instantiate_classes(
        parser.parse_args(["--train", '[{"path": "a.jsonl", "weight": 0.5, "columns": {"chosen": "x"}}, "b"]'])
    )
    assert built.train == [Source("a.jsonl", weight=0.5, columns={"chosen": "x"}), "b"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_half_a_character_is_named(tmp_path: Path, name: str) -> None:
    """JSON can spell one half of a surrogate pair, which is no text that a tokenizer could read; whole pairs are."""
    rows = [
        '{"chosen": "\\ud83d\\ude00", "rejected": "b"}',
        '{"chosen": "a", "rejected": "b \\uD83D c"}',
        '{"chosen": "c", "rejected": "d"}',
    ]
    path = tmp_path / name
    path.write_text("\n".join(rows) if name == "a.jsonl" else f"[{', '.join(rows)}]")
    with pytest.raises(RecordError, match=rf"{name}:2: half a character .'.ud83d'"):
        list(read(path))
    skipped: list[RecordError] = []
    found = list(read(path, "skip", skipped))
    assert len(found) == 2 and len(skipped) == 1 and text(cast(Comparison, found[0]).chosen) == "\U0001f600"


def test_content_is_of_the_files_that_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    names = {"train": "train.jsonl", "test": "test.jsonl"}
    for name in names.values():
        (folder / name).write_text("one")
    file = str(folder / "train.jsonl")

    def of_folder(split: str | None = None) -> str:
        return content(str(folder), split, "train")

    of_file, before = content(file), of_folder()
    assert of_file and of_file == content(f"cyclic:{file}?omit=x") == before
    (folder / "test.jsonl").write_text("two")
    (folder / "notes.md").write_text("three")
    assert of_folder() == before != of_folder("test"), "of another split"
    (folder / "train.jsonl").write_text("two")
    assert content(file) != of_file and of_folder() != before
    (folder / "train.jsonl").write_text("one")
    assert (content(file), of_folder()) == (of_file, before)
    assert content("owner/name") == content("cyclic:owner/name?omit=x") == ""
