"""Labels of a round: verdicts of a judge on the sampled responses."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import numpy as np
from lightning.pytorch import LightningModule, Trainer

from prefrep.callbacks.rounds import RoundCallback, parts, report
from prefrep.data.prompts import PromptData
from prefrep.data.rounds import Line, batches, digest
from prefrep.errors import ConfigError
from prefrep.functional.intransitivity import triples
from prefrep.judges import Judge, ModelJudge, PanelJudge, Verdict
from prefrep.modules.gpo import GPO

log = logging.getLogger(__name__)


class LabelPreferences(RoundCallback):
    """Judges the responses of each round into `rounds/t/labels.jsonl`: log-odds tables, mean scores, the best and the worst response.

    A `PanelJudge` adds one table for each of its judges, for objectives that weigh them against each other.

    `PreferenceData` reads each line as ranked responses.

    Args:
        judge: Compares the responses.
        batch_size: Prompts per call of the judge.
    """

    def __init__(self, judge: Judge, batch_size: int = 32) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be 1 or more, got {batch_size}")
        self.judge, self.batch_size = judge, batch_size

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load and check the judge before the first round is sampled."""
        check_reading(self.judge, parts(trainer, pl_module, type(self).__name__)[1])

    def act(self, trainer: Trainer, module: GPO, data: PromptData, number: int) -> None:
        """Judge the prompts that have no labels yet.

        Raises:
            ConfigError: The round has no responses yet, or the judge gives log-odds that are not finite.
        """
        prompts = data.round_prompts(number)
        samples = data.rounds.read(number, "samples")
        opponents, earlier = data.rounds.read(number, "opponents"), data.rounds.read(number, "earlier")
        size: int | None = None
        if module.objective.needs_earlier_responses:  # none were sampled if the earlier policy is pi_t itself
            size = len(earlier[0]["responses"]) if earlier else 0
        if len(samples) < len(prompts):
            raise ConfigError("LabelPreferences found no responses; SampleResponses must come before it in trainer.callbacks")

        def make(rows: Sequence[int]) -> Iterator[Line]:
            texts = [[line for table in (samples, opponents, earlier) if table for line in table[row]["responses"]] for row in rows]
            records = [prompts[row].answered(each) for row, each in zip(rows, texts, strict=True)]
            for row, verdict in zip(rows, self.judge.judge(records), strict=True):
                yield labels(samples[row], verdict, size)

        about = {
            "judge": self.judge.describe(),
            "batch_size": self.batch_size,
            "samples": digest(str(table[row]) for table in (samples, opponents, earlier) for row in sorted(table)),
        }
        groups = batches(len(prompts), self.batch_size)
        self.fill(trainer, data, number, "labels", about, groups, make)
        if self.first_time(trainer, number):
            report(trainer, data, number, summary(list(data.rounds.read(number, "labels").values())))


def labels(sample: Line, verdict: Verdict, earlier: int | None = None) -> Line:
    """Return a line of labels: the K responses of pi_t with their log-odds against each other and against those of other policies.

    Args:
        sample: The line of `samples.jsonl`.
        verdict: The judgement of all responses: K of pi_t, then M of pi_0, then those of an earlier round's policy.
        earlier: Number of the last ones; 0: that policy is pi_t, so that its responses are the K. None: no log-odds against it are needed.
    """
    count, last = len(sample["responses"]), len(verdict.table) - (earlier or 0)
    own = verdict.table[:count, :count]
    scores = own.mean(axis=1)
    line = {
        "id": sample["id"],
        "prompt": sample["prompt"],
        "responses": sample["responses"],
        "scores": scores.tolist(),
        "best": int(scores.argmax()),
        "worst": int(count - 1 - scores[::-1].argmin()),
        "table": own.tolist(),
        "initial_table": verdict.table[:count, count:last].tolist(),
    }
    if earlier is not None:
        line["earlier_table"] = (verdict.table[:count, last:] if earlier else own).tolist()
    if verdict.tables is not None:
        line["tables"] = {name: table[:count, :count].tolist() for name, table in verdict.tables.items()}
    if verdict.blocks is not None:
        line["blocks"] = verdict.blocks[:, :count, :count].tolist()
    return line


def check_reading(judge: Judge, data: PromptData) -> None:
    """Check that model judges and the policy agree on conversations or plain text.

    Chat templates may differ, since each model reads its own. But a judge that reads plain text cannot judge conversations, nor the other
    way round. Warns once if the judge truncates earlier than the policy.

    Raises:
        ConfigError: One reads conversations and the other plain text.
    """
    if isinstance(judge, PanelJudge):
        for each in judge.judges.values():
            check_reading(each, data)
    if not isinstance(judge, ModelJudge):
        return
    theirs, ours = judge.encode_config, data.encode_config
    policy_chats = ours.template == "chat" or (ours.template == "auto" and bool(data.chat_template))
    judge_chats = judge.scorer.chats
    if policy_chats != judge_chats:
        raise ConfigError(
            f"the judge {judge.path} reads {'conversations' if judge_chats else 'plain texts'} (template {theirs.template}) and the policy "
            f"writes {'conversations' if policy_chats else 'plain texts'} (template {ours.template}); set --data.template to "
            f"{'chat' if judge_chats else 'plain'}, or choose another judge"
        )
    if theirs.max_length < ours.max_length and not judge.warned:
        judge.warned = True
        log.warning(
            "the judge %s truncates texts to %d tokens and data.max_length is %d: it will not see the ends of the longest responses",
            judge.path, theirs.max_length, ours.max_length,
        )  # fmt: skip


def summary(lines: list[Line]) -> dict[str, float]:
    """Return statistics of labels: spread of scores and largest log-odds in nats, shares of tied prompts and of cyclic triples."""
    tables = np.array([line["table"] for line in lines], dtype=np.float64)
    scores = tables.mean(-1)
    verdicts = triples(tables)
    count = int(np.sum(verdicts))
    found = {
        "score_range": float((scores.max(-1) - scores.min(-1)).mean()),
        "largest_score": float(np.abs(tables).max()),
        "undecided_prompts": float((tables == 0).all((-1, -2)).mean()),
    }
    return found | ({"cycles": int(verdicts.cyclic.sum()) / count} if count else {})
