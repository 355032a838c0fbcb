"""A load's record: measured on cards as NVML and torch tell it, on the CPU as the system does, and never in the way."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from branchfit.gpus import Gpu, Holder, Machine
from branchfit.memory import Need, place, terms
from branchfit.memory.correcting import MOVED_BYTES, Corrections, happened, on_cards
from branchfit.memory.records import Card, RecordFile
from branchfit.running.loaded import Loaded
from branchfit.running.measured import Meter
from branchfit.running.recording import Recorder, _parts, recorder
from branchfit.shape import read_shape
from branchfit.variants import Variant
from models import LLAMA_2_7B

MIB, GIB = 2**20, 2**30
SEVEN = Variant("b", bits=4, group_size=128, act_order=True, shape=read_shape(LLAMA_2_7B))
RUNTIME = "gptqmodel:triton"
CONTEXT = 600 * MIB


class Card0:
    """A GPU of 24 GiB as torch's counters and NVML tell of it, with another process on it."""

    def __init__(self, seen: bool = True, indices: tuple[int, ...] = (0,)) -> None:
        self.seen, self.indices = seen, indices
        self.allocated = self.reserved = self.peak = 0
        self.others, self.context = GIB, 0
        self.cuda = self  # torch.cuda

    def memory_allocated(self, index: int) -> int:
        return self.allocated

    def memory_reserved(self, index: int) -> int:
        return self.reserved

    def max_memory_reserved(self, index: int) -> int:
        return self.peak

    max_memory_allocated = max_memory_reserved

    def reset_peak_memory_stats(self, index: int) -> None:
        self.peak = self.reserved

    def takes(self, allocated: int, reserved: int, peak: int) -> None:
        self.allocated, self.reserved, self.peak, self.context = allocated, reserved, max(peak, self.peak), CONTEXT

    def look(self) -> Machine:
        own = self.reserved + self.context
        holders = [Holder(1, "Xorg", self.others)]
        if self.seen and own:
            holders.append(Holder(os.getpid(), "python", own))
        free = 24 * GIB - own - self.others
        gpus = tuple(Gpu(each, "a card", 24 * GIB, free, "8.6", "nvml", tuple(holders)) for each in self.indices)
        return Machine(gpus, (), 64 * GIB, 60 * GIB)


def forecast(machine: Machine) -> Need:
    made = terms(SEVEN, RUNTIME, 4096)
    assert made is not None
    return place(made, [gpu.free_bytes for gpu in machine.gpus])


def begun(card: Card0, file: RecordFile) -> Recorder:
    machine = card.look()
    need = forecast(machine)
    meter = Meter(card.indices, need, runtime=RUNTIME, expandable=True, torch=card, look=card.look)
    made = recorder(
        meter, variant=SEVEN, runtime=RUNTIME, need=need, machine=machine, context_tokens=4096, file=file
    )  # fmt: skip
    assert made is not None
    return made


@pytest.fixture
def file(tmp_path: Path) -> RecordFile:
    return RecordFile(tmp_path)


def test_a_load_and_then_its_longest_prompt_are_recorded_as_one(file: RecordFile) -> None:
    card = Card0()
    made = begun(card, file)
    card.takes(4 * GIB, 5 * GIB, 5 * GIB)
    made.loaded()
    (first,) = file.read()
    assert first.cards == (Card("a card", 24 * GIB, 32, 5 * GIB + CONTEXT, 4 * GIB + CONTEXT, CONTEXT, GIB, GIB),)
    assert (first.runtime, first.process, first.kind, first.source) == (RUNTIME, "branchfit", "cuda", "nvml")
    assert (first.prompt_tokens, first.read_tokens, first.context_tokens) == (0, 0, 4096)
    need = forecast(Card0().look())
    parts = (first.weights_bytes, first.kv_cache_bytes, first.scratch_bytes, first.context_bytes, first.error_bytes)
    assert parts == (
        need.weights_bytes, need.kv_cache_bytes, need.scratch_bytes, need.context_bytes, need.error_bytes,
    )  # fmt: skip

    made.begin()
    card.takes(4 * GIB, 6 * GIB, 7 * GIB)
    made.read(900, 1000)
    (again,) = file.read()
    assert again.load == first.load and (again.prompt_tokens, again.read_tokens) == (900, 1000)
    assert again.cards[0].peak_bytes == 7 * GIB + CONTEXT


@pytest.mark.parametrize("free", [[24 * GIB], [4 * GIB, 5 * GIB], [3 * GIB] * 3])
def test_the_parts_of_a_record_are_those_of_the_need_over_any_number_of_cards(free: list[int]) -> None:
    whole = terms(SEVEN, RUNTIME, 2048)
    assert whole is not None
    need = place(whole, free)
    assert all(need.layers_per_gpu)
    assert _parts(whole, len(free)) == {
        "weights_bytes": need.weights_bytes,
        "kv_cache_bytes": need.kv_cache_bytes,
        "scratch_bytes": need.scratch_bytes,
        "context_bytes": need.context_bytes,
        "error_bytes": need.error_bytes,
    }


@pytest.mark.parametrize("expandable", [True, False])
def test_whether_segments_expand_is_in_the_record_as_it_was_measured(expandable: bool, file: RecordFile) -> None:
    card = Card0()
    machine = card.look()
    need = forecast(machine)
    meter = Meter((0,), need, runtime=RUNTIME, expandable=expandable, torch=card, look=card.look)
    made = recorder(
        meter, variant=SEVEN, runtime=RUNTIME, need=need, machine=machine, context_tokens=4096, file=file
    )  # fmt: skip
    assert made is not None
    card.takes(4 * GIB, 5 * GIB, 5 * GIB)
    made.loaded()
    assert file.read()[0].expandable is expandable and not file.read()[0].plain_attention


