"""Per-sample files of evaluations: verdicts, and examples of wrong ones."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from prefrep.errors import DataError
from prefrep.evaluation.judged.rows import JudgedScore
from prefrep.evaluation.pairs import MISTAKES, PairRow
from prefrep.evaluation.registry import JUDGED
from prefrep.evaluation.rows import SCORES, PairScore, RankedScore, read_scores
from prefrep.evaluation.summary import credit
from prefrep.metrics.rewardbench import TIES
from prefrep.metrics.verdicts import Outcome, is_right
from prefrep.metrics.winrate import win_probabilities
from prefrep.reports.document import Example
from prefrep.reports.found import Evaluation, read_lines

SHOWN = 10  # examples of each evaluation
CUT = 1200  # characters of a text

Verdicts = dict[tuple[str, str], Outcome]


# ----------------------------------------------------------------------------------------------------------------------- verdicts
def verdicts(evaluation: Evaluation) -> Verdicts:
    """Return whether each verdict is correct, by subset and id, from the per-sample file alone; empty if there is none.

    Ties in the data have no correct verdict. In RewardBench 2, the first answer alone must rank first; its Ties have no verdict per sample.
    A win rate counts answers of A that beat B's.

    Raises:
        PrefrepError: The file is damaged.
    """
    path = evaluation.folder / SCORES
    if not path.is_file():
        return {}
    match evaluation.benchmark:
        case "pairs":
            rows = read_scores(path, PairRow)
            rights = ((row, is_right(row.score, row.probability)) for row in rows)
            return _by_sample((row, Outcome(right, row.prompt)) for row, right in rights if right is not None)
        case "rewardbench" | "winrate":
            return _by_sample((row, Outcome(row.score > 0)) for row in read_scores(path, PairScore))
        case "rewardbench2":
            rule = evaluation.results["scalarisation"]
            return _by_sample((row, Outcome(credit(row, rule) == 1)) for row in read_scores(path, RankedScore) if row.subset != TIES)
        case name if name in JUDGED:
            return _numbered(
                ((row.subset, f"{row.id}{suffix}"), Outcome(right, row.prompt or f"{row.subset}/{row.id}"))
                for row in read_scores(path, JudgedScore)
                for suffix, right in JUDGED[name].verdicts(row)
            )
    return {}


def _by_sample(rows: Iterable[tuple[PairScore | RankedScore, Outcome]]) -> Verdicts:
    return _numbered(((row.subset, row.id), outcome) for row, outcome in rows)


def _numbered(verdicts: Iterable[tuple[tuple[str, str], Outcome]]) -> Verdicts:
    """Return verdicts by subset and id; an id that occurs again gets a suffix."""
    seen: Counter[tuple[str, str]] = Counter()
    found: Verdicts = {}
    for (subset, id), outcome in verdicts:
        seen[subset, id] += 1
        again = seen[subset, id]
        found[subset, id if again == 1 else f"{id}#{again}"] = outcome
    return found


def contradiction(evaluation: Evaluation, found: Verdicts) -> str:
    """Return a sentence if the results do not follow from the per-sample file; empty if they do.

    Args:
        evaluation: An evaluation.
        found: Its verdicts.
    """
    stated = {"pairs": "overall", "rewardbench": "accuracy", "winrate": "strict_wins"}.get(evaluation.benchmark)
    if stated is None or not found:
        return ""
    entry, wins, n = evaluation.results[stated], sum(outcome.right for outcome in found.values()), len(found)
    if entry["n"] == n and round(entry["score"] * n) == wins:
        return ""
    return (
        f"results.json says {entry['score'] or 0:.3f} of {entry['n']} and {SCORES} gives {wins / n:.3f} of {n}: they are of "
        "different runs; run the evaluation again"
    )


# ----------------------------------------------------------------------------------------------------------------------- examples
def examples(evaluation: Evaluation) -> list[Example]:
    """Return the verdicts that are most confidently wrong, worst first, with their texts if files hold them.

    Raises:
        DataError: A file is damaged.
    """
    match evaluation.benchmark:
        case name if name == "pairs" or name in JUDGED:
            return [_wrong(row) for row in read_lines(evaluation.folder / MISTAKES)[:SHOWN]]
        case "rewardbench":
            return [_wrong(row) for row in _of_rewardbench(evaluation)[:SHOWN]]
        case "winrate":
            lost = [row for row in read_lines(evaluation.folder / "samples.jsonl") if row["log_odds"] < 0]
            return [_lost(row, evaluation.results) for row in sorted(lost, key=lambda row: float(row["log_odds"]))[:SHOWN]]
    return []


def _of_rewardbench(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return mistakes in the form of `mistakes.jsonl` from the official file; none if there are several files, or no texts."""
    files = sorted((evaluation.folder / "eval-set-scores").rglob("*.json"))
    if len(files) != 1:
        return []
    try:
        columns = json.loads(files[0].read_text(encoding="utf-8"))
        names = ("id", "subset", "scores_chosen", "scores_rejected", "text_chosen", "text_rejected")
        rows = [dict(zip(names, row, strict=True)) for row in zip(*(columns[name] for name in names), strict=True)]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{files[0]}: not a RewardBench score file ({error!r})") from error
    wrong = [row | {"score": row["scores_chosen"] - row["scores_rejected"]} for row in rows if row["text_chosen"]]
    wrong = sorted((row for row in wrong if row["score"] <= 0), key=lambda row: float(row["score"]))
    return [row | _parts(row["text_chosen"], row["text_rejected"]) for row in wrong]


