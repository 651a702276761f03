"""`prefrep eval leaderboard` as the shell calls it: results, page, next comparisons, reports, and misuse."""

from __future__ import annotations

import json
from collections import Counter
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


PROMPTS = ("Why?", "Who?", "How?", "When?")


def answers(folder: Path, **words: tuple[int, ...]) -> list[str]:
    """Answer files of systems, by numbers of words; as options."""
    found = []
    for name, counts in words.items():
        rows = [{"instruction": q, "output": " ".join(["word"] * n), "generator": "x"} for q, n in zip(PROMPTS, counts, strict=False)]
        (folder / f"{name}.json").write_text(json.dumps(rows))
        found += ["--answers", f"{name}={folder / name}.json"]
    return found


def test_a_judge_is_asked_about_answers(tmp_path: Path, votes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By a judge to whom ten words more are a nat less (above ten words); `new` answered two of the prompts."""
    words = {"short": (12, 13, 12, 13), "middle": (24, 24, 25, 25), "long": (38, 39, 39, 38), "new": (30, 30)}
    given = answers(tmp_path, **words)
    options = [*given, "--model", "prefrep.judges.concise", "--circles", "0", "--resamples", "5"]
    out = tmp_path / "out"
    assert run([*options, "--style", "length", "--out", str(out), "--ridge", "0.1"]) == 0
    results = json.loads((out / "results.json").read_text())
    rows = [json.loads(line) for line in (out / "battles.jsonl").read_text().splitlines()]
    assert len(rows) == 3 * 4 + 3 * 2 == results["judge"]["asked"] == results["judge"]["of"]  # three pairs on all prompts, three on two
    assert {(row["first_shown"], row["judge"]) for row in rows} == {(0, "prefrep.judges.concise")}
    for row in rows:
        one, other = (words[row[side]][PROMPTS.index(row["prompt"])] for side in ("model_a", "model_b"))
        assert row["winner"] == pytest.approx(1 / (1 + np.exp((one - other) / 10)))
        assert (row["length_a"], row["length_b"]) == (5 * one - 1, 5 * other - 1)  # characters of "word word"
    assert results["judges"][0]["order"] is None and results["style"][0]["value"] < 0
    assert {row["name"] for row in results["systems"]} == {"short", "middle", "long", "new"}
    # Again: nothing is asked, and the file is one of battles like any other, beside others.
    kept = (out / "scores.jsonl").read_bytes()
    assert run([*options, "--style", "length", "--out", str(out), "--ridge", "0.1"]) == 0
    assert (out / "scores.jsonl").read_bytes() == kept and json.loads((out / "results.json").read_text()) == results
    assert run([str(out / "battles.jsonl"), "--out", str(tmp_path / "read"), "--circles", "0", "--ridge", "0.1"]) == 0
    assert run([*options, "--out", str(tmp_path / "without"), "--ridge", "0.1"]) == 0
    ratings = [json.loads((tmp_path / name / "results.json").read_text())["systems"] for name in ("read", "without")]
    assert ratings[0] == ratings[1]
    assert run([str(votes), *options, "--out", str(tmp_path / "both")]) == 0
    both = json.loads((tmp_path / "both" / "results.json").read_text())
    assert both["battles"] == 400 + 18 and len(both["judges"]) == 2 and both["read"]["no verdict"] == 1
    assert run([*options, "--limit", "6", "--out", str(tmp_path / "few")]) == 0
    met = Counter(frozenset((row["model_a"], row["model_b"])) for row in map(json.loads, (tmp_path / "few/battles.jsonl").open()))
    assert set(met.values()) == {1} and len(met) == 6
    assert "asked about 6 of 18 pairs of answers" in capsys.readouterr().out


def test_both_orders_of_a_judge_that_writes_are_battles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefrep.judges.writing.kept.cache_folder", lambda: tmp_path / "cache")
    given = answers(tmp_path, a=(2, 3), b=(4, 4), c=(6, 7))
    judge = "GenerativeJudge model=bundled:tiny-llama style=letter constraint=choice"
    assert run([*given, "--model", judge, "--circles", "0", "--out", str(tmp_path / "out"), "--ridge", "0.1"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "battles.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * 3 * 2 and {row["first_shown"] for row in rows} == {1}
    sides = Counter((row["prompt"], row["model_a"], row["model_b"]) for row in rows)
    assert set(sides.values()) == {1} and all((q, b, a) in sides for q, a, b in sides)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["judges"][0]["order"] is not None and (tmp_path / "out" / "verdicts.jsonl").is_file()


def test_several_answers_of_a_system_and_systems_without_an_opponent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two answers to each prompt are pairs of their own, which --limit counts; a system with other prompts is named."""
    given = answers(tmp_path, a=(12, 22, 13, 14), b=(14, 13, 22, 12), other=(15,))
    again = answers(tmp_path, more=(13, 21, 14, 15), too=(15, 12, 21, 13))
    paths = [f"--answers={name}={path.partition('=')[2]}" for name, path in zip("ab", again[1::2], strict=True)]
    (tmp_path / "other.json").write_text(json.dumps([{"instruction": "Whence?", "output": "word"}]))
    options = [*given, *paths, "--model", "prefrep.judges.concise", "--circles", "0", "--resamples", "5", "--ridge", "0.1"]
    assert run([*options, "--limit", "6", "--out", str(tmp_path / "out")]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["battles"] == results["judge"]["asked"] == 6 and results["judge"]["of"] == 8
    said = " ".join(capsys.readouterr().out.split())
    assert "asked about 6 of 8 pairs of answers" in said and "left out: other, of which no answer" in said


@pytest.mark.parametrize(
    ("options", "words", "error"),
    [
        ([], "name files of battles, or --answers", UsageError),
        (["--model", "prefrep.judges.concise"], "--model goes with --answers", UsageError),
        (["x.csv", "--limit", "5"], "--limit goes with --answers", UsageError),
        (
            ["--model", "prefrep.judges.concise", *(f"--answers={name}/out.json" for name in "ab")],
            "--answers b/out.json: another one is called out.json too",
            UsageError,
        ),
        (["--model", "prefrep.judges.concise", "--answers", "a=a.json"], "takes two policies or more, each as --answers", UsageError),
        (["--model", "prefrep.judges.concise", "--answers", "a", "--answers", "b"], "--answers a: neither an answer file", UsageError),
    ],
)
def test_misuse_of_answers(tmp_path: Path, options: list[str], words: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=words):
        run([*options, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


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
