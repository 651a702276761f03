"""Prompts from files, the rounds they make, and the batches of a round."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from prefrep.data.prompt_sources import Prompt, read_prompts
from prefrep.data.prompts import PromptData
from prefrep.data.sources import read
from prefrep.data.trees import Tree
from prefrep.errors import ConfigError, DataError, RecordError
from prefrep.nn.backbone import Backbone
from prefrep.records import Message


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def data_for(backbone: Backbone, root: Path, **options: Any) -> PromptData:
    """Data of a trainer that has done nothing yet."""
    data = PromptData(**{"max_length": 128, "max_prompt_length": 64, **options})
    module = SimpleNamespace(backbone=backbone, tokenizer=backbone.tokenizer(), supports_trees=backbone.supports_trees)
    progress = SimpleNamespace(total=SimpleNamespace(processed=0))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    data.trainer = SimpleNamespace(lightning_module=module, default_root_dir=str(root), fit_loop=loop, num_training_batches=2)  # type: ignore[assignment]
    return data


def test_prompts_come_in_many_shapes(tmp_path: Path) -> None:
    talk = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    rows = [
        {"prompt": "one", "chosen": "a", "rejected": "b", "id": 7},
        {"instruction": "two", "completions": []},
        {"prompt": talk},
        {"messages": [*talk, {"role": "assistant", "content": "Hello"}]},
    ]
    found = list(read_prompts(write(tmp_path / "p.jsonl", rows)))
    assert all(isinstance(each, Prompt) for each in found)
    assert [each.messages[-1].content for each in found if isinstance(each, Prompt)] == ["one", "two", "Hi", "Hi"]
    first, _, third, fourth = found
    assert isinstance(first, Prompt) and first.id == "7" and first.source.endswith("p.jsonl:1")
    assert isinstance(third, Prompt) and isinstance(fourth, Prompt) and third.messages == fourth.messages
    (tmp_path / "p.txt").write_text("one\ntwo\n")
    lines = [each for each in read_prompts(str(tmp_path / "p.txt")) if isinstance(each, Prompt)]
    assert [each.messages for each in lines] == [(Message("user", "one"),), (Message("user", "two"),)]
    (tmp_path / "p.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\xe2\x80\xa8lines\ncaf\xe9\n")
    first, second, third = read_prompts(str(tmp_path / "p.txt"))
    assert isinstance(first, Prompt) and first.messages[0].content == "one", "a byte-order mark is no text"
    assert isinstance(second, Prompt) and second.messages[0].content == "two\u2028lines" and second.source.endswith("p.txt:2")
    assert isinstance(third, RecordError) and "p.txt:3: the line is not UTF-8" in str(third)


def user(*contents: str) -> list[dict[str, str]]:
    """A conversation that begins with the user."""
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


SYSTEM = {"role": "system", "content": "Be kind."}


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"chosen": user("a", "b", "c", "yes"), "rejected": user("a", "b", "c", "no")}, user("a", "b", "c")),
        ({"chosen": [SYSTEM, *user("a", "yes")], "rejected": [SYSTEM, *user("a", "no")]}, [SYSTEM, *user("a")]),
        ({"prompt": "a", "chosen": user("a", "yes"), "rejected": user("a", "no")}, user("a")),
        ({"chosen": "\n\nHuman: a\n\nAssistant: yes", "rejected": "\n\nHuman: a\n\nAssistant: no"}, user("a")),
        ({"prompt": "\n\nHuman: a\n\nAssistant:", "chosen": " yes", "rejected": " no"}, user("a")),
        ({"instruction": "a", "input": "b", "chosen": "yes", "reject": "no"}, user("a\nb")),
        ({"prompt": "a", "system": "Be kind.", "responses": ["yes", "no"]}, [SYSTEM, *user("a")]),
        ({"question": "a", "chosen": "yes", "rejected": "no"}, user("a")),
        ({"prompt": "a", "chosen": "yes", "rejected": 3}, user("a")),
    ],
)
def test_preference_data_give_the_prompts_that_training_reads(tmp_path: Path, row: dict[str, Any], prompt: list[dict[str, str]]) -> None:
    """Except that prompts in columns of their own do not need sound responses."""
    path = write(tmp_path / "p.jsonl", [row])
    (found,) = read_prompts(path)
    assert isinstance(found, Prompt) and [{"role": m.role, "content": m.content} for m in found.messages] == prompt
    if not ({"question"} & row.keys() or row.get("rejected") == 3):
        (record,) = read(path)
        assert record.prompt == found.messages


def test_bundled_data_give_prompts() -> None:
    found = list(read_prompts("bundled:ultrafeedback-mini"))
    assert len(found) == 150 and all(isinstance(each, Prompt) for each in found)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"chosen": "yes", "rejected": "no"}, r"no prompt \(found: chosen, rejected\)"),
        ({"chosen": user("a", "b", "c"), "rejected": user("a", "b", "d")}, "no assistant turn"),
        ({"chosen": user("yes"), "rejected": user("no")}, "no assistant turn"),
        ({"prompt": "  "}, "p.jsonl:2: the prompt is empty"),
        ({"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "assistant turn"),
        ({"text": "a"}, r"no prompt \(found: text\)"),
        ({"prompt": 3}, "must be a list of messages"),
        ({"messages": [{"role": "assistant", "content": "b"}]}, "empty"),
    ],
)
def test_bad_prompts_stop_the_run_or_are_skipped(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    path = write(tmp_path / "p.jsonl", [{"prompt": "good"}, row])
    with pytest.raises(RecordError, match=words):
        PromptData(path).setup("fit")
    lenient = PromptData(path, on_bad_row="skip")
    lenient.setup("fit")
    assert [prompt.messages[0].content for prompt in lenient._prompts["train"]] == ["good"]


def test_a_prompt_that_the_template_refuses_is_named_by_its_place(llama: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        llama.tokenizer(), "chat_template", "{% if 'odd' in messages[0]['content'] %}{{ raise_exception('no') }}{% endif %}x"
    )
    path = write(tmp_path / "p.jsonl", [{"prompt": "good"}, {"prompt": "odd"}])
    strict, lenient = (data_for(llama, tmp_path, train=path, on_bad_row=rule) for rule in ("error", "skip"))
    strict.setup("fit")
    lenient.setup("fit")
    with pytest.raises(RecordError, match=r"p.jsonl:2: the tokenizer's chat template refuses it .*on_bad_row skip"):
        strict.prompts("train")
    assert [prompt.messages[0].content for prompt in lenient.prompts("train")] == ["good"]


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [{"prompt": "a"}])
    with pytest.raises(ConfigError, match="--data.train"):
        PromptData().setup("fit")
    with pytest.raises(ConfigError, match="fit"):
        PromptData(path).setup("test")
    with pytest.raises(ConfigError, match="batch_size"):
        PromptData(path, batch_size=0)
    with pytest.raises(ConfigError, match="leave room"):
        PromptData(path, max_length=64, max_prompt_length=64)
    with pytest.raises(DataError, match="no usable"):
        PromptData(write(tmp_path / "q.jsonl", [{"prompt": ""}]), on_bad_row="skip").setup("fit")


def test_a_prompt_that_is_too_long_is_never_cut(tmp_path: Path, llama: Backbone) -> None:
    path = write(tmp_path / "p.jsonl", [{"prompt": "short"}, {"prompt": "long " * 40}])
    data = data_for(llama, tmp_path, train=path)
    data.setup("fit")
    with pytest.raises(RecordError, match=r"p.jsonl:2: the prompt has \d+ tokens, more than max_prompt_length 64"):
        data.prompts("train")
    lenient = data_for(llama, tmp_path, train=path, on_bad_row="skip")
    lenient.setup("fit")
    assert len(lenient.prompts("train")) == 1
    wide = data_for(llama, tmp_path, train=path, max_length=4096)
    wide.setup("fit")
    with pytest.raises(ConfigError, match="more than the 2048 tokens"):
        wide.prompts("train")


def test_rounds_go_through_all_prompts_before_any_comes_again(tmp_path: Path, llama: Backbone) -> None:
    path = write(tmp_path / "p.jsonl", [{"prompt": f"p{i}"} for i in range(7)])
    data = data_for(llama, tmp_path, train=path, round_size=5)
    data.setup("fit")
    names = [prompt.messages[0].content for number in range(3) for prompt in data.round_prompts(number)]
    assert sorted(names[:7]) == sorted(names[7:14]) == [f"p{i}" for i in range(7)]
    assert names[:7] != names[7:14], "each pass has an order of its own"
    assert [p.messages[0].content for p in data.round_prompts(1)] == names[5:10], "and a round does not depend on earlier calls"


def test_a_suffix_stands_behind_the_last_turn(tmp_path: Path) -> None:
    data = PromptData(write(tmp_path / "p.jsonl", [{"prompt": "Why?"}]), suffix=" Be brief.")
    data.setup("fit")
    assert data._prompts["train"][0].messages[0].content == "Why? Be brief."


def test_a_round_without_labels_says_which_callbacks_to_add(tmp_path: Path, llama: Backbone) -> None:
    data = data_for(llama, tmp_path, train=write(tmp_path / "p.jsonl", [{"prompt": "a"}]))
    data.setup("fit")
    with pytest.raises(ConfigError, match="SampleResponses, UpdateReference and LabelPreferences"):
        data.batch([(0, True)])


def test_a_batch_holds_the_responses_that_the_loss_reads_and_what_is_known_of_all(tmp_path: Path, llama: Backbone) -> None:
    data = data_for(llama, tmp_path, train=write(tmp_path / "p.jsonl", [{"prompt": "a"}, {"prompt": "b"}]), seed=1)
    data.setup("fit")
    texts, tables = ["one", "two words", "and three words"], [[0.0, 1.0, 2.0], [-1.0, 0.0, 3.0], [-2.0, -3.0, 0.0]]
    samples = {"responses": texts, "finished": [True, True, False]}
    reference = {"logprobs": [-1.0, -2.0, -3.0], "initial": None, "lengths": [2, 3, 4]}
    labels = {"table": tables, "initial_table": [[], [], []]}
    folder = tmp_path / "rounds" / "0"
    folder.mkdir(parents=True)
    for name, line in (("samples", samples), ("reference", reference), ("labels", labels)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"row": row, **line}) + "\n" for row in range(2)))
    assert data.trainer is not None
    data.trainer.lightning_module.selected = lambda judged: torch.tensor([[2, 0], [0, 1]])  # type: ignore[assignment, union-attr]
    batch = data.batch([(0, True), (1, False)])
    whole = [sample.datum.trees[0].sequences for sample in data.encoded(data.round_prompts(0), [samples, samples])]
    expected = [whole[0][2], whole[0][0], whole[1][0], whole[1][1]]
    assert len(batch.trees.end) == 4 and batch.surplus.tolist() == [1, 0, 0, 0] and batch.selected.tolist() == [[2, 0], [0, 1]]
    for end, ids in zip(batch.trees.end.tolist(), expected, strict=True):
        assert batch.trees.positions.flatten()[end] == len(ids) - 1
    assert batch.tokens == sum(Tree((a, b), 1).size for a, b in (expected[:2], expected[2:]))
    assert batch.table.shape == (2, 3, 3) and batch.initial_table.shape == (2, 3, 0) and batch.initial.isnan().all()
    assert batch.lengths.tolist() == [[2, 3, 4]] * 2 and batch.weight.tolist() == [1, 0]


def test_plain_responses_begin_behind_the_colon(tmp_path: Path, llama: Backbone) -> None:
    """Their blank counts among their tokens where it was sampled, and is not there where it was not."""
    data = data_for(llama, tmp_path, train=write(tmp_path / "p.jsonl", [{"prompt": "a"}]), template="plain")
    data.setup("fit")
    texts = ["x", "x", ""]
    line = {"responses": texts, "finished": [True] * 3, "leads": [" ", "", ""]}
    (sample,), (older,) = (data.encoded(data.round_prompts(0), [each]) for each in (line, {k: line[k] for k in ("responses", "finished")}))
    tokenizer = llama.tokenizer()

    def plain(end: str) -> list[int]:
        return [*tokenizer("\n\nHuman: a\n\nAssistant:" + end)["input_ids"], tokenizer.eos_token_id]

    (tree,), (old,) = sample.datum.trees, older.datum.trees
    assert [ids.tolist() for ids in tree.sequences] == [plain(" x"), plain("x"), plain("")]
    assert [ids.tolist() for ids in old.sequences] == [plain(" x"), plain(" x"), plain(" ")], "lines without leads are of whole records"
    assert tree.prompt == old.prompt == len(plain("")) - 1 and sample.surplus == (0, 0, 0)


def test_tokens_that_nobody_sampled_are_counted(tmp_path: Path, llama: Backbone) -> None:
    """A finished response keeps its one end; of a response that was cut off no end was sampled, nor of one that does not fit."""
    data = data_for(llama, tmp_path, train=write(tmp_path / "p.jsonl", [{"prompt": "a"}]))
    data.setup("fit")
    line = {"responses": ["done", "cut", "x" * 300], "finished": [True, False, True]}
    (sample,) = data.encoded(data.round_prompts(0), [line])
    assert sample.surplus == (0, 1, 1)
    assert [len(ids) for ids in sample.datum.trees[0].sequences][2] == 128


def test_prompts_name_who_asks(tmp_path: Path) -> None:
    """Rows of preference data, rows with a prompt alone, and rows of nobody in particular."""
    rows = [
        {"prompt": "Hi", "chosen": "a", "rejected": "b", "group": "r/x"},
        {"prompt": "Ho", "group": "r/y"},
        {"messages": [{"role": "user", "content": "Hm"}]},
    ]
    for number, row in enumerate(rows):
        (tmp_path / f"{number}.jsonl").write_text(json.dumps(row) + "\n")
    found = [each for n in range(3) for each in read_prompts(str(tmp_path / f"{n}.jsonl"), context="group")]
    texts = [each.messages[0].content for each in found if isinstance(each, Prompt)]
    assert texts == ["[group: r/x]\nHi", "[group: r/y]\nHo", "Hm"]
