"""Every kind of file holds the same rows, and damage of each gets one sentence."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from pyarrow import ipc

from prefrep.data import containers
from prefrep.data.containers import DEPTH
from prefrep.data.sources import content, read, rows
from prefrep.errors import DataError, PrefrepError, RecordError

ROWS: list[dict[str, Any]] = [
    {"prompt": 'q, "quoted"', "chosen": "a\nb", "rejected": "ä"},
    {"prompt": "second", "chosen": "[1, 2]x", "rejected": "{not json}"},
]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def table(path: Path, found: list[dict[str, Any]] = ROWS, separator: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(found[0]), delimiter=separator)
        writer.writeheader()
        writer.writerows(found)
    return path


def zstd(path: Path, text: bytes) -> Path:
    with pa.output_stream(str(path), compression="zstd") as file:
        file.write(text)
    return path


def arrow(path: Path, stream: bool) -> Path:
    whole = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as file, (ipc.new_stream if stream else ipc.new_file)(file, whole.schema) as writer:
        writer.write_table(whole)
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "csv.gz", "jsonl.zst", "json.zst", "csv.zst", "stream", "file", "data", "pretty", "split"])
def test_kinds_of_files(kind: str, tmp_path: Path) -> None:
    plain = tmp_path / "x.csv"
    made = {
        "csv": lambda: table(tmp_path / "a.csv"),
        "tsv": lambda: table(tmp_path / "a.tsv", separator="\t"),
        "csv.gz": lambda: _written(tmp_path / "a.csv.gz", gzip.compress(table(plain).read_bytes())),
        "jsonl.zst": lambda: zstd(tmp_path / "a.jsonl.zst", LINES),
        "json.zst": lambda: zstd(tmp_path / "a.json.zst", json.dumps(ROWS).encode()),
        "csv.zst": lambda: zstd(tmp_path / "a.csv.zst", table(plain).read_bytes()),
        "stream": lambda: arrow(tmp_path / "a.arrow", True),
        "file": lambda: arrow(tmp_path / "b.arrow", False),
        "data": lambda: _written(tmp_path / "a.json", json.dumps({"data": ROWS}).encode()),
        "pretty": lambda: _written(tmp_path / "a.json", json.dumps({"version": 1, "rows": ROWS}, indent=1).encode()),
        "split": lambda: _written(tmp_path / "a.json", LINES),
    }[kind]()
    assert [row for row, _ in rows(made)] == ROWS
    assert len(list(read(made))) == 2 and content(str(made))


def _written(path: Path, text: bytes) -> Path:
    path.write_bytes(text)
    return path


def test_cells_of_tables(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    other = [talk[0], {"role": "assistant", "content": "b"}]
    path = table(tmp_path / "a.csv", [{"chosen": json.dumps(talk), "rejected": json.dumps(other), "probability": "0.75", "margin": ""}])
    (record,) = read(path)
    assert record.prompt[0].content == "q" and record.probability == 0.75 and record.margin == 0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("chosen,rejected\na,b\nc\n", ":3: the row has 1 cells and the header 2; quote cells that hold the separator"),
        ("chosen,chosen\na,b\n", ": the columns need distinct names (found: chosen, chosen); the first line must be a header"),
        ('chosen,rejected\na,"b\n', ":2: broken table: unexpected end of data; quote cells that hold quotes or line breaks"),
        ("chosen,rejected\n", ": the file holds no rows"),
    ],
)
def test_damaged_tables(text: str, sentence: str, tmp_path: Path) -> None:
    path = _written(tmp_path / "a.csv", text.encode())
    with pytest.raises(PrefrepError) as caught:
        list(read(path))
    assert str(caught.value) == f"{path}{sentence}"


@pytest.mark.parametrize(("name", "sentence"), [("a.jsonl.zst", "not a valid .zst file"), ("a.arrow", "not a valid Arrow file")])
def test_damaged_binaries(name: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=sentence):
        list(read(_written(tmp_path / name, b"no such thing")))
    half = zstd(tmp_path / "b.jsonl.zst", LINES * 100)
    with pytest.raises(DataError, match="not a valid .zst file .Truncated"):
        list(read(_written(half, half.read_bytes()[:-9])))


@pytest.mark.parametrize("wrapped", [False, True])
def test_too_deep_and_too_long(wrapped: bool, tmp_path: Path) -> None:
    good = json.dumps(ROWS[0])
    for name, bad, problem in (
        ("deep", '{"chosen": ' + "[" * 2000 + "]" * 2000 + "}", "nested too deeply"),
        ("nested", '{"chosen": ' + "[" * DEPTH + "]" * DEPTH + "}", "nested too deeply"),
        ("long", '{"chosen": "a", "rejected": "b", "margin": ' + "7" * 5000 + "}", "a number has too many digits"),
    ):
        if wrapped:
            path = _written(tmp_path / f"{name}.json", f"[{good}, {bad}]".encode())
            with pytest.raises((DataError, RecordError), match=problem):
                list(read(path))
            continue
        path = _written(tmp_path / f"{name}.jsonl", f"{good}\n{bad}\n".encode())
        skipped: list[RecordError] = []
        assert len(list(read(path, "skip", skipped))) == 1
        assert len(skipped) == 1 and str(skipped[0]).startswith(f"{path}:2: ") and problem in str(skipped[0])


def test_folders_of_save_to_disk(tmp_path: Path) -> None:
    whole = datasets.Dataset.from_list(ROWS)
    whole.save_to_disk(tmp_path / "one")
    assert [row for row, _ in rows(tmp_path / "one")] == ROWS
    splits = {"train": whole, "validation": whole.select([0]), "train_prefs": whole.select([1])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "many")
    found = {split: [row for row, _ in rows(tmp_path / "many", split=split)] for split in splits}
    assert found == {"train": ROWS, "validation": ROWS[:1], "train_prefs": ROWS[1:]}
    assert len(list(read(tmp_path / "many", role="validation"))) == 1, "splits are roles"
    with pytest.raises(DataError, match=r"several splits \(train, train_prefs, validation\)"):
        list(read(tmp_path / "many"))
    next((tmp_path / "one").glob("*.arrow")).unlink()
    with pytest.raises(DataError, match=r"missing, though state\.json beside it names it; save the dataset again"):
        list(read(tmp_path / "one"))
    (tmp_path / "one" / "state.json").write_text("{}")
    with pytest.raises(DataError, match="not a complete folder of save_to_disk"):
        list(read(tmp_path / "one"))


def test_tables_beside_data_are_notes(tmp_path: Path) -> None:
    table(tmp_path / "notes.csv", [{"name": "x"}])
    assert [row for row, _ in rows(tmp_path)] == [{"name": "x"}]
    _written(tmp_path / "data.jsonl", LINES)
    assert [row for row, _ in rows(tmp_path)] == ROWS


def test_tables_written_by_pandas_are_no_texts(tmp_path: Path) -> None:
    """`DataFrame.to_csv` writes lists of messages in Python's notation, which would be read as the text of an answer."""
    turns = [{"content": "it's 7", "role": "assistant"}]
    table(tmp_path / "a.csv", [{"prompt": "q", "chosen": str(turns), "rejected": "b"}, {"prompt": "q", "chosen": "a", "rejected": "b"}])
    (broken, _), (fine, _) = containers.rows_of(tmp_path / "a.csv")
    assert isinstance(broken, RecordError) and "'chosen' holds messages in Python's notation" in str(broken)
    assert fine == {"prompt": "q", "chosen": "a", "rejected": "b"}


def test_answers_in_json_are_texts(tmp_path: Path) -> None:
    turns = [{"role": "assistant", "content": "a"}]
    row = {"prompt": "[1, 2]", "chosen": '{"answer": 7}', "rejected": json.dumps(turns), "scores": "[1, 2]", "tags": '{"a": "b"}'}
    table(tmp_path / "a.csv", [row])
    ((read, _),) = containers.rows_of(tmp_path / "a.csv")
    assert read == {**row, "rejected": turns, "scores": [1, 2], "tags": {"a": "b"}}
