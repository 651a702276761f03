"""The benchmarks of reward models by name, and detection of those whose data a folder holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefrep.errors import ConfigError, DataError, PrefrepError
from prefrep.evaluation.benchmarks import Benchmark
from prefrep.evaluation.judged.benchmark import Judged
from prefrep.evaluation.judged.bestofn import BESTOFN
from prefrep.evaluation.judged.judgebench import JUDGEBENCH
from prefrep.evaluation.judged.ppe import PPE
from prefrep.evaluation.judged.rmb import RMB
from prefrep.evaluation.judged.rmbench import RMBENCH
from prefrep.evaluation.layout import write_official
from prefrep.evaluation.rows import PairScore, RankedScore, RewardScore
from prefrep.evaluation.summary import Bootstrap, Scalarisation, pair_results, ranked_results
from prefrep.metrics.rewardbench import TiesRule, Weights
from prefrep.records import Record
from prefrep.scoring.interface import PreferenceScorer

JUDGED: dict[str, Judged] = {each.name: each for each in (RMBENCH, JUDGEBENCH, RMB, PPE, BESTOFN)}


def rewardbench(weights: Weights = "current") -> Benchmark:
    """Return RewardBench 1.

    Args:
        weights: Weights of the sections.
    """
    from prefrep.evaluation.rewardbench import pairs_of, score_pairs

    def results(rows: list[PairScore], known: Mapping[str, Any], bootstrap: Bootstrap) -> dict[str, Any]:
        return pair_results(rows, weights, bootstrap)

    hub = ("allenai/reward-bench:filtered",)
    return Benchmark("rewardbench", hub, RewardScore, score_pairs, results, _official, pairs_of, "rewardbench")


def rewardbench2(ties: TiesRule = "main", scalarisation: Scalarisation | None = None) -> Benchmark:
    """Return RewardBench 2.

    Args:
        ties: Version of the official code that scores the Ties subset.
        scalarisation: How an answer gets one score; None: rewards for models that have them, round-robin for others.
    """
    from prefrep.evaluation.rewardbench import pairs_of, score_ranked

    def rule(pairwise: bool | None) -> Scalarisation:
        return scalarisation or ("round-robin" if pairwise else "rewards")

    def score(scorer: PreferenceScorer, records: list[Record], out: Path, model: Mapping[str, Any], restart: bool) -> list[RankedScore]:
        return score_ranked(scorer, records, out, model, rule(scorer.pairwise), restart)

    def results(rows: list[RankedScore], known: Mapping[str, Any], bootstrap: Bootstrap) -> dict[str, Any]:
        stated = known.get("scalarisation")
        if stated and scalarisation not in (None, stated):
            raise ConfigError(f"these scores were made with '{stated}'; to use another --scalarisation, score with --model")
        return ranked_results(rows, ties, stated or rule(known["pairwise"]), bootstrap)

    hub = ("allenai/reward-bench-2:test",)
    return Benchmark("rewardbench2", hub, RankedScore, score, results, _official, pairs_of, "rewardbench2")


def _official(out: Path, results: Mapping[str, Any], rows: list[Any], records: list[Record]) -> list[Path]:
    model = results["model"]
    kind = "Custom Classifier" if model.get("pairwise", True) else "Seq. Classifier"
    return write_official(out, results, rows, records, {"model": model["name"], "model_type": kind})


def benchmarks() -> dict[str, Benchmark]:
    """Return the benchmarks whose rows can be detected, by name, with the default options."""
    found = {"rewardbench": rewardbench(), "rewardbench2": rewardbench2()}
    return found | {name: each.benchmark() for name, each in JUDGED.items() if not each.format}


def find(folder: str | Path) -> tuple[dict[str, list[str]], list[str]]:
    """Find the benchmarks in a folder; the first row of a file decides to which one it belongs.

    Args:
        folder: The folder; sub-folders are searched too.

    Returns:
        Files by benchmark, and for each other file a sentence that says why it was skipped.

    Raises:
        DataError: There is no such folder, or no data file in it.
    """
    from prefrep.data.files import SUFFIXES
    from prefrep.data.formats import detect
    from prefrep.data.sources import rows

    if not Path(folder).is_dir():
        raise DataError(f"{folder}: no such folder; name a folder with benchmark files")
    known = benchmarks()
    found: dict[str, list[str]] = {}
    left: list[str] = []
    for file in sorted(path for path in Path(folder).rglob("*") if path.is_file() and path.name.endswith(SUFFIXES)):
        try:
            row, place = next(rows(file))
            format = detect(row, place)
        except PrefrepError as error:
            left.append(str(error))
            continue
        if format in known:
            found.setdefault(format, []).append(str(file))
        else:
            left.append(f"{file}: rows have the format {format}, which is no benchmark")
    if not found and not left:
        raise DataError(f"{folder}: the folder holds no {', '.join(SUFFIXES)}")
    return {name: found[name] for name in known if name in found}, left
