"""Who prefers, on texts: what 100 annotators cost, aspects of ratings as annotators, language models as judges.

    python -m benchmarks.annotators_texts cost aspects --seeds 5
    python -m benchmarks.annotators_texts judges --judges pairs.jsonl.gz    # AlpacaEval: output_1, output_2, preference by judge

Heads learn on hidden states of a frozen language model, which are kept. Figures are means over splits by prompt with Student's 95 %
interval, unless said otherwise; splits share prompts, so that intervals are of this data and its splits, not of other prompts.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.annotators import Labels, accuracy, fit, summary
from prefrep.annotators import Annotators
from prefrep.data.cyclic import find_cycle
from prefrep.data.encode import EncodeConfig
from prefrep.data.sources import Source, read
from prefrep.evaluation.disagreement import evaluate
from prefrep.evaluation.summary import Bootstrap
from prefrep.io.folder import PreferenceModel
from prefrep.labels.reading import read as read_states
from prefrep.metrics.intervals import accuracy_interval
from prefrep.nn.backbone import Backbone
from prefrep.nn.context import ANYBODY, Context
from prefrep.nn.heads import BTHead, GPMHead, PreferenceHead
from prefrep.nn.mixture import MixtureHead
from prefrep.nn.people import introduce, members_of
from prefrep.nn.personal import PersonalHead, PersonalSkew
from prefrep.records import Comparison, Message, RankedResponses
from prefrep.scoring import Scorer

Head = Callable[[int], PreferenceHead]
MODELS: dict[str, Head] = {
    "Bradley-Terry, pooled": BTHead,
    "GPM, d = 8, pooled": partial(GPMHead, dim=8, normalize=False),
    "PersonalHead, rank 8": partial(PersonalHead, rank=8, spread=3.0),
    "PersonalSkew, d = 8": partial(GPMHead, dim=8, normalize=False, skew=partial(PersonalSkew, spread=3.0)),
}
STEPS, RATE, DECAY = 200, 0.01, 0.1
LIMIT = 400  # characters of an answer that the language model reads (judges)


def backbone() -> Backbone:
    """Return the bundled language model."""
    return Backbone("bundled:smollm2-135m", dtype="bfloat16", frozen=True).eval()


# ---- what 100 annotators cost


def cost(rounds: int = 7, prompts: int = 6) -> dict[str, float]:
    """CPU time of the tables of 100 annotators against those of one, interleaved: medians of rounds, and the range of the ratios."""
    model, found = backbone(), dict[str, float]()
    names = [f"person {u}" for u in range(100)]
    records = [each for each in itertools.islice(read(Source("bundled:ultrafeedback-mini")), prompts) if isinstance(each, RankedResponses)]
    for name, make in {**MODELS, "MixtureHead, 3 types": partial(MixtureHead, types=3)}.items():
        if "pooled" in name:
            continue
        head = make(model.hidden_size)
        introduce(head, Annotators(dict.fromkeys(names, 1)))
        scorer = Scorer(PreferenceModel(model, head, 1.0, EncodeConfig(), model.tokenizer(), {}))

        def seconds(asked: Sequence[str], scorer: Scorer = scorer) -> float:
            start = time.process_time()
            assert all(len(each) == len(asked) for each in scorer.tables_of(records, asked))
            return time.process_time() - start

        seconds(names)
        times = [(seconds(names[:1]), seconds(names)) for _ in range(rounds)]
        ratios = sorted(many / one for one, many in times)
        found |= {f"{name}: ratio": median(ratios), f"{name}: least": ratios[0], f"{name}: most": ratios[-1]}
        found[f"{name}: seconds of one"] = median(one for one, _ in times)
    return found


# ---- aspects as annotators


class Rated(NamedTuple):
    """Rated responses and their hidden states, [prompts, K, H]."""

    records: list[RankedResponses]
    aspects: list[str]
    states: Tensor


def _ends(pairs: Sequence[Comparison]) -> Tensor:
    """States at the ends of both responses [P, 2, H]."""
    return torch.cat([each.ends for each in read_states(backbone(), "single", pairs)])


def rated() -> Rated:
    """Read the bundled ratings."""
    records = [each for each in read(Source("bundled:ultrafeedback-mini")) if isinstance(each, RankedResponses)]
    pairs = [Comparison(each.prompt, each.responses[i], each.responses[i + 1]) for each in records for i in (0, 2)]
    return Rated(records, list(records[0].ratings), _ends(pairs).view(len(records), 4, -1))


def aspects(data: Rated, seed: int) -> dict[str, float]:
    """Each aspect is an annotator: train on 70 % of the prompts, on all their rated pairs or on one cycle each; who holds cycles?"""
    order = np.random.default_rng(seed).permutation(len(data.records))
    cut = int(0.7 * len(order))
    mean, scale = data.states[order[:cut]].mean((0, 1)), data.states[order[:cut]].std((0, 1)) + 1e-6
    states = (data.states - mean) / scale
    circles = [find_cycle(record, data.aspects) for record in data.records]

    def rated_pairs(prompts: Sequence[int]) -> list[tuple[int, int, int, int]]:
        return [
            (p, i, j, u)
            for p in prompts
            for u, aspect in enumerate(data.aspects)
            for i, j in itertools.permutations(range(4), 2)
            if data.records[p].ratings[aspect][i] > data.records[p].ratings[aspect][j]
        ]

    def around(prompts: Sequence[int]) -> list[tuple[int, int, int, int]]:
        return [
            (p, c.responses[n], c.responses[(n + 1) % 3], data.aspects.index(c.criteria[n]))
            for p in prompts
            if (c := circles[p]) is not None
            for n in range(3)
        ]

    def labels(rows: Sequence[tuple[int, int, int, int]]) -> Labels:
        p, i, j, u = torch.tensor(rows).unbind(1)
        return states[p, i], states[p, j], u

    seen, unseen = order[:cut].tolist(), order[cut:].tolist()
    found: dict[str, float] = {"cycles, unseen prompts": len(around(unseen)) / 3}
    for what, rows in (("all pairs", rated_pairs(seen)), ("cycles", around(seen))):
        for name, make in MODELS.items():
            torch.manual_seed(seed)
            head = fit(make(states.shape[-1]), labels(rows), len(data.aspects), STEPS, RATE, DECAY)
            known = any(members_of(head))
            for where, prompts in (("seen", seen), ("unseen", unseen)):
                a, b, who = labels(around(prompts))
                with torch.no_grad():
                    right = head.compare(head.embed(a), head.embed(b), Context(None, who) if known else ANYBODY) > 0
                found[f"{what}, {name}: comparisons of cycles, {where}"] = float(right.float().mean())
                found[f"{what}, {name}: whole cycles, {where}"] = float(right.view(-1, 3).all(1).float().mean())
            if what == "all pairs":
                found[f"{what}, {name}: rated pairs, unseen"] = accuracy(head, labels(rated_pairs(unseen)), known)
            if known:
                with torch.no_grad():
                    asked = Context(None, torch.arange(len(data.aspects)))
                    tables = [head.table(head.embed(states[p]), asked).numpy() for p in unseen]
                found |= {f"{what}, {name}: {key}, unseen": value for key, value in society(tables).items()}
    return found


def society(tables: Sequence[np.ndarray[Any, Any]]) -> dict[str, float]:
    """Return the circles between annotators and within them of tables [U, K, K], and the mean of the null."""
    found = evaluate([((str(i), ""), each) for i, each in enumerate(tables)], Bootstrap(20), 200)
    names = [key for key, value in found.items() if isinstance(value, dict) and "score" in value]
    return {key: found[key]["score"] for key in names} | {f"null of {key}": each["mean"] for key, each in found["null"].items()}


def ratings_alone(data: Rated) -> dict[str, Any]:
    """Circles of the society whose log-odds are a multiple of the differences of ratings: intervals over prompts, p of the null."""
    ratings = [np.array([record.ratings[aspect] for aspect in data.aspects]) for record in data.records]
    shares: dict[str, Any] = {}
    for nats in (1, 2, 4, 8):
        tables = [nats * (each[:, :, None] - each[:, None, :]).astype(np.float32) for each in ratings]
        found = evaluate([((str(i), ""), each) for i, each in enumerate(tables)], Bootstrap(1000), 500)
        for key in ("society.cyclic", "society.within"):
            low, high = found[key]["ci95"]
            name = f"ratings, {nats} nats for each point: {key}"
            shares[name] = {"mean": found[key]["score"], "low": low, "high": high, "null": found["null"][key]}
    return shares


# ---- judges


class Judged(NamedTuple):
    """Pairs of answers: hidden states [P, 2, H], whether each judge prefers the first [P, U], prompts [P]."""

    judges: list[str]
    states: Tensor
    first: Tensor
    prompt: np.ndarray[Any, Any]


def judged(path: Path, limit: int) -> tuple[Judged, dict[str, Any]]:
    """Read the pairs that all judges have decided, and how far judges agree on them (Wilson intervals, pairs as independent)."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        every = [json.loads(line) for line in file]
    judges = sorted({judge for each in every for judge in each["preference"]})
    rows = [each for each in every if all(each["preference"].get(judge, 1.5) != 1.5 for judge in judges)]
    first = np.array([[row["preference"][judge] < 1.5 for judge in judges] for row in rows])
    agree: dict[str, Any] = {}

    def share(name: str, hits: np.ndarray[Any, Any]) -> None:
        low, high = accuracy_interval(int(hits.sum()), len(hits))
        agree[name] = {"mean": float(hits.mean()), "low": low, "high": high, "n": len(hits)}

    for u, judge in enumerate(judges):
        share(f"{judge} prefers the first", first[:, u])
    for u, v in itertools.combinations(range(len(judges)), 2):
        share(f"{judges[u]} = {judges[v]}", first[:, u] == first[:, v])
        chance = first[:, u].mean() * first[:, v].mean() + (1 - first[:, u].mean()) * (1 - first[:, v].mean())
        agree[f"{judges[u]} = {judges[v]}"]["kappa"] = float(((first[:, u] == first[:, v]).mean() - chance) / (1 - chance))
    share("all agree", (first == first[:, :1]).all(1))
    chosen = np.sort(np.random.default_rng(0).permutation(len(rows))[:limit])

    def said(text: str) -> tuple[Message]:
        return (Message("assistant", text[:LIMIT] or " "),)

    pairs = [
        Comparison((Message("user", rows[i]["instruction"][:LIMIT]),), said(rows[i]["output_1"]), said(rows[i]["output_2"])) for i in chosen
    ]
    prompts = np.array([rows[i]["instruction"] for i in chosen])
    return Judged(judges, _ends(pairs), torch.tensor(first[chosen]), prompts), agree


