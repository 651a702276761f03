"""Exported folders to other programs' layouts and to the hub, and back."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal


def export(
    *,
    model: str,
    out: str | None = None,
    to: Literal["seqcls", "official", "sentence-transformers"] | None = None,
    from_: str | None = None,
    push: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    max_length: int | None = None,
    tau: float | None = None,
    normalize: bool | None = None,
    gate: Literal["none", "softmax", "scaled_softmax", "nonnegative"] | None = None,
    template: Literal["official", "auto"] | None = None,
    trust_remote_code: bool = False,
    import_: list[str] | None = None,
) -> Path:
    r"""Convert an exported folder to another program's layout, read such a layout, or push a model to the hub.

    The official GPM layout leaves open what --tau, --normalize, --gate and --template state: --from official needs all four. The second
    example has those of the released models.

    Examples:
        prefrep export --model runs/bt/export --to seqcls --out reward-model
        prefrep export --from official --model general-preference/GPM-Gemma-2B --out gpm \
            --tau 0.1 --normalize --gate softmax --template official
        prefrep export --from rlhflow --model RLHFlow/pair-preference-model-LLaMA3-8B --out pairpm
        prefrep export --model runs/mine/export --push me/my-model

    Args:
        model: Folder to read, or a hub id: owner/name or owner/name@revision.
        out: Folder to write; an older model there is replaced. Only --push does without.
        to: Write an exported folder as AutoModelForSequenceClassification (Bradley-Terry), in the official GPM layout, or as
            sentence-transformers modules (models without a gate that read single responses).
        from_: Read the model in this layout and write an exported folder. peft: a LoRA adapter on a sequence classifier, as TRL saves it.
            openrlhf: a reward model of OpenRLHF. rlhflow: a language model that answers A or B. Or a family of prefrep/io/README.md.
            Of pickled weights (.bin, .pt) in a local folder, torch's weights_only reads the tensors and runs nothing.
        push: Upload what was written, or without --to and --from the model itself, to this repository on the hub: owner/name.
        dtype: Type of the language model's weights; default: as stored.
        max_length: With --from: longest sequence in tokens; default: 2048, with official 4096.
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
        PrefrepError: The model cannot be read or pushed, or the layout cannot express it.
    """
    from prefrep.disk import expanded
    from prefrep.errors import CheckpointError, UsageError
    from prefrep.locks import writing

    if (to and from_) or not (to or from_ or push):
        raise UsageError("export writes another layout (--to), reads one (--from) or uploads a folder (--push); name one of them")
    if bool(to or from_) != (out is not None):
        raise UsageError("--out names the folder that --to or --from write; " + ("name one" if out is None else "drop it"))
    stated = {"tau": tau, "normalize": normalize, "gate": gate, "template": template}
    if from_ == "official" and (missing := [name for name, value in stated.items() if value is None]):
        raise UsageError("--from official: state " + ", ".join(f"--{name}" for name in missing) + "; the checkpoint does not say")
    if from_ != "official" and (needless := [name for name, value in stated.items() if value is not None]):
        raise UsageError(f"--{needless[0]} belongs to --from official; drop it")
    if not from_ and max_length is not None:
        raise UsageError("--max-length belongs to --from; drop it")
    if not (to or from_) and dtype is not None:
        raise UsageError("--dtype belongs to --to and --from; drop it")
    if out is not None and expanded(out).resolve() == expanded(model).resolve():
        raise CheckpointError(f"{expanded(out).absolute()}: --out would replace --model; name another folder")

    from prefrep.io import embeddings, folder, hub, official, pickles, seqcls
    from prefrep.io.readers import READERS
    from prefrep.parts import import_modules

    import_modules(import_)
    if from_ is not None and from_ not in READERS:
        raise UsageError(f"--from {from_}: no such layout; there are {', '.join(READERS)}")
    written = expanded(out or model).absolute()
    if not (to or from_) and not written.is_dir():
        raise CheckpointError(f"{model}: no such folder, so there is nothing to push; name an exported folder with --model")
    if push and (to or from_):
        hub.check(push)  # before the work, which should not be in vain
    with writing(written) if to or from_ else nullcontext():
        if to:
            loaded = folder.load(hub.fetched(model), dtype, trust_remote_code=trust_remote_code)
            if to == "official":
                settings = official.write(written, loaded)
                print(f"wrote {written}; what it cannot say: " + ", ".join(f"{name} {value}" for name, value in settings.items()))
            elif to == "seqcls":
                seqcls.write(written, loaded)
                print(f"wrote {written}; its README.md says how texts are tokenised")
            else:
                embeddings.write(written, loaded)
                print(f"wrote {written}; its README.md says how embeddings are compared")
        elif from_:
            given = stated if from_ == "official" else {}
            length: dict[str, Any] = {} if max_length is None else {"max_length": max_length}
            path, revision = hub.split(model)
            with pickles.as_safetensors(path, written) as place:
                loaded = READERS[from_](place, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code, **length, **given)
                pickles.rename(loaded, place, path)
                folder.save(written, loaded.backbone, loaded.head, loaded.tau, loaded.encode, loaded.tokenizer, loaded.recipe)
            print(f"wrote {written}")
    if push:
        print(f"pushed to {hub.push(written, push)}")
    return written
