"""Results of a sweep from the folders of its points alone: a row per point, and paired tests between models on the same examples."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from prefrep.errors import DataError
from prefrep.metrics.intervals import Interval, Ints, accuracy_interval, bootstrap_means, percentile_interval, stream
from prefrep.metrics.paired import Difference, McNemar, bootstrap_difference, holm, mcnemar, t_interval
from prefrep.metrics.verdicts import Outcome, is_right

ABOUT, SCORES = "point.json", "scores.jsonl"
LEVEL = 0.05
DRAWS = 20_000
Floats = NDArray[np.float64]


class Row(Protocol):
    """One comparison of `scores.jsonl`."""

    @property
    def id(self) -> str:
        """Id of the comparison."""

    @property
    def subset(self) -> str:
        """Subset of the comparison."""

    @property
    def score(self) -> float:
        """Log-odds of chosen over rejected."""

    @property
    def probability(self) -> float:
        """P(chosen wins) according to the data."""

    @property
    def prompt(self) -> str:
        """Digest of its prompt; empty: a unique prompt."""


def points_folder(out: Path, name: str) -> Path:
    """Return the folder of a point."""
    return out / "points" / name


def read_about(folder: Path) -> dict[str, Any]:
    """Return the content of `point.json`; empty while the point is not finished."""
    try:
        return dict(json.loads((folder / ABOUT).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DataError(f"{folder / ABOUT}: damaged ({error}); delete the folder and start the sweep again") from error


def is_done(folder: Path) -> bool:
    """Return whether a point is finished and has its scores."""
    return read_about(folder).get("state") == "complete" and (folder / SCORES).is_file()


class Run(NamedTuple):
    """A finished or failed point.

    Args:
        about: Content of `point.json`.
        verdicts: Verdicts by subset and id of the comparison; empty for a failed point.
    """

    about: Mapping[str, Any]
    verdicts: Mapping[tuple[str, str], Outcome]

    def accuracy(self, subset: str | None = None) -> tuple[int, int]:
        """Return wins and comparisons, of one subset or of all."""
        won = [outcome.right for (name, _), outcome in self.verdicts.items() if subset is None or name == subset]
        return sum(won), len(won)

    def interval(self, subset: str | None = None) -> Interval:
        """Return Wilson's interval of the accuracy over examples; those on one prompt are dependent and count as one (conservative)."""
        wins, n = self.accuracy(subset)
        prompts = len({outcome.prompt or key for key, outcome in self.verdicts.items() if subset is None or key[0] == subset})
        return accuracy_interval(round(wins * prompts / max(n, 1)), prompts)


@dataclass(frozen=True)
class Model:
    """The runs of one model, which differ in their seed.

    Args:
        name: The model's name.
        values: Values of the sweep's keys.
        runs: Runs by seed, all evaluated on the same comparisons.
    """

    name: str
    values: Mapping[str, Any]
    runs: Mapping[int, Run]

    @property
    def data(self) -> str | None:
        """Digest of the comparisons on which all runs were evaluated; None: unknown."""
        return next(iter(self.runs.values())).about.get("data")

    @cached_property
    def by_example(self) -> dict[tuple[str, str], float]:
        """Share of seeds that are correct, for each example that all seeds share."""
        common = set.intersection(*(set(run.verdicts) for run in self.runs.values()))
        first = next(iter(self.runs.values())).verdicts
        return {key: float(np.mean([run.verdicts[key].right for run in self.runs.values()])) for key in first if key in common}

    def accuracies(self, subset: str | None = None) -> list[float]:
        """Return the accuracy of each seed, on one subset or on all examples."""
        return [wins / n for wins, n in (run.accuracy(subset) for run in self.runs.values()) if n]

    def interval(self, subset: str | None = None) -> Interval | None:
        """Return the interval of the accuracy: Student's over seeds, None if these tie; for a single seed Wilson's over examples."""
        values = self.accuracies(subset)
        if len(values) < 2:
            return next(iter(self.runs.values())).interval(subset)
        found = t_interval(values)
        return found and (max(found[0], 0.0), min(found[1], 1.0))

    @cached_property
    def independent(self) -> bool:
        """Whether no two examples share a prompt."""
        return len(set(_prompts([self], self.by_example))) == len(self.by_example)

    def interval_over_examples(self) -> Interval:
        """Return the interval of the mean accuracy over seeds by a bootstrap over prompts: these trained models on other examples."""
        values, prompts = np.round(list(self.by_example.values()), 12), _prompts([self], self.by_example)
        return percentile_interval(bootstrap_means(values, DRAWS, stream(0, self.name), prompts))


