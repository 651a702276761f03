"""The files of a RewardBench evaluation: our `results.json`, and the two files that the official scripts write.

Layout of the latter: rewardbench/utils.py (save_to_hub), scripts/run_rm.py and scripts/run_v2.py of allenai/reward-bench at 05a9005.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from prefrep.disk import replace_json
from prefrep.evaluation.rows import PairScore, RankedScore, RewardScore
from prefrep.evaluation.summary import Scalarisation, credit, rated
from prefrep.metrics.rewardbench import PRIOR_SUBSETS
from prefrep.records import Comparison, Message, RankedResponses, Record

RESULTS = "results.json"
# Splits of allenai/preference-test-sets; run_rm.py --pref_sets reads them (without the two of PKU).
PRIOR_SETS = {*PRIOR_SUBSETS, "anthropic_harmless", "mtbench_gpt4", "mtbench_human"}


def versions(of_model: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Return the versions that results can depend on: those of prefrep and of the model."""
    found = {"python": platform.python_version()}
    for package in ("prefrep", "numpy", "scipy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a source tree that is not installed
            found[package] = "not installed"
    return found | {str(name): str(number) for name, number in (of_model or {}).items()}


def model_name(path: str | Path) -> str:
    """Return a name of the form `owner/model` for the official files: the last two parts of a path or hub id.

    The official layout has one folder per owner; `runs/hh-gpm/export` becomes `hh-gpm/export`.
    """
    return "/".join(part for part in Path(path).parts[-2:] if part not in ("/", "..", ".")) or "model"


def write_results(out: Path, results: Mapping[str, Any]) -> Path:
    """Write `results.json` and return its path."""
    path = out / RESULTS
    replace_json(path, results)
    return path


def rendered(prompt: Sequence[Message], response: Sequence[Message]) -> str:
    """Return a conversation as plain text for the official files; without a chat template, since saved scores have no tokenizer."""
    return "\n".join(f"<|{message.role}|>\n{message.content}" for message in (*prompt, *response))


def write_official(
    out: Path,
    results: Mapping[str, Any],
    rows: Sequence[PairScore] | Sequence[RankedScore],
    records: Sequence[Record] = (),
    model: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write `eval-set/<model>.json` (subset accuracies) and `eval-set-scores/<model>.json` (columns of per-sample values).

    Prior sets go to `pref-sets/` and `pref-sets-scores/` instead, where the leaderboard's scripts look for them.

    `scores_chosen` and `scores_rejected` are the rewards of models that have them. If a model only compares, the official files have no
    column for one number per pair: `scores_chosen` holds the log-odds and `scores_rejected` zeros, so that `scores_chosen >
    scores_rejected` still tells which response won. Text columns are empty without records.

    Args:
        out: Output folder.
        results: The result of `pair_results` or `ranked_results`.
        rows: Per-sample scores.
        records: What was scored, in the order of the rows, if known.
        model: The fields `model`, `model_type` and `chat_template` of the official files.

    Returns:
        The paths, two for each kind of data set.
    """
    fields = {"model": "model", "model_type": "Custom Classifier", "chat_template": "tokenizer"} | dict(model or {})
    name = "/".join(part for part in Path(fields["model"]).parts if part not in ("/", "..", "."))
    texts = {id(row): record for row, record in zip(rows, records, strict=True)} if records else {}
    paths: list[Path] = []
    for place, prior in (("eval-set", False), ("pref-sets", True)):
        chosen = [row for row in rows if (row.subset in PRIOR_SETS) == prior]
        if not chosen:
            continue
        found = [out / folder / f"{name}.json" for folder in (place, f"{place}-scores")]
        accuracies = {subset: value["score"] for subset, value in results["subsets"].items() if (subset in PRIOR_SETS) == prior}
        replace_json(found[0], accuracies | fields, sort_keys=True)
        columns = _columns(chosen, [texts[id(row)] for row in chosen if id(row) in texts], results.get("scalarisation"))
        replace_json(found[1], columns | fields, sort_keys=True)
        paths += found
    return paths


def _columns(
    rows: Sequence[PairScore | RankedScore], records: Sequence[Record], scalarisation: Scalarisation | None
) -> dict[str, list[Any]]:
    """Return per-sample values as the official scripts write them."""
    columns: dict[str, list[Any]] = {"id": [row.id for row in rows], "subset": [row.subset for row in rows]}
    pairs = [row for row in rows if isinstance(row, PairScore)]
    ranked = [row for row in rows if isinstance(row, RankedScore)]
    if pairs:
        texts = [record for record in records if isinstance(record, Comparison)]
        known = [row.rewards for row in pairs if isinstance(row, RewardScore) and row.rewards is not None]
        rewards = known if len(known) == len(pairs) else [(row.score, 0.0) for row in pairs]
        return columns | {
            "results": [0.5 if math.isnan(row.score) else int(row.score > 0) for row in pairs],
            "scores_chosen": [None if math.isnan(chosen) else chosen for chosen, _ in rewards],
            "scores_rejected": [rejected for _, rejected in rewards],
            "text_chosen": [rendered(record.prompt, record.chosen) for record in texts] or [""] * len(pairs),
            "text_rejected": [rendered(record.prompt, record.rejected) for record in texts] or [""] * len(pairs),
        }
    assert scalarisation is not None
    prompts = [record for record in records if isinstance(record, RankedResponses)]
    return columns | {
        # Ties rows hold their best-of-K value here, as in the official files, although the Ties score does not use it.
        "results": [credit(row, scalarisation) for row in ranked],
        "scores": [list(rated(row.scores)) for row in ranked],
        "num_correct": [row.num_correct for row in ranked],
        "text": [[rendered(record.prompt, each) for each in record.responses] for record in prompts] or [[] for _ in ranked],
    }
