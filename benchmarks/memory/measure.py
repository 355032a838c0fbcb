"""One load in a process of its own: what the driver and torch's allocator say, step by step."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .cases import SHAPES, Case, Record

NEW_TOKENS = 64


def measure(case: Case, folder: Path, device: str, limit_bytes: int | None = None) -> Iterator[Record]:
    """Load `folder`, read a prompt of each context in full, generate; a record for each context as it is done.

    `limit_bytes` is what torch's allocator may reserve (`allowed_bytes` in the record): what dies of it is told, not
    raised.
    """
    import torch

    torch.set_grad_enabled(False)
    if case.runtime.startswith("gptqmodel:") and not {"cuda_first", "expandable", "late"} & set(case.switches):
        import gptqmodel  # noqa: F401 - it sets how torch's allocator works, as long as nobody has used CUDA
    base = {"kind": "case" if limit_bytes is None else "limit", **case.record()}
    contexts = base.pop("contexts")
    if device != "cpu":
        torch.cuda.init()
        torch.zeros(1, device=device)
        if limit_bytes is not None:
            base["allowed_bytes"] = limit_bytes
            torch.cuda.set_per_process_memory_fraction(limit_bytes / torch.cuda.get_device_properties(0).total_memory)
    if "late" in case.switches:
        from branchfit.running.early import import_gptqmodel

        import_gptqmodel(case.runtime)
    base["init"] = figures(device)
    model: Any = None
    # exllamav2 decides its cache when it loads, so that each context is another load.
    loads = [(length,) for length in contexts] if case.runtime == "exllamav2" else [tuple(contexts)]
    for number, lengths in enumerate(loads):
        stage, started = "load", time.monotonic()
        record: Record = dict(base)
        try:
            reset(device)
            model = opened(case, folder, device, lengths[0])
            base["load"] = figures(device)
            base["load_s"] = round(time.monotonic() - started, 1)
            for place, length in enumerate(lengths):
                record = {**base, "context": length, "fresh": number == 0 and place == 0, "error": None}
                stage = "prefill"
                for name, did in model.read_and_generate(length):
                    stage = "decode"
                    record[name] = did
                record["kernels"] = model.kernels
                record["alloc_conf"] = os.environ.get("PYTORCH_ALLOC_CONF", os.environ.get("PYTORCH_CUDA_ALLOC_CONF"))
                yield finished(record, device, started)
                started = time.monotonic()
                clean()
                reset(device)
        except Exception as error:  # noqa: BLE001 - what dies of its limit is the result
            if stage == "prefill" and model.seen:  # `generate` comes back only at the end
                stage = "decode"
            text = f"{type(error).__name__}: {error}"
            died = "out of memory" in text.lower() or "OutOfMemory" in text
            record = {**base, **record, "error": text[:400], "outcome": "died" if died else "failed", "where": stage}
            record.setdefault("context", lengths[0])
            yield finished(record, device, started)
            return
        model.close()
        model = None
        clean()


def finished(record: Record, device: str, started: float) -> Record:
    stages = [record[name] for name in ("load", "prefill", "decode") if name in record]
    if device != "cpu" and stages:
        context = max((stage["driver"] - stage["reserved"] for stage in stages if stage["driver"]), default=0)
        record["context_bytes"] = context
        record["peak_bytes"] = context + max(stage["peak_reserved"] for stage in stages)
    elif stages:
        record["peak_bytes"] = max(stage["peak_reserved"] for stage in stages)
    record.setdefault("outcome", "ran")
    record.setdefault("where", None)
    return {**record, "seconds": round(time.monotonic() - started, 1)}


def figures(device: str) -> Record:
    """Bytes: the driver's own count of this process, and torch's allocator."""
    import torch

    if device == "cpu":
        from branchfit.running.measured import process_bytes

        peak, resident = process_bytes()
        both = {"allocated": resident, "reserved": resident}
        return {"driver": None, **both, "peak_allocated": peak, "peak_reserved": peak}
    torch.cuda.synchronize()
    return {
        "driver": driver_bytes(),
        "allocated": torch.cuda.memory_allocated(),
        "reserved": torch.cuda.memory_reserved(),
        "peak_allocated": torch.cuda.max_memory_allocated(),
        "peak_reserved": torch.cuda.max_memory_reserved(),
        # Free parts of segments that something lies in: what the allocator cannot give back when memory is short.
        "split": torch.cuda.memory_stats()["inactive_split_bytes.all.current"],
    }


def reset(device: str) -> None:
    import torch

    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()


def clean() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def driver_bytes() -> int | None:
    """What this process takes on the first GPU as the driver counts it, CUDA context and all; None if it won't say."""
    import pynvml

    pynvml.nvmlInit()
    running = pynvml.nvmlDeviceGetComputeRunningProcesses(pynvml.nvmlDeviceGetHandleByIndex(0))
    return next((process.usedGpuMemory for process in running if process.pid == os.getpid()), None)


