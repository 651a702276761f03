"""Text to token ids: every expectation is built from the rendered text by hand, or by a slower way than the encoder's."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest
from conftest import comparison, encoder
from tokenizers import processors
from transformers import PreTrainedTokenizerBase

from prefrep.data.encode import EncodeConfig, Encoder, pad_id
from prefrep.data.formats import to_record
from prefrep.data.trees import Datum
from prefrep.data.trie import Ids
from prefrep.errors import ConfigError, RecordError
from prefrep.nn.loading import load_tokenizer
from prefrep.records import Comparison, Message, Messages, RankedResponses

LLAMA, QWEN, GPT2 = "bundled:tiny-llama", "bundled:tiny-qwen2", "bundled:tiny-gpt2"  # with BOS; without; without, and pad == eos
CHAT = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + END }}{% endfor %}"
GENERATION = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"


def made(tokenizer: PreTrainedTokenizerBase, layout: str = "single", **config: Any) -> Encoder:
    return Encoder(tokenizer, EncodeConfig(**config), layout)  # type: ignore[arg-type]


def user(*texts: str) -> Messages:
    return tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate(texts))


def answer(text: str) -> Messages:
    return (Message("assistant", text),)


def ranked(prompt: str, *responses: str, scores: tuple[float, ...] | None = None, source: str = "") -> RankedResponses:
    return RankedResponses(user(prompt), tuple(answer(r) for r in responses), scores, source=source)


def one(encode: Encoder, record: Comparison | RankedResponses) -> Datum:
    found = (
        list(encode.encode_tables([record]))
        if isinstance(record, RankedResponses) and record.scores is None
        else list(encode.encode([record]))
    )
    assert len(found) == 1 and found[0][0] is record and found[0][1] is not None
    return found[0][1]


def lists(datum: Datum) -> list[list[int]]:
    return [ids.tolist() for tree in datum.trees for ids in tree.sequences]


def ids_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def chatml(prompt: str, response: str) -> tuple[str, str]:
    """What the tiny models' template makes of one turn, up to the end of the prompt and of the response."""
    before = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
    return before, f"{before}{response}<|im_end|>"


def transcript(prompt: str, response: str) -> tuple[str, str]:
    """The same without a chat template."""
    before = f"\n\nHuman: {prompt}\n\nAssistant: "
    return before, before + response


def slow_prompt_tokens(tokenizer: PreTrainedTokenizerBase, ids: list[int], prompt: str) -> int:
    """Tokens that end within the prompt, by counting bytes: in a byte-level vocabulary each letter of a token is one byte."""
    special = set(tokenizer.all_special_tokens)
    total = count = 0
    for token in tokenizer.convert_ids_to_tokens(ids):
        total += len(token.encode()) if token in special else len(token)
        count += total <= len(prompt.encode())
    return count


# ---- BOS and EOS


@pytest.mark.parametrize("writes", [True, False])
@pytest.mark.parametrize("adds", [True, False])
def test_one_bos_whoever_writes_it(writes: bool, adds: bool) -> None:
    tokenizer = load_tokenizer(LLAMA)
    if not writes:
        tokenizer.chat_template = tokenizer.chat_template.replace("{{ bos_token }}", "")
    if not adds:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    bos = tokenizer.bos_token_id
    assert (tokenizer("a")["input_ids"][0] == bos) is adds
    _, whole = chatml("Why?", "No")
    expected = ([bos] if writes or adds else []) + ids_of(tokenizer, whole)
    datum = one(made(tokenizer), comparison("Why?", "No", "Yes"))
    assert lists(datum)[0] == expected and expected.count(bos) == int(writes or adds)
    assert datum.trees[0].prompt == len(expected) - len(ids_of(tokenizer, "No<|im_end|>"))


