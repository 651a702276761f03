"""Who would be first among the systems of real battles if a small model trained here were asked, beside people and GPT-4.

    python -m benchmarks.leaderboard_model FOLDER --train pairs.jsonl.gz

FOLDER holds LLMFAO (CC BY 4.0): llmfao-crowd.csv.gz, llmfao-gpt4.csv.gz and llmfao-responses.jsonl.gz. `--train`: AlpacaEval's annotations
(instruction, output_1, output_2, preference by judge). The bundled language model, or its first layers, reads the beginning of each text
once; heads are trained on its hidden states and judge each pair of answers that was voted on. The longer answer is judged better beside
them, as a control.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from prefrep.battles import Battles
from prefrep.data.battles import read
from prefrep.evaluation.leaderboard import rated
from prefrep.evaluation.leaderboard.settings import ELO, MEAN, Settings
from prefrep.functional.groups import probabilities
from prefrep.metrics.intervals import accuracy_interval
from prefrep.modules import BradleyTerry, GeneralPreference, PreferenceModule, on_states
from prefrep.modules.remembered import Reading
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import GPMHead
from prefrep.records import Comparison, Message

Floats = NDArray[np.float64]
STEPS, RATE = 300, 0.005
HELD_OUT = 6  # every sixth pair is not trained on


def comparison(prompt: str, chosen: str, rejected: str, limit: int) -> Comparison:
    """Return two answers' beginnings, the better one first."""
    said = [(Message("assistant", each[:limit] or "(nothing)"),) for each in (chosen, rejected)]
    return Comparison((Message("user", prompt),), *said)


