"""A leaderboard as a page: ranking, who beats whom, circles, judges, and what was assumed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefrep.evaluation.leaderboard.printed import TESTS, numbers, ranks, verdict
from prefrep.reports import leaderboard_plots as plots
from prefrep.reports.document import Block, Section, Text, notes, number, table

_SETS = {
    "top_cycle": "Top cycle (Smith set): the smallest set whose members beat all others",
    "uncovered": "Uncovered set: those that reach every other one in two steps or less",
}
_MANY = 12  # names of a set that are listed


def build(results: Mapping[str, Any]) -> Section:
    """Return the page of `results.json`."""
    return Section(f"Leaderboard: {len(results['systems'])} systems, {results['battles']:,} battles", tuple(blocks(results)))


def blocks(results: Mapping[str, Any]) -> list[Block]:
    """Return the content of the page."""
    differ = results["differ"]
    said = f"{differ['pairs']:,} of {differ['of']:,} pairs of systems differ, with all pairs tested at once (95 %)."
    found: list[Block] = [Text(note, strong=True) for note in results["notes"]]
    ranking: list[Block] = [Text(said), plots.ratings(results), _ranking(results)]
    found.append(Section("Ranking", tuple(ranking)))
    found.append(Section("Who beats whom", (plots.wins(results), plots.surprises(results))))
    if "one_number" in results:
        found.append(Section("Does one number suffice?", tuple(_one_number(results))))
    found.append(Section("Judges", tuple(_judges(results))))
    assumed: list[Block] = [*notes([each[0].upper() + each[1:] + "." for each in results["assumed"]])]
    if "formats" in results:
        assumed.append(Text("Read: " + ", ".join(f"{file} ({kind})" for file, kind in results["formats"].items()) + "."))
    found.append(Section("What was assumed", tuple(assumed)))
    return found


def _span(results: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    low, high = (numbers(results, each) for each in entry["ci95"])
    return f"[{low}, {high}]"


def _ranking(results: Mapping[str, Any]) -> Block:
    sets = results.get("one_number", {}).get("sets", {})
    top, lottery = (sets.get(name, {}).get("probability", {}) for name in ("uncovered_certain", "maximal_lottery"))
    head = ["ranks", "system", "rating", "95 %", "is first", "battles", "wins"] + (["uncovered", "in lottery"] if sets else [])
    rows = []
    for row in results["systems"]:
        cells = [ranks(row), row["name"], numbers(results, row["rating"]["value"]), _span(results, row["rating"])]
        cells += [f"{row['first']:.2f}", str(row["battles"]), f"{row['win_rate']:.3f}"]
        rows.append(cells + ([f"{each.get(row['name'], 0):.2f}" for each in (top, lottery)] if sets else []))
    return table(head, rows)


def _one_number(results: Mapping[str, Any]) -> list[Block]:
    found = results["one_number"]
    forms = [
        (name, number(each["log_loss"]), f"{each['minus_ratings']:+.4f}", f"[{each['ci95'][0]:+.4f}, {each['ci95'][1]:+.4f}]")
        for name, each in found["forms"].items()
    ]
    tests = [
        (TESTS[name], f"{each['observed']:.4g}", f"{each['mean']:.4g}", "[{:.4g}, {:.4g}]".format(*each["ci95"]), f"{each['p']:.2g}")
        for name, each in found["tests"].items()
    ]
    spread = found["dependence"]
    how = (
        f"Transitive judges: {found['draws']} draws with the ratings, order effects, sharpness, ties and number of votes of these battles. "
        f"Answers differ from their systems with a standard deviation of {spread['spread']:.2f} nats, of which "
        f"{spread['share_of_answers']:.0%} belongs to single answers and the rest to pairs of answers. p: how often they show as much "
        f"or more; with {len(tests)} tests at once, one of {found['level']:.2g} or less says that one number does not suffice."
    )
    out: list[Block] = [
        Text(verdict(results), strong=True),
        table(("form", "held-out log loss, nats", "minus ratings", "95 %"), forms),
        table(("", "observed", "transitive judges", "95 %", "p"), tests),
        Text(how),
    ]
    for each in results["groups"]:
        taus = ("-" if g["kendall_tau_with_all"] is None else number(g["kendall_tau_with_all"]) for g in each["groups"])
        test = each["likelihood_ratio"]
        low, high = test["ci95"]
        words = "rank otherwise" if test["p"] <= 0.05 else "differ in sharpness and order effect only, as far as these battles tell"
        out.append(
            Text(
                f"{each['of'].capitalize()} {words}: likelihood ratio {test['observed']:.1f} against [{low:.1f}, {high:.1f}] where "
                f"all rank alike, p {test['p']:.2g}."
            )
        )
        rows = [
            (g["name"], str(g["battles"]), f"{g['sharpness']:.2f}", f"{g['order']:+.3f}", g["first"], tau)
            for g, tau in zip(each["groups"], taus, strict=True)
        ]
        out.append(table((each["of"], "battles", "sharpness", "order effect, nats", "first by its own", "Kendall tau with all"), rows))
    out += _best(found["sets"])
    if (plot := plots.circles(results)) is not None:
        out.append(plot)
        found_circles = [
            (" > ".join([*c["systems"], c["systems"][0]]), ", ".join(f"{a:g} : {b:g}" for a, b in c["votes"]), f"{c['weakest']:.2f}")
            for c in found["circles"]
        ]
        out.append(table(("circle", "votes", "weakest pair, standard errors"), found_circles))
    return out


def _best(sets: Mapping[str, Any]) -> list[Block]:
    rows = []
    for key, words in _SETS.items():
        possible, certain = (sets[f"{key}_{kind}"]["members"] for kind in ("possible", "certain"))
        rows.append((words, _listed(certain), "" if possible == certain else f"{len(possible)} possible, as pairs are unknown"))
    share = sets["maximal_lottery"]["share"]
    mixed = ", ".join(f"{name} {value:.2f}" for name, value in sorted(share.items(), key=lambda each: -each[1])[:_MANY])
    rows.append(("Maximal lottery: the mixture that no system beats on average", mixed, ""))
    return [table(("best systems without a ranking", "members", ""), rows)]


def _listed(names: list[str]) -> str:
    return f"{len(names)}: {', '.join(names[:_MANY])}{', ...' if len(names) > _MANY else ''}" if names else "none for certain"


def _judges(results: Mapping[str, Any]) -> list[Block]:
    rows = []
    for judge in results["judges"]:
        order, sharp = judge["order"], judge["sharpness"]
        rows.append(
            (
                judge["name"],
                str(judge["battles"]),
                "-" if judge["ties"] is None else f"{judge['ties']:.3f}",
                "-" if order is None else f"{order['value']:+.3f}",
                "-" if order is None else f"[{order['ci95'][0]:+.3f}, {order['ci95'][1]:+.3f}]",
                "-" if order is None else f"{order['first_wins']:.3f}",
                f"{sharp['value']:.2f}",
                "-" if sharp["ci95"] is None else f"[{sharp['ci95'][0]:.2f}, {sharp['ci95'][1]:.2f}]",
            )
        )
    head = ("judge", "battles", "ties", "order effect, nats", "95 %", "first wins between equals", "sharpness", "95 %")
    found: list[Block] = [table(head, rows)]
    if results["style"]:
        lines = [(s["feature"], f"{s['value']:+.3f}", f"[{s['ci95'][0]:+.3f}, {s['ci95'][1]:+.3f}]") for s in results["style"]]
        found.append(table(("style", "nats a standard deviation", "95 %"), lines))
    return found
