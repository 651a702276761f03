"""`prefrep eval leaderboard` as the shell calls it: results, page, next comparisons, reports, and misuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import program

from prefrep.errors import ConfigError, UsageError
from prefrep.reports import found as runs
from prefrep.reports import page

run = program("eval", "leaderboard")


@pytest.fixture
def votes(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    lines = ["left,right,winner,prompt,kind"]
    for n in range(400):
        i, j = rng.choice(4, 2, replace=False)
        won = rng.random() < 1 / (1 + np.exp(0.8 * (i - j)))
        lines.append(f"s{i},s{j},{'tie' if n % 9 == 0 else 'left' if won else 'right'},{n % 20},{'ab'[n % 2]}")
    lines.append("s0,s1,,3,a")
    path = tmp_path / "votes.csv"
    path.write_text("\n".join(lines))
    return path


def test_results_page_and_next(votes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    options = ["--category", "kind", "--circles", "9", "--resamples", "5", "--next", "4"]
    assert run([str(votes), "--out", str(out), *options]) == 0
    said = capsys.readouterr().out
    assert "400 battles of 4 systems, 1 judges" in said and "1 of 401 rows have no verdict" in said
    results = json.loads((out / "results.json").read_text())
    assert [row["name"] for row in results["systems"]] == ["s0", "s1", "s2", "s3"]
    assert results["groups"][0]["of"] == "categories"
    assert (out / "leaderboard.html").read_text().startswith("<!DOCTYPE html>")
    asked = [json.loads(line) for line in (out / "next.jsonl").read_text().splitlines()]
    assert len(asked) == 4 and all(each["nats"] > 0 for each in asked)
    assert run([str(votes), "--out", str(tmp_path / "again"), *options]) == 0
    assert json.loads((tmp_path / "again" / "results.json").read_text()) == results
    assert (tmp_path / "again" / "leaderboard.html").read_bytes() == (out / "leaderboard.html").read_bytes()
    report = page.html(page.build(runs.find([out])))
    assert "Who beats whom" in report and "Does one number suffice?" in report


@pytest.mark.parametrize(
    ("options", "words", "error"),
    [
        (["--style", "length"], "for --style length", ConfigError),
        (["--judge", "worker"], "no column 'worker' for --judge", ConfigError),
        (["--weigh", "category"], "--weigh category", ConfigError),
        (["--resamples", "0"], "--resamples must be at least 2", UsageError),
        (["--ties", "never"], "--ties: must be one of", UsageError),
    ],
)
def test_misuse_is_said_in_a_sentence(votes: Path, tmp_path: Path, options: list[str], words: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=words):
        run([str(votes), "--out", str(tmp_path / "out"), *options])
    assert not (tmp_path / "out").exists()
