"""Answer files for AlpacaEval and MT-Bench, in the formats that their tools read.

AlpacaEval (tatsu-lab/alpaca_eval): `model_outputs.json`, a list of {instruction, output, generator, dataset}. MT-Bench (lm-sys/FastChat,
llm_judge): `model_answer/NAME.jsonl`, a line per question with the answers to its turns.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from prefrep.data.sources import rows
from prefrep.disk import keep_lines, replace_json, replace_lines
from prefrep.errors import ConfigError, RecordError
from prefrep.generation import Sampler
from prefrep.metrics.intervals import stream
from prefrep.nn.backbone import Backbone
from prefrep.records import Message
from prefrep.room import saving
from prefrep.writers import leave

Row = dict[str, Any]
ANSWERS = "answers.jsonl"
ALPACA_OUTPUTS = "model_outputs.json"
# FastChat's temperature per category, and for categories that it does not know (llm_judge/common.py, gen_model_answer.py).
MT_TEMPERATURES = {
    "writing": 0.7, "roleplay": 0.7, "extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0, "stem": 0.1, "humanities": 0.1
}  # fmt: skip
MT_OTHER = 0.7


def read_instructions(data: str) -> list[Row]:
    """Return instructions as {instruction, dataset}, from rows with `instruction` or `prompt`.

    Raises:
        DataError: The data cannot be read.
        RecordError: A row has no instruction.
    """
    found = []
    for row, place in rows(data):
        text = row.get("instruction", row.get("prompt"))
        if not isinstance(text, str) or not text.strip():
            raise RecordError(
                place, f"no text in 'instruction' or 'prompt' (found: {', '.join(row)})", "each row needs one instruction as text"
            )
        found.append({"instruction": text, "dataset": str(row.get("dataset") or Path(data).stem)})
    return found


def read_questions(data: str) -> list[Row]:
    """Return MT-Bench questions as {question_id, category, turns}.

    Raises:
        DataError: The data cannot be read.
        RecordError: A row is not a question, or two have the same id.
    """
    found: dict[int, Row] = {}
    for row, place in rows(data):
        number, turns = row.get("question_id"), row.get("turns", row.get("prompt"))
        whole = isinstance(turns, list) and len(turns) > 0 and all(isinstance(turn, str) for turn in turns)
        if not isinstance(number, int) or not whole:
            problem = f"not a question of MT-Bench (found: {', '.join(row)})"
            raise RecordError(place, problem, "it needs question_id and turns, a list of texts")
        if number in found:
            raise RecordError(place, f"question {number} occurs twice", "remove one of the two")
        found[number] = {"question_id": number, "category": str(row.get("category", "")), "turns": turns}
    return list(found.values())


def alpaca_eval(
    backbone: Backbone,
    sampler: Sampler,
    instructions: Sequence[Row],
    out: Path,
    name: str,
    identity: Mapping[str, Any],
    *,
    batch: int = 8,
    seed: int = 0,
    restart: bool = False,
) -> Path:
    """Answer AlpacaEval's instructions, resuming an interrupted run.

    Args:
        backbone: The model.
        sampler: Samples the answers.
        instructions: From `read_instructions`.
        out: Output folder.
        name: The model's name, `generator` in the file.
        identity: What the answers depend on beside the instructions: model and settings.
        batch: Instructions per batch; answers depend on it by rounding only.
        seed: Seed of the sampling.
        restart: Discard the answers that the folder holds.

    Returns:
        The path of `model_outputs.json`.

    Raises:
        ConfigError: The folder holds answers of something else.
        RecordError: An instruction does not fit into the model's context.
    """

    def answer(group: Sequence[Row], start: int) -> Iterator[Row]:
        prompts = [(Message("user", row["instruction"]),) for row in group]
        found = sampler.sample(backbone, prompts, 1, [_seed(seed, start + i) for i in range(len(group))])
        for row, (response,) in zip(group, found, strict=True):
            yield {"instruction": row["instruction"], "output": response.text, "generator": name, "dataset": row["dataset"]}

    said = {"benchmark": "alpaca_eval", "name": name, "batch": batch, "seed": seed, **identity}
    groups = [instructions[i : i + batch] for i in range(0, len(instructions), batch)]
    answers = _fill(out, said, groups, answer, restart)
    replace_json(out / ALPACA_OUTPUTS, answers)
    return out / ALPACA_OUTPUTS


def mt_bench(
    backbone: Backbone,
    sampler: Callable[[float], Sampler],
    questions: Sequence[Row],
    out: Path,
    name: str,
    identity: Mapping[str, Any],
    *,
    temperature: float | None = None,
    batch: int = 8,
    seed: int = 0,
    restart: bool = False,
) -> Path:
    """Answer MT-Bench's questions turn by turn, resuming an interrupted run.

    The answer to a later turn is limited by what earlier turns leave of the model's context, if that is less than the maximum length.

    Args:
        backbone: The model.
        sampler: Returns the sampler for a temperature.
        questions: From `read_questions`.
        out: Output folder.
        name: The model's name; FastChat takes it from the file's name.
        identity: What the answers depend on beside the questions: model and settings.
        temperature: Temperature of all categories; None: FastChat's temperature of each category.
        batch: Questions per batch; a batch has one temperature.
        seed: Seed of the sampling.
        restart: Discard the answers that the folder holds.

    Returns:
        The path of `model_answer/NAME.jsonl`.

    Raises:
        ConfigError: The folder holds answers of something else, or the name cannot be a file name.
        RecordError: A question leaves no room for the longest first answer, or for any later one. Batches that were answered before
            stay in `answers.jsonl`.
    """
    if "/" in name:
        raise ConfigError(f"the name {name!r} becomes a file name and must not contain '/'; set --name")

    def warmth(row: Row) -> float:
        return MT_TEMPERATURES.get(row["category"], MT_OTHER) if temperature is None else temperature

    def answer(group: Sequence[Row], start: int) -> Iterator[Row]:
        drawing = sampler(warmth(group[0]))
        talks: list[list[Message]] = [[] for _ in group]
        for turn in range(max(len(row["turns"]) for row in group)):
            asked = [i for i, row in enumerate(group) if turn < len(row["turns"])]
            for i in asked:
                talks[i].append(Message("user", group[i]["turns"][turn]))
            seeds = [_seed(seed, start + i, turn) for i in asked]
            found = drawing.sample(backbone, [tuple(talks[i]) for i in asked], 1, seeds, shorten=turn > 0)
            for i, (response,) in zip(asked, found, strict=True):
                talks[i].append(Message("assistant", response.text.strip()))
        for row, talk in zip(group, talks, strict=True):
            turns = [message.content for message in talk if message.role == "assistant"]
            key = json.dumps([row["question_id"], name, turns])
            yield {
                "question_id": row["question_id"],
                "answer_id": hashlib.sha256(key.encode()).hexdigest()[:22],
                "model_id": name,
                "choices": [{"index": 0, "turns": turns}],
                "tstamp": time.time(),
            }

    groups: list[list[Row]] = []
    for row in sorted(questions, key=lambda row: int(row["question_id"])):
        if not groups or len(groups[-1]) == batch or warmth(groups[-1][0]) != warmth(row):
            groups.append([])
        groups[-1].append(row)
    said = {"benchmark": "mt_bench", "name": name, "temperature": temperature, "batch": batch, "seed": seed, **identity}
    answers = _fill(out, said, groups, answer, restart)
    path = out / "model_answer" / f"{name}.jsonl"
    replace_lines(path, answers)
    return path


def _seed(seed: int, number: int, turn: int = 0) -> int:
    """Return the seed of a question and turn, so that a resumed run samples what an uninterrupted one would have sampled."""
    return int(stream(seed, f"{number}/{turn}").integers(2**31))


def _fill(
    out: Path,
    identity: Mapping[str, Any],
    groups: Sequence[Sequence[Row]],
    answer: Callable[[Sequence[Row], int], Iterator[Row]],
    restart: bool,
) -> list[Row]:
    """Answer batches of questions and append them to `out/answers.jsonl`, batch by batch."""
    out.mkdir(parents=True, exist_ok=True)
    log, sidecar = out / ANSWERS, out / "answers.meta.json"
    questions = hashlib.sha256(json.dumps(list(groups)).encode()).hexdigest()
    said = json.loads(json.dumps({**identity, "questions": questions}, default=str))
    if restart:
        log.unlink(missing_ok=True)
    done = _kept(log, sidecar, said, groups)
    replace_json(sidecar, said)
    sizes = [len(group) for group in groups]
    bar = tqdm(desc="answering", unit=" prompts", total=sum(sizes), initial=len(done))
    with bar, saving(log), log.open("a", encoding="utf-8") as file:
        start = 0
        for group in groups:
            if start >= len(done):
                new = list(answer(group, start))
                file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in new))
                file.flush()
                done += new
                bar.update(len(new))
                if len(done) < sum(sizes):
                    leave()
            start += len(group)
    return done


def _kept(log: Path, sidecar: Path, said: Mapping[str, Any], groups: Sequence[Sequence[Row]]) -> list[Row]:
    """Return the answers of an earlier run; a batch that was interrupted is dropped and answered again."""
    if not log.exists() or not log.stat().st_size:
        return []
    try:
        found = json.loads(sidecar.read_text(encoding="utf-8"))
        lines = log.read_bytes().split(b"\n")[:-1]  # without an incomplete last line
        kept = [json.loads(line) for line in lines]
    except (OSError, ValueError) as error:
        raise ConfigError(f"{log}: not an answer file of this program ({error}); choose another --out, or --restart") from error
    if changed := sorted(key for key in found.keys() | said.keys() if found.get(key) != said.get(key)):
        raise ConfigError(f"{log}: answers of another run (differs in {', '.join(changed)}); choose another --out, or --restart")
    whole = 0
    for group in groups:
        if whole + len(group) > len(kept):
            break
        whole += len(group)
    keep_lines(log, whole)
    return kept[:whole]