def judges(data: Judged, seed: int) -> dict[str, float]:
    """Train on the pairs of 70 % of the prompts; held-out verdicts, of all pairs and of those on which judges disagree."""
    generator = np.random.default_rng(seed)
    names = sorted(set(data.prompt.tolist()))
    train = np.isin(data.prompt, generator.permutation(names)[: int(0.7 * len(names))])
    mean, scale = data.states[train].mean((0, 1)), data.states[train].std((0, 1)) + 1e-6
    states, people = (data.states - mean) / scale, len(data.judges)

    def labels(chosen: np.ndarray[Any, Any]) -> Labels:
        p = torch.from_numpy(np.flatnonzero(chosen)).repeat_interleave(people)
        who = torch.arange(people).repeat(int(chosen.sum()))
        winner = (~data.first[p, who]).long()
        return states[p, winner], states[p, 1 - winner], who

    split = ~(data.first == data.first[:, :1]).all(1).numpy()
    held, disputed = labels(~train), labels(~train & split)
    found = {
        "held-out pairs": float((~train).sum()),
        "disputed held-out pairs": float((~train & split).sum()),
        "the first always: held out": float(data.first[~train].float().mean()),
    }
    for name, make in MODELS.items():
        torch.manual_seed(seed)
        head = fit(make(states.shape[-1]), labels(train), people, STEPS, RATE, DECAY)
        known = any(members_of(head))
        found[f"{name}: held out"] = accuracy(head, held, known)
        found[f"{name}: held out, disputed"] = accuracy(head, disputed, known)
    for name in list(MODELS)[1:]:
        for what in ("held out", "held out, disputed"):
            found[f"{name} minus Bradley-Terry: {what}"] = found[f"{name}: {what}"] - found[f"Bradley-Terry, pooled: {what}"]
    return found


