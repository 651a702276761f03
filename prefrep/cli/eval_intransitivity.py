"""`bin/eval intransitivity`: how far the preferences of a model, or of a data set, run in circles."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefrep.cli.options import add_bootstrap, add_loading, positive

if TYPE_CHECKING:
    from prefrep.scoring import BlockScorer


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the sub-command."""
    parser = commands.add_parser(
        "intransitivity",
        help="cycles in the preferences of a model, or of the data: how many, how strong, more than noise?",
        description="K x K tables per prompt, from a model or from the data alone (comparisons that share a prompt; ratings by aspect, by "
        "majority; rankings): cyclic triples, minimum feedback arc sets, Hodge split, spectrum, agreement of rankings, each with an "
        "interval over prompts, and cycle rates against those of a transitive model with the same noise.",
    )
    parser.add_argument("--model", metavar="DIR", help="exported folder of a model (default: the data's own verdicts)")
    parser.add_argument("--data", metavar="FILE|HUB", required=True, help="file, folder, hub data set, or bundled:ultrafeedback-mini")
    parser.add_argument("--format", default="auto", help="format of the rows (default: told from the columns)")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="where results go; an interrupted run there is carried on")
    parser.add_argument(
        "--against",
        metavar="DIR",
        type=Path,
        help="--out of an earlier evaluation of the same data (another seed, or the data alone): are the circles the same?",
    )
    parser.add_argument("--restart", action="store_true", help="throw away the tables that --out holds")
    add_bootstrap(parser)
    parser.add_argument("--null", metavar="N", type=positive, default=1000, help="draws of the transitive null (default: 1000)")
    add_loading(parser)
    parser.set_defaults(run=_intransitivity, parser=parser)


def _intransitivity(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    from prefrep.data.sources import Source, read
    from prefrep.disk import replace_lines
    from prefrep.evaluation import intransitivity, intransitivity_plot, tables
    from prefrep.evaluation.layout import versions, write_results
    from prefrep.evaluation.scores import add_counts, described, digest
    from prefrep.evaluation.summary import Bootstrap
    from prefrep.evaluation.transitive_null import agreement
    from prefrep.records import text

    bootstrap = Bootstrap(given.bootstrap, given.seed)
    # Data first: a wrong path should not cost the loading of a model.
    records = list(read(Source(given.data, format=given.format)))
    prompts = tables.gather(records)
    others = tables.read_tables(given.against) if given.against else []
    scorer, model = _loaded(given) if given.model else (None, dict[str, Any]())
    said = {"benchmark": "intransitivity", "model": model, "data": digest(records)}
    elsewhere = bool(given.against) and described(given.against).get("data", said["data"]) != said["data"]
    rows = tables.write(prompts, given.out, said, scorer, given.restart)
    if scorer is not None:
        model = add_counts(given.out, {**model, **scorer.describe()})

    results, circles = intransitivity.evaluate(rows, bootstrap, given.null)
    if given.against:
        results["against"] = {"path": str(given.against), **agreement(rows, others, given.null, given.seed)}
    if elsewhere:
        results["notes"].append(f"{given.against} is of other data, or other ratings of them; prompts were matched by subset and id alone")
    if len(rows) < len(prompts):
        results["notes"].append(f"{len(prompts) - len(rows)} of {len(prompts)} prompts have neither verdicts, ratings nor scores")
    results |= {"data": given.data, "model": {key: value for key, value in model.items() if key != "versions"} if scorer else None}
    results["versions"] = versions(model.get("versions"))
    by_name = dict(zip(tables.named(prompts), prompts, strict=True))
    texts = [[text(record.prompt), *map(text, record.responses)] for record in (by_name[row.id, row.subset].record for row in rows)]
    chosen = intransitivity_plot.most_cyclic(circles)
    results["most_cyclic"] = {"id": rows[chosen].id, "subset": rows[chosen].subset}
    lines = [{**found, "prompt": each[0], "texts": each[1:]} for found, each in zip(circles, texts, strict=True)]
    replace_lines(given.out / "prompts.jsonl", lines)
    intransitivity_plot.draw(given.out / "intransitivity.png", rows[chosen], circles[chosen], texts[chosen], results)
    path = write_results(given.out, results)
    print("\n".join(report(results)))
    print(f"\nwritten: {path}, tables.jsonl, prompts.jsonl, intransitivity.png")
    return 0


def _loaded(given: argparse.Namespace) -> tuple[BlockScorer, dict[str, Any]]:
    from prefrep.evaluation.layout import fingerprint
    from prefrep.scoring import BlockScorer

    scorer = BlockScorer.from_pretrained(given.model, given.device, given.dtype, batch_tokens=given.batch_tokens)
    assert isinstance(scorer, BlockScorer)  # only a pair scorer is ever made in place of the class that was asked
    return scorer, {"path": str(given.model), "fingerprint": fingerprint(given.model), **scorer.describe()}


def report(results: Mapping[str, Any]) -> list[str]:
    """The results as lines of a table, with what a reader must know below it."""
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
        line("verdicts that no order can keep", arcs["arcs"], "feedback_arcs.arcs"),
        line("  by weight", arcs["weight"]),
        line("energy: gradient (transitive)", energy["gradient"]),
        line("  curl (cycles of three)", energy["curl"]),
        line("  harmonic (longer cycles)", energy["harmonic"]),
        line("  cyclic, both", energy["cyclic"], "energy.cyclic"),
        line("  cyclic, if all were noise", energy["cyclic_of_noise"]),
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
    if "against" in results:
        other, cyclic, transitive = results["against"], results["against"]["cyclic"], results["against"]["gradient"]["correlation"]
        lines += ["", f"against {other['path']}, {other['n']} prompts:"]
        if transitive is None:
            lines.append("the transitive parts: one of the two has none")
        else:
            lines.append(f"the transitive parts correlate by {transitive:.3f}")
        if cyclic["correlation"] is None:
            lines.append("the cyclic parts: one of the two has none")
        elif cyclic["p"] is None:
            why = "no p without --model: margins of an order are cyclic too, so equal orders agree in them"
            lines.append(f"the cyclic parts correlate by {cyclic['correlation']:.3f} ({why})")
        else:
            low, high = cyclic["ci95"]
            noise = f"independent noise: [{low:.3f}, {high:.3f}], p = {cyclic['p']:.3g}"
            lines.append(f"the cyclic parts correlate by {cyclic['correlation']:.3f} ({noise})")
    lines += ["", "p: how often the transitive null gives as much or more; close to 1: the verdicts run in circles less than noise would"]
    notes = [*(f"null of {kind}: {words}" for kind, words in null["models"].items()), *(f"note: {note}" for note in results["notes"])]
    return lines + [textwrap.fill(note, 120, subsequent_indent="      ", break_on_hyphens=False) for note in notes]
