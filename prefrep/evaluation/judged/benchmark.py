"""A benchmark of judged responses as data: where its rows are, how a row gets its subset, and how scored rows are aggregated."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefrep.disk import replace_lines
from prefrep.evaluation.benchmarks import Benchmark
from prefrep.evaluation.judged.results import best_beats_all
from prefrep.evaluation.judged.rows import Asked, JudgedScore, prompts_of, score_judged, swap_pairs, worst_pairs
from prefrep.evaluation.pairs import MISTAKES, mistakes, pair_rows
from prefrep.evaluation.summary import Bootstrap
from prefrep.records import Record
from prefrep.scoring.interface import PreferenceScorer


@dataclass(frozen=True)
class Judged:
    """A benchmark of judged responses.

    Args:
        name: Name of the benchmark.
        hub: Data sets on the hub with its rows; empty: the caller must name data.
        subset: Subset of a record, from its fields and the name of its file.
        results: Aggregates scored rows.
        verdicts: Verdicts of a row that are right or wrong, each with a suffix to the row's id.
        asked: Pairs that a comparing model scores.
        format: Format of the rows; empty: the benchmark's name.
    """

    name: str
    hub: tuple[str, ...]
    subset: Callable[[Record], str]
    results: Callable[[list[JudgedScore], Bootstrap], dict[str, Any]]
    verdicts: Callable[[JudgedScore], list[tuple[str, bool]]] = best_beats_all
    asked: Asked = "across"
    format: str = ""

    def benchmark(self) -> Benchmark:
        """Return the benchmark for the path that all benchmarks share."""

        def score(scorer: PreferenceScorer, records: list[Record], out: Path, model: Mapping[str, Any], restart: bool) -> list[JudgedScore]:
            return score_judged(scorer, prompts_of(records, self.subset), out, model, self.name, self.asked, restart)

        def files(out: Path, results: Mapping[str, Any], rows: list[JudgedScore], records: list[Record]) -> list[Path]:
            if not records:
                return []
            pairs, scores = worst_pairs(rows, prompts_of(records, self.subset))
            replace_lines(out / MISTAKES, mistakes(pair_rows(pairs, scores), pairs))
            return [out / MISTAKES]

        return Benchmark(
            self.name, self.hub, JudgedScore, score, lambda rows, known, bootstrap: self.results(rows, bootstrap), files,
            lambda records: swap_pairs(prompts_of(records, self.subset)), self.format or self.name,
        )  # fmt: skip


def place_of(record: Record) -> list[str]:
    """Return the parts of the path or hub id that a record came from, last part first, without the row number."""
    source = re.sub(r":\d+$", "", record.source)
    return list(reversed(re.split(r"[/\\]", source)))


def named_in(text: str, names: Iterable[str]) -> str | None:
    """Return the first of some names that a text contains, ignoring case and punctuation; None: it contains none."""
    plain = re.sub(r"[\W_]+", "-", text.lower())
    return next((name for name in names if re.search(rf"(^|-){re.escape(re.sub(r'[^a-z0-9]+', '-', name.lower()))}(-|$)", plain)), None)
