"""Model cards: the README.md of an exported folder, with the YAML head that the hub reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

KINDS = {
    "BTHead": "Bradley-Terry reward model",
    "PairHead": "pair preference model",
    "GPMHead": "general preference model (arXiv 2410.02197)",
    "PersonalHead": "model of personal rewards (arXiv 2405.00254)",
    "IdealPointHead": "model of people's ideal points (arXiv 2406.08469)",
    "HybridHead": "reward plus general preference model (arXiv 2605.17342)",
}

BODY = """# {title}

A {kind}, trained with prefrep. Given a prompt and responses it says, in log-odds, which response is preferred.

```python
{imports}from prefrep.scoring import Scorer

scorer = Scorer.from_pretrained({name!r})
scorer.table("Name a prime", ["7", "9", "I would rather not"])  # [3, 3] log-odds that row beats column
scorer.rank("Name a prime", ["7", "9", "I would rather not"])  # indices, best first
```

In the shell: `prefrep score {flags}--model {name} --data in.jsonl --out out.jsonl`.

## What other programs make of these files

The head is in `head.safetensors` and its meaning in `prefrep.json`; only prefrep reads them.

{others}

## Details

{details}
"""

CAUSAL = (
    "* `AutoModelForCausalLM`, or of an encoder `AutoModel`, gives the language model under the head.\n"
    "* `AutoModelForSequenceClassification` gives **random scores**: it finds no head of its own, makes a random one with two labels, and "
    "says so only in its load report. "
)
REFERENCE = (
    "* The language model is not in this folder, which names it by its path and holds what was trained of it: no other program loads it. "
    "Export with `weights: full` for that. "
)
CLASSIFIER = "`prefrep export --model {name} --to seqcls --out DIR` writes a classifier that transformers reads, with equal rewards."
EMBEDDINGS = "\n* `prefrep export --model {name} --to sentence-transformers --out DIR` writes modules for servers of embeddings."


def card(about: dict[str, Any], name: str = "FOLDER") -> str:
    """Return the model card of an exported folder.

    Args:
        about: Content of its `prefrep.json`.
        name: Hub id under which people load it; the default stands for a folder, which may be moved.
    """
    kind = str(about["head"]["class"])
    recipe = about["recipe"]
    base = str(about["backbone"]["path"])
    local = Path(base).is_absolute() or base.startswith((".", "~", "bundled:"))
    data = recipe.get("data", {}).get("train", [])
    head: dict[str, Any] = {
        "library_name": "prefrep",
        "pipeline_tag": "text-classification",
        "tags": ["reward-model" if kind == "BTHead" else "preference-model", "prefrep"],
        **({} if local else {"base_model": base}),
        **({"datasets": hub} if (hub := [source for source in data if _on_hub(source)]) else {}),
    }
    head |= {} if not (results := _results(recipe, name)) else {"model-index": results}
    others = CAUSAL if about["weights"] == "full" else REFERENCE
    template = about["encode"]["template"]
    if kind != "BTHead":
        others += "`prefrep export --to seqcls` is for Bradley-Terry models; this one compares."
    elif template != "official":
        others += CLASSIFIER
    operator = about["head"].get("skew", {}).get("class", "BlockSkew")
    plain = kind in ("BTHead", "GPMHead", "HybridHead") and operator in ("BlockSkew", "LearnedSkew")
    if plain and template not in ("official", "classifier"):
        others += EMBEDDINGS
    modules = _modules(about["head"])
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n\n" + BODY.format(
        title=name.split("/")[-1] if "/" in name else "A preference model",
        kind=KINDS.get(kind, f"preference model with a {kind}"),
        name=name,
        imports="".join(f"import {module}  # its code is there\n" for module in modules),
        flags="".join(f"--import {module} " for module in modules),
        others=others.format(name=name),
        details="\n".join(_details(about, data, base)),
    )


def _modules(recipe: Any) -> list[str]:
    """Return the modules of the classes in a recipe that are not prefrep's."""
    if not isinstance(recipe, dict):
        return []
    own = [str(recipe["class"]).rpartition(".")[0]] if "." in str(recipe.get("class", "")) else []
    return list(dict.fromkeys(own + [module for value in recipe.values() for module in _modules(value)]))


def _details(about: dict[str, Any], data: list[str], base: str) -> list[str]:
    recipe, encode = about["recipe"], about["encode"]
    head = {key: value for key, value in about["head"].items() if key != "class"}
    rows = [
        ("language model", _names([base]) + (f", revision `{about['backbone']['revision']}`" if about["backbone"].get("revision") else "")),
        ("head", f"{about['head']['class']}" + (f" {head}" if head else "")),
        ("annotators", f"{len(known)}, {sum(known.values())} labels" if (known := about.get("annotators")) is not None else ""),
        ("temperature", f"{about['tau']:g}: log-odds are scores / {about['tau']:g}"),
        ("template", f"{encode['template']}, at most {encode['max_length']} tokens, longer texts: {encode['truncation']}"),
        ("instruction", repr(encode["instruction"]) if encode.get("instruction") else ""),
        ("trained on", _names(data)),
        ("trained from", _names([recipe["init"]]) if recipe.get("init") else ""),
        ("read from", str(recipe.get("read from", ""))),
        ("steps", str(recipe.get("step", ""))),
        ("validated on", _names(recipe.get("data", {}).get("val", []))),
        *((f"validation {name}", _number(found)) for name, found in recipe.get("validation", {}).items()),
        ("versions", ", ".join(f"{package} {number}" for package, number in about["versions"].items())),
    ]
    return ["| | |", "| --- | --- |", *(f"| {key} | {value} |" for key, value in rows if value)]


def _number(found: dict[str, Any]) -> str:
    if found["value"] is None:
        return ""
    ends = f" (95 % interval {found['low']:.3f} to {found['high']:.3f}, n = {found['n']})" if "low" in found else ""
    return f"{found['value']:.4g}{ends}"


def _names(sources: list[str]) -> str:
    """Return hub ids, and of local files their names alone."""
    return ", ".join(f"`{source if _on_hub(source) else Path(source).name}`" for source in sources)


def _results(recipe: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the hub's `model-index`: what was measured on validation data from the hub."""
    held_out = [source for source in recipe.get("data", {}).get("val", []) if _on_hub(source)]
    metrics = [{"type": key, "value": found["value"]} for key, found in recipe.get("validation", {}).items() if found["value"] is not None]
    if not held_out or not metrics:
        return []
    dataset = {"type": held_out[0], "name": ", ".join(held_out)}
    task = {"type": "text-classification", "name": "preference"}
    return [{"name": name.rstrip("/").split("/")[-1], "results": [{"task": task, "dataset": dataset, "metrics": metrics}]}]


def _on_hub(source: str) -> bool:
    return source.count("/") == 1 and not source.startswith((".", "/", "~")) and not Path(source).suffix and not Path(source).exists()
