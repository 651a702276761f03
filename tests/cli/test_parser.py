"""Command lines become the arguments that a function would be called with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from prefrep.cli.main import main
from prefrep.cli.parser import Parser
from prefrep.errors import UsageError


def shared(device: str, *, batch_tokens: int = 4096, dtype: Literal["float32", "bfloat16"] | None = None) -> None:
    """Stand for a function that takes options of several programs.

    Args:
        device: Where.
        batch_tokens: How many.
        dtype: Which.
    """


def sample(
    data: list[str],
    *,
    out: str,
    from_: str | None = None,
    restart: bool = False,
    normalize: bool | None = None,
    column: list[str] | None = None,
    **options: Any,
) -> None:
    """Do something.

    Args:
        data: What.
        out: Where to.
        from_: Where from.
        restart: Whether anew.
        normalize: Whether at length 1.
        column: Pairs.
        **options: See `shared`.
    """
    shared("cpu", **options)


DEFAULTS = {"from_": None, "restart": False, "normalize": None, "column": None, "batch_tokens": 4096, "dtype": None}


def arguments(*args: str) -> dict[str, Any]:
    return Parser(sample, "prefrep sample").arguments(list(args))


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ("a b --out o", {"data": ["a", "b"]}),
        ("a --out=o --restart b", {"data": ["a", "b"], "restart": True}),
        ("--restart false a --out o", {"data": ["a"]}),
        ("a --out o --normalize", {"data": ["a"], "normalize": True}),
        ("a --out o --no-normalize", {"data": ["a"], "normalize": False}),
        ("a --out o --batch-tokens 7", {"data": ["a"], "batch_tokens": 7}),
        ("a --out o --batch_tokens=7", {"data": ["a"], "batch_tokens": 7}),
        ("a --out o --from x", {"data": ["a"], "from_": "x"}),
        ("a --out o --column x=y --column z=1", {"data": ["a"], "column": ["x=y", "z=1"]}),
        ("a --out o --column x={y:[1]}", {"data": ["a"], "column": ["x={y:[1]}"]}),
        ("a --out o --from -1e-5", {"data": ["a"], "from_": "-1e-5"}),
        ("1 --out o", {"data": ["1"]}),
        ("a --out o --dtype bfloat16", {"data": ["a"], "dtype": "bfloat16"}),
    ],
)
def test_spellings(args: str, expected: dict[str, Any]) -> None:
    assert arguments(*args.split(" ")) == DEFAULTS | {"out": "o"} | expected


def test_values_are_taken_as_they_are() -> None:
    found = arguments("a b.jsonl", "--out", "null.d", "--from", "${HOME}: [x", "--column", "a=--b")
    assert (found["data"], found["out"], found["from_"], found["column"]) == (["a b.jsonl"], "null.d", "${HOME}: [x", ["a=--b"])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("a --ou o", "there is no option --ou; did you mean --out?"),
        ("a --batch-token 1 --out o", "did you mean --batch_tokens?"),
        ("a --out", "--out needs a value"),
        ("a", "required: out"),
        ("--out o", "required: data"),
        ("a --out o --batch-tokens x", "--batch_tokens: must be a whole number, got x"),
        ("a --out o --dtype half", "--dtype: must be one of 'float32', 'bfloat16', got half"),
        ("a --out o --zzzz 1", "there is no option --zzzz; see prefrep sample --help"),
    ],
)
def test_wrong_command_lines_get_one_sentence(args: str, words: str) -> None:
    with pytest.raises(UsageError) as raised:
        arguments(*args.split())
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_a_file_gives_values_and_options_win(tmp_path: Path) -> None:
    file = tmp_path / "sample.yaml"
    file.write_text("data: [x, y]\nout: from-file\nbatch_tokens: 5\nrestart: true\n")
    assert arguments("--config", str(file)) == DEFAULTS | {"data": ["x", "y"], "out": "from-file", "batch_tokens": 5, "restart": True}
    found = arguments("z", "--batch-tokens", "6", "--no-restart", f"--config={file}")
    assert (found["data"], found["batch_tokens"], found["out"], found["restart"]) == (["z"], 6, "from-file", False)
    file.write_text("outt: x\n")
    with pytest.raises(UsageError, match="outt"):
        arguments("a", "--config", str(file))


def test_unknown_programs() -> None:
    with pytest.raises(UsageError, match=r"no `prefrep scor`; did you mean score\?"):
        main(["scor"])
    with pytest.raises(UsageError, match=r"no `prefrep eval pair`; did you mean pairs\?"):
        main(["eval", "pair"])


def test_the_printed_configuration_is_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments("a", "--out", "o", "--column", "x=y", "--print_config")
    file = tmp_path / "printed.yaml"
    file.write_text(capsys.readouterr().out)
    assert arguments("--config", str(file)) == arguments("a", "--out", "o", "--column", "x=y")
