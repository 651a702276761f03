"""A policy answers the prompts of a benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from prefrep.evaluation.policies import Searching, policy_name
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
    **searching: Any,
) -> Path:
    """Answers of a policy, in the files that AlpacaEval and MT-Bench read.

    The files are DIR/model_outputs.json (alpaca_eval) or DIR/model_answer/NAME.jsonl (mt_bench). Later turns of mt_bench get shorter
    answers than --max-new-tokens where the model's context leaves less room.

    With --value, answers are searched for: --candidates next lines are drawn for each of --beams beginnings, and those with the highest
    rewards go on.

    Examples:
        prefrep eval generate --model M --benchmark alpaca_eval --data alpaca_eval.json --out runs/answers
        prefrep eval generate --model M --benchmark alpaca_eval --data problems.jsonl --value runs/bt/export --out runs/solutions

    Args:
        model: Folder of a language model, hub id or bundled:NAME.
        benchmark: Which prompts and which files.
        data: alpaca_eval: rows with instruction; mt_bench: FastChat's question.jsonl.
        out: Folder for the answers; an interrupted run there is resumed.
        restart: Discard the answers that the output folder holds.
        name: Name of the model in the files; default: the last part of its path.
        temperature: Sampling temperature, 0: greedy; default: 0.7, or FastChat's by category for mt_bench.
        top_p: Nucleus of the sampling; default: 0.9, or 1 for mt_bench, as FastChat.
        **searching: See `prefrep.evaluation.policies.Searching`.

    Returns:
        The answer file.

    Raises:
        PrefrepError: Model or data cannot be read, or a value is out of range.
    """
    how = Searching(**searching)
    from prefrep.errors import UsageError
    from prefrep.evaluation import answers, generation

    alpaca, folder, shown = benchmark == "alpaca_eval", Path(out), name or policy_name(model)
    nucleus = top_p if top_p is not None else 0.9 if alpaca else 1.0
    greedy = temperature == 0 or (temperature is None and not alpaca)  # mt_bench: some categories
    if how.value is not None and how.candidates > 1 and greedy:
        raise UsageError("--candidates: greedy decoding proposes the same step again; set --temperature above 0, or --candidates 1")
    if alpaca:
        warmth = 0.7 if temperature is None else temperature
        path, count = answers.alpaca(how, model, data, folder, warmth, nucleus, name=shown, restart=restart)
    else:
        sampler = answers.make_sampler(how, temperature or 0.0, nucleus)
        questions = generation.read_questions(data)
        asked, (searched, value) = answers.asking(how, model), answers.searching(how)
        backbone, described = answers.load_policy(how, model)
        identity = {"model": described, "top_p": nucleus, **how.describe(), **value}
        path = generation.mt_bench(
            backbone, lambda warmth: asked(searched(sampler.at(warmth))), questions, folder, shown, identity, temperature=temperature,
            batch=how.batch_size, seed=how.seed, restart=restart,
        )  # fmt: skip
        count = len(questions)
    print(f"written: {path}, {count} answers of {shown}")
    return path
