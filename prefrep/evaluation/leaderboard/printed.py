"""A leaderboard as lines for the terminal."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from typing import Any

SHOWN = 25  # systems
TESTS = {
    "likelihood_ratio": "likelihood ratio of two more dimensions",
    "cyclic_triples": "cyclic triples of systems",
    "cyclic_triples_of_a_prompt": "cyclic triples of answers to a prompt",
    "cyclic_energy": "cyclic energy of margins, a thousand battles",
    "hodge_share": "cyclic share of the energy of margins (Hodge)",
}


def numbers(results: Mapping[str, Any], value: float) -> str:
    """Return a rating on the scale of the results."""
    return f"{value:.0f}" if results["scale"] == "elo" else f"{value:.2f}"


def ranks(row: Mapping[str, Any]) -> str:
    """Return the ranks that are not excluded."""
    low, high = row["ranks95"]
    return str(low) if low == high else f"{low} to {high}"


def verdict(results: Mapping[str, Any]) -> str:
    """Return in a sentence whether one number per system suffices, which the tests against transitive judges decide."""
    found = results["one_number"]
    chosen, gain, tests = found["chosen"], found["forms"][found["chosen"]], found["tests"]
    low, high = (-each for each in gain["ci95"][::-1])
    better = ""
    if chosen != "ratings" and low > 0:
        better = f"{chosen} predicts held-out battles better by {-gain['minus_ratings']:.4f} nats [{low:.4f}, {high:.4f}]"
    if found["suffices"] is None:
        enough = math.ceil(1 / found["level"] - 1 - 1e-9)
        return f"{found['draws']} draws are too few to tell whether one number per system suffices: set --circles {enough} or more."
    if not found["suffices"]:
        names = ", ".join(f"{TESTS[name]} (p {tests[name]['p']:.2g})" for name in found["beyond_chance"])
        return f"One number per system does not suffice: more than transitive judges show: {names}{better and '; '}{better}."
    least = min((each["p"] for each in tests.values()), default=1.0)
    said = f"transitive judges show as much (least p of {len(tests)} tests {least:.2g}, needed {found['level']:.2g})"
    if better:
        said += f"; {better}, but no test confirms that circles are behind it"
    if found.get("soft"):
        said += "; they give plain verdicts here and these are probabilities, so that circles can hide"
    return f"One number per system suffices, as far as these battles tell: {said}."


def leaderboard_lines(results: Mapping[str, Any]) -> list[str]:
    """Return the results as lines of a table, followed by their notes."""
    systems = results["systems"]
    width = min(max(len(row["name"]) for row in systems), 36)
    lines = [
        f"{results['battles']:,} battles of {len(systems)} systems, {len(results['judges'])} judges",
        "",
        f"{'ranks':>9}  {'':<{width}}{'rating':>8}  {'95 % interval':<16}{'first':>7}{'battles':>10}{'wins':>7}",
    ]
    for row in systems[:SHOWN]:
        low, high = (numbers(results, each) for each in row["rating"]["ci95"])
        shown = f"{ranks(row):>9}  {row['name'][:width]:<{width}}{numbers(results, row['rating']['value']):>8}  {f'[{low}, {high}]':<16}"
        lines.append(f"{shown}{row['first']:>7.2f}{row['battles']:>10,}{row['win_rate']:>7.1%}")
    if len(systems) > SHOWN:
        lines.append(f"{'':>9}  and {len(systems) - SHOWN} more in results.json")
    lines.append(f"{results['differ']['pairs']:,} of {results['differ']['of']:,} pairs differ, with all pairs tested at once (95 %)")
    lines += ["", f"{'judge':<{width + 11}}{'battles':>8}{'ties':>8}  {'leans to the first answer, nats':<34}sharpness"]
    for judge in results["judges"][:SHOWN]:
        order, sharp = judge["order"], judge["sharpness"]
        lean = "-" if order is None else f"{order['value']:+.3f} [{order['ci95'][0]:+.3f}, {order['ci95'][1]:+.3f}]"
        keen = f"{sharp['value']:.2f}" + ("" if sharp["ci95"] is None else f" [{sharp['ci95'][0]:.2f}, {sharp['ci95'][1]:.2f}]")
        tied = "-" if judge["ties"] is None else f"{judge['ties']:.1%}"
        lines.append(f"{judge['name'][: width + 10]:<{width + 11}}{judge['battles']:>8,}{tied:>8}  {lean:<34}{keen}")
    for style in results["style"]:
        low, high = style["ci95"]
        lines.append(f"style: {style['feature']} {style['value']:+.3f} [{low:+.3f}, {high:+.3f}] nats a standard deviation")
    if "one_number" in results:
        lines += ["", *textwrap.wrap(verdict(results), 120)]
        lines.append(f"{'':<50}{'observed':>10}  {'transitive judges':<20} p")
        for name, each in results["one_number"]["tests"].items():
            low, high = each["ci95"]
            lines.append(f"{TESTS[name]:<50}{each['observed']:>10.4g}  {f'[{low:.4g}, {high:.4g}]':<20} {each['p']:.2g}")
        for each in results["groups"]:
            test = each["likelihood_ratio"]
            low, high = test["ci95"]
            same = f"{each['of']} rank alike up to sharpness: likelihood ratio"
            lines.append(f"{same:<50}{test['observed']:>10.4g}  {f'[{low:.4g}, {high:.4g}]':<20} {test['p']:.2g}")
    said = [f"assumed: {'; '.join(results['assumed'])}", *(f"note: {note}" for note in results["notes"])]
    return [*lines, "", *(textwrap.fill(note, 120, subsequent_indent="      ", break_on_hyphens=False) for note in said)]
