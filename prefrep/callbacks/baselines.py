"""What a judge gives without training: the best of n responses of the initial policy, and rejection sampling."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray

from prefrep.callbacks.heldout import averages, held_out
from prefrep.callbacks.labelling import check_reading
from prefrep.callbacks.rounds import RoundCallback, parts, report, seed_of
from prefrep.callbacks.sampling import check_sampler, described, line_of
from prefrep.data.prompts import PromptData
from prefrep.data.rounds import Line, batches, digest
from prefrep.errors import ConfigError
from prefrep.generation import Engines, TransformersSampler
from prefrep.judges import Judge
from prefrep.metrics.intervals import stream
from prefrep.metrics.repetition import repetition
from prefrep.modules.gpo import GPO

Floats = NDArray[np.float64]


class Baselines(RoundCallback):
    """Policies that need no training, against pi_0 on the held-out prompts, in the first round.

    n responses of pi_0 to each prompt are scored by their mean log-odds against each other. Best-of-n answers with the first of them;
    rejection sampling (arXiv 2309.06657) with one that is accepted with probability exp((score - max) / beta), so with weights proportional
    to exp(score / beta), over which win rates are averaged. `rounds/0/baselines.jsonl` holds responses, scores and log-odds against the
    responses of `HeldOut`, which must come before; `rounds/0/metrics.json` gets win rates beside those of the trained policies.

    KL to pi_0 is at most log n - (n - 1) / n for best-of-n (arXiv 2401.01879), which is what is reported, and is estimated as
    sum_i w_i log(n w_i) for rejection sampling.

    Args:
        judge: The judge that chooses, and compares; normally that of training.
        sampler: Builds the sampler; normally configured like that of `HeldOut`.
        responses: n.
        beta: Temperature of rejection sampling, nats.
        batch_size: Prompts per sampling batch.
        seed: Seed of sampling.
        resamples: Bootstrap resamples.
        second_judge: Compares too, and chooses nothing; see `HeldOut`.

    Raises:
        ConfigError: A number is out of range.
    """

    def __init__(
        self,
        judge: Judge,
        sampler: Callable[[], Engines] = TransformersSampler,
        responses: int = 8,
        beta: float = 0.5,
        batch_size: int = 4,
        seed: int = 0,
        resamples: int = 2000,
        second_judge: Judge | None = None,
    ) -> None:
        if responses < 2 or min(batch_size, resamples) < 1 or not beta > 0:
            raise ConfigError(
                f"Baselines needs responses of 2 or more, batch_size and resamples of 1 or more and a positive beta, got {responses}, "
                f"{batch_size}, {resamples} and {beta}"
            )
        self.judges = {"initial": judge} | ({} if second_judge is None else {"second_initial": second_judge})
        self.sampler, self.responses, self.beta = sampler(), responses, beta
        self.batch_size, self.seed, self.resamples = batch_size, seed, resamples

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check before a round is sampled that sampler, judges and data are consistent. Raises ConfigError: they are not."""
        _, data = parts(trainer, pl_module, type(self).__name__)
        check_sampler(self.sampler, data)
        for judge in self.judges.values():
            check_reading(judge, data)

    def act(self, trainer: Trainer, module: GPO, data: PromptData, number: int) -> None:
        """Sample and judge the missing responses of the first round.

        Raises:
            ConfigError: `HeldOut` has not run before.
        """
        if number > 0:
            return
        prompts, rivals = data.prompts("val"), held_out(data, 0)

        def make(rows: Sequence[int]) -> Iterator[Line]:
            asked = [prompts[row] for row in rows]
            seeds = [seed_of(self.seed, 0, row, 3) for row in rows]
            drawn = self.sampler.sample(module.backbone, [p.messages for p in asked], self.responses, seeds)
            lines = [line_of(own) for own in drawn]
            records = [p.answered(line["responses"] + rivals[row]["responses"]) for p, line, row in zip(asked, lines, rows, strict=True)]
            tables = {name: [verdict.table for verdict in judge.judge(records)] for name, judge in self.judges.items()}
            for place, line in enumerate(lines):
                n = self.responses
                scores = tables["initial"][place][:n, :n].mean(axis=1)
                yield line | {"scores": scores.tolist()} | {name: found[place][:n, n:].tolist() for name, found in tables.items()}

        about = {
            "weights": module.weights_digest(),
            "judges": {name: judge.describe() for name, judge in self.judges.items()},
            "sampler": described(self.sampler),
            "settings": [self.seed, self.batch_size, self.responses],
            "rivals": digest(str(line["responses"]) for line in rivals),
        }
        groups = batches(len(prompts), self.batch_size)
        self.fill(trainer, data, 0, "baselines", about, groups, make, fresh=data.round_begins)
        self.sampler.rest()
        if self.first_time(trainer, 0):
            report(trainer, data, 0, self._measured(list(data.rounds.read(0, "baselines").values())))

    def _measured(self, lines: list[Line]) -> dict[str, float]:
        scores = [np.array(line["scores"]) for line in lines]
        best = [np.eye(self.responses)[each.argmax()] for each in scores]
        accepted = [acceptance(each, self.beta) for each in scores]
        found = {"baseline_responses": float(self.responses)}
        for name, weights in (("best_of_n", best), ("rejection", accepted)):
            for key in self.judges:
                tables = [np.array(line[key]) for line in lines]
                wins = [float(w @ ((t > 0) + 0.5 * (t == 0)).mean(1)) for w, t in zip(weights, tables, strict=True)]
                odds = [float(w @ t.mean(1)) for w, t in zip(weights, tables, strict=True)]
                second = key.removesuffix("initial")
                values = averages(wins, odds, self.resamples, stream(self.seed, f"{name}{key}"))
                found |= {f"{name}_{second}{each}_initial": value for each, value in values.items()}
            for measure, value in (("words", lambda text: len(text.split())), ("repetition", repetition)):
                of = [np.array([value(text) for text in line["responses"]]) for line in lines]
                found[f"{name}_{measure}"] = float(np.mean([w @ each for w, each in zip(weights, of, strict=True)]))
        found["best_of_n_kl_initial"] = math.log(self.responses) - (self.responses - 1) / self.responses
        found["rejection_kl_initial"] = float(np.mean([(w * np.log(np.maximum(self.responses * w, 1e-300))).sum() for w in accepted]))
        return found


def acceptance(scores: Floats, beta: float) -> Floats:
    """Return the probability that rejection sampling answers with each of n responses, proportional to exp(score / beta) [n]."""
    weights = np.exp((scores - scores.max()) / beta)
    return np.asarray(weights / weights.sum())
