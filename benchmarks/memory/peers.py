"""What others say of the same models: hf-mem, accelerate's estimate-memory, and weights x 1.2 + 2 GiB.

Each is the installed package itself, on a local repo of real shape whose tensors are holes, with no network: hf-mem
reads a loopback Hub, accelerate's estimate the folder's config.json. Where they name no figure for a case, or refuse,
the record has none and says why. `pip install hf-mem accelerate transformers torch`; what is missing is skipped.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from branchfit.demo.server import LoopbackHub
from branchfit.units import GIB

from .cases import RANKED, RECIPES, Case, Record, write_sparse

HF_MEM, ACCELERATE, RULE = "hf-mem", "accelerate estimate-memory", "weights x 1.2 + 2 GiB"

CLAIMS = {HF_MEM: "peak", ACCELERATE: "load", RULE: "peak"}
"""What a figure is of. hf-mem: "inference memory requirements" (README 0.5.6). accelerate: "how much memory is needed
to purely load the model in, not to perform inference" (usage_guides/model_size_estimator.md). The rule stands for all
that a run takes."""

RULE_FACTOR, RULE_BYTES = 1.2, 2 * GIB
"""The rule as people pass it on; it is applied here to the size of the checkpoint's file."""

ACCELERATE_DTYPES = {4: "int4", 8: "int8"}
"""The types of its table (commands/estimate.py: float32, float16, int8, int4) that a GPTQ branch has the bits of."""

HUB = "https://huggingface.co"

Answer = tuple[int | None, str]


def run(out: Path, cases: Iterable[Case] = RANKED) -> None:
    """Ask every peer that is installed about each shape, branch, cache and context of the cases; append to `out`."""
    asked: dict[tuple[str, str], set[tuple[str, int]]] = {}
    for case in cases:
        asked.setdefault((case.shape, case.branch), set()).update((case.cache, context) for context in case.contexts)
    peers = {HF_MEM: ("hf_mem", ask_hf_mem), ACCELERATE: ("accelerate", ask_accelerate), RULE: ("", ask_rule)}
    here = {}
    for peer, (module, ask) in peers.items():
        if module and importlib.util.find_spec(module) is None:
            print(f"{peer}: skipped, {module} is not installed", file=sys.stderr)
        else:
            here[peer] = (metadata.version(module) if module else None, ask)
    for (shape, branch), wanted in asked.items():
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            write_sparse(folder, shape, branch)
            for peer, (version, ask) in here.items():
                answers = ask(folder, branch, sorted(wanted))
                for (cache, context), (predicted, why) in zip(sorted(wanted), answers, strict=True):
                    of = {"shape": shape, "branch": branch, "cache": cache, "context": context}
                    said = {"claims": CLAIMS[peer], "predicted_bytes": predicted, "why": why}
                    _append(out, {"kind": "peer", "peer": peer, "version": version, **of, **said})
        print(f"{shape} {branch}: {len(wanted)} cases", flush=True)


def _append(out: Path, record: Record) -> None:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**record, "at": at}) + "\n")


def ask_hf_mem(folder: Path, branch: str, wanted: list[tuple[str, int]]) -> list[Answer]:
    """Weights and KV cache, as `hf-mem --experimental --max-model-len N --kv-cache-dtype bfloat16` adds them up.

    Its addresses are fixed (run.py), so requests for the Hub are sent to the loopback one, which speaks its protocol.
    The types of its cache are auto, bfloat16 and fp8 (kv_cache.py); auto refuses GPTQ, and bfloat16 is as wide as fp16.
    """
    import hf_mem
    import httpx2

    client: type[Any] = httpx2.AsyncClient
    with LoopbackHub() as hub:
        hub.add_repo("local/model", {branch: {path.name: path for path in folder.iterdir()}})
        served = hub.protocol.repos["local/model"].at(branch)
        assert served is not None
        served.files["model.safetensors"].sha256 = "0" * 64  # only a name here: 40 GB of holes need not be hashed

        class Loopback(client):  # type: ignore[misc]
            async def get(self, url: str, **more: Any) -> Any:
                assert url.startswith(HUB), f"hf-mem asked for {url}"
                return await super().get(hub.endpoint + url.removeprefix(HUB), **more)

        def answer(cache: str, context: int) -> Answer:
            if cache != "fp16":
                return None, f"its KV cache is auto, bfloat16 or fp8, never {cache}"
            options = {"experimental": True, "max_model_len": context, "kv_cache_dtype": "bfloat16"}
            try:
                result = hf_mem.run("local/model", revision=branch, **options)
            except RuntimeError as refused:
                return None, str(refused)[:200]
            if result.kv_cache is None:
                return None, "it gave no KV cache"
            return result.total_memory, "weights by the header, KV cache as bfloat16; auto refuses GPTQ"

        httpx2.AsyncClient = Loopback  # type: ignore[misc]
        try:
            return [answer(cache, context) for cache, context in wanted]
        finally:
            httpx2.AsyncClient = client  # type: ignore[misc]


def ask_accelerate(folder: Path, branch: str, wanted: list[tuple[str, int]]) -> list[Answer]:
    """The total size in its table, for the type with the branch's bits.

    It asks the Hub whether a repo exists and what library it is of before it reads the config; that one answer is
    given from the folder.
    """
    from accelerate.commands import estimate

    dtype = ACCELERATE_DTYPES.get(RECIPES[branch].bits)
    if dtype is None:
        why = f"its types are float32, float16, int8, int4: none of {RECIPES[branch].bits} bits"
        return [(None, why)] * len(wanted)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    of_hub: Callable[..., Any] = estimate.verify_on_hub
    estimate.verify_on_hub = lambda *_, **__: SimpleNamespace(config=config, library_name="transformers")
    options = {"library_name": "transformers", "trust_remote_code": False, "dtypes": [dtype]}
    try:
        ((_, _, total, _),) = estimate.gather_data(argparse.Namespace(model_name=str(folder), **options))
    finally:
        estimate.verify_on_hub = of_hub
    return [(int(total), f"{dtype}, for the load alone: whatever context and cache")] * len(wanted)


def ask_rule(folder: Path, branch: str, wanted: list[tuple[str, int]]) -> list[Answer]:
    size_bytes = (folder / "model.safetensors").stat().st_size
    told = int(RULE_FACTOR * size_bytes) + RULE_BYTES
    return [(told, "of the file's size, whatever context and cache")] * len(wanted)