@pytest.mark.parametrize("path", [LLAMA, GPT2])
@pytest.mark.parametrize("end", ["<|im_end|>\n", "<|im_end|>", "<|im_end|>\n\n ", "", "\n", "<|im_end|><|im_end|>\n"])
@pytest.mark.parametrize("text", ["7", "7 \n", "", " \n\n"])
def test_one_eos_at_the_end(path: str, end: str, text: str) -> None:
    tokenizer = load_tokenizer(path)
    tokenizer.chat_template = CHAT.replace("END", repr(end)) + GENERATION
    for ids in lists(one(made(tokenizer), comparison("A prime", text, "nine"))):
        assert ids[-1] == tokenizer.eos_token_id != ids[-2]


@pytest.mark.parametrize("text", ["7", "7 \n", "7<|im_end|>", "7<|im_end|><|im_end|>"])
def test_one_eos_without_a_template(text: str) -> None:
    tokenizer = load_tokenizer(LLAMA)
    ids = lists(one(made(tokenizer, template="plain"), comparison("A prime", text, "9")))[0]
    _, kept = transcript("A prime", text.replace("<|im_end|>", ""))
    assert ids == [tokenizer.bos_token_id, *ids_of(tokenizer, kept), tokenizer.eos_token_id]


def test_pad_may_be_eos() -> None:
    tokenizer = load_tokenizer(GPT2)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == pad_id(tokenizer)
    datum = one(made(tokenizer), comparison("A prime", "7", "9"))
    assert lists(datum)[0] == ids_of(tokenizer, chatml("A prime", "7")[1])
    tokenizer.pad_token = None
    assert pad_id(tokenizer) == tokenizer.eos_token_id


# ---- the prompt's tokens

TEXTS = [
    ("See ", "the end"),
    ("Name a prime", "7"),
    ("x", "\nthe\n"),
    ("Ein Überzug, ça va? 你好", "Größe: 你"),
    ("the", ""),
    ("😀", "😀!"),
]


@pytest.mark.parametrize("path", [LLAMA, QWEN])
@pytest.mark.parametrize(("prompt", "response"), TEXTS)
@pytest.mark.parametrize("template", ["chat", "plain"])
def test_prompt_tokens_lie_wholly_in_the_prompt(path: str, prompt: str, response: str, template: str) -> None:
    encode = encoder(path, template=template)
    tokenizer = encode.tokenizer
    before, whole = (chatml if template == "chat" else transcript)(prompt, response)
    datum = one(encode, ranked(prompt, response))
    (ids,) = lists(datum)
    bos = int(path == LLAMA)
    assert ids[bos:] == ids_of(tokenizer, whole) + ([tokenizer.eos_token_id] if template == "plain" else [])
    assert datum.trees[0].prompt == bos + slow_prompt_tokens(tokenizer, ids[bos:], before)


def test_a_token_across_the_border_belongs_to_no_prompt() -> None:
    """`Assistant: ` + `the`: the tokenizer merges the space with what follows; then no response's prompt holds it."""
    encode = encoder(QWEN, template="plain")
    alone, merged = one(encode, ranked("See", "x")), one(encode, ranked("See", "the"))
    assert alone.trees[0].prompt == merged.trees[0].prompt + 1
    both = one(encode, ranked("See", "x", "the"))
    assert lists(both) == lists(alone) + lists(merged)
    assert both.trees[0].prompt == both.trees[0].shared == merged.trees[0].prompt


def test_the_prompt_is_what_all_renderings_share() -> None:
    """A template that rewrites earlier turns (thoughts are left out of them): the gate reads before the first difference."""
    tokenizer = load_tokenizer(QWEN)
    tokenizer.chat_template = CHAT.replace("END", "'<|im_end|>\\n'") + (
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>' }}{% endif %}"
    )
    datum = one(made(tokenizer), comparison("Why?", "No", "Yes"))
    assert lists(datum)[0] == ids_of(tokenizer, chatml("Why?", "No")[1])
    assert datum.trees[0].prompt == len(ids_of(tokenizer, chatml("Why?", "")[0]))


# ---- templates


