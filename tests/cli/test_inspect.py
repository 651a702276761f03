"""prefrep inspect counts what is there: each number is known from how the file was made."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import program

from prefrep.data.summary import pairs
from prefrep.errors import DataError, PrefrepError, RecordError, UsageError
from prefrep.records import Comparison, Message, RankedResponses

main = program("inspect")

TINY = "bundled:tiny-llama"


def row(prompt: str, chosen: str, rejected: str, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return str(path)


def inspect(tmp_path: Path, *args: str) -> dict[str, Any]:
    out = tmp_path / "made" / "out.json"
    assert main([*args, "--json", str(out)]) == 0
    found: dict[str, Any] = json.loads(out.read_text())
    return found


TRAIN = [
    row("one two three", "a b c d", "a", subset="x"),
    row("one two three", "a b c d", "a", subset="x"),  # a duplicate
    row("q", "same", "same", probability=0.5),  # equal, a tie
    row("q", "", "b c", probability=0.8),  # empty
    row("cycle", "r", "p"),
    row("cycle", "p", "s"),
    row("cycle", "s", "r"),
    row("both ways", "u", "v"),
    row("both ways", "u", "v", probability=0.1),
    {"prompt": "no answers"},  # bad
]


def test_numbers(tmp_path: Path) -> None:
    val = write(tmp_path / "val.jsonl", [row("q", "x", "y"), row("other", "x", "y")])
    found = inspect(tmp_path, write(tmp_path / "train.jsonl", TRAIN), val)
    train = found["sources"][0]
    expected = {
        "rows": 10,
        "records": 9,
        "comparisons": 9,
        "duplicates": 1,
        "chosen_equals_rejected": 1,
        "empty_responses": 1,
        "prompts": 4,
        "prompts_with_cycles": 2,  # "cycle", and "both ways", whose pair is labelled both ways
        "prompts_with_cycles_of_three_or_more": 1,
        "formats": {"standard-explicit": 9},
        "subsets": {"x": 2, "": 7},
        # 6 hard; 0.8 and 0.1 soft. Of these 8 the 2 rows with four words are longer, the empty one is shorter.
        "labels": {"hard": 6, "soft": 2, "tie": 1, "longer": 2, "shorter": 1, "equal": 5},
    }
    assert {name: train[name] for name in expected} == expected
    (bad,) = train["bad_rows"]
    assert bad.startswith(f"{tmp_path}/train.jsonl:10: no 'chosen' (found: prompt)")
    assert found["shared_prompts"] == [{"sources": [f"{tmp_path}/train.jsonl", val], "prompts": 1, "records": [2, 1]}]
    assert found["unit"] == "words"


def test_percentiles(tmp_path: Path) -> None:
    """Responses of 1..100 words and as many of 1 word; prompts of 2: percentiles are lengths that occur."""
    path = write(tmp_path / "a.jsonl", [row("x y", "w " * n, "w") for n in range(1, 101)])
    lengths = inspect(tmp_path, path)["sources"][0]["lengths"]
    assert lengths["prompt"] == {"p50": 2, "p90": 2, "p99": 2, "max": 2}
    # 200 lengths: 101 times 1, then 2, ..., 100. Rank ceil(0.9 * 199) = 180 (from 0) holds 81, rank ceil(0.99 * 199) = 198 holds 99.
    assert lengths["response"] == {"p50": 1, "p90": 81, "p99": 99, "max": 100}
    assert lengths["prompt + response"] == {"p50": 3, "p90": 83, "p99": 101, "max": 102}


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([write(tmp_path / "train.jsonl", TRAIN), write(tmp_path / "val.jsonl", [row("q", "x", "y")])])
    shown = capsys.readouterr().out.splitlines()
    cells = {line[:42].strip(): line[42:].split() for line in shown}
    assert cells["rows"] == ["10", "1"]
    assert cells["duplicate rows"] == ["1", "(11.1%)", "0"]
    assert cells["format"] == ["standard-explicit", "standard-explicit"]
    assert any(line.startswith("prompts shared by") and line.endswith(": 1 (in 2 and 1 records)") for line in shown)
    assert f"bad rows of {tmp_path}/train.jsonl: 1" in shown
    assert shown[-1].startswith(f"  {tmp_path}/train.jsonl:10: no 'chosen' (found: prompt)")


def test_many_sources_and_bad_rows_stay_readable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = row("q", "a", "b"), {"prompt": "q"}
    paths = [write(tmp_path / f"{n}.jsonl", [good, *[bad] * 12]) for n in range(5)]
    main(paths)
    shown = capsys.readouterr().out
    assert shown.count("\nformat ") == 2  # four sources side by side, then one
    assert shown.count("and 2 more, all of them with --json") == 5


def test_tokens_are_those_the_model_reads(tmp_path: Path) -> None:
    from prefrep.data.encode import EncodeConfig, Encoder
    from prefrep.nn.loading import load_tokenizer

    items = [row("hi", "short", "a much longer answer than that"), row("hello there", "x", "y")]
    path = write(tmp_path / "a.jsonl", items)
    encoder = Encoder(load_tokenizer(TINY), EncodeConfig(), "single")
    records = [
        Comparison((Message("user", i["prompt"]),), *((Message("assistant", i[side]),) for side in ("chosen", "rejected"))) for i in items
    ]
    whole = [len(ids) for _, datum in encoder.encode(records) if datum for ids in datum.trees[0].sequences]
    limit = max(whole) - 1
    found = inspect(tmp_path, path, "--tokenizer", TINY, "--max-length", str(limit))
    source = found["sources"][0]
    assert found["unit"] == "tokens" and source["lengths"]["prompt + response"]["max"] == max(whole)
    assert source["responses_truncated"] == 1 and source["longer_without_prompt"] == 0


def test_ranked_responses(tmp_path: Path) -> None:
    items = [{"prompt": "q", "responses": ["a", "b", "c"], "scores": [1, 2, 2]}, {"prompt": "r", "responses": ["a", "b"]}]
    source = inspect(tmp_path, write(tmp_path / "a.jsonl", items))["sources"][0]
    assert (source["ranked"], source["ranked_without_scores"], source["responses"]) == (2, 1, 5)
    assert (source["labels"]["hard"], source["labels"]["tie"], source["prompts_with_cycles"]) == (2, 1, 0)  # b > a, c > a; b = c


def test_labels_of_pairs() -> None:
    a, b = (Message("assistant", "a"),), (Message("assistant", "b"),)
    found = {p: list(pairs(Comparison((), a, b, probability=p))) for p in (1.0, 0.7, 0.5, 0.3, 0.0)}
    assert found == {1.0: [(0, 1, "hard")], 0.7: [(0, 1, "soft")], 0.5: [(0, 1, "tie")], 0.3: [(1, 0, "soft")], 0.0: [(1, 0, "hard")]}
    assert list(pairs(RankedResponses((), (a, b, a), (1.0, 3.0, 1.0)))) == [(1, 0, "hard"), (0, 2, "tie"), (1, 2, "hard")]


def test_columns_and_limit(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": "q", "better": "a", "worse": "b"}] * 3)
    source = inspect(tmp_path, path, "--column", "chosen=better", "--column", "rejected=worse", "--limit", "2")["sources"][0]
    assert source["rows"] == 2 and source["bad_rows"] == []


def test_errors(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [row("q", "a", "b"), {"prompt": "q"}])
    with pytest.raises(RecordError, match=r"a\.jsonl:2: no 'chosen'"):
        main([path, "--on-bad-row", "error"])
    with pytest.raises(DataError, match="no such file or folder"):
        main([path + "x"])
    for wrong in (["--max-length", "9"], ["--column", "chosen"], ["--max-length", "0", "--tokenizer", TINY], ["--on-bad-row", "maybe"]):
        with pytest.raises(UsageError):
            main([path, *wrong])


def test_a_source_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.jsonl", tmp_path / "none.jsonl"
    good.write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}) + "\n")
    with pytest.raises(PrefrepError, match=f"^{bad}: no such file"):
        main([str(bad), str(good)])
    assert "good.jsonl" in capsys.readouterr().out
    with pytest.raises(DataError, match="none.jsonl: no such file"):
        main([str(bad)])


def test_as_a_program(tmp_path: Path) -> None:
    """One sentence and exit code 1, no traceback."""
    program = [sys.executable, "-m", "prefrep", "inspect"]
    failed = subprocess.run([*program, str(tmp_path / "no.jsonl")], check=False, capture_output=True, text=True)
    assert failed.returncode == 1 and failed.stdout == ""
    assert failed.stderr == f"prefrep: {tmp_path}/no.jsonl: no such file or folder; hub datasets are written owner/name\n"


def test_rows_are_those_of_the_file(tmp_path: Path) -> None:
    """A row can hold several comparisons, and several rows one prompt: neither moves the number of rows."""
    both = {"prompt": "q", "response_0": "a", "response_1": "b", "better_response_id": 0, "safer_response_id": 1}
    rated = [{"prompt": "q", "response": name, "helpfulness": 3, "verbosity": 1} for name in "abc"]
    paths = [write(tmp_path / "a.jsonl", [both, both, {**both, "prompt": ""}]), write(tmp_path / "b.jsonl", rated)]
    two, one = inspect(tmp_path, *paths)["sources"]
    assert (two["rows"], two["records"], len(two["bad_rows"])) == (3, 4, 1)
    assert (one["rows"], one["records"]) == (3, 1)
    assert one["about"]["ratings"] == {"helpfulness": 1, "verbosity": 1}


def test_answers_that_only_call_tools_are_neither_equal_nor_empty(tmp_path: Path) -> None:
    def call(name: str) -> list[dict[str, Any]]:
        return [{"role": "assistant", "content": None, "tool_calls": [{"function": {"name": name, "arguments": {}}}]}]

    def asked(chosen: str, rejected: str) -> dict[str, Any]:
        return {"prompt": [{"role": "user", "content": "q"}], "chosen": call(chosen), "rejected": call(rejected)}

    (found,) = inspect(tmp_path, write(tmp_path / "a.jsonl", [asked("f", "g"), asked("g", "h"), asked("h", "h")]))["sources"]
    assert (found["chosen_equals_rejected"], found["empty_responses"], found["duplicates"]) == (1, 0, 0)


def test_unpaired_labels_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """KTO: prompts with both labels make pairs; the others have labels of single responses."""
    labels = {"paired": (True, False), "good": (True, True), "bad": (False,)}
    rows = [{"prompt": q, "completion": f"{q}{i}", "label": each} for q, given in labels.items() for i, each in enumerate(given)]
    (found,) = inspect(tmp_path, write(tmp_path / "a.jsonl", rows))["sources"]
    assert (found["desirable_alone"], found["undesirable_alone"], found["labels"]["hard"]) == (2, 1, 1)
    shown = capsys.readouterr().out.splitlines()
    assert ["2", "/", "1"] in [line.split()[-3:] for line in shown if line.startswith("responses without a pair: desirable / not")]