class PairTest(NamedTuple):
    """Two models on the same examples.

    Args:
        first: The better model.
        second: The other model.
        n: Number of examples for which both have scores.
        prompts: Number of their prompts, the unit of both tests.
        difference: Difference of accuracies averaged over seeds, by a bootstrap over prompts.
        mcnemar: Test on the majority verdicts of each model's seeds; examples without a majority are left out.
        bootstrap_holm: Corrected p-value of the bootstrap.
        mcnemar_holm: Corrected p-value of McNemar's test.
        seeds: Student's interval of the difference over the seeds that both have; None for fewer than two, or equal differences.
    """

    first: str
    second: str
    n: int
    prompts: int
    difference: Difference
    mcnemar: McNemar
    bootstrap_holm: float
    mcnemar_holm: float
    seeds: Interval | None

    @property
    def significant(self) -> bool:
        """Whether the difference is significant in both tests, corrected for the number of pairs."""
        return self.bootstrap_holm < LEVEL and self.mcnemar_holm < LEVEL


def read_runs(out: Path, read: Callable[[Path], Sequence[Row]]) -> list[Run]:
    """Return all finished and failed points of a sweep, sorted by name.

    Args:
        out: The sweep's folder.
        read: Reads a `scores.jsonl`.

    Raises:
        DataError: A file is damaged.
    """
    found = []
    for folder in sorted(path for path in (out / "points").glob("*") if path.is_dir()):
        about = read_about(folder)
        if not about or (about["state"] == "complete" and not is_done(folder)):  # the next start of the sweep finishes it
            continue
        rows = read(folder / SCORES) if about["state"] == "complete" else []
        rights = ((row, is_right(row.score, row.probability)) for row in rows)
        verdicts = {(row.subset, row.id): Outcome(right, row.prompt) for row, right in rights if right is not None}
        found.append(Run(about, verdicts))
    return found


def unfinished(out: Path, runs: Sequence[Run]) -> int:
    """Return how many points of a sweep are waiting, running or stopped.

    Args:
        out: The sweep's folder.
        runs: Its finished and failed points.
    """
    return sum(path.is_dir() for path in (out / "points").glob("*")) - len(runs)


def models(runs: Sequence[Run]) -> list[Model]:
    """Return finished runs by model, best first.

    Seeds that were trained with other settings, or evaluated on other comparisons, are a separate model.
    """
    groups: dict[tuple[str, str | None, str], dict[int, Run]] = {}
    for run in runs:
        if run.verdicts:
            key = run.about["model"], run.about.get("data"), run.about.get("recipe", "")
            groups.setdefault(key, {})[int(run.about["seed"])] = run
    found = []
    for (name, data, recipe), group in groups.items():
        alike = [key for key in groups if key[0] == name]
        full = name + (f", data {str(data)[:8]}" if len({key[1] for key in alike}) > 1 else "")
        full += f", recipe {recipe[:8] or 'unknown'}" if len({key[2] for key in alike}) > 1 else ""
        found.append(Model(full, next(iter(group.values())).about["values"], dict(sorted(group.items()))))
    return sorted(found, key=lambda model: (-float(np.mean(model.accuracies())), model.name))