def main() -> None:
    """Run parts and write their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=("cost", "aspects", "judges"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--judges", type=Path, help="pairs with the preferences of several judges (1: the first answer, 2: the second)")
    parser.add_argument("--limit", type=int, default=300, help="pairs of the judges")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/annotators_texts.json"))
    asked = parser.parse_args()
    if "judges" in asked.parts and asked.judges is None:
        parser.error("judges: name their pairs with --judges")
    torch.set_num_threads(1)
    results = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    for part in asked.parts:
        agree: dict[str, Any] = {}
        if part == "cost":
            found = [cost()]
        elif part == "aspects":
            data = rated()
            found = [aspects(data, seed) for seed in range(asked.seeds)]
            agree = ratings_alone(data)
        else:
            verdicts, agree = judged(asked.judges, asked.limit)
            found = [judges(verdicts, seed) for seed in range(asked.seeds)]
        results[part] = agree | {name: summary([each[name] for each in found]) for name in found[0]}
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(results, indent=1) + "\n")
        print(part)
        for name, figure in results[part].items():
            shown = "" if part == "cost" else f" [{figure['low']:.3f}, {figure['high']:.3f}]"
            more = "".join(f", {key} {figure[key]}" for key in ("n", "kappa", "null") if key in figure)
            print(f"  {name:70} {figure['mean']:.3f}{shown}{more}", flush=True)


if __name__ == "__main__":
    main()
