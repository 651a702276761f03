"""An audit of judges as a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefrep.evaluation.audit.audit import TITLES
from prefrep.reports.document import Block, Section, Text, interval, measured, notes, number, table

_CIRCLES = {"hard": "contradict a weak order", "cycles": "run in a circle", "soft": "soft intransitivity, nats"}


def build(results: Mapping[str, Any]) -> Section:
    """Return the page of `results.json`."""
    return Section("Judges", tuple(blocks(results)))


def blocks(results: Mapping[str, Any]) -> list[Block]:
    """Return the content of the page."""
    found: list[Block] = [Text(note, strong=True) for note in results["notes"]]
    found += [Section(name, tuple(_judge(each))) for name, each in results["judges"].items()]
    if results["several"] is not None:
        found.append(Section("Together", tuple(_several(results["several"]))))
    return found


def _judge(each: Mapping[str, Any]) -> list[Block]:
    shares = [["no verdict", *measured(each["no_verdict"])]]
    shares += [[TITLES[name], *measured(value)] for name, value in (each["labels"] or {}).items()]
    if each["people"]:
        shares.append(["agrees with the majority of people", *measured(each["people"]["judge"])])
        if "people" in each["people"]:
            one = each["people"]["people"]
            shares.append(["one person with the majority of the others", str(one["n"]), number(one["score"]), "-"])
    if each["consistency"]:
        same = each["consistency"]
        shares.append(["both orders agree" + (f" ({same['both_tied']} times on a tie)" if same["both_tied"] else ""), *measured(same)])
    found: list[Block] = [
        Text(f"{each['pairs']:,} pairs on {each['prompts']:,} prompts."),
        table(["", "n", "share", "95 %"], shares),
    ]
    if reasons := each["no_verdict"]["reasons"]:
        found += notes([f"No verdict: {', '.join(f'{count} {why}' for why, count in reasons.items())}."])
    nats = []
    if (place := each["position"]) is not None and place["nats"] is not None:
        nats.append([f"first place ({place['rule']})", number(place["nats"]), _interval(place["ci95"])])
    for name, value in (each["at_equal_strength"] or {}).items():
        if isinstance(value, dict):
            nats.append([f"at equal strength: {name}", number(value["nats"]), _interval(value["ci95"])])
    if nats:
        told = "What moves the log-odds: features per standard deviation of the difference of their logarithms."
        found += [Text(told), table(["", "nats", "95 %"], nats)]
    if (sure := each["calibration"]) is not None:
        found += notes([f"Log loss against labels: {number(sure['log_loss']['score'])} nats, where a coin has 0.693."])
    if (rings := each["circles"]) is not None:
        rows = [
            [title, number(rings[key]["observed"]), interval(rings[key]["transitive"]["range95"]), number(rings[key]["p"])]
            for key, title in _CIRCLES.items()
        ]
        told = f"Circles among {rings['triples']:,} triples, beside transitive judges as sharp and as biased."
        found += [Text(told), table(["triples that", "share", "transitive judges", "p"], rows)]
        far = [[str(row["distance"]), str(row["triples"]), number(row["hard"])] for row in rings["by_distance"]]
        found.append(table(["ranks between best and worst", "triples", "contradict"], far))
    return found


def _several(more: Mapping[str, Any]) -> list[Block]:
    alpha = "undefined" if more["alpha"] is None else number(more["alpha"])
    names = list(more["agreement"])
    rows = [[a, *("-" if a == b else measured(more["agreement"][a][b])[1] for b in names)] for a in names]
    found: list[Block] = [
        Text(f"Krippendorff's alpha (ordinal) over {more['units']:,} pairs: {alpha}."),
        table(["agreement", *names], rows),
    ]
    if more["follows"] is not None:
        rows = [[a, *("-" if a == b else measured(more["follows"][a][b])[1] for b in names)] for a in names]
        told = "Who follows whom: how often the judge of the row says what that of the column says against the majority of the others."
        found += [Text(told), table(["follows", *names], rows)]
    panel = more["panel"]
    shares = [["no verdict", *measured(panel["no_verdict"])]]
    shares += [["accuracy", *measured(panel["accuracy"])]] if "accuracy" in panel else []
    return [*found, Text(f"The panel, with a quorum of {panel['quorum']}."), table(["", "n", "share", "95 %"], shares)]


def _interval(value: Any) -> str:
    if value is None:
        return "-"
    return f"[{', '.join(sign if each is None else number(each) for each, sign in zip(value, ('-inf', 'inf'), strict=True))}]"
