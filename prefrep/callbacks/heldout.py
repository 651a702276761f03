"""Evaluation of the policy on held-out prompts."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray

from prefrep.callbacks import reference
from prefrep.callbacks.first import FirstAnswers
from prefrep.callbacks.labelling import check_reading
from prefrep.callbacks.rounds import RoundCallback, more_rounds, parts, reading, report, seed_of
from prefrep.callbacks.sampling import check_sampler, described, line_of, shape
from prefrep.data.prompt_sources import Prompt
from prefrep.data.prompts import PromptData
from prefrep.data.rounds import Line, batches, digest
from prefrep.errors import ConfigError
from prefrep.generation import Engines, TransformersSampler
from prefrep.judges import Judge
from prefrep.metrics.intervals import bootstrap_means, percentile_interval, stream
from prefrep.metrics.overoptimisation import overoptimised
from prefrep.modules.gpo import GPO
from prefrep.records import Messages

log = logging.getLogger(__name__)


class HeldOut(RoundCallback):
    """Win rates on the prompts of `data.val`, before every round and after the last one.

    `rounds/t/held_out.jsonl` holds responses of pi_t, `rounds/t/verdicts.jsonl` their log-odds (nats) against responses of pi_0 and
    pi_{t-1}. `rounds/t/metrics.json` gets win rates (a tie is half a win) and mean log-odds, with bootstrap intervals over prompts.

    A policy that is trained on a judge for long learns its mistakes too. A second judge that training does not use, of another kind, shows
    that: its verdicts are in `second_verdicts.jsonl`, and a warning names the round since which the policy won more with the first and less
    with the second, where intervals of both differences exclude 0 (`metrics.overoptimisation`).

    Args:
        judge: The judge of the comparisons; normally that of training.
        sampler: Builds the sampler; normally configured like that of training.
        responses: Responses per prompt.
        batch_size: Prompts per sampling batch.
        seed: Seed of sampling.
        resamples: Bootstrap resamples.
        second_judge: A judge of another kind, which training does not use; null: none.
        patience: Training stops after so many rounds without a new highest win rate against pi_0, by the second judge if there is one;
            null: it does not. The policy of the last round is kept. Before SampleResponses in trainer.callbacks, it spares the samples of
            a round.

    Raises:
        ConfigError: A number is out of range.
    """

    def __init__(
        self,
        judge: Judge,
        sampler: Callable[[], Engines] = TransformersSampler,
        responses: int = 2,
        batch_size: int = 8,
        seed: int = 0,
        resamples: int = 2000,
        second_judge: Judge | None = None,
        patience: int | None = None,
    ) -> None:
        if min(responses, batch_size, resamples) < 1:
            raise ConfigError(f"responses, batch_size and resamples must be 1 or more, got {responses}, {batch_size} and {resamples}")
        if patience is not None and patience < 1:
            raise ConfigError(f"HeldOut.patience must be 1 or more, or null, got {patience}")
        self.judges = {"verdicts": judge} | ({} if second_judge is None else {"second_verdicts": second_judge})
        self.sampler, self.responses, self.patience = sampler(), responses, patience
        self.batch_size, self.seed, self.resamples = batch_size, seed, resamples

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check before a round is sampled that there are held-out prompts and a judge that fits them.

        Raises:
            ConfigError: There are no held-out prompts, or sampler, judge and data are inconsistent.
        """
        _, data = parts(trainer, pl_module, type(self).__name__)
        if not data.prompts("val"):
            raise ConfigError("HeldOut needs prompts that are not trained on; set --data.val FILE or remove the callback")
        check_sampler(self.sampler, data)
        for judge in self.judges.values():
            check_reading(judge, data)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate the policy of the last round. Unlike `on_train_end`, this hook also runs when a finished run is resumed."""
        module, data = parts(trainer, pl_module, type(self).__name__)
        if not cast(Any, trainer).fast_dev_run and not trainer.interrupted and data.round_begins and data.round_number > 0:
            module.to(trainer.strategy.root_device)
            with reading(trainer, module):
                self.act(trainer, module, data, data.round_number)

    def act(self, trainer: Trainer, module: GPO, data: PromptData, number: int) -> None:
        """Sample and judge the missing responses."""
        prompts = data.prompts("val")

        first = self._first(module, data, number, [prompt.messages for prompt in prompts])
        known = first.lines() if first else {}

        def make(rows: Sequence[int]) -> Iterator[Line]:
            asked = [prompts[row] for row in rows]
            if known:  # of the same prompts, perhaps from another file
                yield from ({**known[row], "id": prompt.id} for row, prompt in zip(rows, asked, strict=True))
                return
            seeds = [seed_of(self.seed, number, row, 2) for row in rows]
            drawn = self.sampler.sample(module.backbone, [p.messages for p in asked], self.responses, seeds)
            lines = [line_of(row) for row in drawn]
            found = reference.measured(module, data, data.encoded(asked, lines), lines, True, number)
            for prompt, line, measured in zip(asked, lines, found, strict=True):
                before = [message.as_dict() for message in prompt.messages[:-1]]
                asked_before = {"before": before} if before else {}
                yield {"id": prompt.id, "prompt": prompt.messages[-1].content, **asked_before, **line, **measured}

        about = {
            "weights": module.weights_digest(),
            "prompts": digest(message.content for prompt in prompts for message in prompt.messages),
            "sampler": described(self.sampler),
            "settings": [self.seed, self.batch_size, self.responses],
        }
        groups = batches(len(prompts), self.batch_size)
        self.fill(trainer, data, number, "held_out", about, groups, make, fresh=data.round_begins)
        self.sampler.rest()
        if first and not known and trainer.is_global_zero:
            first.keep(data.rounds.read(number, "held_out"))
        if number > 0:
            rivals = [held_out(data, earlier) for earlier in sorted({0, number - 1})]  # in round 1 they are the same
            own = held_out(data, number)
            for name, judge in self.judges.items():
                judged = {"judge": judge.describe(), "responses": digest(str(side) for side in (own, *rivals))}
                self.fill(trainer, data, number, name, judged, groups, partial(_compared, judge, prompts, own, rivals))
        if self.first_time(trainer, number):
            self._report(trainer, data, number)
        if self.patience is None or not more_rounds(trainer, number):
            return
        if (rounds := self._without_gain(data, number)) >= self.patience:
            log.info("stopped early: %d rounds without a higher held-out win rate than that of round %d", rounds, number - rounds)
            trainer.should_stop = True

    def _first(self, module: GPO, data: PromptData, number: int, prompts: list[Messages]) -> FirstAnswers | None:
        """Return the shared answers of pi_0, in round 0 and as long as its own are not complete."""
        if not isinstance(self.sampler, TransformersSampler):
            return None  # an engine's version, machine and options decide too
        if number > 0 or not data.round_begins or len(data.rounds.read(number, "held_out")) == len(prompts):
            return None
        settings = {
            "sampler": described(self.sampler),
            "settings": [self.seed, self.batch_size, self.responses],
            "data": [data.encode_config.template, data.encode_config.max_length, data.layout, data.row_tokens],
        }
        return FirstAnswers(module.backbone, self.sampler, prompts, settings)

    def _report(self, trainer: Trainer, data: PromptData, number: int) -> None:
        lines = list(data.rounds.read(number, "held_out").values())
        values = {f"held_out_{name}": value for name, value in reference.summary(lines).items()}
        values |= {f"held_out_{name}": value for name, value in shape(lines).items()}
        for table, prefix in zip(self.judges, ("held_out", "held_out_second"), strict=False):
            verdicts = list(data.rounds.read(number, table).values())
            for rival in ("initial", "previous") if verdicts else ():
                tables = [np.array(line[rival]) for line in verdicts]
                draws = stream(self.seed, f"{prefix}_{{}}_{rival}{number}")
                found = averages([win_rate(each) for each in tables], [float(each.mean()) for each in tables], self.resamples, draws)
                values |= {f"{prefix}_{key}_{rival}": value for key, value in found.items()}
        texts = {f"held_out/{n}": f"**{line['prompt']}**\n\n{line['responses'][0]}" for n, line in enumerate(lines[:3])}
        if len(self.judges) == 2 and number > 0:
            values |= self._warned(data, number)
        report(trainer, data, number, values, texts)

    def _history(self, data: PromptData, number: int, name: str) -> list[NDArray[np.float64]]:
        """Return win rates against pi_0 on each prompt, of every policy up to pi_t; those of pi_0 itself are 1/2."""
        later = [data.rounds.read(each, name) for each in range(1, number + 1)]
        rates = [np.array([win_rate(np.array(lines[row]["initial"])) for row in sorted(lines)]) for lines in later]
        return [np.full(len(data.prompts("val")), 0.5), *rates]

    def _without_gain(self, data: PromptData, number: int) -> int:
        """Return the number of rounds since the highest win rate."""
        means = [float(rates.mean()) for rates in self._history(data, number, list(self.judges)[-1])]
        return number - means.index(max(means))

    def _warned(self, data: PromptData, number: int) -> dict[str, float]:
        proxy, gold = (self._history(data, number, name) for name in self.judges)
        found = overoptimised(proxy, gold)
        if found is None:
            return {}
        first, second = (judge.name for judge in self.judges.values())
        log.warning(
            "round %d: since round %d, the held-out win rate rose with the judge %s (difference in [%.3f, %.3f]) and fell with the second "
            "judge %s ([%.3f, %.3f]): the policy learns mistakes of its judge; raise beta, or stop with KLBudget or HeldOut.patience",
            number, found.since, first, *found.gain, second, *found.loss,
        )  # fmt: skip
        return {"held_out_overoptimised_since": float(found.since)}


def held_out(data: PromptData, number: int) -> list[Line]:
    """Return the held-out responses of a round. Raises ConfigError: there are none."""
    found, size = data.rounds.read(number, "held_out"), len(data.prompts("val"))
    if len(found) < size:
        raise ConfigError(f"{data.rounds.folder(number)}: held_out.jsonl is incomplete; HeldOut must be configured from the first round on")
    return [found[row] for row in range(size)]


def averages(wins: Sequence[float], scores: Sequence[float], resamples: int, draws: np.random.Generator) -> dict[str, float]:
    """Return the mean win rate over prompts, its bootstrap interval, and the mean log-odds in nats."""
    low, high = percentile_interval(bootstrap_means(np.array(wins), resamples, draws))
    return {"win_rate": float(np.mean(wins)), "win_rate_low": low, "win_rate_high": high, "score": math.fsum(scores) / len(scores)}


def win_rate(table: np.ndarray[Any, Any]) -> float:
    """Return the share of positive log-odds in a table; a tie is half a win."""
    return float(((table > 0) + 0.5 * (table == 0)).mean())


def _compared(judge: Judge, prompts: list[Prompt], own: list[Line], rivals: list[list[Line]], rows: Sequence[int]) -> Iterator[Line]:
    sides = [[side[row]["responses"] for side in (own, *rivals)] for row in rows]
    records = [prompts[row].answered([text for side in three for text in side]) for row, three in zip(rows, sides, strict=True)]
    for three, verdict in zip(sides, judge.judge(records), strict=True):
        count, first = len(three[0]), len(three[0]) + len(three[1])
        table = verdict.table[:count]
        initial, previous = table[:, count:first], table[:, first:]
        yield {"initial": initial.tolist(), "previous": (previous if len(three) == 3 else initial).tolist()}
