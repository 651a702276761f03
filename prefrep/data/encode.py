"""Records -> token ids: the only place where text meets a tokenizer.

Training, evaluation, scoring and labelling all come through here, so they cannot disagree about templates, BOS, EOS or truncation.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice
from math import comb
from typing import Literal, cast

import numpy as np
from transformers import PreTrainedTokenizerBase

from prefrep.data.trees import Datum, Ids, Tree
from prefrep.data.truncation import RESPONSES, Policy, truncate, truncate_official
from prefrep.errors import ConfigError, RecordError
from prefrep.records import Comparison, Message, Messages, RankedResponses, Record, preferred

_CHUNK = 128  # records that are tokenised in one call: the tokenizer then uses its threads


@dataclass(frozen=True)
class EncodeConfig:
    """How text becomes token ids. It travels with an exported model.

    Args:
        template: `chat`: the tokenizer's chat template. `plain`: conversations as Anthropic's transcripts, however many turns they have,
            and texts without a prompt as they are. `auto`: `chat` where the tokenizer has a template, except for texts without a prompt,
            else `plain`. `official`: the recipe that the released GPM checkpoints were trained and tested with (two BOS where template
            and tokenizer both add one, the last token overwritten by EOS, the gate read after the first message); only for scoring those.
            `classifier`: what transformers' sequence classifiers read, the chat template as it is up to the last token that is not
            the tokenizer's pad token; only for models imported from there.
        max_length: Longest sequence, in tokens.
        truncation: What gives way when a sequence is longer. `keep_end`: the prompt's beginning, until an eighth of max_length is
            left of it, then the responses' ends. `keep_start`: the responses' ends. `drop`: the whole record. Everything that gave way is
            counted.
    """

    template: Literal["auto", "chat", "plain", "official", "classifier"] = "auto"
    max_length: int = 2048
    truncation: Policy = "keep_end"

    def __post_init__(self) -> None:
        if self.max_length < 4:
            raise ConfigError(f"max_length must be at least 4 tokens, got {self.max_length}")


class Encoder:
    """Renders and tokenises records for one tokenizer and one kind of head.

    Args:
        tokenizer: A fast Hugging Face tokenizer with an EOS token.
        config: Template, length and truncation.
        layout: `single`: each response is a sequence of its own. `pair`: each comparison is two sequences, one for either order of the
            two responses, in RLHFlow's pair format.
        policy: Responses are those of a policy: each brings the `lead` that stands in front of it, if any, and its prompt ends before that.

    Attributes:
        counts: What happened so far, in records: `records`, `truncated prompts`, `truncated responses`, `dropped`, `refused`,
            `without a pair`; and in pairs: `ties` (equal scores, left out).

    Raises:
        ConfigError: The tokenizer is slow, has no EOS, or has no template where one is asked for.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, config: EncodeConfig, layout: Literal["single", "pair"], policy: bool = False
    ) -> None:
        name = tokenizer.name_or_path
        if not tokenizer.is_fast:
            raise ConfigError(f"{name}: character offsets are needed, so a fast tokenizer (tokenizer.json); this one is slow")
        if tokenizer.eos_token_id is None:
            raise ConfigError(f"{name}: the tokenizer has no EOS token, where responses are read; set one in its folder")
        if config.template in ("chat", "official", "classifier") and not tokenizer.chat_template:
            raise ConfigError(
                f"{name}: template '{config.template}' needs a chat template and this tokenizer has none; use template: plain"
            )
        if config.template == "official" and layout == "pair":
            raise ConfigError(
                "template 'official' is the recipe of the released GPM checkpoints, it has no pair format; use template: auto"
            )
        self.tokenizer, self.config, self.layout, self.policy = tokenizer, config, layout, policy
        self.counts: Counter[str] = Counter()
        ids = tokenizer("a")["input_ids"]
        self._bos: int | None = (
            tokenizer.bos_token_id if tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id] else None
        )
        self._eos = int(tokenizer.eos_token_id)
        # Texts without a prompt begin with a token of their own: a gate needs something to read that all responses share.
        self._start = "" if self._bos is not None else str(tokenizer.bos_token or tokenizer.eos_token)

    def encode(self, records: Iterable[Record], refused: list[RecordError] | None = None) -> Iterator[tuple[Record, Datum | None]]:
        """Encodes records for training: comparisons as they are, ranked responses as all pairs with unequal scores.

        The pairs of one prompt weigh as much as one comparison together.

        Args:
            records: What to encode.
            refused: What is wrong with records that cannot be rendered is added here, and they are dropped; None: it is raised.

        Yields:
            Each record with its datum, or None where it was dropped (refused, too long under `drop`, or nothing to compare).

        Raises:
            RecordError: The chat template refuses a record, or ranked responses have no scores; only where `refused` is None.
        """
        for record, datum in self._encode(records, self._learnable, refused):
            if datum is not None and not datum.pairs:
                self.counts["without a pair"] += 1
                datum = None
            yield record, datum

    def encode_tables(
        self, records: Iterable[RankedResponses], refused: list[RecordError] | None = None
    ) -> Iterator[tuple[Record, Datum | None]]:
        """Encodes ranked responses whole, with scores or without: for K x K tables.

        Heads that read pairs get every pair i < j; the others get the K responses and no pairs. Arguments and errors as for `encode`.
        """
        return self._encode(records, _pairs_of if self.layout == "pair" else lambda record: [], refused)

    def prompts(self, prompts: Iterable[Messages]) -> list[Ids]:
        """Token ids of prompts as a policy continues them: what `encode` puts before the response of a policy, whatever the length.

        Raises:
            RecordError: A prompt is empty, or the chat template refuses it.
        """
        return [ids for ids, _ in self._tokenise([self._prompt(prompt) for prompt in prompts])]

    @property
    def lead(self) -> str:
        """What is written in front of every response and still is for the policy to write: the blank behind `Assistant:`.

        Most vocabularies hold words with a blank in front. Behind a prompt that ends in one, hardly any word can follow.
        """
        return " " if self._transcripts else ""

    def continued(self, ids: Sequence[int]) -> str:
        """The text of tokens that a policy wrote behind a prompt, lead included, without special tokens."""

        def decode(ids: Sequence[int]) -> str:
            return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

        if not self.lead:
            return decode(ids)
        # Decoders of SentencePiece vocabularies drop a text's first blank, so the prompt's last letter goes in front.
        colon = self.tokenizer(":", add_special_tokens=False)["input_ids"]
        return decode([*colon, *ids])[len(decode(colon)) :]

    def end_ids(self) -> list[int]:
        """Ids that end a response: EOS, and the special token that the chat template writes after one."""
        if self._transcripts:
            return [self._eos]
        mark = "\N{SNOWMAN}"
        whole = self._render((Message("user", "?"), Message("assistant", mark)))
        added = self.tokenizer.added_tokens_decoder
        after = self.tokenizer(whole[whole.rfind(mark) + len(mark) :], add_special_tokens=False)["input_ids"]
        written = next((token for token in after if token in added and added[token].special), self._eos)
        return sorted({self._eos, written})

    def _encode(
        self, records: Iterable[Record], pairs_of: Callable[[Record], list[_Pair]], refused: list[RecordError] | None
    ) -> Iterator[tuple[Record, Datum | None]]:
        records = iter(records)
        while chunk := list(islice(records, _CHUNK)):
            jobs: list[tuple[Record, list[_Pair], list[_Text] | None]] = []
            for record in chunk:
                self.counts["records"] += 1
                try:
                    jobs.append((record, *self._rendered(record, pairs_of)))
                except RecordError as error:
                    if refused is None:
                        raise
                    refused.append(error)
                    self.counts["refused"] += 1
                    jobs.append((record, [], None))
            tokenised = iter(self._tokenise([text for _, _, texts in jobs for text in texts or ()]))
            for record, pairs, texts in jobs:
                trees = None if texts is None else self._trees(record, pairs, texts, [next(tokenised) for _ in texts])
                yield record, self._datum(pairs, trees)

    def _rendered(self, record: Record, pairs_of: Callable[[Record], list[_Pair]]) -> tuple[list[_Pair], list[_Text]]:
        pairs = pairs_of(record)
        return pairs, self._texts(record, pairs)

    def refuses(self, record: Record) -> bool:
        """Whether `encode` would refuse a record."""
        try:
            self._rendered(record, self._learnable)
        except RecordError:
            return True
        return False

    def _learnable(self, record: Record) -> list[_Pair]:
        if isinstance(record, Comparison):
            return [_Pair(0, 1, record.probability, record.margin, record.weight)]
        if record.scores is None:
            raise RecordError(
                record.source or "a record", "ranked responses without scores say nothing about preference", "add a 'scores' column"
            )
        found = preferred(record.scores)
        self.counts["ties"] += comb(len(record.responses), 2) - len(found)
        return [_Pair(i, j, 1.0, 0.0, 1.0 / len(found)) for i, j in found]

    # ---- text

    def _texts(self, record: Record, pairs: Sequence[_Pair]) -> list[_Text]:
        """The texts of a record: one per response, or two per pair."""
        responses = (record.chosen, record.rejected) if isinstance(record, Comparison) else record.responses
        if self.config.template == "chat" and self.layout == "single" and not record.prompt and any(len(r) == 1 for r in responses):
            raise RecordError(
                record.source or "a record", "it has no prompt, so there is no conversation to render", "use template: auto or plain"
            )
        try:
            if self.layout == "single":
                return [self._single(record.prompt, response) for response in responses]
            return [self._pair(record.prompt, responses[a], responses[b]) for p in pairs for a, b in ((p.a, p.b), (p.b, p.a))]
        except Exception as error:  # jinja2 raises whatever a template's author wrote
            raise _refused(record.source or "a record", error) from error

    def _prompt(self, prompt: Messages) -> _Text:
        """A prompt up to where its response begins."""
        if not any(message.content.strip() for message in prompt):
            raise RecordError("a prompt", "it is empty, so there is nothing to answer", "remove it")
        if self._transcripts:
            text = _unled((*prompt, Message("assistant", "")))
            return _Text(text, len(text), ends=False)
        try:
            rendered = self._render(prompt, generation=True)
        except Exception as error:  # as above
            raise _refused(f"the prompt {prompt[-1].content!r:.60}", error) from error
        return _Text(rendered, len(rendered), ends=False)

    @property
    def _transcripts(self) -> bool:
        """Whether conversations are rendered without a chat template."""
        return self.config.template == "plain" or not self.tokenizer.chat_template

    def _is_plain(self, prompt: Messages, response: Messages) -> bool:
        """Whether texts are joined without a chat template."""
        return self._transcripts or (self.config.template != "classifier" and not prompt and len(response) == 1)

    def _render(self, messages: Messages, generation: bool = False) -> str:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        rendered = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generation)
        assert isinstance(rendered, str)
        return rendered

    def _single(self, prompt: Messages, response: Messages) -> _Text:
        template = self.config.template
        if template == "official":
            whole, first = self._render(prompt + response), self._render((prompt + response)[:1])
            return _Text(whole, len(os.path.commonprefix([whole, first])), first)
        if self._is_plain(prompt, response):
            if not prompt:
                return _Text(self._start + _plain(response), len(self._start))
            if self.policy:
                before = _unled((*prompt, replace(response[0], content="")))
                return _Text(before + _plain(response), len(before))
            return _Text(_transcript(prompt + response), len(_transcript((*prompt, replace(response[0], content="")))))
        whole = self._render(prompt + response)
        whole = whole if template == "classifier" else whole.rstrip()
        if not prompt:  # whole conversations
            return _Text(whole, 0)
        # Templates that rewrite earlier turns do not render the prompt as a prefix: what both have in common is the prompt then.
        return _Text(whole, len(os.path.commonprefix([whole, self._render(prompt, generation=True)])))

    def _pair(self, prompt: Messages, a: Messages, b: Messages) -> _Text:
        """RLHFlow's pair format (RLHFlow/RLHF-Reward-Modeling, pair-pm/process_pair_data.py), read where the answer A or B would follow."""
        turns = "".join(f"\n<turn> {m.role}\n {m.content}" for m in prompt)
        context = f"[CONTEXT] \n{turns}\n "
        body = f"{context}[RESPONSE A] {_plain(a)} [RESPONSE B] {_plain(b)} \n"
        if self.config.template != "plain" and self.tokenizer.chat_template:
            rendered = self._render((Message("user", body),), generation=True)
            at = rendered.find(context)
            return _Text(rendered, at + len(context) if at >= 0 else 0, ends=False)
        return _Text(body, len(context), ends=False)

    # ---- ids

    def _tokenise(self, texts: Sequence[_Text]) -> list[tuple[Ids, int]]:
        """Ids and number of prompt tokens of each text, before truncation."""
        if not texts:
            return []
        official = self.config.template == "official"
        encoded = self.tokenizer([text.text for text in texts], add_special_tokens=official, return_offsets_mapping=True)
        results: list[tuple[Ids, int]] = []
        for text, ids, offsets in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            if official:
                results.append((np.asarray(ids, np.int32), len(self.tokenizer(text.first)["input_ids"])))
                continue
            prompt = sum(1 for _, stop in offsets if stop <= text.prompt) if text.prompt else 0
            ids = list(ids)
            if self.config.template == "classifier":
                while len(ids) > 1 and ids[-1] == self.tokenizer.pad_token_id:
                    ids.pop()
                results.append((np.asarray(ids, np.int32), min(prompt, len(ids) - 1)))
                continue
            if self._bos is not None:  # exactly one BOS, whether or not the template wrote it
                written = next((i for i, token in enumerate(ids) if token != self._bos), len(ids))
                ids, prompt = [self._bos, *ids[written:]], max(prompt - written, 0) + 1
            if text.ends:
                while ids and ids[-1] == self._eos:
                    ids.pop()
                ids.append(self._eos)
            results.append((np.asarray(ids, np.int32), min(prompt, len(ids) - 1)))
        return results

    def _trees(self, record: Record, pairs: Sequence[_Pair], texts: Sequence[_Text], tokenised: list[tuple[Ids, int]]) -> list[Tree] | None:
        """Trees of a record, truncated; None: dropped."""
        groups = [tokenised] if self.layout == "single" else [tokenised[i : i + 2] for i in range(0, len(tokenised), 2)]
        trees: list[Tree] = []
        events: set[str] = set()  # a record counts once, however many trees it has
        for number, group in enumerate(groups):
            tree = self._truncated(group, events)
            if tree is None and self.layout == "pair" and self.config.truncation != "drop":
                tree = self._shorten_pair(record, pairs[number], events)
            if tree is None:
                self.counts["dropped"] += 1
                return None
            if self.config.template != "official":  # the gate reads a token that all responses share
                tree = replace(tree, prompt=min(tree.prompt, tree.shared) if len(tree.sequences) > 1 else tree.prompt)
            trees.append(tree)
        self.counts.update(events)
        return trees

    def _truncated(self, group: Sequence[tuple[Ids, int]], events: set[str]) -> Tree | None:
        """The tree of some sequences, cut to fit; None: nothing would be left of what is compared."""
        tree = Tree(tuple(ids for ids, _ in group), min(prompt for _, prompt in group))
        if self.config.template == "official":
            return truncate_official(tree, self.config.max_length, self._eos)
        tokenizer, policy = self.tokenizer, self.config.truncation
        eos = None if self.config.template == "classifier" else self._eos
        shorter, gave_way = truncate(
            tree, self.config.max_length, policy, bos=tokenizer.bos_token_id, eos=eos, responses=self.layout == "single"
        )
        events |= gave_way
        return shorter

    def _shorten_pair(self, record: Record, pair: _Pair, events: set[str]) -> Tree | None:
        """Cuts the ends of both responses until a pair fits that is too long even with a shortened context; None: it is the context."""
        events.add(RESPONSES)
        responses = (record.chosen, record.rejected) if isinstance(record, Comparison) else record.responses
        a, b = responses[pair.a], responses[pair.b]
        while True:
            a, b = (tuple(replace(m, content=m.content[: len(m.content) * 3 // 4]) for m in response) for response in (a, b))
            if not any(m.content for m in a + b):
                return None
            group = self._tokenise([self._pair(record.prompt, a, b), self._pair(record.prompt, b, a)])
            if tree := self._truncated(group, events):
                return tree

    def _datum(self, pairs: Sequence[_Pair], trees: list[Tree] | None) -> Datum | None:
        if trees is None:
            return None
        places = [(p.a, p.b) for p in pairs] if self.layout == "single" else [(2 * i, 2 * i + 1) for i in range(len(pairs))]
        return Datum(
            trees=tuple(trees),
            pairs=tuple(places),
            probability=tuple(p.probability for p in pairs),
            margin=tuple(p.margin for p in pairs),
            weight=tuple(p.weight for p in pairs),
        )

    def report(self) -> str:
        """What happened to the records, as a sentence."""
        total = self.counts["records"]
        events = [f"{count} {name}" for name, count in sorted(self.counts.items()) if name != "records" and count]
        return f"{total} records" + (": " + ", ".join(events) if events else ", none truncated or dropped")


@dataclass(frozen=True, slots=True)
class _Text:
    """A rendered text; `prompt` is how many of its characters are the prompt, `ends` whether it ends in EOS."""

    text: str
    prompt: int
    first: str = ""
    ends: bool = True


@dataclass(frozen=True, slots=True)
class _Pair:
    a: int
    b: int
    probability: float
    margin: float
    weight: float


def _pairs_of(record: Record) -> list[_Pair]:
    count = 2 if isinstance(record, Comparison) else len(record.responses)
    return [_Pair(i, j, 1.0, 0.0, 1.0) for i, j in combinations(range(count), 2)]


def _refused(source: str, error: Exception) -> RecordError:
    problem = f"the tokenizer's chat template refuses it ({error})"
    return RecordError(source, problem, "use template: plain, or another tokenizer")


def _plain(messages: Messages) -> str:
    """One message as it is, more of them as a transcript."""
    return messages[0].content if len(messages) == 1 else _transcript(messages)


def _transcript(messages: Messages) -> str:
    """Messages labelled as in Anthropic's transcripts."""
    names = {"user": "Human", "assistant": "Assistant", "system": "System", "tool": "Tool"}
    return "".join(f"\n\n{names.get(m.role, m.role)}: {m.content}" for m in messages)


def _unled(messages: Messages) -> str:
    """A transcript up to an empty last message, without the blank in front of what will stand there."""
    return _transcript(messages)[:-1]


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """An id to fill rows with: never attended to, never read, so the EOS does as well as any."""
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else cast(int, tokenizer.eos_token_id))
