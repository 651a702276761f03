"""Exported folders to other programs' layouts, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal


def export(
    *,
    model: str,
    out: str,
    to: Literal["seqcls", "official"] | None = None,
    from_: Literal["seqcls", "official"] | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    max_length: int | None = None,
    tau: float | None = None,
    normalize: bool | None = None,
    gate: Literal["none", "softmax", "scaled_softmax", "nonnegative"] | None = None,
    template: Literal["official", "auto"] | None = None,
    trust_remote_code: bool = False,
    import_: list[str] | None = None,
) -> Path:
    r"""Convert an exported folder to another program's layout, or read such a layout.

    The official GPM layout leaves open what --tau, --normalize, --gate and --template state: --from official needs all four. The second
    example has those of the released models.

    Examples:
        prefrep export --model runs/bt/export --to seqcls --out reward-model
        prefrep export --from official --model general-preference/GPM-Gemma-2B --out gpm \
            --tau 0.1 --normalize --gate softmax --template official

    Args:
        model: Folder to read; with --from, a hub id as well.
        out: Folder to write; an older model there is replaced.
        to: Write an exported folder as AutoModelForSequenceClassification (Bradley-Terry), or in the official GPM layout.
        from_: Read the model in this layout and write an exported folder.
        dtype: Type of the language model's weights; default: as stored.
        max_length: With --from: longest sequence in tokens; default: 2048 (seqcls), 4096 (official).
        tau: Temperature; scores divided by it are log-odds.
        normalize: Whether embeddings have length 1.
        gate: How the prompt weighs the blocks.
        template: How text becomes tokens: the official recipe, or prefrep's.
        trust_remote_code: Run Python code from the folder of the model.
        import_: Module whose heads and other parts the model may name; may be repeated.

    Returns:
        The folder.

    Raises:
        UsageError: Options that do not go together.
        PrefrepError: The model cannot be read, or the layout cannot express it.
    """
    from prefrep.errors import CheckpointError, UsageError

    if (to is None) == (from_ is None):
        raise UsageError("export writes another layout (--to) or reads one (--from); name one of the two")
    stated = {"tau": tau, "normalize": normalize, "gate": gate, "template": template}
    if from_ == "official" and (missing := [name for name, value in stated.items() if value is None]):
        raise UsageError("--from official: state " + ", ".join(f"--{name}" for name in missing) + "; the checkpoint does not say")
    if from_ != "official" and (needless := [name for name, value in stated.items() if value is not None]):
        raise UsageError(f"--{needless[0]} belongs to --from official; drop it")
    if to and max_length is not None:
        raise UsageError("--max-length belongs to --from; drop it")
    folder_out = Path(out).expanduser().absolute()
    if folder_out.resolve() == Path(model).expanduser().resolve():
        raise CheckpointError(f"{folder_out}: --out would replace --model; name another folder")

    from prefrep.io import folder, official, seqcls
    from prefrep.parts import import_modules

    import_modules(import_)

    if to:
        loaded = folder.load(model, dtype, trust_remote_code=trust_remote_code)
        if to == "seqcls":
            seqcls.write(folder_out, loaded)
            print(f"wrote {folder_out}; its README.md says how texts are tokenised")
        else:
            settings = official.write(folder_out, loaded)
            print(f"wrote {folder_out}; what it cannot say: " + ", ".join(f"{name} {value}" for name, value in settings.items()))
        return folder_out
    length: dict[str, Any] = {} if max_length is None else {"max_length": max_length}
    if from_ == "seqcls":
        loaded = seqcls.read(model, dtype=dtype, trust_remote_code=trust_remote_code, **length)
    else:
        assert tau is not None and normalize is not None and gate is not None and template is not None
        loaded = official.read(
            model, dtype=dtype, tau=tau, normalize=normalize, gate=gate, template=template, trust_remote_code=trust_remote_code, **length
        )
    folder.save(folder_out, loaded.backbone, loaded.head, loaded.tau, loaded.encode, loaded.tokenizer, loaded.recipe)
    print(f"wrote {folder_out}")
    return folder_out
