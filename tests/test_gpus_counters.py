"""Windows' performance counters, as typeperf and tasklist print them by their documentation; no Windows has run it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from branchfit.gpus import Gpu, Holder, Machine
from branchfit.gpus.counters import by_process, parse_counters, parse_tasks

GIB = 2**30
TYPEPERF = (
    "\r\n"
    r'"(PDH-CSV 4.0)","\\DESK\GPU Process Memory(pid_1234_luid_0x00000000_0x0000D1A2_phys_0)\Dedicated Usage",'
    r'"\\DESK\GPU Process Memory(pid_5678_luid_0x00000000_0x0000D1A2_phys_0)\Dedicated Usage",'
    r'"\\DESK\GPU Process Memory(pid_5678_luid_0x00000000_0x0000BEEF_phys_0)\Dedicated Usage",'
    r'"\\DESK\GPU Process Memory(pid_9_luid_0x00000000_0x0000D1A2_phys_0)\Dedicated Usage"'
    "\r\n"
    '"11/25/2026 21:48:00.123","536870912.000000","3221225472.000000","104857600.000000"," "\r\n'
    "Exiting, please wait...\r\nThe command completed successfully.\r\n"
)
TASKLIST = '"dwm.exe","1234","Console","1","120,000 K"\r\n"my game.exe","5678","Console","1","900,000 K"\r\n'
CARD = Gpu(
    0,
    "NVIDIA GeForce RTX 4070",
    12 * GIB,
    8 * GIB,
    "8.9",
    "nvml",
    (Holder(77, "quiet.exe", None), Holder(1234, "dwm.exe", None)),
    address="0000:01:00.0",
)
LUIDS = {"0000:01:00.0": "0x0_0xd1a2"}


def machine(*gpus: Gpu) -> Machine:
    return Machine(gpus, (), 64 * GIB, 32 * GIB)


def windows(command: Sequence[str]) -> str:
    return {"typeperf": TYPEPERF, "tasklist": TASKLIST}[command[0]]


def test_each_process_counts_on_the_adapter_it_is_named_by() -> None:
    assert parse_counters(TYPEPERF) == {
        "0x0_0xd1a2": {1234: GIB // 2, 5678: 3 * GIB},
        "0x0_0xbeef": {5678: 100 * 2**20},
    }


@pytest.mark.parametrize(
    "text", ["", "Error: No valid counters.\r\n", '"(PDH-CSV 4.0)"\r\n', '"a","b"\r\n', TYPEPERF[:300]]
)
def test_what_is_no_counter_is_nothing(text: str) -> None:
    assert parse_counters(text) == {}


def test_tasks_have_their_names_with_spaces_too() -> None:
    assert parse_tasks(TASKLIST + "INFO: none\r\n") == {1234: "dwm.exe", 5678: "my game.exe"}


def test_windows_processes_get_their_bytes_and_those_nvml_did_not_list_their_names() -> None:
    (gpu,) = by_process(machine(CARD), "win32", windows, LUIDS).gpus
    assert gpu.holders == (
        Holder(5678, "my game.exe", 3 * GIB),
        Holder(1234, "dwm.exe", GIB // 2),
        Holder(77, "quiet.exe", None),
    )
    assert gpu.unnamed_bytes == GIB // 2


def test_a_card_whose_adapter_is_unknown_keeps_what_nvml_said() -> None:
    assert by_process(machine(CARD), "win32", windows, {}).gpus == (CARD,)


def test_nothing_is_run_where_nvml_tells_it_all_or_there_is_no_windows() -> None:
    def never(command: Sequence[str]) -> str:
        raise AssertionError(command)

    told = Gpu(0, "a card", 12 * GIB, 8 * GIB, "8.9", "nvml", (Holder(1, "python", GIB),))
    assert by_process(machine(told), "win32", never, LUIDS).gpus == (told,)
    assert by_process(machine(CARD), "linux", never, LUIDS).gpus == (CARD,)


def test_a_windows_without_the_counters_is_as_before() -> None:
    def fails(command: Sequence[str]) -> str:
        raise OSError("typeperf is not there")

    assert by_process(machine(CARD), "win32", fails, LUIDS) == machine(CARD)
