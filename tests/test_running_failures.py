"""What a load raised, in a sentence: torch's own words of two eras, and what helps, the most first."""

from __future__ import annotations

import re
from typing import Any

import pytest

from branchfit.errors import HubUnreachable, LoadedWrong, LoadError, OutOfMemory
from branchfit.gpus import Gpu, Holder, Machine
from branchfit.loaders import available_runtimes
from branchfit.memory import Need
from branchfit.recommend import Assessment, Choice, Recommendation, recommend
from branchfit.running.failures import explain
from branchfit.running.measured import Measured, Meter, process_bytes
from branchfit.shape import ModelShape
from branchfit.variants import Variant, VariantList

GIB = 2**30

# As torch 1.13 and 2.0 word it, from a report of October 2023.
TORCH_2_0 = (
    "CUDA out of memory. Tried to allocate 1.69 GiB (GPU 0; 14.56 GiB total capacity; 649.97 MiB already allocated; "
    "1.31 GiB free; 1.01 GiB reserved in total by PyTorch) If reserved memory is >> allocated memory try setting "
    "max_split_size_mb to avoid fragmentation.  See documentation for Memory Management and PYTORCH_CUDA_ALLOC_CONF"
)
# torch 2.1, with its spelling of "capacity", of December 2023.
TORCH_2_1 = (
    "CUDA out of memory. Tried to allocate 32.00 MiB. GPU 0 has a total capacty of 4.00 GiB of which 41.56 MiB is "
    "free. Including non-PyTorch memory, this process has 3.44 GiB memory in use. Of the allocated memory 2.58 GiB is "
    "allocated by PyTorch, and 1.90 MiB is reserved by PyTorch but unallocated. If reserved but unallocated memory is "
    "large try setting max_split_size_mb to avoid fragmentation.  See documentation for Memory Management and "
    "PYTORCH_CUDA_ALLOC_CONF"
)
# torch 2.5 and newer.
TORCH_2_5 = (
    "CUDA out of memory. Tried to allocate 22.78 GiB. GPU 1 has a total capacity of 31.47 GiB of which 12.73 GiB is "
    "free. Including non-PyTorch memory, this process has 18.73 GiB memory in use. Of the allocated memory 9.08 GiB is "
    "allocated by PyTorch, and 9.35 GiB is reserved by PyTorch but unallocated. If reserved but unallocated memory is "
    "large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation.  See documentation for "
    "Memory Management  (https://pytorch.org/docs/stable/notes/cuda.html#environment-variables)"
)


class OutOfMemoryError(RuntimeError):
    """torch.cuda.OutOfMemoryError is a RuntimeError of this name (torch.OutOfMemoryError since 2.5)."""


