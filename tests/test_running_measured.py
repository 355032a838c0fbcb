"""What a load took, beside its forecast: the same of both, by each runtime's own way of holding memory."""

from __future__ import annotations

import os
from typing import Any

import pytest

from branchfit.gpus import Gpu, Holder, Machine
from branchfit.memory.records import Card
from branchfit.running.measured import MUCH_BYTES, Measured, Meter

MIB, GIB = 2**20, 2**30
CONTEXT = 700 * MIB
TRITON = "gptqmodel:triton"


class Stage:
    """One card as torch's allocator and NVML tell of it. Something of 1 GiB, in 1.5 GiB, was there before."""

    def __init__(self, kind: str = "cuda") -> None:
        self.kind = kind
        self.allocated, self.reserved = GIB, GIB * 3 // 2
        self.peak_allocated = self.peak_reserved = 40 * GIB  # of a model before
        self.cuda = self  # torch.cuda

    def takes(self, allocated: int, reserved: int) -> None:
        self.allocated, self.reserved = GIB + allocated, GIB * 3 // 2 + reserved
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        self.peak_reserved = max(self.peak_reserved, self.reserved)

    def reset_peak_memory_stats(self, index: int) -> None:
        self.peak_allocated, self.peak_reserved = self.allocated, self.reserved

    def memory_allocated(self, index: int) -> int:
        return self.allocated

    def memory_reserved(self, index: int) -> int:
        return self.reserved

    def max_memory_allocated(self, index: int) -> int:
        return self.peak_allocated

    def max_memory_reserved(self, index: int) -> int:
        return self.peak_reserved

    def is_available(self) -> bool:
        return True

    is_initialized = is_available

    def device_count(self) -> int:
        return 1

    def get_device_name(self, index: int) -> str:
        return "a card"

    def look(self) -> Machine:
        own = min(self.reserved + CONTEXT, 24 * GIB)  # what is beyond lies in system memory
        gpu = Gpu(
            0, "a card", 24 * GIB, 24 * GIB - own, "8.6", "nvml", (Holder(os.getpid(), "python", own),), self.kind
        )  # fmt: skip
        return Machine((gpu,), (), 64 * GIB, 60 * GIB)

    def meter(self, runtime: str, expandable: bool | None) -> Meter:
        return Meter((0,), runtime=runtime, expandable=expandable, torch=self, look=self.look)


def after_a_prompt(runtime: str, expandable: bool, kind: str = "cuda") -> tuple[Meter, Measured]:
    """A load of 4 GiB with gaps of 200 MiB, then a prompt that needs 6 GiB, for which torch keeps 9."""
    stage = Stage(kind)
    meter = stage.meter(runtime, expandable)
    stage.takes(4 * GIB, 4 * GIB + 200 * MIB)
    meter.read()
    stage.takes(6 * GIB, 9 * GIB)
    stage.takes(5 * GIB, 9 * GIB)
    return meter, meter.read()


@pytest.mark.parametrize(
    ("runtime", "expandable", "needed", "resident"),
    [
        (TRITON, True, 6 * GIB, 5 * GIB),
        (TRITON, False, 9 * GIB, 5 * GIB),
        ("exllamav2", False, 6 * GIB + 200 * MIB, 5 * GIB + 200 * MIB),
        ("exllamav2", True, 6 * GIB + 200 * MIB, 5 * GIB + 200 * MIB),
        ("auto_gptq", True, 9 * GIB, 5 * GIB),
        ("", True, 9 * GIB, 5 * GIB),
    ],
)
def test_it_is_the_context_and_what_the_allocator_could_not_do_without(
    runtime: str, expandable: bool, needed: int, resident: int
) -> None:
    meter, found = after_a_prompt(runtime, expandable)
    assert found.peak_bytes == needed + CONTEXT and found.per_gpu_bytes == (needed + CONTEXT,)
    assert found.resident_bytes == resident + CONTEXT
    assert found.reserved_bytes == 9 * GIB + CONTEXT
    assert meter.highest_bytes() == needed
    assert meter.cards({0: 32}) == (
        Card("a card", 24 * GIB, 32, needed + CONTEXT, resident + CONTEXT, CONTEXT, 0, 0),
    )  # fmt: skip


def test_on_rocm_it_is_what_was_reserved_as_forecasts_have_it() -> None:
    meter, found = after_a_prompt(TRITON, True, "rocm")
    assert found.peak_bytes == 9 * GIB + CONTEXT and not meter.expandable


def test_what_torch_keeps_beside_it_is_said_where_it_is_much() -> None:
    found = after_a_prompt(TRITON, True)[1]
    assert found.line() == "VRAM: measured 6.7 GiB; the allocator keeps 3.0 GiB more, and gives it back before it fails"
    assert after_a_prompt(TRITON, False)[1].line() == "VRAM: measured 9.7 GiB"
    assert Measured("GPU 0", None, GIB, GIB, reserved_bytes=GIB + MUCH_BYTES).line() == "VRAM: measured 1.0 GiB"


def test_a_meter_that_is_told_nothing_asks_torch_for_its_segments() -> None:
    stage: Any = Stage()
    for said in (True, False):
        settings = {"allocator_settings": {"expandable_segments": said}}
        stage.memory = type("memory", (), {"_snapshot": staticmethod(lambda settings=settings: settings)})
        assert stage.meter(TRITON, None).expandable is said


def test_what_went_past_the_card_is_said() -> None:
    stage = Stage()
    meter = stage.meter(TRITON, True)
    stage.takes(20 * GIB, 20 * GIB)
    assert meter.read().spill == ""
    stage.takes(28 * GIB, 28 * GIB)
    # 28 and the 1.5 from before, where the card has 24.
    assert meter.read().spill.startswith("5.5 GiB of what this process has on GPU 0 (a card) lie in system memory.")
