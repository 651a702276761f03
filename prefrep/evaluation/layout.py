"""The files of a RewardBench evaluation: our `results.json`, and the two files that the official scripts write.

Layout of the latter: rewardbench/utils.py (save_to_hub), scripts/run_rm.py and scripts/run_v2.py of allenai/reward-bench at 05a9005.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from prefrep.disk import replace_json
from prefrep.evaluation.scores import PairScore, RankedScore
from prefrep.evaluation.summary import credit
from prefrep.records import Comparison, Message, RankedResponses, Record

RESULTS = "results.json"


def versions(of_model: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Versions that a number may depend on: ours and the model's."""
    found = {"python": platform.python_version()}
    for package in ("prefrep", "numpy", "scipy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a source tree that is not installed
            found[package] = "not installed"
    return found | {str(name): str(number) for name, number in (of_model or {}).items()}


def model_name(path: str | Path) -> str:
    """A name in the form `owner/model` for the official files: the last two parts of a path or hub id.

    The official layout has a folder per owner; `runs/hh-gpm/export` becomes `hh-gpm/export`.
    """
    return "/".join(part for part in Path(path).parts[-2:] if part not in ("/", "..", ".")) or "model"


def write_results(out: Path, results: Mapping[str, Any]) -> Path:
    """Writes `results.json`; returns its path."""
    path = out / RESULTS
    replace_json(path, results)
    return path


def rendered(prompt: Sequence[Message], response: Sequence[Message]) -> str:
    """A conversation as plain text, for people who read the official files; no chat template, since saved scores have no tokenizer."""
    return "\n".join(f"<|{message.role}|>\n{message.content}" for message in (*prompt, *response))


def write_official(
    out: Path,
    results: Mapping[str, Any],
    rows: Sequence[PairScore] | Sequence[RankedScore],
    records: Sequence[Record] = (),
    model: Mapping[str, str] | None = None,
) -> list[Path]:
    """Writes `eval-set/<model>.json` (subset accuracies) and `eval-set-scores/<model>.json` (columns of per-sample values).

    Where a model only compares, the official files have no place for one number per pair: `scores_chosen` holds the log-odds and
    `scores_rejected` zeros, so that `scores_chosen > scores_rejected` still tells who won. Text columns are empty without records.

    Args:
        out: Output folder.
        results: What `pair_results` or `ranked_results` gave.
        rows: Per-sample scores.
        records: What was scored, in the order of the rows, if known.
        model: The fields `model`, `model_type` and `chat_template` of the official files.

    Returns:
        The two paths.
    """
    fields = {"model": "model", "model_type": "Custom Classifier", "chat_template": "tokenizer"} | dict(model or {})
    name = "/".join(part for part in Path(fields["model"]).parts if part not in ("/", "..", "."))
    paths = [out / folder / f"{name}.json" for folder in ("eval-set", "eval-set-scores")]
    replace_json(paths[0], {subset: value["score"] for subset, value in results["subsets"].items()} | fields, sort_keys=True)
    columns: dict[str, list[Any]] = {"id": [row.id for row in rows], "subset": [row.subset for row in rows]}
    pairs = [row for row in rows if isinstance(row, PairScore)]
    ranked = [row for row in rows if isinstance(row, RankedScore)]
    if pairs:
        texts = [record for record in records if isinstance(record, Comparison)]
        columns |= {
            "results": [int(row.score > 0) for row in pairs],
            "scores_chosen": [row.score for row in pairs],
            "scores_rejected": [0.0] * len(pairs),
            "text_chosen": [rendered(record.prompt, record.chosen) for record in texts] or [""] * len(pairs),
            "text_rejected": [rendered(record.prompt, record.rejected) for record in texts] or [""] * len(pairs),
        }
    else:
        prompts = [record for record in records if isinstance(record, RankedResponses)]
        columns |= {
            # Ties rows hold their best-of-K value here, as in the official files, although it is not what the Ties score is made of.
            "results": [credit(row, results["scalarisation"]) for row in ranked],
            "scores": [list(row.scores) for row in ranked],
            "num_correct": [row.num_correct for row in ranked],
            "text": [[rendered(record.prompt, each) for each in record.responses] for record in prompts] or [[] for _ in ranked],
        }
    replace_json(paths[1], columns | fields, sort_keys=True)
    return paths
