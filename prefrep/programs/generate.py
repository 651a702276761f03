"""A policy answers the prompts of a benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from prefrep.evaluation.policies import Answering, policy_name
from prefrep.writers import writes


@writes("out", folder=True, stops=True)
def generate(
    *,
    model: str,
    benchmark: Literal["alpaca_eval", "mt_bench"],
    data: str,
    out: str,
    restart: bool = False,
    name: str | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    **answering: Any,
) -> Path:
    """Answers of a policy, in the files that AlpacaEval and MT-Bench read.

    The files are DIR/model_outputs.json (alpaca_eval) or DIR/model_answer/NAME.jsonl (mt_bench). Later turns of mt_bench get shorter
    answers than --max-new-tokens where the model's context leaves less room.

    Examples:
        prefrep eval generate --model M --benchmark alpaca_eval --data alpaca_eval.json --out runs/answers

    Args:
        model: Folder of a language model, hub id or bundled:NAME.
        benchmark: Which prompts and which files.
        data: alpaca_eval: rows with instruction; mt_bench: FastChat's question.jsonl.
        out: Folder for the answers; an interrupted run there is resumed.
        restart: Discard the answers that the output folder holds.
        name: Name of the model in the files; default: the last part of its path.
        temperature: Sampling temperature, 0: greedy; default: 0.7, or FastChat's by category for mt_bench.
        top_p: Nucleus of the sampling; default: 0.9, or 1 for mt_bench, as FastChat.
        **answering: See `prefrep.evaluation.policies.Answering`.

    Returns:
        The answer file.

    Raises:
        PrefrepError: Model or data cannot be read, or a value is out of range.
    """
    how = Answering(**answering)
    from prefrep.evaluation import answers, generation

    alpaca, folder, shown = benchmark == "alpaca_eval", Path(out), name or policy_name(model)
    nucleus = top_p if top_p is not None else 0.9 if alpaca else 1.0
    if alpaca:
        warmth = 0.7 if temperature is None else temperature
        path, count = answers.alpaca(how, model, data, folder, warmth, nucleus, name=shown, restart=restart)
    else:
        sampler = answers.make_sampler(how, temperature or 0.0, nucleus)
        questions = generation.read_questions(data)
        backbone, described = answers.load_policy(how, model)
        identity = {"model": described, "top_p": nucleus, **how.describe()}
        path = generation.mt_bench(
            backbone, sampler.at, questions, folder, shown, identity, temperature=temperature, batch=how.batch_size, seed=how.seed,
            restart=restart,
        )  # fmt: skip
        count = len(questions)
    print(f"written: {path}, {count} answers of {shown}")
    return path
