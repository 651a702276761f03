"""Rounds of post-training: held-out win rates beside policies without training, and how answers to the same prompts change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefrep.errors import PrefrepError
from prefrep.reports.document import Block, Example, Section, Text, interval, notes, number, table
from prefrep.reports.found import read_lines
from prefrep.reports.samples import cut

Metrics = Mapping[str, float]

SHOWN = 6  # prompts
_SHAPE = (("KL to the start, nats", "kl_initial"), ("words", "words"), ("repetition", "repetition"), ("entropy, nats", "entropy"))
_WON = (
    ("wins against the start, 95 %", "{}_win_rate{}_initial"),
    ("wins against the round before, 95 %", "{}_win_rate{}_previous"),
    ("second judge: against the start, 95 %", "{}_second_win_rate{}_initial"),
    ("second judge: against the round before, 95 %", "{}_second_win_rate{}_previous"),
)


def tables(rounds: Mapping[int, Metrics]) -> list[Block]:
    """Return the held-out metrics of each round (`callbacks.HeldOut`), below those of `callbacks.Baselines`, and what was said about them.

    Args:
        rounds: Metrics of each round by its number.
    """
    first = rounds.get(0, {})
    policies = [(str(name), "held_out", found) for name, found in rounds.items()]
    if "baseline_responses" in first:
        count = f"{first['baseline_responses']:.0f}"
        policies = [(f"best of {count}", "best_of_n", first), (f"rejection sampling of {count}", "rejection", first), *policies]
    columns = [(title, key) for title, key in _WON if any(key.format(kind, "") in found for _, kind, found in policies)]
    shapes = [(title, key) for title, key in _SHAPE if any(f"held_out_{key}" in found for found in rounds.values())]
    rows = []
    for name, kind, found in policies:
        won = [_rate(found, key.format(kind, "{}")) for _, key in columns]
        rows.append((name, *won, *(f"{found[f'{kind}_{key}']:.3g}" if f"{kind}_{key}" in found else "-" for _, key in shapes)))
    said = [
        f"round {name}: since round {found['held_out_overoptimised_since']:.0f}, wins rose with the judge and fell with the second one: "
        "the policy learns mistakes of its judge"
        for name, found in rounds.items()
        if "held_out_overoptimised_since" in found
    ]
    said += [
        f"round {name}: training ended after {found['budget_batches']:.0f} batches, at a KL of {found['budget_kl']:.3g} nats"
        for name, found in rounds.items()
        if "budget_batches" in found
    ]
    return [table(("policy", *(title for title, _ in (*columns, *shapes))), rows), *notes(said)]


def _rate(found: Metrics, key: str) -> str:
    if key.format("") not in found:
        return "-"
    return f"{number(found[key.format('')])} {interval((found[key.format('_low')], found[key.format('_high')]))}"


def answers(folder: Path) -> list[Block]:
    """Return how the first answer to some held-out prompts changed from round to round; none if the run has no held-out prompts.

    Half of the prompts are those whose last answers win most clearly against the first ones, the other half those that lose.

    Args:
        folder: The run.
    """
    numbers = sorted(int(path.parent.name) for path in folder.glob("rounds/*/held_out.jsonl") if path.parent.name.isdigit())
    try:
        held_out = {at: _by_row(folder, at, "held_out") for at in numbers}
        verdicts = {at: _by_row(folder, at, "verdicts") for at in numbers}
        rows = sorted(set.intersection(*(set(lines) for lines in held_out.values()))) if len(numbers) > 1 else []
        if not rows:
            return []
        scored = sorted((_odds(verdicts[numbers[-1]].get(row)) or 0.0, row) for row in rows)
        some = [row for _, row in (scored if len(scored) <= SHOWN else scored[: SHOWN // 2] + scored[-SHOWN // 2 :])]
        shown = [_example(row, held_out, verdicts) for row in reversed(some)]
    except PrefrepError as error:
        return [Text(str(error), strong=True)]
    except (KeyError, TypeError, ValueError, IndexError) as error:  # a file of another version, or edited by hand
        return [Text(f"{folder}/rounds: not in the format of this version ({error!r})", strong=True)]
    return [Section("The same prompts from round to round", tuple(shown))]


def _by_row(folder: Path, number: int, name: str) -> dict[int, dict[str, Any]]:
    files = sorted(folder.glob(f"rounds/{number}/{name}.jsonl")) + sorted(folder.glob(f"rounds/{number}/{name}.[0-9]*.jsonl"))
    return {int(line["row"]): line for file in files for line in read_lines(file)}


def _odds(verdict: Mapping[str, Any] | None) -> float | None:
    """Return the mean log-odds of an answer over those of the start."""
    if verdict is None:
        return None
    flat: Sequence[float] = [value for row in verdict["initial"] for value in row]
    return sum(flat) / len(flat)


def _example(row: int, held_out: Mapping[int, Mapping[int, Any]], verdicts: Mapping[int, Mapping[int, Any]]) -> Example:
    parts = [("Prompt", cut(next(iter(held_out.values()))[row]["prompt"]))]
    for at, lines in held_out.items():
        odds = _odds(verdicts[at].get(row))
        against = "" if odds is None else f", mean log-odds over the start {odds:+.2f}"
        parts.append((f"Round {at}{against}", cut(lines[row]["responses"][0])))
    return Example(f"prompt {row}", tuple(parts))
