"""PreferenceData: read once, encoded for the model at hand, laid out in the order that training has reached."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prefrep.data.encode import EncodeConfig
from prefrep.data.preference import PreferenceData
from prefrep.errors import ConfigError, DataError, RecordError
from prefrep.nn.loading import load_tokenizer

RANKED = {"prompt": "scored", "responses": ["a", "b", "c"], "scores": [1, 2, 1]}
ROWS = [{"prompt": f"Say {i}", "chosen": f"{i} it is", "rejected": "no " * i} for i in range(1, 8)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def attach(
    data: PreferenceData, layout: str = "single", trees: bool = True, done: int = 0, room: int = 2048, **more: Any
) -> PreferenceData:
    """Puts the least of a trainer and of a model around the data."""
    backbone = SimpleNamespace(frozen=False, room=room, pooling="last", both_ways=False, row_capacity=lambda wanted: wanted)
    module = SimpleNamespace(
        tokenizer=load_tokenizer("bundled:tiny-llama"),
        layout=layout,
        supports_trees=lambda: trees,
        backbone=backbone,
        unpaired=False,
        needs_prompt=False,
        reading=None,
        annotators=None,
    )
    total = SimpleNamespace(processed=done)
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        lightning_module=module,
        world_size=1,
        global_rank=0,
        strategy=None,
        num_training_batches=-(-len(ROWS) // data.batch_size),
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(total=total))),
        **more,
    )
    return data


def prompts(data: PreferenceData, loader: Any) -> list[list[str]]:
    """The prompts of each batch, read back from its ids."""
    tokenizer = load_tokenizer("bundled:tiny-llama")
    found = []
    for batch in loader:
        ends = batch.end[batch.pairs[:, 0]]
        texts = [tokenizer.decode(batch.ids.flatten()[: end + 1]).rsplit("Say ", 1)[1][0] for end in ends.tolist()]
        found.append(texts)
    return found


def test_another_model_gets_its_own_encoding(file: Path) -> None:
    """One DataModule for two models: the second reads pairs, and must not be given the first one's single responses."""
    data = PreferenceData(str(file), batch_size=7)
    for layout in ("single", "pair"):
        attach(data, layout).setup("fit")
        (batch,) = data.train_dataloader()
        assert len(batch.end) == 14
        text = load_tokenizer("bundled:tiny-llama").decode(batch.ids.flatten())
        assert ("[RESPONSE A]" in text) is (layout == "pair")


def test_another_end_of_a_response_is_another_encoding(file: Path) -> None:
    """A base model and its instruct model: one tokenizer.json, and special tokens of their own."""
    data = PreferenceData(str(file), batch_size=7)
    for end in ("<|im_end|>", "<pad>"):
        attach(data).trainer.lightning_module.tokenizer.eos_token = end  # type: ignore[union-attr]
        data.setup("fit")
        (batch,) = data.train_dataloader()
        expected = load_tokenizer("bundled:tiny-llama").convert_tokens_to_ids(end)
        assert set(batch.ids.flatten()[batch.end].tolist()) == {expected}


def test_another_length_is_another_encoding(file: Path) -> None:
    data = PreferenceData(str(file), batch_size=7)
    sizes = []
    for length in (2048, 8):
        data.encode_config = EncodeConfig(max_length=length)
        attach(data).setup("fit")
        (batch,) = data.train_dataloader()
        sizes.append(int(batch.positions.max()) + 1)
    assert sizes[0] > 8 >= sizes[1]


@pytest.mark.parametrize(("capacity", "rows"), [(10**9, 1), (1, 7)])
def test_the_kernel_says_how_wide_rows_are(file: Path, capacity: int, rows: int) -> None:
    data = attach(PreferenceData(str(file), batch_size=7, row_tokens=64))
    asked: list[int] = []
    data.trainer.lightning_module.backbone.row_capacity = lambda wanted: asked.append(wanted) or capacity  # type: ignore[union-attr]
    data.setup("fit")
    (batch,) = data.train_dataloader()
    assert asked == [64] and len(batch.ids) == rows


def test_the_same_model_reads_its_data_once(file: Path) -> None:
    data = attach(PreferenceData(str(file), batch_size=7))
    data.setup("fit")
    data.train_dataloader()
    file.unlink()
    data.setup("fit")
    assert len(list(data.train_dataloader())) == 1


