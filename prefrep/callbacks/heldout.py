"""Evaluation of the policy on held-out prompts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np
from lightning.pytorch import LightningModule, Trainer

from prefrep.callbacks import reference
from prefrep.callbacks.first import FirstAnswers
from prefrep.callbacks.labelling import check_reading
from prefrep.callbacks.rounds import RoundCallback, parts, reading, report, seed_of
from prefrep.callbacks.sampling import check_sampler, described, line_of
from prefrep.data.prompts import PromptData
from prefrep.data.rounds import Line, batches, digest
from prefrep.errors import ConfigError
from prefrep.generation import TransformersSampler, VLLMSampler
from prefrep.judges import Judge
from prefrep.metrics.intervals import bootstrap_means, percentile_interval, stream
from prefrep.modules.gpo import GPO
from prefrep.records import Messages


class HeldOut(RoundCallback):
    """Win rates on the prompts of `data.val`, before every round and after the last one.

    `rounds/t/held_out.jsonl` holds responses of pi_t, `rounds/t/verdicts.jsonl` their log-odds (nats) against responses of pi_0 and
    pi_{t-1}. `rounds/t/metrics.json` gets win rates (a tie is half a win) and mean log-odds, with bootstrap intervals over prompts.

    Args:
        judge: The judge of the comparisons.
        sampler: Builds the sampler; normally configured like that of training.
        responses: Responses per prompt.
        batch_size: Prompts per sampling batch.
        seed: Seed of sampling.
        resamples: Bootstrap resamples.

    Raises:
        ConfigError: A number is out of range.
    """

    def __init__(
        self,
        judge: Judge,
        sampler: Callable[[], TransformersSampler | VLLMSampler] = TransformersSampler,
        responses: int = 2,
        batch_size: int = 8,
        seed: int = 0,
        resamples: int = 2000,
    ) -> None:
        if min(responses, batch_size, resamples) < 1:
            raise ConfigError(f"responses, batch_size and resamples must be 1 or more, got {responses}, {batch_size} and {resamples}")
        self.judge, self.sampler, self.responses = judge, sampler(), responses
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
        check_reading(self.judge, data)

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
            if known:
                yield from (known[row] for row in rows)
                return
            asked = [prompts[row] for row in rows]
            seeds = [seed_of(self.seed, number, row, 2) for row in rows]
            drawn = self.sampler.sample(module.backbone, [p.messages for p in asked], self.responses, seeds)
            lines = [line_of(row) for row in drawn]
            found = reference.measured(module, data, data.encoded(asked, lines), lines, True, number)
            for prompt, line, measured in zip(asked, lines, found, strict=True):
                yield {"id": prompt.id, "prompt": prompt.messages[-1].content, **line, **measured}

        about = {
            "weights": module.weights_digest(),
            "prompts": digest(message.content for prompt in prompts for message in prompt.messages),
            "sampler": described(self.sampler),
            "settings": [self.seed, self.batch_size, self.responses],
        }
        groups = batches(len(prompts), self.batch_size)
        self.fill(trainer, data, number, "held_out", about, groups, make, fresh=data.round_begins)
        if first and not known and trainer.is_global_zero:
            first.keep(data.rounds.read(number, "held_out"))
        if number > 0:
            rivals = [self._lines(data, earlier, len(prompts)) for earlier in (0, number - 1)]
            own = self._lines(data, number, len(prompts))

            def compare(rows: Sequence[int]) -> Iterator[Line]:
                sides = [[side[row]["responses"] for side in (own, *rivals)] for row in rows]
                records = [prompts[row].answered([text for side in three for text in side]) for row, three in zip(rows, sides, strict=True)]
                for three, verdict in zip(sides, self.judge.judge(records), strict=True):
                    count, first = len(three[0]), len(three[0]) + len(three[1])
                    table = verdict.table[:count]
                    yield {"initial": table[:, count:first].tolist(), "previous": table[:, first:].tolist()}

            judged = {"judge": self.judge.describe(), "responses": digest(str(side) for side in (own, *rivals))}
            self.fill(trainer, data, number, "verdicts", judged, groups, compare)
        if self.first_time(trainer, number):
            self._report(trainer, data, number)

    def _first(self, module: GPO, data: PromptData, number: int, prompts: list[Messages]) -> FirstAnswers | None:
        """Return the shared answers of pi_0, in round 0 and as long as its own are not complete."""
        if number > 0 or not data.round_begins or len(data.rounds.read(number, "held_out")) == len(prompts):
            return None
        settings = {
            "sampler": described(self.sampler),
            "settings": [self.seed, self.batch_size, self.responses],
            "data": [data.encode_config.template, data.encode_config.max_length, data.layout, data.row_tokens],
        }
        return FirstAnswers(module.backbone, self.sampler, prompts, settings)

    @staticmethod
    def _lines(data: PromptData, number: int, size: int) -> list[Line]:
        found = data.rounds.read(number, "held_out")
        if len(found) < size:
            raise ConfigError(
                f"{data.rounds.folder(number)}: held_out.jsonl is incomplete; HeldOut must be configured from the first round on"
            )
        return [found[row] for row in range(size)]

    def _report(self, trainer: Trainer, data: PromptData, number: int) -> None:
        lines = list(data.rounds.read(number, "held_out").values())
        values = {f"held_out_{name}": value for name, value in reference.summary(lines).items()}
        values["held_out_words"] = float(np.mean([len(text.split()) for line in lines for text in line["responses"]]))
        verdicts = list(data.rounds.read(number, "verdicts").values())
        for rival in ("initial", "previous") if verdicts else ():
            values |= self._compared(f"held_out_{{}}_{rival}", [np.array(line[rival]) for line in verdicts], number)
        texts = {f"held_out/{n}": f"**{line['prompt']}**\n\n{line['responses'][0]}" for n, line in enumerate(lines[:3])}
        report(trainer, data, number, values, texts)

    def _compared(self, name: str, tables: list[np.ndarray[Any, Any]], number: int) -> dict[str, float]:
        """Return the win rate, its interval, and mean log-odds in nats."""
        wins = np.array([float(((table > 0) + 0.5 * (table == 0)).mean()) for table in tables])
        low, high = percentile_interval(bootstrap_means(wins, self.resamples, stream(self.seed, f"{name}{number}")))
        score = math.fsum(float(table.mean()) for table in tables) / len(tables)
        found = {"win_rate": float(wins.mean()), "win_rate_low": low, "win_rate_high": high, "score": score}
        return {name.format(key): value for key, value in found.items()}