def training(path: Path, pairs: int, limit: int) -> list[Comparison]:
    """Return pairs spread over a file of AlpacaEval's annotations, by the mean of the judges; ties are left out."""
    with gzip.open(path, "rt", encoding="utf-8") as opened:
        rows = [json.loads(line) for line in opened]
    found = []
    for row in rows[:: max(len(rows) // pairs, 1)]:
        verdict = mean(row["preference"].values())  # 1: the first, 2: the second
        if verdict != 1.5 and row["output_1"][:limit] != row["output_2"][:limit]:
            sides = (row["output_1"], row["output_2"])[:: 1 if verdict < 1.5 else -1]
            found.append(comparison(row["instruction"], *sides, limit))
    return found


def answers(path: Path) -> dict[str, dict[str, Any]]:
    """Return prompt and answers by the number of the prompt."""
    with gzip.open(path, "rt", encoding="utf-8") as opened:
        return {str(row["prompt_id"]): row for row in map(json.loads, opened)}


def texts(battles: Battles, known: Mapping[str, dict[str, Any]]) -> tuple[Battles, list[tuple[str, str, str]]]:
    """Return one battle for each pair of answers whose texts are known, and prompt, left and right text of each."""
    _, first = np.unique(rated.items(battles), return_index=True)
    places, found = [], []
    for place in np.sort(first):
        row = known.get(battles.prompts[battles.prompt[place]])
        sides = [battles.systems[codes[place]] for codes in (battles.left, battles.right)]
        if row is not None and all(side in row["responses"] for side in sides):
            places.append(place)
            found.append((row["prompt"], *(row["responses"][side] for side in sides)))
    return battles.take(np.array(places)), found


def shallow(folder: Path, layers: int) -> Backbone:
    """Return the first layers of the bundled language model, frozen."""
    whole = Backbone("bundled:smollm2-135m", frozen=True)
    whole.model.model.layers = whole.model.model.layers[:layers]
    whole.model.config.num_hidden_layers = layers
    whole.model.save_pretrained(folder)
    whole.tokenizer().save_pretrained(folder)
    return Backbone(str(folder), frozen=True)


def judged(make: Callable[..., PreferenceModule], backbone: Backbone, reading: Reading, train: list[Comparison], asked: list[Comparison]
           ) -> tuple[Floats, float, int]:  # fmt: skip
    """Return log-odds that the first of each asked pair is better, the accuracy on held-out pairs, and their number."""
    held, rest = train[::HELD_OUT], [each for place, each in enumerate(train) if place % HELD_OUT]
    optimizer = partial(torch.optim.AdamW, lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
    module = on_states.train(make(lambda: backbone, optimizer=optimizer), [reading.batch(rest)] * STEPS)
    with torch.no_grad():
        right = on_states.correct(module, reading.batch(held)).double().mean()
        found = np.concatenate([module(reading.batch(asked[at : at + 256])).double().numpy() for at in range(0, len(asked), 256)])
    return found, float(right), len(held)


def majority(battles: Battles, pairs: Battles) -> Floats:
    """Return the mean verdict for the left answer of each pair, [N]; NaN: nobody was asked."""

    def key(of: Battles, place: int) -> tuple[str, str, str]:
        return of.prompts[of.prompt[place]], of.systems[of.left[place]], of.systems[of.right[place]]

    votes: dict[tuple[str, str, str], list[float]] = {}
    for place in range(len(battles)):
        prompt, left, right = key(battles, place)
        votes.setdefault((prompt, left, right), []).append(float(battles.outcome[place]))
        votes.setdefault((prompt, right, left), []).append(1 - float(battles.outcome[place]))
    return np.array([mean(votes.get(key(pairs, place), [np.nan])) for place in range(len(pairs))])


def agreement(one: Floats, other: Floats) -> str:
    """Return the share of pairs on which two judges agree, of those that both decide, with a 95 % interval."""
    both = np.isfinite(one) & np.isfinite(other) & (one != 0.5) & (other != 0.5)
    same, count = int(((one > 0.5) == (other > 0.5))[both].sum()), int(both.sum())
    low, high = accuracy_interval(same, count)
    return f"{same / count:.3f} [{low:.3f}, {high:.3f}], n {count:,}"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=400, help="pairs to train on, about")
    parser.add_argument("--characters", type=int, default=500, help="of an answer that are read")
    parser.add_argument("--layers", type=int, default=30, help="of the bundled language model")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(options, Path(folder))


def run(options: argparse.Namespace, folder: Path) -> None:
    """Train, judge, rate and print; the folder takes a copy of the language model."""
    votes = {name: read([str(options.folder / f"llmfao-{name}.csv.gz")]).battles for name in ("crowd", "gpt4")}
    pairs, shown = texts(votes["crowd"], answers(options.folder / "llmfao-responses.jsonl.gz"))
    print(f"{len(pairs):,} of {len(np.unique(rated.items(votes['crowd']))):,} pairs of answers have texts, of {len(pairs.systems)} systems")
    train = training(options.train, options.pairs, options.characters)
    asked = [comparison(*each, options.characters) for each in shown]
    different = [place for place, each in enumerate(asked) if each.chosen != each.rejected]  # others are equal for a reader of beginnings
    backbone = shallow(folder, options.layers)
    reading = Reading(backbone, "single")
    reading.batch([*train, *(asked[place] for place in different)])
    models = {"Bradley-Terry": BradleyTerry, "GPM, d = 4": partial(GeneralPreference, head=partial(GPMHead, dim=4, normalize=False))}
    odds: dict[str, Floats] = {}
    for name, make in models.items():
        odds[name] = np.zeros(len(asked))
        odds[name][different], right, held = judged(make, backbone, reading, train, [asked[place] for place in different])
        print(f"{name}: trained on {len(train) - held} pairs of AlpacaEval, right on {right:.3f} of {held} others")
    odds["the longer answer"] = np.array([np.sign(len(left) - len(right)) for _, left, right in shown], dtype=float)
    report(pairs, {name: probabilities(each) for name, each in odds.items()}, votes)


def report(pairs: Battles, verdicts: Mapping[str, Floats], votes: Mapping[str, Battles]) -> None:
    """Print who would be first under each judge, and how judges agree."""
    people = {name: majority(each, pairs) for name, each in votes.items()}
    boards = {"crowd": votes["crowd"], "gpt4": votes["gpt4"]}
    boards |= {name: replace(pairs, outcome=(each > 0.5) + 0.5 * (each == 0.5), judge=0 * pairs.judge, judges=(name,),
                             first=0 * pairs.first) for name, each in verdicts.items()}  # fmt: skip
    ratings: dict[str, dict[str, float]] = {}
    print("\n| judge | first three | agrees with the crowd | with GPT-4 | rank correlation with the crowd |\n" + "| --- " * 5 + "|")
    for name, board in boards.items():
        found = rated.evaluate(board, Settings(order=name in votes))
        ratings[name] = dict(zip(found.battles.systems, (found.fit.ratings * ELO + MEAN).tolist(), strict=True))
        best: Sequence[str] = sorted(ratings[name], key=lambda system: -ratings[name][system])
        shared = sorted(ratings[name].keys() & ratings["crowd"].keys())
        rank = spearmanr([ratings[name][each] for each in shared], [ratings["crowd"][each] for each in shared]).statistic
        said = people.get(name, verdicts.get(name))
        assert said is not None
        cells = [agreement(said, people[other]) if other != name else "" for other in ("crowd", "gpt4")]
        print(f"| {name} | {', '.join(f'{each} {ratings[name][each]:.0f}' for each in best[:3])} | {cells[0]} | {cells[1]} | {rank:.2f} |")


if __name__ == "__main__":
    main()