@pytest.mark.parametrize("turns", [1, 3, 5])
def test_plain_is_one_rule_for_any_number_of_turns(turns: int) -> None:
    """An Anthropic transcript that was read as messages is read by the model as it was written, the first turn included."""
    says = [f"{'HA'[i % 2]}{i}" for i in range(turns)]
    written = "".join(f"\n\n{('Human', 'Assistant')[i % 2]}: {text}" for i, text in enumerate(says)) + "\n\nAssistant: "
    record = to_record({"chosen": written + "yes", "rejected": written + "no"}, "hh", "t:1")
    encode = encoder(LLAMA, template="plain")
    found = [encode.tokenizer.decode(ids, skip_special_tokens=True) for ids in lists(one(encode, cast(Comparison, record)))]
    assert found == [written + "yes", written + "no"]


def test_plain_transcripts() -> None:
    encode = encoder(LLAMA, template="plain")
    tokenizer = encode.tokenizer
    record = Comparison(user("Hi", "Hello", "Bye"), answer("See you"), answer("No"))
    text = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant: "
    datum = one(encode, record)
    assert lists(datum)[0] == [tokenizer.bos_token_id, *ids_of(tokenizer, text + "See you"), tokenizer.eos_token_id]
    assert datum.trees[0].prompt == 1 + slow_prompt_tokens(tokenizer, lists(datum)[0][1:], text)
    turns = Comparison(user("Hi"), (*answer("Yes?"), *user("Well"), *answer("Fine")), answer("No"))
    text = "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Well\n\nAssistant: Fine"
    assert lists(one(encode, turns))[0] == [tokenizer.bos_token_id, *ids_of(tokenizer, text), tokenizer.eos_token_id]


@pytest.mark.parametrize("path", [LLAMA, QWEN, GPT2])
def test_texts_without_a_prompt(path: str) -> None:
    """A gate reads their first token, so it must say nothing of either response."""
    encode = encoder(path)
    tokenizer = encode.tokenizer
    datum = one(encode, Comparison((), answer("seven"), answer("nine")))
    first = tokenizer.bos_token_id if path == LLAMA else tokenizer.eos_token_id
    assert lists(datum) == [[first, *ids_of(tokenizer, text), tokenizer.eos_token_id] for text in ("seven", "nine")]
    assert datum.trees[0].prompt == datum.trees[0].shared == 1


def test_conversations_without_a_common_turn_are_still_rendered() -> None:
    encode = encoder(LLAMA)
    datum = one(encode, Comparison((), user("Hi", "Hello"), user("Ho", "Hum")))
    assert lists(datum)[1] == [encode.tokenizer.bos_token_id, *ids_of(encode.tokenizer, chatml("Ho", "Hum")[1])]
    assert datum.trees[0].prompt == 1


def test_the_official_recipe() -> None:
    """Two BOS, the template's last newline overwritten by EOS, the first message as prompt."""
    encode = encoder(LLAMA, template="official")
    tokenizer = encode.tokenizer
    datum = one(encode, Comparison(user("Hi", "Ho", "So?"), answer("Well"), answer("No")))
    first = "<|im_start|>user\nHi<|im_end|>\n"
    text = first + "<|im_start|>assistant\nHo<|im_end|>\n<|im_start|>user\nSo?<|im_end|>\n<|im_start|>assistant\nWell<|im_end|>\n"
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert lists(datum)[0] == [bos, bos, *ids_of(tokenizer, text)[:-1], eos]
    assert datum.trees[0].prompt == 2 + len(ids_of(tokenizer, first))


@pytest.mark.parametrize("layout", ["single", "pair"])
def test_a_template_that_refuses(layout: str) -> None:
    tokenizer = load_tokenizer(LLAMA)
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    record = comparison("A", "b", "c", source="train.jsonl:3")
    with pytest.raises(RecordError, match=r"train\.jsonl:3: .*System role not supported.*template: plain"):
        list(made(tokenizer, layout).encode([record]))