def test_training_goes_on_where_it_was(file: Path) -> None:
    def batches(done: int) -> list[list[str]]:
        data = attach(PreferenceData(str(file), batch_size=2, layout="padded"), done=done)
        data.setup("fit")
        return [batch.ids.tolist() for batch in data.train_dataloader()]

    epoch, second = batches(0), batches(4)
    assert len(epoch) == len(second) == 4 and epoch != second
    assert batches(3) == epoch[3:] and batches(6) == second[2:]


def test_evaluation_keeps_the_order_of_the_data(file: Path) -> None:
    data = attach(PreferenceData(test=str(file), batch_size=3, layout="padded"), done=2)
    data.setup("test")
    assert prompts(data, data.test_dataloader()) == [["1", "2", "3"], ["4", "5", "6"], ["7"]]


@pytest.mark.parametrize(("layout", "trees", "padded"), [("auto", True, False), ("auto", False, True), ("padded", True, True)])
def test_layout_follows_the_model(layout: Any, trees: bool, padded: bool, file: Path) -> None:
    data = attach(PreferenceData(str(file), layout=layout), trees=trees)
    data.setup("fit")
    assert all(batch.padded is padded for batch in data.train_dataloader())


@pytest.mark.parametrize(("both_ways", "why"), [(True, "reads both ways"), (False, "does not support tree masks")])
def test_why_prompts_are_not_shared_is_said_once(both_ways: bool, why: str, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = attach(PreferenceData(str(file), val=str(file)), trees=False)
    data.trainer.lightning_module.backbone.both_ways = both_ways  # type: ignore[union-attr]
    with caplog.at_level("INFO", "prefrep"):
        data.setup("fit")
        for loader in (data.train_dataloader(), data.val_dataloader()):
            list(loader)
    said = [each.getMessage() for each in caplog.records if "not shared" in each.getMessage()]
    assert said == [f"this backbone {why}, so prompts are not shared"]


def test_trees_are_not_forced_on_a_model_that_ignores_them(file: Path) -> None:
    data = attach(PreferenceData(str(file), layout="trees"), trees=False)
    data.setup("fit")
    with pytest.raises(ConfigError, match="tree mask"):
        data.train_dataloader()


def test_what_is_missing_is_named(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"--data\.test FILE"):
        PreferenceData(str(file)).setup("test")
    with pytest.raises(ConfigError, match="batch_size"):
        PreferenceData(str(file), batch_size=0)
    data = attach(PreferenceData(str(file), max_length=4, truncation="drop"))
    data.setup("fit")
    with pytest.raises(DataError, match=r"no record is left \(7 records: 7 dropped\); raise max_length"):
        data.train_dataloader()


def test_validation_data_may_be_missing(file: Path) -> None:
    data = attach(PreferenceData(str(file)))
    data.setup("fit")
    assert data.val_dataloader() == []


def test_more_than_the_model_can_read_is_refused(file: Path) -> None:
    data = attach(PreferenceData(str(file)), room=128)
    data.setup("fit")
    with pytest.raises(ConfigError, match="max_length 2048 is more than the 128 tokens .* --data.max_length 128"):
        data.train_dataloader()
    fits = attach(PreferenceData(str(file), max_length=128), room=128)
    fits.setup("fit")
    assert len(list(fits.train_dataloader())) == 1


def test_what_the_template_refuses_is_skipped_like_any_bad_row(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.write_text(json.dumps({"responses": ["a", "b"], "prompt": "unscored"}) + "\n" + json.dumps({**RANKED, "id": "r"}) + "\n")
    for on_bad_row in ("error", "skip"):
        data = attach(PreferenceData(predict=str(file), on_bad_row=on_bad_row))  # type: ignore[arg-type]
        data.setup("predict")
        if on_bad_row == "error":
            with pytest.raises(RecordError, match="rows.jsonl:1: ranked responses without scores"):
                data.predict_dataloader()
    with caplog.at_level("WARNING", "prefrep"):
        assert len(list(data.predict_dataloader())) == 1
    assert any("skipped: " in each.getMessage() and "rows.jsonl:1" in each.getMessage() for each in caplog.records)
    assert data.predicted == [(1, "r", [(1, 0), (1, 2)])], "numbers are those of the records, and pairs have the better response first"