def opened(case: Case, folder: Path, device: str, context: int) -> Any:
    vocab = SHAPES[case.shape].vocab
    if case.runtime == "exllamav2":
        return ExLlamaV2(case, folder, context, vocab)
    return Transformers(case, folder, device, vocab)


class Transformers:
    """Through transformers, as the webui's Transformers loader does it, with one of gptqmodel's kernels."""

    def __init__(self, case: Case, folder: Path, device: str, vocab: int) -> None:
        import torch
        import transformers

        bits = case.record()["bits"]
        self.model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32 if device == "cpu" else torch.float16,
            device_map={"": device},
            quantization_config=transformers.GPTQConfig(bits=bits, backend=case.runtime.partition(":")[2]),
            output_loading_info=True,
        )
        if info["missing_keys"]:
            raise RuntimeError(f"not all of it was loaded: {sorted(info['missing_keys'])[:3]}")
        self.model.eval()
        self.model.generation_config.eos_token_id = None
        self.device, self.vocab = device, vocab
        self.seen: dict[str, Record] = {}
        kinds = {type(module).__name__ for module in self.model.modules() if hasattr(module, "qweight")}
        self.kernels = sorted(kinds)

    def read_and_generate(self, context: int) -> Iterator[tuple[str, Record]]:
        """`generate` over a prompt of the full context: what it was after the first token, and after 64."""
        import torch
        import transformers

        seen = self.seen = {}

        class First(transformers.StoppingCriteria):  # type: ignore[misc]
            def __call__(self, ids: Any, scores: Any, **more: Any) -> Any:
                if "prefill" not in seen:
                    seen["prefill"] = figures(device)
                    reset(device)
                return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

        device = self.device
        ids = torch.randint(3, self.vocab, (1, context), generator=torch.Generator().manual_seed(0)).to(device)
        self.model.generate(
            ids,
            attention_mask=ids.new_ones(ids.shape),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=0,
            stopping_criteria=transformers.StoppingCriteriaList([First()]),
        )
        seen["decode"] = figures(device)
        yield from seen.items()

    def close(self) -> None:
        del self.model


class ExLlamaV2:
    """As the webui's ExLlamav2_HF does it: `load`, then the cache; all but the last token read without logits."""

    kernels = ("exllamav2",)
    seen = ()  # it tells each stage as it comes

    def __init__(self, case: Case, folder: Path, context: int, vocab: int) -> None:
        import exllamav2

        kinds: dict[str, Callable[..., Any]] = {
            "fp16": exllamav2.ExLlamaV2Cache,
            "q8": exllamav2.ExLlamaV2Cache_Q8,
            "q6": exllamav2.ExLlamaV2Cache_Q6,
            "q4": exllamav2.ExLlamaV2Cache_Q4,
        }
        config = exllamav2.ExLlamaV2Config(str(folder))
        config.max_seq_len = context
        config.no_sdpa = "no_sdpa" in case.switches
        self.vocab = vocab
        self.model = exllamav2.ExLlamaV2(config)
        if "autosplit" in case.switches:
            self.cache = kinds[case.cache](self.model, lazy=True)
            self.model.load_autosplit(self.cache)
        else:
            self.model.load()
            self.cache = kinds[case.cache](self.model)

    def read_and_generate(self, context: int) -> Iterator[tuple[str, Record]]:
        import torch

        # Its cache is as long as the context: the prompt leaves room for what is generated.
        ids = torch.randint(3, self.vocab, (1, context - NEW_TOKENS), generator=torch.Generator().manual_seed(0))
        self.cache.current_seq_len = 0
        self.model.forward(ids[:, :-1], self.cache, preprocess_only=True)
        logits = self.model.forward(ids[:, -1:], self.cache).float()
        yield "prefill", figures("cuda:0")
        reset("cuda:0")
        for _ in range(NEW_TOKENS - 1):
            token = logits[0, -1, : self.vocab].argmax().view(1, 1).cpu()
            logits = self.model.forward(token, self.cache).float()
        yield "decode", figures("cuda:0")

    def close(self) -> None:
        self.model.unload()
        del self.model, self.cache