@pytest.mark.parametrize("layout", ["single", "pair"])
def test_what_a_template_refuses_can_be_left_out(layout: str) -> None:
    """Gemma's template takes no system turn; ranked responses without scores teach nothing. The others keep their places."""
    tokenizer = load_tokenizer(LLAMA)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if 'odd' in m['content'] %}{{ raise_exception('no') }}{% endif %}{{ m['content'] }}{% endfor %}"
    )
    records = [comparison("A", "b", "c", source="f:1"), comparison("odd", "b", "c", source="f:2"), comparison("D", "e", "f", source="f:3")]
    encode, refused = made(tokenizer, layout), list[RecordError]()
    found = list(encode.encode([*records, ranked("Q", "a", "b", source="f:4")], refused))
    assert [datum is not None for _, datum in found] == [True, False, True, False] and [record for record, _ in found[:3]] == records
    assert [error.source for error in refused] == ["f:2", "f:4"] and encode.counts["refused"] == 2 and "2 refused" in encode.report()
    assert [encode.refuses(record) for record in records] == [False, True, False]
    alone = one(made(tokenizer, layout), records[2])
    assert found[2][1] is not None and lists(found[2][1]) == lists(alone), "the others are what they would be without it"


def test_chat_needs_a_prompt() -> None:
    record = Comparison((), answer("a"), answer("b"), source="t.jsonl:8")
    with pytest.raises(RecordError, match=r"t\.jsonl:8: it has no prompt"):
        list(encoder(LLAMA, template="chat").encode([record]))


def test_what_an_encoder_cannot_do_without() -> None:
    tokenizer = load_tokenizer(LLAMA)
    with pytest.raises(ConfigError, match="at least 4"):
        EncodeConfig(max_length=3)
    with pytest.raises(ConfigError, match="no pair format"):
        made(tokenizer, "pair", template="official")
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="needs a chat template"):
        made(tokenizer, template="chat")
    assert lists(one(made(tokenizer), comparison("a", "b", "c")))[0][1:-1] == ids_of(tokenizer, transcript("a", "b")[1])
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="no EOS"):
        made(tokenizer)


# ---- truncation

LONG = "one two three four five six"
RESPONSES = ("seven eight nine ten", "no", "perhaps it is so")


def uncut(*responses: str, prompt: str = LONG) -> tuple[list[list[int]], int]:
    datum = one(encoder(LLAMA), ranked(prompt, *responses))
    return lists(datum), datum.trees[0].prompt


def test_keep_end_cuts_the_prompt_alike_for_all() -> None:
    whole, prompt = uncut(*RESPONSES)
    longest = max(map(len, whole))
    for limit in (longest, longest - 1, longest - 20):
        encode = encoder(LLAMA, max_length=limit)
        datum = one(encode, ranked(LONG, *RESPONSES))
        cut = longest - limit
        assert lists(datum) == [[ids[0], *ids[1 + cut :]] for ids in whole]
        assert datum.trees[0].prompt == datum.trees[0].shared == prompt - cut
        assert encode.counts == {"records": 1, **({"truncated prompts": 1} if cut else {})}


def test_keep_end_then_cuts_the_responses() -> None:
    whole, prompt = uncut(*RESPONSES)
    limit = 10
    encode = encoder(LLAMA, max_length=limit)
    datum = one(encode, ranked(LONG, *RESPONSES))
    for got, ids in zip(lists(datum), whole, strict=True):
        kept = [ids[0], *ids[prompt - 1 :]]  # BOS and the prompt's last token stay
        assert got == (kept if len(kept) <= limit else [*kept[: limit - 1], encode.tokenizer.eos_token_id])
    assert [len(ids) < limit for ids in lists(datum)] == [False, True, False]
    assert encode.counts == {"records": 1, "truncated prompts": 1, "truncated responses": 1}


@pytest.mark.parametrize("layout", ["single", "pair"])
def test_keep_end_leaves_an_eighth_to_the_prompt(layout: str) -> None:
    """Responses that would fill the room alone: the end of the question stays, and they are cut."""
    record = comparison("Begin. " + "word " * 40 + "Which number is a prime", "seven " * 60, "nine " * 80)
    (whole,), limit = one(encoder(LLAMA, layout), record).trees, 160
    encode = encoder(LLAMA, layout, max_length=limit)
    (tree,) = one(encode, record).trees
    kept = tree.prompt - 1  # beside BOS
    assert kept == limit // 8 if layout == "single" else kept >= limit // 8  # two responses are cut in steps, which can leave more
    for ids, before in zip(tree.sequences, whole.sequences, strict=True):
        assert ids[: tree.prompt].tolist() == [before[0], *before[whole.prompt - kept : whole.prompt]]
        assert len(ids) <= limit
    assert encode.counts == {"records": 1, "truncated prompts": 1, "truncated responses": 1}


