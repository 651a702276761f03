"""The results of one evaluation as a section: its tables, plots and mistakes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefrep.errors import DataError, PrefrepError
from prefrep.evaluation import intransitivity_plot
from prefrep.evaluation.registry import JUDGED
from prefrep.evaluation.reliability import reliability_plot
from prefrep.evaluation.summary import rule_of
from prefrep.evaluation.tables import read_tables
from prefrep.reports import judges, labels, leaderboard, samples
from prefrep.reports.document import Block, Example, Plot, Section, Text, interval, measured, notes, number, table
from prefrep.reports.figures import agreement, svg
from prefrep.reports.found import Evaluation, read_lines

SCORED = ("", "n", "score", "95 %")


def section(evaluation: Evaluation) -> Section:
    """Return the section of one evaluation; files that cannot be read are named, and the rest is shown."""
    title = evaluation.name if evaluation.name == evaluation.benchmark else f"{evaluation.name}: {evaluation.benchmark}"
    blocks: list[Block] = []
    problems: list[str] = []
    for part in (_ABOUT[evaluation.benchmark], _check, _examples):
        try:
            blocks += part(evaluation)
        except PrefrepError as error:
            problems.append(str(error))
        except (KeyError, TypeError, ValueError, IndexError) as error:  # a file of another version, or edited by hand
            problems.append(f"{evaluation.folder}: not in the format of this version of prefrep eval ({error!r}); run the evaluation again")
    return Section(title, (*(Text(problem, strong=True) for problem in problems), *blocks))


def _about(evaluation: Evaluation) -> Text:
    results = evaluation.results
    model, data = results.get("model"), results.get("data")
    said = [f"Model: {model['name'] if 'name' in model else model['path']}." if model else "", f"Data: {_names(data)}." if data else ""]
    return Text(" ".join(filter(None, said)))


def _names(data: object) -> str:
    return ", ".join(map(str, data)) if isinstance(data, list) else str(data)


def _check(evaluation: Evaluation) -> list[Block]:
    wrong = samples.contradiction(evaluation, samples.verdicts(evaluation))
    return [Text(wrong, strong=True)] if wrong else []


def _examples(evaluation: Evaluation) -> list[Block]:
    found: Sequence[Example] = samples.examples(evaluation)
    return [Section(samples.sentence(evaluation), tuple(found))] if found else []


def _scored(label: str, value: Mapping[str, Any] | None) -> tuple[str, ...]:
    return (label, *measured(value))


def _subsets(results: Mapping[str, Any], key: str = "subsets") -> list[tuple[str, ...]]:
    return [_scored(name or "(no subset)", value) for name, value in results[key].items()]


# -------------------------------------------------------------------------------------------------------------------- RewardBench
def _rewardbench(evaluation: Evaluation) -> list[Block]:
    results = evaluation.results
    rows = [_scored("overall", results["overall"])]
    if "accuracy" in results:
        rows.append(_scored("accuracy over all rows", results["accuracy"]))
    rows += _subsets(results, "sections")
    blocks: list[Block] = [Text(f"{_about(evaluation).text} Rule of the overall: {rule_of(results)}.".strip()), table(SCORED, rows)]
    wilson = results.get("wilson95")
    if not wilson:
        blocks.append(table(("subset", *SCORED[1:]), _subsets(results)))
    else:
        by_subset = zip(results["subsets"], _subsets(results), strict=True)
        found = [(*row, interval(wilson[name]) if name in wilson else "") for name, row in by_subset]
        blocks.append(table(("subset", *SCORED[1:], "95 % (Wilson)"), found))
    for title, found in results.get("tables", {}).items():
        blocks.append(table((title, *SCORED[1:]), [_scored(label, value) for label, value in found.items()]))
    return [*blocks, *notes(results["notes"])]


# -------------------------------------------------------------------------------------------------------------------------- pairs
def _pairs(evaluation: Evaluation) -> list[Block]:
    results = evaluation.results
    length, margin, found = results["agreement"]["length"], results["agreement"]["margin"], results["calibration"]
    rows = [_scored("accuracy", results["overall"])]
    if len(results["subsets"]) > 1:
        rows += _subsets(results)
    by_group = [_scored(key.replace("_", " "), length[key]) for key in ("preferred_longer", "same_length", "preferred_shorter")]
    by_group += [_scored(f"preferred answer longer by {group['low']:.0f} to {group['high']:.0f}", group) for group in length["bins"]]
    if margin is not None:
        by_group += [_scored(f"margin {group['low']:.3g} to {group['high']:.3g}", group) for group in margin["bins"]]
    choices = [_scored(key.replace("_", " "), length[key]) for key in ("model_chooses_longer", "data_choose_longer")]
    plots = [plot for plot in (agreement(results),) if plot is not None]
    reliability = Plot(
        "reliability",
        svg(lambda path: reliability_plot(results, path)),
        "svg",
        "Reliability diagram: accuracy by confidence. On the dashed line, the model is calibrated.",
    )
    return [
        _about(evaluation),
        table(SCORED, rows),
        Section("Agreement by length and margin", (table(SCORED, by_group), *plots, table(("longer answer", *SCORED[1:]), choices))),
        Section("Calibration", (_calibration(found), reliability)),
        *notes(results["notes"]),
    ]


def _calibration(found: Mapping[str, Any]) -> Block:
    fitted = found["temperature"]
    measures = [("before scaling", found)]
    if fitted is not None:
        measures.append((f"temperature {fitted['value']:.3g} {interval(fitted['ci95'])}, fitted on {fitted['n']} others", fitted["after"]))
    rows = []
    for name, each in measures:
        rows += [(name, *_scored(label, each[key]), "") for label, key in (("Brier score", "brier"), ("log loss, nats", "log_loss"))]
        error, chance = each["ece"], each["ece"]["if_calibrated"]
        by_chance = f"{number(chance['mean'])}, 95 % below {number(chance['p95'])}"
        rows.append((name, "calibration error (ECE)", str(error["n"]), number(error["score"]), "", by_chance))
    return table(("probabilities", *SCORED, "if calibrated"), rows)


# ----------------------------------------------------------------------------------------------------------------- intransitivity
_CYCLES = (
    ("cyclic triples", "triples.cyclic"),
    ("cyclic triples, or cyclic but for a tie", "triples.intransitive"),
    ("prompts with a cycle", "prompts_with_a_cycle"),
    ("verdicts that the best order violates", "feedback_arcs.arcs"),
    ("weight that the best order violates", "feedback_arcs.weight"),
    ("energy: gradient (transitive)", "energy.gradient"),
    ("energy: curl (cycles of three)", "energy.curl"),
    ("energy: harmonic (longer cycles)", "energy.harmonic"),
    ("energy: cyclic, both", "energy.cyclic"),
    ("energy: cyclic, for pure noise", "energy.cyclic_of_noise"),
    ("Condorcet winner", "condorcet_winner"),
)
_SHAPES = (("rank", "rank"), ("effective rank", "effective_rank"), ("dimension for 95 % of the energy", "dimension"))


def _at(results: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    found: Any = results
    for part in key.split("."):
        found = found.get(part) if found else None
    return None if found is None else dict(found)


def _intransitivity(evaluation: Evaluation) -> list[Block]:
    results = evaluation.results
    null = results["null"]
    rows = []
    for label, key in _CYCLES:
        against = (interval(null[key]["ci95"]), f"{null[key]['p']:.3g}") if key in null else ("", "")
        rows.append((*_scored(label, _at(results, key)), *against))
    tables = results["tables"]
    about = _about(evaluation).text
    kinds = ", ".join(f"{n} {kind}" for kind, n in tables["kinds"].items())
    shapes = [_scored(label, _at(results, key)) for label, key in _SHAPES if key in results]
    for title, key in (("Kendall tau", "kendall_tau"), ("same winner", "same_winner")):
        shapes += [_scored(f"{title}, {name}", value) for name, value in results.get(key, {}).items()]
    blocks: list[Block] = [
        Text(f"{about} {tables['n']} tables ({kinds}), {sum(tables['triples'].values())} triples.".strip()),
        table(("", "prompts", "share", "95 %", "transitive null, 95 %", "p"), rows),
        Text("p: how often a transitive model with the same noise gives as much or more."),
    ]
    if shapes:
        blocks.append(table(("rankings and ranks", "prompts", "mean", "95 %"), shapes))
    if results["blocks"]:
        names = ("energy", "cyclic", "of_transitive_part", "of_cyclic_part")
        lines = [(str(i), *(measured(block[name])[1] for name in names)) for i, block in enumerate(results["blocks"], 1)]
        blocks.append(table(("block", "share of the energy", "cyclic in it", "of the transitive part", "of the cyclic part"), lines))
    models = [f"null of {kind}: {words}" for kind, words in null["models"].items()]
    return [*blocks, *_most_cyclic(evaluation), *notes([*models, *results["notes"]])]


def _most_cyclic(evaluation: Evaluation) -> list[Block]:
    """Return the cycle graph of the most cyclic prompt, and its texts."""
    described = read_lines(evaluation.folder / "prompts.jsonl")
    if not described:
        return []
    rows = read_tables(evaluation.folder)
    if [(row.id, row.subset) for row in rows] != [(found["id"], found["subset"]) for found in described]:
        raise DataError(f"{evaluation.folder}: tables.jsonl and prompts.jsonl are of different prompts; run the evaluation again")
    chosen = intransitivity_plot.most_cyclic(described)
    row, found = rows[chosen], described[chosen]

    def draw(path: Path) -> None:
        intransitivity_plot.draw(path, row, found, [found["prompt"], *found["texts"]], evaluation.results)

    circles = found["triples"]["cyclic"] + found["triples"]["tied_cyclic"]
    name = f"The most cyclic prompt, {found['id']}" if circles else f"No prompt has a cycle; the first one, {found['id']}"
    caption = f"{name}: its verdicts; and the share of intransitive triples among those of a transitive model."
    texts = [(intransitivity_plot.label(i), samples.cut(text)) for i, text in enumerate(found["texts"])]
    example = Example(name, (("Prompt", samples.cut(found["prompt"])), *texts))
    return [Plot("cycles", svg(draw), "svg", caption), example]


# ----------------------------------------------------------------------------------------------------------------------- win rate
def _winrate(evaluation: Evaluation) -> list[Block]:
    results = evaluation.results
    length = results["mean_length"]
    labels = (("win rate", "win_rate"), ("strict wins", "strict_wins"), ("length-controlled (minimal)", "length_controlled_minimal"))
    said = (
        f"{results['a']} against {results['b']}, judged by {results['judge']['path']}: {results['wins']} wins, {results['ties']} ties, "
        f"{results['losses']} losses; mean length {length['a']:.0f} and {length['b']:.0f} characters."
    )
    return [Text(said), table(SCORED, [_scored(label, results[key]) for label, key in labels]), *notes(results["notes"])]


# ------------------------------------------------------------------------------------------------------------------------- league
def _league(evaluation: Evaluation) -> list[Block]:
    results = evaluation.results
    names = sorted(results["policies"], key=lambda name: -results["mean"][name]["score"])
    rows = []
    for name in names:
        kl, lottery = results["kl"][name], results["lottery"][name]
        _, *mean = measured(results["mean"][name])
        rows.append((name, "-" if kl is None else f"{kl:.3g}", *mean, number(lottery["score"]), interval(lottery["ci95"])))
    wins = [(a, *("-" if a == b else number(results["win"][a][b]["score"]) for b in names)) for a in names]
    count = results["triples"]
    said = f"{count['cyclic']} of {count['n']} triples are cycles, {count['each_beyond_chance']} of them beyond chance in each pair."
    cycles = [
        (" > ".join([*each["policies"], each["policies"][0]]), *map(number, each["win"]), number(each["share_of_resamples"]))
        for each in results["cycles"]
    ]
    circles = [table(("cycle", "first win", "second", "third", "in resamples"), cycles)] if cycles else []
    return [
        Text(f"{results['n']} prompts, judged by {results['judge']['path']}. {said}"),
        table(("policy", "KL to the start, nats", "mean win rate", "95 %", "maximal lottery", "95 %"), rows),
        table(("wins against", *names), wins),
        *circles,
        *notes(results["notes"]),
    ]


# -------------------------------------------------------------------------------------------------------------------------- steps
def _steps(evaluation: Evaluation) -> list[Block]:
    results = evaluation.results
    return [_about(evaluation), table(("first wrong step", *SCORED[1:]), _subsets(results)), *notes(results["notes"])]


_ABOUT: Mapping[str, Callable[[Evaluation], list[Block]]] = {
    "pairs": _pairs,
    "rewardbench": _rewardbench,
    "rewardbench2": _rewardbench,
    **dict.fromkeys(JUDGED, _rewardbench),
    "intransitivity": _intransitivity,
    "winrate": _winrate,
    "leaderboard": lambda evaluation: leaderboard.blocks(evaluation.results),
    "judge": lambda evaluation: judges.blocks(evaluation.results),
    "league": _league,
    "label": labels.blocks,
    "steps": _steps,
}
