"""Results of evaluations as tables for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from prefrep.evaluation.summary import rule_of
from prefrep.metrics.rewardbench import section_weights


def benchmark_lines(results: Mapping[str, Any]) -> list[str]:
    """Return the results as lines of a table, followed by their notes."""
    subsets: dict[str, Any] = dict(results["subsets"])
    groups: list[tuple[str, list[str]]] = list(results.get("members", {}).items())
    if results["benchmark"] == "rewardbench":
        groups = [(section, list(table)) for section, table in section_weights(subsets, results["weights"]).items()]
    inside = {subset for _, members in groups for subset in members}
    lines = [f"{'':<28}{'n':>6}  {'score':>6}  95 % interval"]

    def line(label: str, value: Mapping[str, Any]) -> str:
        low, high = value["ci95"]
        return f"{label:<28}{value['n']:>6}  {value['score']:>6.3f}  [{low:.3f}, {high:.3f}]"

    for section, members in groups:
        lines.append(line(section, results["sections"][section]))
        if members != [section]:
            lines += [line(f"  {subset}", subsets[subset]) for subset in members]
    lines += [line(subset or "(no subset)", value) for subset, value in subsets.items() if subset not in inside]
    lines.append(line("overall", results["overall"]))
    if "accuracy" in results:
        lines.append(line("all rows equal", results["accuracy"]))
    for title, table in results.get("tables", {}).items():
        lines += [f"{title}:", *(line(f"  {label}", value) for label, value in table.items())]
    lines += ["", f"{results['benchmark']}, {rule_of(results)}, model: {results['model']['name']}"]
    if "swap" in results:
        swap = results["swap"]
        lines.append(f"swapping: {swap['consistent']:.1%} of {swap['n']} verdicts flip as required ({swap['orders']})")
    return lines + [textwrap.fill(f"note: {note}", 120, subsequent_indent="      ", break_on_hyphens=False) for note in results["notes"]]


def overview_lines(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the overall score of several benchmarks as lines of a table."""
    lines = [f"{'':<28}{'n':>6}  {'score':>6}  95 % interval"]
    for name, found in results.items():
        value, (low, high) = found["overall"], found["overall"]["ci95"]
        shown = f"{name:<28}{value['n']:>6}  {value['score']:>6.3f}  [{low:.3f}, {high:.3f}]"
        lines.append(shown + ("  partial data" if found["partial"] else ""))
    return lines


def pair_lines(results: dict[str, Any]) -> list[str]:
    """Return the results as lines of a table, followed by their notes."""
    measured, length, margin = results["calibration"], results["agreement"]["length"], results["agreement"]["margin"]
    lines = [f"{'':<40}{'n':>7}  {'score':>7}  95 % interval"]

    def add(label: str, value: dict[str, Any]) -> None:
        low, high = value["ci95"]
        if value["n"]:
            lines.append(f"{label:<40}{value['n']:>7}  {value['score']:>7.3f}  [{low:.3f}, {high:.3f}]")

    add("accuracy", results["overall"])
    if len(results["subsets"]) > 1:
        for name, value in results["subsets"].items():
            add(f"  {name or '(no subset)'}", value)
    for key in ("preferred_longer", "same_length", "preferred_shorter"):
        add(f"  {key.replace('_', ' ')}", length[key])
    for group in [] if margin is None else margin["bins"]:
        add(f"  margin {group['low']:.3g} to {group['high']:.3g}", group)
    add("model chooses the longer answer", length["model_chooses_longer"])
    add("data choose the longer answer", length["data_choose_longer"])
    found = [("", measured)]
    fitted = measured["temperature"]
    if fitted is not None:
        found.append((f", temperature {fitted['value']:.3g}", fitted["after"]))
    for suffix, each in found:
        for name, key in (("Brier score", "brier"), ("log loss (nats)", "log_loss")):
            add(name + suffix, each[key])
        error, chance = each["ece"], each["ece"]["if_calibrated"]
        by_chance = f"by chance, if calibrated: {chance['mean']:.3f}, 95 % below {chance['p95']:.3f}"
        lines.append(f"{'calibration error (ECE)' + suffix:<40}{error['n']:>7}  {error['score']:>7.3f}  {by_chance}")
    return lines + ["", f"model: {results['model']['name']}"] + [f"note: {note}" for note in results["notes"]]