def test_keep_start_cuts_the_responses_alone() -> None:
    whole, prompt = uncut(*RESPONSES)
    limit = prompt + 6
    encode = encoder(LLAMA, max_length=limit, truncation="keep_start")
    datum = one(encode, ranked(LONG, *RESPONSES))
    assert lists(datum) == [ids if len(ids) <= limit else [*ids[: limit - 1], encode.tokenizer.eos_token_id] for ids in whole]
    assert sum(len(ids) > limit for ids in whole) == 2
    assert encode.counts == {"records": 1, "truncated responses": 1}


@pytest.mark.parametrize(("room", "kept"), [(-5, False), (0, False), (1, False), (2, True)])
def test_keep_start_drops_what_has_no_response_left(room: int, kept: bool) -> None:
    """EOS takes one place: with less than two, all responses would be the same."""
    _, prompt = uncut(*RESPONSES)
    encode = encoder(LLAMA, max_length=prompt + room, truncation="keep_start")
    ((_, datum),) = encode.encode_tables([ranked(LONG, *RESPONSES)])
    assert (datum is not None) is kept
    assert encode.counts == {"records": 1, ("truncated responses" if kept else "dropped"): 1}


def test_drop_drops_whole_records() -> None:
    whole, _ = uncut(*RESPONSES)
    longest = max(map(len, whole))
    for limit, kept in ((longest, True), (longest - 1, False)):
        encode = encoder(LLAMA, max_length=limit, truncation="drop")
        ((_, datum),) = encode.encode_tables([ranked(LONG, *RESPONSES)])
        assert (datum is not None) is kept
        assert encode.counts == {"records": 1, **({} if kept else {"dropped": 1})}
        if datum is not None:
            assert lists(datum) == whole


def test_a_bos_that_only_the_template_writes_stays() -> None:
    tokenizer = load_tokenizer(LLAMA)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    whole, _ = uncut("no")
    assert lists(one(made(tokenizer, max_length=30), ranked(LONG, "no"))) == [[whole[0][0], *whole[0][-29:]]]


@pytest.mark.parametrize("layout", ["single", "pair"])
@pytest.mark.parametrize("truncation", ["keep_end", "keep_start", "drop"])
@pytest.mark.parametrize("path", [LLAMA, QWEN])
@pytest.mark.parametrize("limit", [4, 9, 60, 90])
def test_nothing_is_longer_than_allowed(layout: str, truncation: str, path: str, limit: int) -> None:
    draw = random.Random(0)
    words = ["the", "in", "x", "\n\n", "öl", "again", "."]
    texts = [" ".join(draw.choices(words, k=draw.randint(0, 25))) for _ in range(60)]
    records = [ranked(texts[i], *texts[i + 1 : i + 4], scores=(1, 2, 3)) for i in range(0, 60, 4)]
    encode = encoder(path, layout, max_length=limit, truncation=truncation)
    kept = 0
    for record, datum in encode.encode(records):
        assert isinstance(record, RankedResponses)
        if datum is None:
            continue
        kept += 1
        sequences = lists(datum)
        assert len(sequences) == (3 if layout == "single" else 6)
        assert all(2 <= len(ids) <= limit for ids in sequences)
        for tree in datum.trees:
            heads = [ids[: tree.prompt].tolist() for ids in tree.sequences]
            assert all(head == heads[0] for head in heads) and tree.prompt < min(map(len, tree.sequences))
        if layout == "single":
            assert all(ids[-1] == encode.tokenizer.eos_token_id for ids in sequences)
    assert encode.counts["records"] == 15 and encode.counts["dropped"] == 15 - kept
    assert max(encode.counts.values()) == 15, "a record counts once"
    if truncation == "keep_end" and layout == "single":
        assert kept == 15


# ---- ranked responses