def compare(found: Sequence[Model]) -> list[PairTest]:
    """Test every pair of models, corrected for the number of pairs (Holm), smallest p-values first.

    Models that were evaluated on different comparisons are not tested: ids can be mere numbers, which do not identify a comparison.

    Args:
        found: Models, best first.
    """
    pairs = [(a, b) for a, b in combinations(found, 2) if a.data == b.data]
    draws = max(DRAWS, int(4 * len(pairs) / LEVEL))  # the smallest p-value, 2 / (draws + 1), must pass the correction: half of the level
    raw: list[tuple[Model, Model, Ints, Difference, McNemar]] = []
    for a, b in pairs:
        common = [key for key in a.by_example if key in b.by_example]
        if not common:
            continue
        first, second = (np.array([model.by_example[key] for key in common]) for model in (a, b))
        prompts = _prompts([a, b], common)
        difference = bootstrap_difference(first, second, draws, stream(0, f"{a.name} | {b.name}"), prompts)
        clear = (first != 0.5) & (second != 0.5)  # an even split of seeds is no verdict
        raw.append((a, b, prompts, difference, mcnemar(first[clear] > 0.5, second[clear] > 0.5, prompts[clear])))
    corrected = zip(holm([each[3].p for each in raw]), holm([each[4].p for each in raw]), strict=True)
    tests = [
        PairTest(a.name, b.name, len(prompts), len(np.unique(prompts)), difference, exact, by_bootstrap, by_mcnemar, _over_seeds(a, b))
        for (a, b, prompts, difference, exact), (by_bootstrap, by_mcnemar) in zip(raw, corrected, strict=True)
    ]
    return sorted(tests, key=lambda test: (max(test.bootstrap_holm, test.mcnemar_holm), test.mcnemar.p, test.difference.p))


def _prompts(found: Sequence[Model], examples: Iterable[tuple[str, str]]) -> Ints:
    """Return a group number for each example, equal for examples on one prompt, which any of the runs can state."""
    runs, numbers = [run for model in found for run in model.runs.values()], dict[Any, int]()
    names = (next((run.verdicts[key].prompt for run in runs if run.verdicts[key].prompt), key) for key in examples)
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)


def _over_seeds(a: Model, b: Model) -> Interval | None:
    common = sorted(a.runs.keys() & b.runs.keys())
    wins = [(a.runs[seed].accuracy(), b.runs[seed].accuracy()) for seed in common]
    return t_interval([one[0] / one[1] - other[0] / other[1] for one, other in wins])


def subsets(found: Sequence[Model]) -> list[str]:
    """Return the names of the subsets of the validation set; empty if there is only one."""
    names = sorted({name for model in found for name, _ in model.by_example})
    return names if len(names) > 1 else []


def as_csv(runs: Sequence[Run]) -> str:
    """Return a CSV line per point and seed: values, accuracy with a Wilson interval over examples, and accuracy of each subset."""
    keys = list(dict.fromkeys(key for run in runs for key in run.about["values"] if key != "model"))
    names = subsets(models(runs))
    lines = []
    for run in runs:
        wins, n = run.accuracy()
        low, high = run.interval() if n else ("", "")
        line: dict[str, Any] = {"model": run.about["model"], "seed": run.about["seed"]}
        line |= {key: _cell(run.about["values"].get(key, "")) for key in keys}
        line |= {"state": run.about["state"], "n": n, "accuracy": wins / n if n else "", "low": low, "high": high}
        for name in names:
            won, of = run.accuracy(name)
            line[f"accuracy {name or '(no subset)'}"] = won / of if of else ""
        line |= {"engine": run.about["engine"], "seconds": round(run.about.get("seconds", 0), 2), "reason": run.about.get("reason", "")}
        lines.append(line)
    text = io.StringIO()
    if lines:
        writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    return text.getvalue()


def _cell(value: object) -> object:
    return json.dumps(value) if isinstance(value, dict | list | bool) or value is None else value


def pairs_csv(tests: Sequence[PairTest]) -> str:
    """Return a CSV line per pair of models."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["first", "second", "n", "prompts", "difference", "low", "high", "bootstrap_p", "bootstrap_p_holm", "only_first_right",
         "only_second_right", "mcnemar_p", "mcnemar_p_holm", "significant", "seeds_low", "seeds_high"]
    )  # fmt: skip
    for test in tests:
        over_seeds = test.seeds or ("", "")
        writer.writerow(
            [test.first, test.second, test.n, test.prompts, *test.difference, test.bootstrap_holm, *test.mcnemar, test.mcnemar_holm,
             test.significant, *over_seeds]
        )  # fmt: skip
    return text.getvalue()
