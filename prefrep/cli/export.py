"""`bin/export`: exported folders to other programs' layouts, and back."""

from __future__ import annotations

import argparse
from pathlib import Path

from prefrep.cli import friendly
from prefrep.errors import CheckpointError

LAYOUTS = ("seqcls", "official")
EXAMPLES = """examples:
  bin/export --model runs/bt/export --to seqcls --out reward-model
  bin/export --from official --model general-preference/GPM-Gemma-2B --out gpm --tau 0.1 --normalize --gate softmax --template official
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    raw = argparse.RawDescriptionHelpFormatter
    it = argparse.ArgumentParser(prog="export", description=__doc__, epilog=EXAMPLES, formatter_class=raw)
    it.add_argument("--model", required=True, help="folder to read (with --from: a hub id as well)")
    it.add_argument("--out", required=True, help="folder to write; an older model there is replaced")
    way = it.add_mutually_exclusive_group(required=True)
    way.add_argument(
        "--to", choices=LAYOUTS, help="write an exported folder as AutoModelForSequenceClassification, or in the official GPM layout"
    )
    way.add_argument("--from", choices=LAYOUTS, dest="source", help="read --model in this layout and write an exported folder")
    it.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="type of the language model's weights; default: as stored")
    it.add_argument("--max-length", type=int, help="--from: longest sequence in tokens; default: 2048 (seqcls), 4096 (official)")
    stated = it.add_argument_group("--from official, all four required", "The layout does not say these; released models: see the example.")
    stated.add_argument("--tau", type=float, help="temperature: scores divided by it are log-odds")
    stated.add_argument("--normalize", action=argparse.BooleanOptionalAction, help="whether embeddings have length 1")
    stated.add_argument("--gate", choices=("none", "softmax", "scaled_softmax", "nonnegative"), help="how the prompt weighs the blocks")
    stated.add_argument("--template", choices=("official", "auto"), help="how text becomes tokens: the official recipe, or this project's")
    return it


def main(args: list[str] | None = None) -> int:
    """Converts a model.

    Args:
        args: Arguments without the program's name; None: those of the process.

    Returns:
        Exit code.

    Raises:
        PrefrepError: The model cannot be read, or the layout cannot express it.
    """
    it = parser()
    options = it.parse_args(args)
    stated = {name: getattr(options, name) for name in ("tau", "normalize", "gate", "template")}
    if options.source == "official" and (missing := [name for name, value in stated.items() if value is None]):
        it.error("--from official: state " + ", ".join(f"--{name}" for name in missing) + "; the checkpoint does not say")
    if options.source != "official" and (needless := [name for name, value in stated.items() if value is not None]):
        it.error(f"--{needless[0]} belongs to --from official")
    if options.to and options.max_length is not None:
        it.error("--max-length belongs to --from")
    out = Path(options.out).expanduser().absolute()
    if out.resolve() == Path(options.model).expanduser().resolve():
        raise CheckpointError(f"{out}: --out would replace --model; name another folder")

    from prefrep.cli.main import quiet

    quiet()
    from prefrep.io import folder, official, seqcls

    if options.to:
        model = folder.load(options.model, options.dtype)
        if options.to == "seqcls":
            seqcls.write(out, model)
            print(f"wrote {out}; its README.md says how texts are tokenised")
        else:
            settings = official.write(out, model)
            print(f"wrote {out}; what it cannot say: " + ", ".join(f"{name} {value}" for name, value in settings.items()))
        return 0
    length = {} if options.max_length is None else {"max_length": options.max_length}
    if options.source == "seqcls":
        model = seqcls.read(options.model, dtype=options.dtype, **length)
    else:
        model = official.read(options.model, dtype=options.dtype, **stated, **length)
    folder.save(out, model.backbone, model.head, model.tau, model.encode, model.tokenizer, model.recipe)
    print(f"wrote {out}")
    return 0


if __name__ == "__main__":
    friendly.run(main)
