"""All that an audit finds, as plain data and as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prefrep.errors import DataError
from prefrep.evaluation.audit import measures
from prefrep.evaluation.audit.asked import Asked, Pair, pairs_of
from prefrep.evaluation.audit.circles import circles
from prefrep.evaluation.audit.several import several
from prefrep.evaluation.summary import Bootstrap


def audit(questions: Sequence[Asked], *, quorum: int | None = None, draws: int = 500, bootstrap: Bootstrap | None = None) -> dict[str, Any]:
    """Return what verdicts tell about their judges.

    Args:
        questions: Questions to judges and their outcomes.
        quorum: Verdicts that a panel needs; None: more than half of the judges.
        draws: Simulated transitive judges.
        bootstrap: Settings of the bootstrap, and the seed.

    Returns:
        The content of `results.json`, without data and versions.

    Raises:
        DataError: There are no questions.
    """
    if not questions:
        raise DataError("there are no verdicts to audit")
    boot, by_judge = bootstrap or Bootstrap(), pairs_of(questions)
    return {
        "benchmark": "judge",
        "judges": {name: _one(pairs, draws, boot) for name, pairs in by_judge.items()},
        "several": several(by_judge, quorum),
        "bootstrap": {"draws": boot.draws, "seed": boot.seed},
        "notes": [],
    }


def _one(pairs: Sequence[Pair], draws: int, boot: Bootstrap) -> dict[str, Any]:
    names = {name for pair in pairs for name in (pair.one.a, pair.one.b)}
    systems = len(names) < len(pairs) and len(names) <= 400 and names != {"a", "b"}
    return {
        "pairs": len(pairs),
        "prompts": len({pair.one.prompt for pair in pairs}),
        "no_verdict": measures.silence(pairs),
        "labels": measures.accuracy(pairs),
        "people": measures.people(pairs),
        "consistency": measures.consistency(pairs),
        "position": measures.position(pairs),
        "at_equal_strength": measures.regression(pairs, systems),
        "calibration": measures.calibration(pairs, boot),
        "circles": circles(pairs, draws, boot.seed),
    }


def lines(results: Mapping[str, Any]) -> Iterator[str]:
    """Yield the results as lines for a terminal."""
    for name, found in results["judges"].items():
        yield f"{name}: {found['pairs']:,} pairs on {found['prompts']:,} prompts"
        yield from _share("no verdict", found["no_verdict"], _reasons(found["no_verdict"]["reasons"]))
        for title, each in (found["labels"] or {}).items():
            yield from _share(TITLES[title], each)
        if found["people"]:
            yield from _share("agrees with people", found["people"]["judge"])
            if "people" in found["people"]:
                yield f"  {'people with each other':<34}{found['people']['people']['score']:>7.3f}"
        if (same := found["consistency"]) is not None:
            said = f"twice a tie {same['both_tied']}, twice the first {same['twice_first']}, twice the second {same['twice_second']}"
            yield from _share("both orders agree", same, said)
        if (place := found["position"]) is not None:
            yield f"  {'prefers the first place, nats':<34}{_nats(place)}  ({place['rule']})"
        strength = found["at_equal_strength"] or {}
        for title, each in strength.items():
            if isinstance(each, dict):
                yield f"  {'at equal strength: ' + title:<34}{_nats(each)}"
        if (measured := found["calibration"]) is not None:
            yield f"  {'log loss, nats (a coin: 0.693)':<34}{measured['log_loss']['score']:>7.3f}"
        if (rings := found["circles"]) is not None:
            for title, key in (("contradictory triples", "hard"), ("circles", "cycles"), ("soft intransitivity", "soft")):
                each = rings[key]
                low, high = each["transitive"]["range95"]
                yield f"  {title:<34}{each['observed']:>7.3f}  transitive judge like it: [{low:.3f}, {high:.3f}], p {each['p']:.3f}"
        yield ""
    if (more := results["several"]) is not None:
        alpha = more["alpha"]
        yield f"Krippendorff's alpha over {more['units']} pairs: {'undefined' if alpha is None else format(alpha, '.3f')}"
        for a, row in more["agreement"].items():
            for b, each in row.items():
                if a < b:
                    yield from _share(f"{a} and {b}", each)
        yield from _share(f"panel, quorum {more['panel']['quorum']}: no verdict", more["panel"]["no_verdict"])
        if "accuracy" in more["panel"]:
            yield from _share("panel: accuracy", more["panel"]["accuracy"])


TITLES = {
    "accuracy": "accuracy", "of_verdicts": "accuracy of verdicts", "judgebench": "accuracy, JudgeBench's rule",
    "better_shown_first": "accuracy, better one first", "better_shown_second": "accuracy, better one second",
}  # fmt: skip


def _share(title: str, each: Mapping[str, Any], more: str = "") -> Iterator[str]:
    if each["n"]:
        low, high = each["ci95"]
        yield f"  {title:<34}{each['score']:>7.3f}  [{low:.3f}, {high:.3f}]  n {each['n']}" + (f"  {more}" if more else "")


def _reasons(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {why}" for why, count in reasons.items())


def _nats(each: Mapping[str, Any]) -> str:
    value = "undefined" if each["nats"] is None else f"{each['nats']:+.3f}"
    if each["ci95"] is None:
        return f"{value:>7}"
    low, high = (sign if bound is None else f"{bound:+.3f}" for bound, sign in zip(each["ci95"], ("-inf", "inf"), strict=True))
    return f"{value:>7}  [{low}, {high}]"