def winrate_lines(results: dict[str, Any]) -> list[str]:
    """Return the results as lines of a table, followed by their notes."""
    lines = [
        f"{results['a']} against {results['b']}, judged by {results['judge']['path']}",
        f"{'':<28}{'n':>6}  {'score':>6}  95 % interval",
    ]
    labels = {"win_rate": "win rate", "strict_wins": "strict wins", "length_controlled_minimal": "length-controlled (minimal)"}
    for key, label in labels.items():
        value = results[key]
        low, high = value["ci95"]
        lines.append(f"{label:<28}{value['n']:>6}  {value['score']:>6.3f}  [{low:.3f}, {high:.3f}]")
    length = results["mean_length"]
    lines.append(f"{results['wins']} wins, {results['ties']} ties, {results['losses']} losses; ")
    lines[-1] += f"mean length {length['a']:.0f} and {length['b']:.0f} characters"
    return lines + [f"note: {note}" for note in results["notes"]]


def league_lines(results: Mapping[str, Any]) -> list[str]:
    """Return the results as lines of a table, best mean win rate first, followed by cycles and notes."""
    names = sorted(results["policies"], key=lambda name: -results["mean"][name]["score"])
    title, count = "row wins against", results["triples"]
    width = max(*map(len, names), len(title)) + 2
    lines = [
        f"{results['n']} prompts, judged by {results['judge']['path']}",
        f"{'':<{width}}{'KL':>6}  {'mean win':>8}  {'95 % interval':<16}{'lottery':>9}  95 % interval",
    ]

    def shown(value: Mapping[str, Any]) -> str:
        low, high = value["ci95"]
        return f"{value['score']:>8.3f}  [{low:.3f}, {high:.3f}]"

    for name in names:
        kl = results["kl"][name]
        start = f"{name:<{width}}{'-' if kl is None else f'{kl:.2f}':>6}  "
        lines.append(f"{start}{shown(results['mean'][name])}  {shown(results['lottery'][name])}")
    columns = {name: max(len(name), 5) + 2 for name in names}
    lines += ["", f"{title:<{width}}" + "".join(f"{name:>{size}}" for name, size in columns.items())]
    for name in names:
        cells = {other: f"{results['win'][name][other]['score']:.3f}" if other != name else "-" for other in names}
        lines.append(f"{name:<{width}}" + "".join(f"{cells[other]:>{size}}" for other, size in columns.items()))
    lines += ["", f"{count['cyclic']} of {count['n']} triples are cycles, {count['each_beyond_chance']} of them beyond chance in each pair"]
    for cycle in results["cycles"]:
        members, rates = cycle["policies"], ", ".join(f"{rate:.3f}" for rate in cycle["win"])
        lines.append(f"  {' > '.join([*members, members[0]])} ({rates}; in {cycle['share_of_resamples']:.0%} of resamples)")
    return lines + [f"note: {note}" for note in results["notes"]]