def test_ranked_responses_become_pairs() -> None:
    encode = encoder(LLAMA)
    datum = one(encode, ranked("Q", "a", "b", "c", "d", scores=(3.0, 1.0, 3.0, 2.0)))
    scores = (3.0, 1.0, 3.0, 2.0)
    expected = {(i, j) for i, j in itertools.permutations(range(4), 2) if scores[i] > scores[j]}
    assert set(datum.pairs) == expected and len(datum.pairs) == len(expected) == 5
    assert sum(datum.weight) == pytest.approx(1.0) and len(set(datum.weight)) == 1
    assert datum.probability == (1.0,) * 5 and datum.margin == (0.0,) * 5
    assert encode.counts == {"records": 1, "ties": 1}
    assert encode.report() == "1 records: 1 ties"


@pytest.mark.parametrize("layout", ["single", "pair"])
def test_records_without_a_pair_are_left_out_and_counted(layout: str) -> None:
    encode = encoder(LLAMA, layout)
    records = [ranked("Q", "a", "b", scores=(1, 1)), ranked("Q", "a", scores=(1,)), ranked("Q", "a", "b", scores=(1, 2))]
    found = [datum for _, datum in encode.encode(records)]
    assert [datum is None for datum in found] == [True, True, False]
    assert encode.counts == {"records": 3, "ties": 1, "without a pair": 2}


def test_pairs_need_scores_and_tables_do_not() -> None:
    encode, record = encoder(LLAMA), ranked("Q", "a", "b", source="f:2")
    with pytest.raises(RecordError, match=r"f:2: .*without scores"):
        list(encode.encode([record]))
    ((_, datum),) = encode.encode_tables([record])
    assert datum is not None and datum.pairs == () and len(datum.trees[0].sequences) == 2


def test_a_comparison_keeps_its_numbers() -> None:
    datum = one(encoder(LLAMA), comparison("Q", "a", "b", probability=0.3, margin=0.5, weight=2.0))
    assert (datum.pairs, datum.probability, datum.margin, datum.weight) == (((0, 1),), (0.3,), (0.5,), (2.0,))


# ---- pairs of responses


def rlhflow(turns: list[tuple[str, str]], a: str, b: str) -> str:
    """RLHFlow's text, from what its template renders to: a newline, each turn, a newline."""
    context = "\n"
    for role, content in turns:
        context += f"\n<turn> {role}\n {content}"
    context += "\n"
    return f"[CONTEXT] {context} [RESPONSE A] {a} [RESPONSE B] {b} \n"


CONVERSATIONS = [[("user", "U")], [("user", "U"), ("assistant", "V"), ("user", "W")], []]


def test_rlhflow_s_one_turn_as_documented() -> None:
    assert rlhflow([("user", "U")], "a", "b") == "[CONTEXT] \n\n<turn> user\n U\n [RESPONSE A] a [RESPONSE B] b \n"


@pytest.mark.parametrize("turns", CONVERSATIONS)
@pytest.mark.parametrize("template", ["plain", "auto"])
@pytest.mark.parametrize("path", [LLAMA, QWEN])
def test_both_orders_in_rlhflow_s_format(turns: list[tuple[str, str]], template: str, path: str) -> None:
    encode = encoder(path, "pair", template=template)
    tokenizer = encode.tokenizer
    prompt = tuple(Message(role, content) for role, content in turns)
    datum = one(encode, Comparison(prompt, answer("first"), answer("the other")))
    expected = []
    for a, b in (("first", "the other"), ("the other", "first")):
        text = rlhflow(turns, a, b)
        if template == "auto":
            text = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        expected.append(([tokenizer.bos_token_id] if path == LLAMA else []) + ids_of(tokenizer, text))
    assert lists(datum) == expected
    assert datum.pairs == ((0, 1),) and len(datum.trees) == 1
    bos = int(path == LLAMA)
    before = text[: text.index("[RESPONSE A]")]
    assert datum.trees[0].prompt == bos + slow_prompt_tokens(tokenizer, expected[0][bos:], before)