def need(total_gib: float, cards: int = 1, error_gib: float = 1.0) -> Need:
    each = int(total_gib * GIB / cards)
    parts = (int(total_gib * GIB) - 3 * GIB, 2 * GIB, GIB // 2, GIB // 2)
    return Need(*parts, (each,) * cards, (int(error_gib * GIB / cards),) * cards, (10,) * cards, (each,) * cards)


def machine(*free_gib: float, holders: tuple[Holder, ...] = ()) -> Machine:
    gpus = tuple(
        Gpu(index, f"GPU {index}", 24 * GIB, int(free * GIB), "8.6", "nvml", holders if index == 0 else ())
        for index, free in enumerate(free_gib)
    )
    return Machine(gpus, (), 64 * GIB, 32 * GIB)


def recommendation(**sizes_gib: float) -> Recommendation:
    """Branches by their need; those of up to 20 GiB fit, and the first is taken."""
    assessed = tuple(
        Assessment(Variant(name), "ExLlama", "exllamav2", size <= 20, need(size), GIB, 4096, "")
        for name, size in sizes_gib.items()
    )
    choice = Choice(next(iter(sizes_gib)), "ExLlama", "exllamav2", "", (), 4096)
    return Recommendation("a/b", None, 4096, machine(24), choice, "", assessed, (), (), ())


@pytest.mark.parametrize(
    ("text", "device", "tried", "free", "short"),
    [
        (TORCH_2_0, "GPU 0", 1.69 * GIB, 1.31 * GIB, 0.38 * GIB),
        (TORCH_2_1, "GPU 0", 32 * 2**20, 41.56 * 2**20, None),
        (TORCH_2_5, "GPU 1", 22.78 * GIB, 12.73 * GIB, 10.05 * GIB),
    ],
)
def test_torchs_own_numbers_are_read_where_nothing_else_is_known(
    text: str, device: str, tried: float, free: float, short: float | None
) -> None:
    error = explain(OutOfMemoryError(text), what="m")
    assert isinstance(error, OutOfMemory)
    assert error.device == device
    assert (error.needed_bytes, error.free_bytes) == (int(tried), int(free))
    assert error.short_bytes == (None if short is None else pytest.approx(short, abs=2))


def test_the_forecast_comes_first_and_the_remedies_by_what_they_save() -> None:
    error = explain(
        OutOfMemoryError(TORCH_2_0),
        what="m",
        need=need(21),
        machine=machine(18.0, 23.0, holders=(Holder(4121, "Xorg", 3 * GIB), Holder(99, "python", 5 * GIB))),
        recommendation=recommendation(big=21, middle=19.5, small=14),
        own_pid=99,
    )
    assert isinstance(error, OutOfMemory)
    assert (error.needed_bytes, error.free_bytes, error.short_bytes) == (21 * GIB, 18 * GIB, 3 * GIB)
    assert error.remedies == (
        "GPU 1, which has 23.0 GiB free",
        "unloading what this process holds already (5.0 GiB)",
        "closing Xorg (pid 4121), which holds 3.0 GiB",
        "branch middle (saves 1.5 GiB)",
        "a context of 2048 tokens instead of 4096 (saves 1.0 GiB)",
    )
    assert str(error) == (
        "m does not fit into the memory of GPU 0: 21.0 GiB needed there, give or take 1.0 GiB; 18.0 GiB free before "
        "the load; 1.7 GiB were asked for last, 1.3 GiB free then; short by 3.0 GiB. What helps, the most first: "
        + "; ".join(error.remedies)
        + "."
    )


LLAMA_13B = ModelShape("llama", 5120, 13824, 40, 40, 40, 128, 32000, max_context_tokens=4096)


def real(*free_gib: float) -> tuple[Need, Recommendation]:
    """A 13B of known shape, recommended for cards of so much, as `branchfit recommend` would."""
    variants = tuple(
        Variant(name, bits=4, group_size=group, act_order=False, shape=LLAMA_13B, format="gptq")
        for name, group in (("fine", 32), ("main", None))
    )
    answer = recommend(VariantList("o/r", None, variants), machine(*free_gib), available_runtimes(["exllamav2"], True))
    assert answer.choice is not None and answer.choice.branch == "fine"
    (need,) = (one.need for one in answer.assessments if one.variant.branch == "fine")
    assert need is not None
    return need, answer


def saving(clause: str) -> float:
    found = re.search(r"([0-9.]+) (GiB|MiB)(?: over| less on|\))", clause)
    assert found is not None, clause
    return float(found[1]) * (1 if found[2] == "GiB" else 1 / 1024)


def test_cache_context_branch_and_the_other_card_stand_in_the_order_of_what_they_free() -> None:
    need, answer = real(24.0, 8.0)
    error = explain(
        OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 24 GiB of which 1.50 GiB is free."),
        what="m",
        need=need,
        machine=answer.machine,
        recommendation=answer,
    )
    assert isinstance(error, OutOfMemory)
    assert error.short_bytes == GIB // 2
    kinds = [" ".join(clause.split()[:2]) for clause in error.remedies]
    assert sorted(kinds) == ["GPU 0", "a context", "a q8", "branch main"]
    sizes = [saving(clause) for clause in error.remedies]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] > 0.5  # what it was short by


def test_the_cache_in_use_is_not_offered_again() -> None:
    need, answer = real(24.0)
    raised = RuntimeError("CUDA error: out of memory")
    error = explain(raised, need=need, machine=answer.machine, recommendation=answer, cache="q6")
    assert isinstance(error, OutOfMemory)
    assert next(clause for clause in error.remedies if " cache " in clause).startswith("a q4 cache instead of q6")
    other = explain(raised, need=need, machine=answer.machine, recommendation=answer, runtime="gptqmodel:triton")
    assert isinstance(other, OutOfMemory)
    assert not any(" cache " in clause for clause in other.remedies)


def test_what_is_saved_on_several_cards_is_said_to_be() -> None:
    need, answer = real(9.0, 9.0)
    assert all(need.per_gpu_bytes)
    error = explain(RuntimeError("CUDA error: out of memory"), need=need, machine=answer.machine, recommendation=answer)
    assert isinstance(error, OutOfMemory)
    assert error.needed_bytes in need.per_gpu_bytes
    assert all("over 2 cards" in clause for clause in error.remedies)


def test_memory_in_pieces_too_small_is_named() -> None:
    error = explain(OutOfMemoryError(TORCH_2_5), what="m")
    assert isinstance(error, OutOfMemory)
    assert "9.3 GiB are reserved in pieces too small to use" in error.remedies[0]


@pytest.mark.parametrize(
    "raised",
    [
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB"),
    ],
)
def test_errors_that_name_no_gpu_are_of_the_tightest(raised: Exception) -> None:
    error = explain(raised, what="m", need=need(30, cards=2), machine=machine(20, 12))
    assert isinstance(error, OutOfMemory)
    assert (error.device, error.needed_bytes, error.free_bytes) == ("GPU 1", 15 * GIB, 12 * GIB)


@pytest.mark.parametrize(
    ("raised", "needed"),
    [
        (MemoryError(), None),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
                "to allocate 17179869184 bytes. Error code 12 (Cannot allocate memory)"
            ),
            16 * GIB,
        ),
    ],
)
def test_the_machines_own_memory_is_no_gpus(raised: BaseException, needed: int | None) -> None:
    error = explain(raised, what="m", machine=Machine((), (), 16 * GIB, 8 * GIB))
    assert isinstance(error, OutOfMemory)
    assert (error.device, error.needed_bytes, error.free_bytes) == ("this machine", needed, 8 * GIB)


