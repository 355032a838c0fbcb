"""Fast or slow: tokens per second, what the GPU was busy with, memory, and the seconds of the compilers."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .cases import RECIPES, SHAPES, Variant
from .models import close_model, open_model
from .records import Record

READ_TOKENS, NEW_TOKENS, READS, LONGEST_RUN_S = 512, 128, 10, 8.0


def speed(variant: Variant, shape: str, branch: str, work: Path, device: str) -> Record:
    """Tokens per second of one full-size checkpoint in one runtime, and the memory it takes."""
    import torch

    recipe, folder = RECIPES[shape][branch], work / shape / branch
    cuda = device != "cpu"
    wait = torch.cuda.synchronize if cuda else (lambda: None)
    read_tokens, new_tokens = (READ_TOKENS, NEW_TOKENS) if cuda else (64, 8)

    def seconds(work_to_time: Callable[[], object]) -> float:
        wait()
        started = time.perf_counter()
        work_to_time()
        wait()
        return time.perf_counter() - started

    opened: list[Any] = []
    load_s = seconds(lambda: opened.append(open_model(variant, folder, shape, recipe, device)))
    model = opened.pop()
    resident_bytes = torch.cuda.memory_allocated() if cuda else None
    ids = torch.randint(3, SHAPES[shape].vocab, (1, read_tokens), generator=torch.Generator().manual_seed(0))
    first_s = seconds(lambda: model.generate(ids, 4))
    reads = [seconds(lambda: model.read(ids)) for _ in range(READS + 2)][2:]

    # The slowest kernels would take minutes over 128 tokens: fewer then, and the record says how many.
    model.generate(ids, 5)
    a_step = max(seconds(lambda: model.generate(ids, 5)) - statistics.median(reads), 1e-4) / 4
    count = max(9, min(new_tokens, int(LONGEST_RUN_S / a_step)))
    # The first run of that length is slow whatever runs: torch's allocator has not seen those sizes.
    model.generate(ids, count)
    one = statistics.median(seconds(lambda: model.generate(ids, 1)) for _ in range(5))
    runs = [seconds(lambda: model.generate(ids, count)) for _ in range(5 if a_step * count < 5 else 3)]
    rates = [(count - 1) / (run - one) for run in runs]

    def steps(many: int) -> None:
        token = ids[:, -1:]
        for _ in range(many):
            token = model.step(token).argmax().view(1, 1)

    model.read(ids)
    steps(2)
    loop = min(count, 64) / seconds(lambda: steps(min(count, 64)))
    result = {
        "kernels": model.kernels,
        "load_s": load_s,
        "first_s": first_s,
        "read_tokens": read_tokens,
        "read_per_s": rate_summary([read_tokens / read for read in reads]),
        "new_tokens": count,
        "new_per_s": rate_summary(rates),
        "loop_per_s": loop,
        "resident_bytes": resident_bytes,
    }
    if cuda:
        result["peak_allocated_bytes"] = torch.cuda.max_memory_allocated()
        result["peak_reserved_bytes"] = torch.cuda.max_memory_reserved()
        result["driver_bytes"] = driver_bytes()
        result["gpu_ms_per_token"] = busy_ms(lambda: steps(8)) / 8
        result["gpu_ms_per_read"] = busy_ms(lambda: model.read(ids))
    close_model(model)
    return result


def rate_summary(rates: list[float]) -> Record:
    return {"median": statistics.median(rates), "least": min(rates), "most": max(rates), "runs": len(rates)}


def busy_ms(work_to_measure: Callable[[], object]) -> float:
    """Milliseconds the GPU spent in kernels and copies, summed; the rest of a step is Python and launches."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        work_to_measure()
        torch.cuda.synchronize()
    return sum(event.self_device_time_total for event in seen.key_averages()) / 1000


def driver_bytes() -> int | None:
    """What this process takes on the first GPU as the driver counts it, CUDA context and all; None if it won't say."""
    import pynvml

    pynvml.nvmlInit()
    running = pynvml.nvmlDeviceGetComputeRunningProcesses(pynvml.nvmlDeviceGetHandleByIndex(0))
    return next((process.usedGpuMemory for process in running if process.pid == os.getpid()), None)


def build(variant: Variant) -> Record:
    """Seconds until the kernels are there: compiled by nvcc the first time, found afterwards."""
    if variant.runtime == "exllamav2":
        import torch  # noqa: F401 (its own seconds are not to be counted)

        started = time.perf_counter()
        import exllamav2  # noqa: F401 (compiles on import)

        return {"build_s": time.perf_counter() - started}
    from gptqmodel import extension

    name = {"exllama_v2": "exllamav2", "marlin": "marlin_fp16"}[variant.backend]
    started = time.perf_counter()
    extension.load(name=name)
    elapsed_s = time.perf_counter() - started
    if not extension.is_available(name):
        raise RuntimeError(extension.error(name))
    return {"build_s": elapsed_s}
