"""Records -> token ids: the only place where text meets a tokenizer.

Training, evaluation, scoring and labelling share it, so they cannot disagree about templates, BOS, EOS or truncation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Literal

from transformers import PreTrainedTokenizerBase

from prefrep.data.across import Across, check_one_prompt, one_prompt, sides
from prefrep.data.cloze import instructed, instruction_ids
from prefrep.data.context import told
from prefrep.data.fidelity import check_differ
from prefrep.data.pairs import Pair, all_pairs, learnable_pairs
from prefrep.data.render import FOREIGN, PAIR_FORMATS, Renderer, Template, Text, template_error, transcript
from prefrep.data.tallies import SPELLED, Tallies
from prefrep.data.tokens import TextTokenizer
from prefrep.data.trees import Datum, Tree
from prefrep.data.trie import Ids
from prefrep.data.truncation import RESPONSES, Policy, truncate, truncate_official
from prefrep.errors import ConfigError, RecordError
from prefrep.records import Messages, RankedResponses, Record, responses_of

ControlTokens = Literal["text", "refuse"]

_CHUNK = 128  # records per call of the tokenizer, which parallelises over a batch; a server's single records need no thread beside it


@dataclass(frozen=True)
class EncodeConfig:
    """How text becomes token ids. Exported models store it.

    Args:
        template: `chat`: the tokenizer's chat template. `plain`: transcripts like Anthropic's for conversations, and the bare text for
            responses without a prompt. `auto`: `chat` if the tokenizer has a template and the response a prompt, else `plain`. `concat`: a
            text prompt directly followed by a text response, for continuations, as in TRL and OpenRLHF. `official`: the recipe of the
            released GPM checkpoints, only for scoring with those (two BOS where template and tokenizer both add one, the last token
            overwritten by EOS, the gate read after the first message). `classifier`: the token that transformers' sequence classifiers
            read, the last one of the chat template that is not the pad token. `openrlhf`: OpenRLHF's recipe, the chat template without line
            breaks at its end, then a space and an EOS unless it ends in one; BOS only where the template writes it. `rlhflow`: the
            published example of RLHFlow's pair models, without BOS and generation prompt. `framed`: the chat template as it is, with the
            special tokens that the tokenizer adds. `segments`, `pairrm`, `better_pairrm`, `steamshp`: see `data.recipes`. All from
            `official` on are for models from there.
        max_length: Maximum sequence length in tokens.
        truncation: What to cut from longer sequences. `keep_end`: the beginning of the prompt down to max_length / 8 tokens, then the ends
            of responses. `keep_start`: the ends of responses. `drop`: the whole record. `Encoder.counts` counts all of it.
        context: Column that the prompt names: `group`, `annotator`, `criterion` or a tag (`data.context`); empty: none.
        instruction: Text after each response (of a pair model: after both), never truncated, such as `A good answer? [MASK]`. An encoder
            with `pooling: mask` is read at its `[MASK]`, which stands for the tokenizer's mask token. Empty: none.
    """

    template: Template = "auto"
    max_length: int = 2048
    truncation: Policy = "keep_end"
    context: str = ""
    instruction: str = ""

    def __post_init__(self) -> None:
        if self.max_length < 4:
            raise ConfigError(f"max_length must be at least 4 tokens, got {self.max_length}")


class Encoder(Tallies):
    """Renders and tokenises records for one tokenizer and one kind of head.

    Args:
        tokenizer: A fast Hugging Face tokenizer with an EOS token.
        config: Template, maximum length and truncation.
        layout: `single`: one sequence per response. `pair`: two sequences per comparison, one for each order of the responses, in RLHFlow's
            pair format.
        policy: Encode the responses of a policy: each response includes the `lead` in front of it, if it was sampled, and the prompt ends
            before that.
        control_tokens: What to do about texts that spell out control tokens, such as `<|im_end|>`. `text`: read them as text. `refuse`:
            reject the record. (The templates `official` and `classifier` reproduce recipes that read them as control tokens.)
        unpaired: Encode single responses with a label yes or no (criterion `desirable`), for models with one reward per response.
        given: The responses of a policy are given, so that the template writes the lead; and what to do about pairs of responses to
            different prompts (`data.across`). None: they were sampled.
        gated: Reject comparisons of answers to different prompts, for heads that read the prompt.

    Attributes:
        counts: Numbers of records so far: `records`, `truncated prompts`, `truncated responses`, `dropped`, `refused`,
            `without a pair`; and of pairs: `ties` (equal scores, left out).
        events: Numbers of responses by the way they were rendered, and of what the template left out.

    Raises:
        ConfigError: The tokenizer is slow, has no EOS token, or lacks a chat template that `config` needs.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        config: EncodeConfig,
        layout: Literal["single", "pair"],
        policy: bool = False,
        control_tokens: ControlTokens = "text",
        unpaired: bool = False,
        given: Across | None = None,
        gated: bool = False,
    ) -> None:
        self._tokenise = TextTokenizer(tokenizer, config.template)
        if config.template in FOREIGN and (config.template in PAIR_FORMATS) != (layout == "pair"):
            has = "only a pair format" if config.template in PAIR_FORMATS else "no pair format"
            raise ConfigError(f"template '{config.template}', a recipe of models from elsewhere, has {has}; use template: auto")
        if config.template in FOREIGN and config.instruction:
            raise ConfigError(f"template '{config.template}', a recipe of models from elsewhere, takes no instruction; use template: auto")
        self._instruction = instruction_ids(tokenizer, config.instruction)
        if config.max_length < len(self._instruction) + 4:
            raise ConfigError(f"max_length {config.max_length} leaves no room beside an instruction of {len(self._instruction)} tokens")
        self.tokenizer, self.config, self.layout = tokenizer, config, layout
        self._given, self._gated = given, gated
        self._render = Renderer(tokenizer, config.template, self._tokenise.start, policy, given is not None)
        super().__init__(config.template, self._render.events)
        self._tokenise.counts = self.counts
        self._control_tokens, self._unpaired, self._bos = control_tokens, unpaired, tokenizer.bos_token_id  # looking it up takes long

    def encode(self, records: Iterable[Record], refused: list[RecordError] | None = None) -> Iterator[tuple[Record, Datum | None]]:
        """Encode records for training: comparisons as they are, ranked responses as all pairs with unequal scores.

        The pairs of one prompt together weigh as much as one comparison.

        Args:
            records: The records.
            refused: Collects the errors of records that the template rejects, which are dropped; None: raise them.

        Yields:
            Each record with its datum, or None if it was dropped (rejected, too long under `drop`, or without a pair).

        Raises:
            RecordError: The chat template rejects a record, or ranked responses have no scores; only if `refused` is None.
        """
        for record, datum in self._encode(records, self._learnable, refused):
            if datum is not None and not datum.pairs:
                self.counts["without a pair"] += 1
                datum = None
            yield record, datum

    def encode_tables(
        self, records: Iterable[RankedResponses], refused: list[RecordError] | None = None
    ) -> Iterator[tuple[Record, Datum | None]]:
        """Encode ranked responses, with or without scores, for K x K tables.

        Layout `pair` encodes every pair i < j, layout `single` the K responses without pairs. Arguments and errors as in `encode`.
        """
        return self._encode(records, all_pairs if self.layout == "pair" else lambda record: [], refused)

    def encode_rendered(self, record: RankedResponses) -> Datum | None:
        """Encode texts that are rendered already, for one table; None: dropped.

        BOS, EOS and truncation are those of `encode`.

        Args:
            record: The rendered prompt as one message, and the rest of each text as one message.

        Raises:
            ConfigError: The layout is `pair`, which has a format of its own.
        """
        if self.layout == "pair":
            raise ConfigError("a pair model renders both responses itself and cannot read rendered texts; send conversations")
        self.counts["records"] += 1
        before = "".join(message.content for message in record.prompt)
        texts = [Text(before + response[0].content, len(before)) for response in record.responses]
        return self._datum(record, [], self._trees(record, [], texts, self._tokenise(texts)))

    def refuses(self, record: Record) -> bool:
        """Return whether `encode` would reject a record."""
        try:
            self._rendered(record, self._learnable)
        except RecordError:
            return True
        return False

    # ---- policies

    def prompts(self, prompts: Iterable[Messages]) -> list[Ids]:
        """Return the token ids of prompts that a policy continues: those that `encode` puts before its response, untruncated.

        A prompt that ends in an assistant turn is continued within that turn.

        Raises:
            RecordError: A prompt is empty, or the chat template rejects it.
        """
        return [ids for ids, _ in self._tokenise([self._render.prompt(prompt) for prompt in prompts])]

    @property
    def lead(self) -> str:
        """The part of the template that the policy has to generate before each response, see `Renderer`."""
        return self._render.lead

    def continued(self, ids: Sequence[int]) -> str:
        """Decode tokens that a policy generated after a prompt, with the lead and without special tokens."""

        def decode(ids: Sequence[int]) -> str:
            return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

        if not self.lead:
            return decode(ids)
        # SentencePiece decoders drop the first space of a text, so decode the colon before it too.
        colon = self.tokenizer(":", add_special_tokens=False)["input_ids"]
        return decode([*colon, *ids])[len(decode(colon)) :]

    def end_ids(self) -> list[int]:
        """Return the ids that end a response: EOS, and the special token that the chat template writes after a response."""
        eos = self._tokenise.eos
        if self._render.transcripts or self.config.template == "concat":
            return [eos]
        written = self._render.written_end()
        return sorted({eos, self.tokenizer.vocab[written]} if written else {eos})

    # ---- records

    def _encode(
        self, records: Iterable[Record], pairs_of: Callable[[Record], list[Pair]], refused: list[RecordError] | None
    ) -> Iterator[tuple[Record, Datum | None]]:
        """Encode chunks of records; while one is tokenised in a thread, which does not hold Python's lock, the next one is rendered."""
        records = iter(records)
        waiting: tuple[list[_Job], Callable[[], list[tuple[Ids, int]]]] = [], list
        with ThreadPoolExecutor(1) as pool:
            while chunk := list(islice(records, _CHUNK)):
                jobs = self._jobs(chunk, pairs_of, refused)
                found = partial(self._tokenise, [text for _, _, texts in jobs for text in texts or ()])
                later = found if not waiting[0] and len(chunk) < _CHUNK else pool.submit(found).result
                yield from self._finished(*waiting)
                waiting = jobs, later
            yield from self._finished(*waiting)

    def _jobs(self, chunk: Sequence[Record], pairs_of: Callable[[Record], list[Pair]], refused: list[RecordError] | None) -> list[_Job]:
        jobs: list[_Job] = []
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
        return jobs

    def _finished(self, jobs: Sequence[_Job], found: Callable[[], list[tuple[Ids, int]]]) -> Iterator[tuple[Record, Datum | None]]:
        tokenised = iter(found())
        for record, pairs, texts in jobs:
            trees = None if texts is None else self._trees(record, pairs, texts, [next(tokenised) for _ in texts])
            yield record, self._datum(record, pairs, trees)

    def _rendered(self, record: Record, pairs_of: Callable[[Record], list[Pair]]) -> tuple[list[Pair], list[Text]]:
        pairs = pairs_of(record)
        return pairs, self._texts(told(record, self.config.context), pairs)

    def _learnable(self, record: Record) -> list[Pair]:
        pairs, ties = learnable_pairs(record, self._unpaired)
        self.counts.update({"ties": ties} if ties else {})
        return pairs

    def _texts(self, record: Record, pairs: Sequence[Pair]) -> list[Text]:
        """Render one text per response, or two per pair."""
        source, responses = record.source or "a record", responses_of(record)
        if self._gated or self._given == "refuse":
            check_one_prompt(record, self._gated)
        if self.config.template == "chat" and self.layout == "single" and not record.prompt and any(len(r) == 1 for r in responses):
            raise RecordError(source, "it has no prompt, so there is no conversation to render", "use template: auto or plain")
        ended = [self._render.mask.ended(response) for response in responses]
        spelled = self._render.mask.found([*record.prompt, *(message for response in ended for message in response)])
        if spelled is not None and self._control_tokens == "refuse":
            raise RecordError(source, f"a text spells out the control token {spelled!r}", "remove it, or set control_tokens: text")
        if spelled is not None:
            self.counts[SPELLED] += 1
        try:
            if self.layout == "single":
                asked = sides(record) if self._given else [(record.prompt, response) for response in responses]
                texts = [self._render.single(prompt, response, record.template_kwargs) for prompt, response in asked]
                check_differ(ended, [text.text for text in texts], self.events)
                return texts
            check_differ(ended, [transcript(response) for response in ended], self.events)
            orders = [(a, b) for p in pairs for a, b in ((p.a, p.b), (p.b, p.a))]
            return [self._render.pair(record.prompt, responses[a], responses[b], record.template_kwargs) for a, b in orders]
        except Exception as error:  # jinja2 raises whatever a template's author wrote
            raise template_error(source, error) from error

    def _trees(self, record: Record, pairs: Sequence[Pair], texts: Sequence[Text], tokenised: list[tuple[Ids, int]]) -> list[Tree] | None:
        """Return the truncated trees of a record; None: the record is dropped."""
        groups = [tokenised] if self.layout == "single" else [tokenised[i : i + 2] for i in range(0, len(tokenised), 2)]
        if self._given and not one_prompt(record):
            groups = [[each] for each in tokenised]
        trees: list[Tree] = []
        events: set[str] = set()  # counts each record once, however many trees it has
        for number, group in enumerate(groups):
            tree = self._truncated(group, events)
            if tree is None and self.layout == "pair" and self.config.truncation != "drop":
                tree = self._shorten_pair(told(record, self.config.context), pairs[number], events)
            if tree is None:
                self.counts["dropped"] += 1
                return None
            if self.config.template != "official":  # a gate reads a token that all responses share
                tree = replace(tree, prompt=min(tree.prompt, tree.shared) if len(tree.sequences) > 1 else tree.prompt)
            trees.append(tree)
        self.counts.update(events)
        return trees

    def _truncated(self, group: Sequence[tuple[Ids, int]], events: set[str]) -> Tree | None:
        """Return a tree truncated to max_length; None: nothing of the responses would be left."""
        tree = Tree(tuple(ids for ids, _ in group), min(prompt for _, prompt in group))
        if self.config.template == "official":
            return truncate_official(tree, self.config.max_length, self._tokenise.eos)
        policy = self.config.truncation
        eos = None if self.config.template in ("classifier", "rlhflow") else self._tokenise.ends
        limit = self.config.max_length - len(self._instruction)
        shorter, gave_way = truncate(tree, limit, policy, bos=self._bos, eos=eos, responses=self.layout == "single")
        events |= gave_way
        if shorter is None or not len(self._instruction):
            return shorter
        return instructed(shorter, self._instruction, self._tokenise.eos)

    def _shorten_pair(self, record: Record, pair: Pair, events: set[str]) -> Tree | None:
        """Cut the ends of both responses until the pair fits; None: even the truncated context does not fit."""
        events.add(RESPONSES)
        responses = responses_of(record)
        a, b = responses[pair.a], responses[pair.b]
        while True:
            a, b = (tuple(replace(m, content=m.content[: len(m.content) * 3 // 4]) for m in response) for response in (a, b))
            if not any(m.content for m in a + b):
                return None
            group = self._tokenise([self._render.pair(record.prompt, a, b), self._render.pair(record.prompt, b, a)])
            if tree := self._truncated(group, events):
                return tree

    def _datum(self, record: Record, pairs: Sequence[Pair], trees: list[Tree] | None) -> Datum | None:
        if trees is None:
            return None
        places = [(p.a, p.b) for p in pairs] if self.layout == "single" else [(2 * i, 2 * i + 1) for i in range(len(pairs))]
        probability, margin, weight = (tuple(getattr(p, name) for p in pairs) for name in ("probability", "margin", "weight"))
        return Datum(tuple(trees), tuple(places), probability, margin, weight, record.annotator)


_Job = tuple[Record, "list[Pair]", "list[Text] | None"]  # texts are None if the record was refused


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return an id for padding: that of the pad token, or else of the EOS, since padding is masked."""
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    assert pad is not None
    return int(pad)
