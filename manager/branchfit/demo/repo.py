"""The demo's repo: six branches of one tiny model, laid out like TheBloke's WizardMath-70B-V1.0-GPTQ."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..checkpoint import checkpoint_bytes
from ..prompts import ALPACA_COT, INSTRUCTION
from ..shape import ModelShape
from .synth import Recipe, write_model

REPO = "BranchFit/TinyMath-GPTQ"

SHAPE = ModelShape(
    model_type="llama",
    hidden=256,
    intermediate=512,
    layers=3,
    heads=8,
    kv_heads=2,
    head_dim=32,
    vocab=320,
    max_context_tokens=4096,
)
"""Small, yet real: grouped queries; several groups at 32, 64 and 128 in every linear; every extent a
multiple of 64, as ExLlamaV2's and Marlin's kernels want, and in_features / groups a power of two."""

BRANCHES: Mapping[str, Recipe] = {
    "main": Recipe(4, None, act_order=True),
    "gptq-4bit-32g-actorder_True": Recipe(4, 32, act_order=True),
    "gptq-4bit-64g-actorder_True": Recipe(4, 64, act_order=True),
    "gptq-4bit-128g-actorder_True": Recipe(4, 128, act_order=True),
    "gptq-3bit--1g-actorder_True": Recipe(3, None, act_order=True),
    "gptq-3bit-128g-actorder_True": Recipe(3, 128, act_order=True),
}
"""The branches of the repo that this one is laid out like, in its card's order."""

_HUB = "https://huggingface.co"

_DESCRIPTIONS = {
    "main": "4-bit, no groups. What most loaders take, and the smallest at 4 bits.",
    "gptq-4bit-32g-actorder_True": "4-bit, a scale for every 32 inputs. Closest to the original, largest.",
    "gptq-4bit-64g-actorder_True": "4-bit, a scale for every 64 inputs. Between 32g and 128g.",
    "gptq-4bit-128g-actorder_True": "4-bit, a scale for every 128 inputs. Little larger than main.",
    "gptq-3bit--1g-actorder_True": "3-bit, no groups. Smallest of all, furthest from the original.",
    "gptq-3bit-128g-actorder_True": "3-bit, a scale for every 128 inputs. Closer than 3-bit without groups.",
}


@dataclass(frozen=True)
class DemoRepo:
    """A repo to serve: its name, its card, and for each branch the files by their path in the repo."""

    repo: str
    card: str
    branches: Mapping[str, Mapping[str, Path]]


def demo_repo(folder: Path, seed: int = 0) -> DemoRepo:
    """Write the six branches under `folder`, one folder each. The same seed gives the same bytes."""
    card = card_text()
    branches: dict[str, dict[str, Path]] = {}
    for branch, recipe in BRANCHES.items():
        files = write_model(folder / branch, SHAPE, recipe, seed)
        files["README.md"] = folder / branch / "README.md"
        files["README.md"].write_bytes(card.encode())
        branches[branch] = files
    return DemoRepo(REPO, card, branches)


def card_text() -> str:
    """The card, in the dialect of TheBloke's cards of autumn 2023; sizes are those of the real files."""
    prompt = ALPACA_COT.text.replace(INSTRUCTION, "{prompt}")
    rows = "\n".join(_row(branch, recipe) for branch, recipe in BRANCHES.items())
    example = "gptq-4bit-32g-actorder_True"
    return f"""---
base_model: {_HUB}/BranchFit/TinyMath
inference: false
license: apache-2.0
model_creator: BranchFit
model_name: TinyMath
model_type: llama
prompt_template: '{_folded(prompt)}

  '
quantized_by: BranchFit
---

# TinyMath - GPTQ
- Model creator: [BranchFit]({_HUB}/BranchFit)
- Original model: [TinyMath]({_HUB}/BranchFit/TinyMath)

<!-- description start -->
## Description

This is a demo model. Its weights are random numbers, nobody trained it, and whatever it answers is nonsense. It exists
so that `branchfit demo` can list, recommend, download, verify and prompt a real GPTQ repo without a network or a GPU.

The files are real: a Llama of {SHAPE.layers} layers, rounded to nearest and packed as AutoGPTQ packs. Nothing was
calibrated, so the columns Damp %, GPTQ Dataset and Seq Len only stand where such cards have them.

<!-- description end -->
<!-- repositories-available start -->
## Repositories available

* [GPTQ files in six sizes, for GPUs]({_HUB}/{REPO})
* [GGUF files, for CPU and GPU together (named as such cards do; there are none)]({_HUB}/BranchFit/TinyMath-GGUF)
* [The original in fp16 (likewise)]({_HUB}/BranchFit/TinyMath)
<!-- repositories-available end -->

<!-- prompt-template start -->
## Prompt template: {ALPACA_COT.name}

```
{prompt}

```

<!-- prompt-template end -->

<!-- README_GPTQ.md-provided-files start -->
## Provided files, and GPTQ parameters

One model, quantised in six ways, each on a branch of its own.

<details>
  <summary>What the columns mean</summary>

- Bits: how many bits a weight takes.
- GS: how many inputs share a scale. Smaller groups are closer to the original and take more memory; None is one group.
- Act Order: whether inputs are grouped in another order than they stand in (`desc_act`).
- ExLlama: whether ExLlama loads it; it takes Llama models at 4 bits.

</details>

| Branch | Bits | GS | Act Order | Damp % | GPTQ Dataset | Seq Len | Size | ExLlama | Desc |
| ------ | ---- | -- | --------- | ------ | ------------ | ------- | ---- | ------- | ---- |
{rows}

<!-- README_GPTQ.md-provided-files end -->

<!-- README_GPTQ.md-download-from-branches start -->
## How to download from branches

Name the branch behind a colon, for example `{REPO}:{example}`:

```shell
branchfit pull {REPO}:{example}
```

<!-- README_GPTQ.md-download-from-branches end -->
"""


def _row(branch: str, recipe: Recipe) -> str:
    size_bytes = checkpoint_bytes(SHAPE, recipe.bits, recipe.group_size, recipe.zero_bias)
    cells = (
        f"[{branch}]({_HUB}/{REPO}/tree/{branch})",
        str(recipe.bits),
        "None" if recipe.group_size is None else str(recipe.group_size),
        "Yes" if recipe.act_order else "No",
        str(recipe.damp_percent),
        f"[none]({_HUB}/BranchFit/TinyMath)",
        str(SHAPE.max_context_tokens),
        # In GB, as larger repos' cards have it, six branches would all read 0.00.
        f"{size_bytes / 1e6:.2f} MB",
        "Yes" if recipe.bits == 4 else "No",
        _DESCRIPTIONS[branch],
    )
    return "| " + " | ".join(cells) + " |"


def _folded(text: str) -> str:
    """`text` inside a single-quoted YAML scalar: quotes doubled, a line break more for every run of newlines."""
    return re.sub(r"\n+", lambda run: run[0] + "\n  ", text.replace("'", "''"))