def intransitivity_lines(results: Mapping[str, Any]) -> list[str]:
    """Return the results as lines of a table, followed by their notes."""
    found, null = results["tables"], results["null"]
    kinds = ", ".join(f"{n} {kind}" for kind, n in found["kinds"].items())
    triples = found["triples"]
    lines = [
        f"{found['n']} tables ({kinds}); {found['complete']} complete; {sum(triples.values())} triples: {triples['cyclic']} cyclic, "
        f"{triples['ordered']} ordered, {triples['tied_cyclic']} cyclic but for a tie, {triples['tied']} with harmless ties",
        "",
        f"{'':<34}{'prompts':>8}  {'share':>6}  {'95 % interval':<16}  {'transitive null':<16}  p",
    ]

    def line(label: str, value: Mapping[str, Any] | None, against: str = "") -> str:
        if value is None:
            return f"{label:<34}{0:>8}  {'-':>6}"
        low, high = value["ci95"]
        shown = f"{label:<34}{value['n']:>8}  {value['score']:>6.3f}  [{low:.3f}, {high:.3f}]"
        if against in null:
            low, high = null[against]["ci95"]
            shown += f"    [{low:.3f}, {high:.3f}]    {null[against]['p']:.3g}"
        return shown

    arcs, energy = results["feedback_arcs"], results["energy"]
    lines += [
        line("cyclic triples", results["triples"]["cyclic"], "triples.cyclic"),
        line("  or cyclic but for a tie", results["triples"]["intransitive"], "triples.intransitive"),
        line("prompts with a cycle", results["prompts_with_a_cycle"]),
        line("verdicts that the best order violates", arcs["arcs"], "feedback_arcs.arcs"),
        line("  by weight", arcs["weight"]),
        line("energy: gradient (transitive)", energy["gradient"]),
        line("  curl (cycles of three)", energy["curl"]),
        line("  harmonic (longer cycles)", energy["harmonic"]),
        line("  cyclic, both", energy["cyclic"], "energy.cyclic"),
        line("  cyclic, for pure noise", energy["cyclic_of_noise"]),
    ]
    if "condorcet_winner" in results:
        lines.append(line("Condorcet winner", results["condorcet_winner"]))
        lines += ["", f"{'':<34}{'prompts':>8}  {'mean':>6}  95 % interval"]
        lines += [line(label, results[key]) for label, key in (("rank", "rank"), ("effective rank", "effective_rank"))]
        lines.append(line("dimension for 95 % of the energy", results["dimension"]))
        lines += [line(f"Kendall tau, {name}", value) for name, value in results["kendall_tau"].items()]
        lines += [line(f"same winner, {name}", value) for name, value in results["same_winner"].items()]
    if results["blocks"]:
        lines += ["", f"{'block':<8}{'of the energy':>14}{'cyclic in it':>14}{'of transitive':>15}{'of cyclic part':>16}"]
        names = ("energy", "cyclic", "of_transitive_part", "of_cyclic_part")
        widths = (14, 14, 15, 16)
        for number, block in enumerate(results["blocks"], 1):
            cells = ["-" if block[name] is None else f"{block[name]['score']:.3f}" for name in names]
            lines.append(f"{number:<8}" + "".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)))
    if "by_annotator" in results:
        lines += _annotator_lines(results["by_annotator"])
    if "against" in results:
        other, cyclic, transitive = results["against"], results["against"]["cyclic"], results["against"]["gradient"]["correlation"]
        lines += ["", f"against {other['path']}, {other['n']} prompts:"]
        if transitive is None:
            lines.append("transitive parts: one of the two has none")
        else:
            lines.append(f"the transitive parts correlate with r = {transitive:.3f}")
        if cyclic["correlation"] is None:
            lines.append("cyclic parts: one of the two has none")
        elif cyclic["p"] is None:
            why = "no p-value without --model: the margins of an order have cyclic parts too, which equal orders share"
            lines.append(f"the cyclic parts correlate with r = {cyclic['correlation']:.3f} ({why})")
        else:
            low, high = cyclic["ci95"]
            noise = f"independent noise: [{low:.3f}, {high:.3f}], p = {cyclic['p']:.3g}"
            lines.append(f"the cyclic parts correlate with r = {cyclic['correlation']:.3f} ({noise})")
    lines += ["", "p: how often the transitive null gives as much or more; close to 1: fewer cycles than from noise alone"]
    notes = [*(f"null of {kind}: {words}" for kind, words in null["models"].items()), *(f"note: {note}" for note in results["notes"])]
    return lines + [textwrap.fill(note, 120, subsequent_indent="      ", break_on_hyphens=False) for note in notes]


def _annotator_lines(found: Mapping[str, Any]) -> list[str]:
    lines = ["", f"{'of ' + str(found['annotators']) + ' annotators':<34}{'prompts':>8}  {'share':>6}  {'95 % interval':<16}  "]
    lines[-1] += f"{'no shared taste':<16}  p"
    for label, key in (
        ("energy of the society: cyclic", "society.cyclic"),
        ("  between annotators", "society.between"),
        ("  within annotators", "society.within"),
        ("majority: cyclic triples", "majority.cyclic"),
        ("  of the transitive parts alone", "majority.of_orders"),
        ("annotators: cyclic triples, mean", "annotators.cyclic"),
        ("  cyclic energy, mean", "annotators.energy"),
    ):
        value, drawn = found[key], found["null"].get(key)
        shown = f"{label:<34}{0:>8}  {'-':>6}"
        if value is not None:
            low, high = value["ci95"]
            shown = f"{label:<34}{value['n']:>8}  {value['score']:>6.3f}  [{low:.3f}, {high:.3f}]"
        if value is not None and drawn is not None:
            low, high = drawn["ci95"]
            shown += f"    [{low:.3f}, {high:.3f}]    {drawn['p']:.3g}"
        lines.append(shown)
    return [*lines, "no shared taste: responses relabelled at random for each annotator; p: how often that gives as much or more"]
