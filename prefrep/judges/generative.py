"""A language model as a judge: it is asked in words, and its answers are read, counted and kept."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from itertools import combinations, islice
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from prefrep.annotators import Annotators
from prefrep.errors import ConfigError, require_at_least
from prefrep.functional.missing import completed
from prefrep.judges.base import Judge, Verdict
from prefrep.judges.writing.asker import Asker
from prefrep.judges.writing.forms import FormName, Style
from prefrep.judges.writing.interview import Interview, Manner, Shown, shipped
from prefrep.judges.writing.judgments import Judgment, Tally, permutation, reversed_order, rewards_of, table_of
from prefrep.judges.writing.reading import Constraint
from prefrep.nn.loading import DType
from prefrep.parts import recipe
from prefrep.records import Comparison, RankedResponses

log = logging.getLogger(__name__)

FEW = 20  # questions from which on a share without a verdict tells something
Orders = Literal["both", "one"]
_PLUMBING = (  # settings that move no verdict
    "concurrency", "timeout", "max_requests", "max_total_tokens", "max_no_verdict", "key_env", "batch_size", "device", "retries",
)  # fmt: skip


class GenerativeJudge(Judge):
    """A language model that is asked for verdicts in words, in this process or behind an OpenAI-compatible endpoint.

    What cannot be read is no verdict: NaN, which is no tie; it is counted, and too much of it is an error. Answers are kept in the cache by
    content, so what was answered is not asked again. Errors and time-outs are no verdict for the rest of a run; the next one asks again.

    Args:
        model: Bundled model, folder or hub id; with `url`, the name of the model there.
        url: Base URL of an endpoint, such as `http://127.0.0.1:8000/v1`; null: the model runs in this process.
        form: What is asked: the better of two, with or without a tie, five grades (`A>>B` to `B>>A`), the best of K, a rating of each.
        style: `reasons`: a few sentences, then the verdict. `letter`: the verdict alone, one character.
        orders: `both`: every question is asked in both orders (of K answers, forwards and backwards), and log-odds are averaged. `one`: an
            order drawn from `seed` and the content.
        prompt: Jinja file of the question, or a shipped prompt (pair, best-of, rating); null: the one of the form.
        rubric: Rules to judge by.
        criteria: What counts, the most important first.
        reference: Tag of the records that holds a reference answer; null: none is shown.
        samples: Answers per question, drawn at `temperature`.
        temperature: Divides the logits; 0: greedy.
        max_tokens: Longest answer with reasons.
        points: Highest rating; one point is one nat.
        constraint: `choice` allows labels only (here, and behind vLLM); `json` asks an endpoint for a JSON schema.
        seed: Seed of orders and samples.
        retries: How often a question without a verdict is asked again where that can help: errors, and other draws.
        max_requests: Most requests of this run; null: no limit.
        max_total_tokens: Most tokens of this run; null: no limit.
        max_no_verdict: Largest share of questions without a verdict that `check` accepts.
        key_env: Environment variable with the endpoint's key.
        concurrency: Requests in flight at a time.
        timeout: Seconds for one request.
        dtype: Type of the weights in this process.
        device: `auto`: CUDA if available.
        batch_size: Questions answered together in this process.
        trust_remote_code: Run Python code from the folder, see `Backbone`.

    Raises:
        ConfigError: A value is out of range, two exclude each other, or the prompt cannot be read.
    """

    def __init__(
        self,
        model: str = "bundled:smollm2-135m",
        url: str | None = None,
        form: FormName = "choice",
        style: Style = "reasons",
        orders: Orders = "both",
        prompt: str | None = None,
        rubric: str = "",
        criteria: list[str] | None = None,
        reference: str | None = None,
        samples: int = 1,
        temperature: float = 0.0,
        max_tokens: int = 1024,
        points: int = 10,
        constraint: Constraint = "none",
        seed: int = 0,
        retries: int = 1,
        max_requests: int | None = None,
        max_total_tokens: int | None = None,
        max_no_verdict: float = 0.05,
        key_env: str = "OPENAI_API_KEY",
        concurrency: int = 8,
        timeout: float = 120.0,
        dtype: DType = "float32",
        device: str = "auto",
        batch_size: int = 8,
        trust_remote_code: bool = False,
    ) -> None:
        for name, value in (("samples", samples), ("max_tokens", max_tokens), ("concurrency", concurrency), ("batch_size", batch_size)):
            require_at_least(f"{name} of the judge", value, 1)
        require_at_least("temperature of the judge", temperature, 0)
        require_at_least("retries of the judge", retries, 0)
        if samples > 1 and temperature == 0:
            raise ConfigError("samples of the judge: at temperature 0 all samples are equal; set temperature to 1")
        if constraint == "json" and url is None:
            raise ConfigError("constraint json needs an endpoint (url); in this process take constraint choice with style letter")
        if constraint == "choice" and style != "letter":
            raise ConfigError("constraint choice leaves no room for reasons; take style letter, or constraint none")
        self.model, self.url, self.orders, self.seed, self.max_no_verdict = model, url, orders, seed, max_no_verdict
        longest = max_tokens if style == "reasons" else 32 if constraint == "json" else 1
        self.manner = Manner(
            form, style, prompt or shipped(form), rubric, tuple(criteria or ()), reference, samples, temperature, longest, points,
            constraint, seed, retries,
        )  # fmt: skip

        def asker() -> Asker:
            if url is not None:
                from prefrep.judges.writing.endpoint import EndpointWriter

                return Asker(EndpointWriter(model, url, key_env, concurrency, timeout), max_requests, max_total_tokens)
            from prefrep.judges.writing.local import LocalWriter

            return Asker(LocalWriter(model, dtype, device, batch_size, trust_remote_code), max_requests, max_total_tokens)

        self.interview = Interview(model, self.manner, asker)

    # ---- who it is

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.model

    @property
    def annotators(self) -> Annotators | None:
        """None: it answers everybody alike."""
        return None

    @property
    def pairwise(self) -> bool:
        """Whether answers have no numbers of their own."""
        return self.manner.form not in ("rating", "best-of")

    def describe(self) -> dict[str, Any]:
        """Return what moves a verdict, as plain data."""
        stated = {key: value for key, value in recipe(self).items() if key not in _PLUMBING}
        template = {"prompt": self.manner.prompt, "template": self.interview.prompt.source}
        return {**stated, **template, "pairwise": self.pairwise, "abstains": True}

    def at(self, form: FormName) -> Self:
        """Return the judge asked in another form, with the same memory, budget and counts."""
        other = copy(self)
        points = min(self.manner.points, 9) if self.manner.style == "letter" else self.manner.points
        other.manner = replace(self.manner, form=form, prompt=shipped(form), points=points)
        other.interview = self.interview.at(other.manner)
        return other

    def load(self) -> None:
        """Load what answering needs in this process, so that a wrong model or address is an error before the first question.

        Raises:
            PrefrepError: It cannot be loaded.
        """
        self.interview.asker.writer.load()

    def forget(self) -> None:
        """Forget counts, and which questions had errors or time-outs, so that they are asked again: a server's run has no end."""
        self.interview.forget()

    def check(self) -> None:
        """Raise VerdictError where too many questions had no verdict."""
        self.tally.check(self.name, self.max_no_verdict)

    @property
    def tally(self) -> Tally:
        """What was said so far."""
        return self.interview.tally

    # ---- comparisons and tables

    def compare(self, comparisons: Iterable[Comparison], *, progress: str | None = None) -> Iterator[float]:
        """Yield log-odds of chosen over rejected; NaN: no verdict, which with both orders is one in either of them."""
        records = [_record(each) for each in comparisons]
        for table in self.tables(records, progress=progress):
            yield float(table[0, 1])

    def compare_one_order(self, comparisons: Iterable[Comparison], *, progress: str | None = None) -> Iterator[float]:
        """Yield log-odds of chosen over rejected with chosen shown first; NaN: no verdict.

        Raises:
            ConfigError: The form shows one answer at a time.
        """
        if self.manner.form == "rating":
            raise ConfigError("form rating shows one answer at a time and has no orders")
        for judgment in self.interview.judged([Shown(_record(each), (0, 1)) for each in comparisons], progress):
            yield judgment.log_odds()

    def verdicts(self, records: Sequence[RankedResponses]) -> Iterator[Verdict]:
        """See `Judge`.

        A pair without a verdict gets what the other verdicts on the prompt imply (`functional.missing`), or 0 where they imply nothing.

        Raises:
            VerdictError: Too many questions had no verdict.
        """
        for table in self.tables(records):
            yield Verdict(completed(table.astype(np.float64)).astype(np.float32))
        if sentence := self.tally.sentence():
            log.warning("%s: %s", self.name, sentence)
        if self.tally.questions >= FEW:
            self.check()

    def tables(self, records: Iterable[RankedResponses], *, progress: str | None = None) -> Iterator[NDArray[np.float32]]:
        """Yield log-odds of i over j, [K, K], skew-symmetric; NaN: no verdict."""
        for record, judgments in self.heard(list(records), progress=progress):
            yield self.log_odds(judgments, len(record.responses))

    def log_odds(self, judgments: Sequence[Judgment], count: int) -> NDArray[np.float32]:
        """Return log-odds of i over j, [K, K], skew-symmetric, of the judgments of one record; NaN: no verdict."""
        if self.pairwise:
            return table_of(judgments, count)
        rewards = rewards_of(judgments, count)
        table = rewards[:, None] - rewards[None, :]
        np.fill_diagonal(table, 0)  # an answer equals itself, whatever its rating is
        return table

    def tables_of(
        self, records: Iterable[RankedResponses], annotators: Sequence[str], *, progress: str | None = None
    ) -> Iterator[NDArray[np.float32]]:
        """Raise ConfigError: it knows no annotators."""
        raise ConfigError(f"{self.name} answers everybody alike; ask a model that knows annotators")

    def rewards(self, records: Iterable[RankedResponses], *, progress: str | None = None) -> Iterator[NDArray[np.float32]]:
        """Yield one number per answer, [K]: its rating, or the logarithm of the probability that it is the best; NaN: no verdict.

        Raises:
            ConfigError: The form compares two answers.
        """
        if self.pairwise:
            raise ConfigError(f"form {self.manner.form} compares two answers; form rating or best-of gives each answer a number")
        for record, judgments in self.heard(list(records), progress=progress):
            yield rewards_of(judgments, len(record.responses))

    # ---- questions and answers

    def judgments(self, records: Sequence[RankedResponses], *, progress: str | None = None) -> Iterator[Judgment]:
        """Yield one judgment per question about records, each record's together: pairs in order, each in its orders."""
        for _, found in self.heard(records, progress=progress):
            yield from found

    def shown(self, record: RankedResponses) -> list[Shown]:
        """Return the questions about a record: which answers are shown, and in which orders."""
        count = len(record.responses)
        if self.manner.form == "rating":
            return [Shown(record, (place,)) for place in range(count)]
        if self.manner.form == "best-of":
            if count == 1:  # nobody has to be asked whether the only one is the best
                return []
            places = tuple(range(count))
            if self.orders == "one":
                return [Shown(record, permutation(self.seed, record.prompt, record.responses))]
            return [Shown(record, places), Shown(record, places[::-1])]
        found = []
        for i, j in combinations(range(count), 2):
            if self.orders == "both":
                found += [Shown(record, (i, j)), Shown(record, (j, i))]
            else:
                flipped = reversed_order(self.seed, record.prompt, (record.responses[i], record.responses[j]))
                found.append(Shown(record, (j, i) if flipped else (i, j)))
        return found

    def heard(self, records: Sequence[RankedResponses], *, progress: str | None = None) -> Iterator[tuple[RankedResponses, list[Judgment]]]:
        """Yield each record with its judgments, see `judgments`."""
        asked = [self.shown(record) for record in records]
        found = self.interview.judged([each for group in asked for each in group], progress)
        for record, group in zip(records, asked, strict=True):
            yield record, list(islice(found, len(group)))


def _record(pair: Comparison) -> RankedResponses:
    """Return a comparison as two answers, chosen first, without what tells which one that is."""
    return RankedResponses(
        pair.prompt,
        (pair.chosen, pair.rejected),
        id=pair.id,
        subset=pair.subset,
        source=pair.source,
        tags=pair.tags,
        criterion=pair.criterion,
    )