def test_only_a_generation_a_quarter_longer_is_written_and_the_longest_at_the_end(file: RecordFile) -> None:
    card = Card0()
    made = begun(card, file)
    card.takes(4 * GIB, 5 * GIB, 5 * GIB)
    made.loaded()
    for tokens in (100, 110, 90, 120, 200, 210, 20):
        made.begin()
        made.read(tokens - 20, tokens)
    lines = file.path.read_bytes().splitlines()
    assert len(lines) == 1 + 2  # the load, 100 and 200 tokens
    assert file.read()[0].read_tokens == 200
    made.close()
    assert file.read()[0].read_tokens == 210
    made.close()
    made.read(4000, 4096)
    assert len(file.path.read_bytes().splitlines()) == 4, "nothing is written of a model that has gone"


def test_what_other_processes_took_meanwhile_is_in_the_record_which_is_left_out(file: RecordFile) -> None:
    card = Card0()
    made = begun(card, file)
    card.takes(4 * GIB, 5 * GIB, 5 * GIB)
    card.others += MOVED_BYTES + MIB
    made.loaded()
    (found,) = file.read()
    assert found.cards[0].others_after_bytes == GIB + MOVED_BYTES + MIB
    assert "other processes took" in found.left_out


def test_in_a_container_it_is_not_known_what_others_moved(file: RecordFile) -> None:
    card = Card0(seen=False)
    made = begun(card, file)
    card.takes(4 * GIB, 5 * GIB, 5 * GIB)
    made.loaded()
    (found,) = file.read()
    assert found.cards[0].others_before_bytes is found.cards[0].others_after_bytes is None
    assert found.cards[0].context_bytes == CONTEXT and found.left_out == ""
    card.others += 2 * GIB
    made.begin()
    made.read(900, 1000)
    assert "not this process's alone" in file.read()[0].left_out


def test_a_generation_that_nobody_told_of_ends_the_record(file: RecordFile) -> None:
    card = Card0()
    made = begun(card, file)
    card.takes(4 * GIB, 5 * GIB, 5 * GIB)
    made.loaded()
    card.takes(4 * GIB, 6 * GIB, 8 * GIB)  # an extension that calls the model itself
    made.begin()
    made.read(900, 1000)
    made.close()
    assert [one.read_tokens for one in file.read()] == [0]


def test_what_is_recorded_here_corrects_the_next_prediction_here(file: RecordFile) -> None:
    for _ in range(3):
        card = Card0()
        made = begun(card, file)
        card.takes(3 * GIB, 3 * GIB, 3 * GIB)
        made.loaded()
        now = happened(replace(file.read()[-1], prompt_tokens=900, read_tokens=1000))
        assert now is not None
        peak = on_cards(now, [32])[0] - CONTEXT + 100 * MIB
        made.begin()
        card.takes(3 * GIB, peak, peak)
        made.read(900, 1000)
    (gpu,) = Card0().look().gpus
    found = Corrections(file.read()).of(SEVEN, RUNTIME, [gpu])
    assert found is not None and (found.bytes, found.loads) == (100 * MIB, 3)


def test_without_a_forecast_without_a_meter_and_on_apples_gpus_nothing_is_recorded(file: RecordFile) -> None:
    card = Card0()
    machine = card.look()
    need = forecast(machine)
    meter = Meter((0,), need, torch=card, look=card.look)
    given: dict[str, Any] = {"variant": SEVEN, "runtime": RUNTIME, "machine": machine, "context_tokens": 4096}
    assert recorder(meter, need=None, **given) is None
    assert recorder(None, need=need, **given) is None
    assert recorder(Meter(), need=need, **given) is None, "measured on the CPU, forecast on a GPU"
    assert recorder(meter, need=need, **{**given, "variant": Variant("b")}) is None
    apple = replace(machine, gpus=(replace(machine.gpus[0], kind="mps"),))
    assert recorder(meter, need=need, **{**given, "machine": apple}) is None


def test_a_driver_that_fails_while_it_is_read_is_nobodys_trouble(file: RecordFile) -> None:
    card = Card0()
    made = begun(card, file)

    def broken() -> Machine:
        raise RuntimeError("GPU is lost")

    made._meter._look = broken  # type: ignore[method-assign]
    made.loaded()
    made.begin()
    made.read(10, 20)
    made.close()
    assert file.read() == ()


def test_on_the_cpu_a_peak_from_before_the_load_is_not_the_loads(tmp_path: Path) -> None:
    status = tmp_path / "proc/self/status"
    status.parent.mkdir(parents=True)

    def says(peak_kib: int, resident_kib: int) -> None:
        status.write_text(f"VmHWM:\t{peak_kib} kB\nVmRSS:\t{resident_kib} kB\n")

    machine = Machine((), (), 32 * GIB, 30 * GIB)
    says(900_000, 100_000)
    meter = Meter((), look=lambda: machine, root=tmp_path)
    says(900_000, 600_000)
    assert meter.cards({0: 32}) == ()
    says(950_000, 600_000)
    (card,) = meter.cards({0: 32})
    assert card == Card("CPU (no GPU)", 32 * GIB, 32, 950_000 * 1024, 600_000 * 1024)


class Spy:
    def __init__(self) -> None:
        self.said: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *given: self.said.append(f"{name}{given}")


def test_a_loaded_model_is_recorded_when_it_is_there_and_before_it_goes() -> None:
    spy: Any = Spy()
    loaded = Loaded(None, None, None, "m", None, RUNTIME, (), 4096, recorder=spy)
    loaded.unload()
    assert spy.said == ["loaded()", "close()"]