def test_ranked_responses_in_pairs() -> None:
    """Three responses, all unequal: six texts, a tree for each pair, the better one first."""
    encode = encoder(LLAMA, "pair", template="plain")
    datum = one(encode, ranked("U", "x", "y", "z", scores=(1, 3, 2)))
    wanted = [("y", "x"), ("z", "x"), ("y", "z")]
    texts = [rlhflow([("user", "U")], *order) for a, b in wanted for order in ((a, b), (b, a))]
    assert lists(datum) == [[encode.tokenizer.bos_token_id, *ids_of(encode.tokenizer, text)] for text in texts]
    assert datum.pairs == ((0, 1), (2, 3), (4, 5)) and len(datum.trees) == 3
    whole = one(encode, ranked("U", "x", "y", "z"))
    assert lists(whole)[:2] == [
        [encode.tokenizer.bos_token_id, *ids_of(encode.tokenizer, rlhflow([("user", "U")], *order))] for order in (("x", "y"), ("y", "x"))
    ]


def test_pairs_too_long_lose_their_context_first() -> None:
    record = comparison("word " * 20, "seven", "nine")
    whole = lists(one(encoder(LLAMA, "pair"), record))
    limit = max(map(len, whole)) - 40
    encode = encoder(LLAMA, "pair", max_length=limit)
    assert lists(one(encode, record)) == [[ids[0], *ids[1 + max(map(len, whole)) - limit :]] for ids in whole]
    assert encode.counts == {"records": 1, "truncated prompts": 1}


@pytest.mark.parametrize("truncation", ["keep_end", "keep_start"])
def test_then_both_responses_lose_their_ends(truncation: str) -> None:
    record = comparison("Q", "a" * 100, "b" * 200)
    encode = encoder(LLAMA, "pair", max_length=140, truncation=truncation)
    datum = one(encode, record)
    one_way, other_way = (encode.tokenizer.decode(ids) for ids in lists(datum))
    assert len(one_way) > 0 and all(len(ids) <= 140 for ids in lists(datum))
    for text in (one_way, other_way):  # both are still there, cut by one factor, and the answer is still asked for
        assert 0 < text.count("a" * 10) and text.count("b") >= 2 * (text.count("a") - 20) > 0
        assert text.endswith(" \n<|im_end|>\n<|im_start|>assistant\n")
    assert encode.counts["truncated responses"] == 1 and encode.counts["dropped"] == 0
    assert max(encode.counts.values()) == 1


def test_however_long_responses_are_a_pair_is_cut_to_fit() -> None:
    encode = encoder(LLAMA, "pair", max_length=150)
    datum = one(encode, comparison("Q", "a" * 20_000, "b"))
    assert max(map(len, lists(datum))) <= 150 and encode.counts["dropped"] == 0


def test_pairs_that_cannot_fit_are_dropped() -> None:
    record = comparison("word " * 100, "a", "b")
    for truncation in ("keep_start", "drop"):
        encode = encoder(LLAMA, "pair", max_length=100, truncation=truncation)
        ((_, datum),) = encode.encode([record])
        assert datum is None and encode.counts == {"records": 1, "dropped": 1}


# ---- streams


def test_long_streams_keep_their_order_and_are_read_as_needed() -> None:
    taken = 0

    def endless() -> Iterator[Comparison]:
        nonlocal taken
        for taken in itertools.count(1):
            yield comparison(f"Say {taken}", f"{taken} it is", "no")

    encode = encoder(LLAMA)
    found = list(itertools.islice(encode.encode(endless()), 300))
    assert taken < 600
    alone = encoder(LLAMA)
    for number, (record, datum) in enumerate(found, start=1):
        assert isinstance(record, Comparison) and record.prompt[0].content == f"Say {number}"
        assert datum is not None
        if number % 64 in (0, 1, 2):
            np.testing.assert_equal(lists(datum), lists(one(alone, record)))


def test_ids_are_small_integers() -> None:
    sequences: tuple[Ids, ...] = one(encoder(LLAMA), comparison("a", "b", "c")).trees[0].sequences
    assert all(ids.dtype == np.int32 for ids in sequences)
