"""Right or wrong: logits against a reference that never saw a packed word, and what must not pass."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from branchfit.demo.synth import reference_tensors, reference_weight
from branchfit.prompts import ALPACA_COT

from .cases import RECIPES, SHAPES, Variant, controls_of
from .models import Plain, close_model, open_model
from .records import Record

PROMPT = ALPACA_COT.render("Ann has three boxes of ten pens and gives away seven. How many pens are left?")

ONE_BY_ONE = 16
"""So many of the prompt's last tokens are fed one at a time. ExLlamaV2's kernel takes up to 32 rows (MAX_Q_GEMM_ROWS in
config.h of its extension; 50 in gptqmodel's copy) and dequantises the whole matrix above that: both are seen."""

FACTOR = 3.0
"""Tolerance over the measured error of the dense fp16 model. Kernels add up in other orders, some in fp16 with atomics,
so some room is needed; the controls say that it is not too much."""


def rounded(weight: Any, g_idx: Any, bits: int) -> Any:
    """`weight` [out, in] as symmetric codes give it back; `g_idx` is the one thing taken from the file.

    scale = 2 * largest / (2^bits - 1) in fp16: Quantizer.find_params of auto_gptq 0.7.1's quantizer.py.
    """
    import torch

    order = torch.argsort(g_idx.long(), stable=True)
    grouped = weight[:, order].unflatten(1, (int(g_idx.max()) + 1, -1))
    scale = (2 * grouped.abs().amax(dim=2, keepdim=True) / (2**bits - 1)).half().float()
    steps = torch.round(grouped / scale).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    result = torch.empty_like(weight)
    result[:, order] = (steps * scale).flatten(1)
    return result


def logits_of(model: Any, ids: Any) -> dict[str, Any]:
    """fp32 logits on the CPU: `prompt` [tokens, vocab] read whole, `decode` [ONE_BY_ONE, vocab] fed one by one."""
    import torch

    whole = model.whole(ids).float().cpu()
    model.read(ids[:, :-ONE_BY_ONE])
    steps = [model.step(ids[:, at : at + 1]).float().cpu() for at in range(ids.shape[1] - ONE_BY_ONE, ids.shape[1])]
    return {"prompt": whole, "decode": torch.stack(steps)}


def errors(found: Mapping[str, Any], truth: Any) -> Record:
    """Furthest logit and relative root mean square, for both ways. None stands for not a number."""
    result: Record = {}
    for way, logits in found.items():
        expected = truth[-len(logits) :]
        off = logits[:, : truth.shape[1]] - expected
        numbers = {"max": float(off.abs().max()), "rms": float(off.norm() / expected.norm())}
        result[way] = {name: number if math.isfinite(number) else None for name, number in numbers.items()}
    return result


def within(found: Record, tolerance: Mapping[str, float]) -> bool:
    """Whether both ways stay within the tolerance."""
    return all(found[way]["max"] is not None and found[way]["max"] <= tolerance[way] for way in tolerance)


def reference_cases(cases: list[tuple[str, str]], work: Path, device: str) -> Iterable[Record]:
    """For every case the fp32 logits, saved for the others, and the errors of the dense fp16 model."""
    import torch
    import transformers
    from safetensors.torch import load_file

    drawn: dict[tuple[str, str], Any] = {}
    for shape, branch in cases:
        folder, recipe = work / shape / branch, RECIPES[shape][branch]
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        del config["quantization_config"]
        with torch.device(device):
            llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)).float()
        stored = load_file(folder / "model.safetensors", device=device)
        state = {}
        for tensor in reference_tensors(SHAPES[shape]):
            key = shape, tensor.name
            if key not in drawn:
                drawn[key] = torch.from_numpy(reference_weight(SHAPES[shape], tensor, seed=0)).to(device)
            weight, g_idx = drawn[key].float(), stored.get(tensor.name.removesuffix("weight") + "g_idx")
            state[tensor.name] = weight if g_idx is None else rounded(weight, g_idx, recipe.bits)
        llama.load_state_dict(state, strict=True)
        ids = transformers.AutoTokenizer.from_pretrained(folder)(PROMPT, return_tensors="pt")["input_ids"]
        model = Plain(llama, device)
        truth = model.whole(ids).float().cpu()
        tokens = model.generate(ids, ONE_BY_ONE)
        self_check = errors(logits_of(model, ids), truth)
        model.model.half()
        measured = {"sums in fp32": errors(logits_of(model, ids), truth)}
        if device != "cpu":
            # torch 2.7 and newer; ExLlama's kernels add up in fp16 too.
            torch.backends.cuda.matmul.allow_fp16_accumulation = True
            measured["sums in fp16"] = errors(logits_of(model, ids), truth)
            torch.backends.cuda.matmul.allow_fp16_accumulation = False
        tolerance = {way: FACTOR * max(one[way]["max"] for one in measured.values()) for way in ("prompt", "decode")}
        torch.save({"ids": ids, "truth": truth, "tokens": tokens, "tolerance": tolerance}, folder / "reference.pt")
        close_model(model)
        yield {
            "kind": "reference",
            "shape": shape,
            "branch": branch,
            "tokens": ids.shape[1],
            "spread": float(truth.std()),
            "furthest": float(truth.abs().max()),
            "fp32 one by one": self_check["decode"],
            "dense fp16": measured,
            "tolerance": tolerance,
        }


def correctness(variant: Variant, shape: str, branch: str, work: Path, device: str) -> Record:
    """One checkpoint in one runtime, and each of its controls."""
    import torch

    recipe, folder = RECIPES[shape][branch], work / shape / branch
    saved = torch.load(folder / "reference.pt")
    ids, truth, tolerance = saved["ids"], saved["truth"], saved["tolerance"]
    model = open_model(variant, folder, shape, recipe, device)
    found = errors(logits_of(model, ids), truth)
    tokens = model.generate(ids, ONE_BY_ONE)
    record = {
        "kernels": model.kernels,
        "missing_keys": len(model.missing),
        "errors": found,
        "tolerance": tolerance,
        "right": within(found, tolerance),
        "tokens": tokens,
        "tokens_as_reference": next(
            (at for at, (a, b) in enumerate(zip(tokens, saved["tokens"], strict=True)) if a != b), len(tokens)
        ),
        "controls": {},
    }
    close_model(model)
    for control in controls_of(recipe):
        model = open_model(variant, folder.with_name(f"{branch}+{control}"), shape, recipe, device)
        spoilt = errors(logits_of(model, ids), truth)
        record["controls"][control] = {"errors": spoilt, "fails": not within(spoilt, tolerance)}
        close_model(model)
    return record