class SafetensorError(Exception):
    pass


@pytest.mark.parametrize(
    ("raised", "says"),
    [
        (SafetensorError("Error while deserializing header: MetadataIncompleteBuffer"), "branchfit repair"),
        (ImportError("Loading a GPTQ quantized model requires optimum (`pip install optimum`)"), "optimum is missing"),
        (
            ModuleNotFoundError("No module named 'gptqmodel'", name="gptqmodel"),
            "pip install '.[gptq]' in BranchFit's folder",
        ),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), "pip install '.[gptq]' in BranchFit's folder"),
        (ModuleNotFoundError("No module named 'tiktoken'", name="tiktoken"), "pip install tiktoken"),
        (NameError("name 'QuantizeConfig' is not defined"), "gptqmodel is missing"),
        (ImportError("cannot import name 'no_init_weights'", name="auto_gptq"), "transformers below 5"),
        (KeyError("mistral3"), "does not know 'mistral3'"),
        (ValueError("requires you to execute ... set the option `trust_remote_code=True`"), "BranchFit never does"),
        (RuntimeError("Ninja is required to load C++ extensions, ninja not found"), "gptqmodel:triton"),
        (OSError("CUDA_HOME environment variable is not set"), "CUDA toolkit"),
        (RuntimeError("size mismatch for lm_head.weight: copying a param"), "of different models"),
        (ValueError("Something else went wrong"), "ValueError: Something else went wrong"),
        (RuntimeError(), "it gave no reason"),
    ],
)
def test_every_other_error_is_a_sentence_with_its_remedy(raised: BaseException, says: str) -> None:
    error = explain(raised, what="TheBloke_x")
    assert type(error) is LoadError
    assert str(error).startswith("TheBloke_x could not be loaded: ")
    assert says in str(error)
    assert str(error).endswith(".")


def test_our_own_errors_stay_what_they_are() -> None:
    own = LoadedWrong("wrong", ["a"])
    assert explain(own) is own
    assert "gave no usable answer" in str(explain(HubUnreachable("http://x", "refused"), what="m"))


# ---- measured ----------------------------------------------------------------------------------


def test_the_line_sets_what_was_measured_beside_what_was_predicted() -> None:
    found = Measured("2 GPUs", int(42.8 * GIB), int(42.1 * GIB), int(41 * GIB), int(1.5 * GIB))
    assert found.line() == "VRAM: predicted 42.8 GiB +- 1.5 GiB, measured 42.1 GiB"
    assert Measured("GPU 0", None, GIB, GIB).line() == "VRAM: measured 1.0 GiB"
    assert Measured("memory of this process", GIB, None, None).line() == (
        "memory of this process: predicted 1.0 GiB, not measured"
    )


class Cuda:
    """torch.cuda's counters."""

    def __init__(self) -> None:
        self.reserved = {0: 2 * GIB, 1: 0}
        self.peak = dict(self.reserved)

    def memory_reserved(self, index: int) -> int:
        return self.reserved[index]

    memory_allocated = memory_reserved

    def max_memory_reserved(self, index: int) -> int:
        return self.peak[index]

    def reset_peak_memory_stats(self, index: int) -> None:
        self.peak[index] = self.reserved[index]


@pytest.mark.parametrize("seen", [True, False], ids=["NVML knows us", "in a container"])
def test_on_gpus_it_is_what_torch_reserved_since_and_the_context(seen: bool) -> None:
    import os

    torch: Any = type("torch", (), {"cuda": Cuda()})
    torch.cuda.peak[0] = 9 * GIB  # of a model before
    held = {0: 3 * GIB, 1: 0}

    def look() -> Machine:
        pid = os.getpid() if seen else 1
        gpus = tuple(
            Gpu(index, "", 24 * GIB, 24 * GIB - size, "8.6", "nvml", (Holder(pid, "python", size),))
            for index, size in held.items()
        )
        return Machine(gpus, (), 0, 0)

    meter = Meter((0, 1), need(20, cards=2), torch=torch, look=look)
    torch.cuda.reserved = {0: 12 * GIB, 1: 8 * GIB}
    torch.cuda.peak = {0: 13 * GIB, 1: 9 * GIB}
    held.update({0: 13 * GIB, 1: 9 * GIB})
    found = meter.read()
    # On card 0: 13 at the most, 2 of them before, and a context of 1 that NVML alone can tell was there before.
    first = 12 * GIB if seen else 11 * GIB
    assert found.per_gpu_bytes == (first, 10 * GIB)
    assert found.peak_bytes == first + 10 * GIB
    assert found.device == "2 GPUs"
    assert found.predicted_bytes == 20 * GIB


def test_on_the_cpu_it_is_this_process() -> None:
    found = Meter((), need(2)).read()
    assert found.device == "memory of this process"
    assert found.peak_bytes is not None
    assert 10 * 2**20 < found.peak_bytes < 64 * GIB
    peak, resident = process_bytes()
    assert peak is not None
    assert resident is None or resident <= peak