def _parts(chosen: str, rejected: str) -> dict[str, str]:
    """Return prompt and answers of two rendered conversations; the answer begins with the last assistant turn that both share."""
    turn = "<|assistant|>\n"
    shared = os.path.commonprefix([chosen, rejected])
    at = shared.rfind(turn)
    if at < 0:
        return {"prompt": "", "chosen": chosen, "rejected": rejected}
    prompt, start = shared[:at].rstrip("\n"), at + len(turn)
    if prompt.count("<|user|>\n") == 1:
        prompt = prompt.removeprefix("<|user|>\n")
    return {"prompt": prompt, "chosen": chosen[start:], "rejected": rejected[start:]}


def _wrong(row: Mapping[str, Any]) -> Example:
    score, p = float(row["score"]), float(row.get("probability", 1.0))
    where = f"{row['subset']}, " if row["subset"] else ""
    sure = float(win_probabilities(abs(score)))
    share = f"{sure:.1%}" if sure < 0.9995 else "more than 99.9%"
    title = f"{where}id {row['id']}: log-odds of chosen {score:+.3f}, so the model is {share} confident in the wrong answer"
    if p != 1:
        title += f" (P(chosen) in the data: {p:.3g})"
    return Example(title, (("Prompt", cut(row["prompt"])), ("Chosen", cut(row["chosen"])), ("Rejected", cut(row["rejected"]))))


def _lost(row: Mapping[str, Any], results: Mapping[str, Any]) -> Example:
    title = f"id {row['id']}: log-odds of {results['a']} {row['log_odds']:+.3f}"
    parts = [(name, cut("\n".join(row[key]))) for name, key in (("Prompt", "prompt"), (results["a"], "a"), (results["b"], "b"))]
    return Example(title, tuple(parts))


def cut(text: str) -> str:
    """Return text truncated for display."""
    return text if len(text) <= CUT else f"{text[:CUT]} ... ({len(text) - CUT} more characters)"


def sentence(evaluation: Evaluation) -> str:
    """Return the title of the examples."""
    if evaluation.benchmark == "winrate":
        return f"Answers of {evaluation.results['a']} that lose most clearly"
    return "Mistakes of the model, most confident first"
