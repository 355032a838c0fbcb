"""--gpu: what it reads, and what it says of what it cannot read."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from branchfit.errors import GpuArgumentError
from branchfit.gpus import Gpu, Machine, parse_gpus
from branchfit.gpus.system import Memory

RAM = Memory(64 * 2**30, 60 * 2**30)


def machine(*arguments: str) -> Machine:
    return parse_gpus(arguments, RAM)


def sizes(*arguments: str) -> list[int]:
    return [gpu.total_bytes for gpu in machine(*arguments).gpus]


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("24GiB", 25_769_803_776),
        ("24GB", 24_000_000_000),
        ("24576MiB", 25_769_803_776),
        ("24000MB", 24_000_000_000),
        ("24G", 25_769_803_776),
        ("24", 25_769_803_776),
        ("11.5GiB", 12_348_030_976),
        ("0.5 gib", 536_870_912),
        ("1TiB", 1_099_511_627_776),
        ("10tib", 10_995_116_277_760),
        ("1MiB", 1_048_576),
    ],
)
def test_a_size_is_read_to_the_byte(text: str, size_bytes: int) -> None:
    assert sizes(text) == [size_bytes]


def test_two_cards_of_a_capability_are_two_devices_all_free() -> None:
    first, second = machine("24GiB@8.6x2").gpus
    assert first == Gpu(0, "given GPU, 24 GiB", 25_769_803_776, 25_769_803_776, "8.6", "given")
    assert second.index == 1
    assert second.kind == "cuda"
    assert second.holders == ()


def test_commas_and_repeated_arguments_both_make_more_cards() -> None:
    assert sizes("24GiB,8GiB") == sizes("24GiB", "8GiB") == [24 * 2**30, 8 * 2**30]


def test_capitals_and_spaces_do_not_matter() -> None:
    assert machine(" 24gib@8.6X2 ").gpus == machine("24GiB@8.6x2").gpus


def test_without_a_capability_it_is_unknown() -> None:
    assert machine("24GiB").gpus[0].compute_capability is None


def test_a_name_says_gb_where_gb_was_meant() -> None:
    assert machine("24GB").gpus[0].name == "given GPU, 24 GB"


def test_none_is_a_machine_without_a_gpu_that_keeps_its_memory() -> None:
    without = machine("None")
    assert without.gpus == ()
    assert without.cpu == Gpu(0, "CPU (no GPU)", 64 * 2**30, 60 * 2**30, None, "none", kind="cpu")
    assert "--gpu none" in without.notes[0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("24GiB,", "empty"),
        ("0GiB", "0 bytes"),
        ("1KiB", "`kib` is not a unit"),
        ("0.5MiB", "524,288 bytes, less than the 1 MiB"),
        ("-1", "`-1` is not a size"),
        ("-24GiB", "is not a size"),
        ("NaN", "is not a size"),
        ("inf", "is not a size"),
        ("1e999", "is not a size"),
        ("1e3GiB", "is not a size"),
        ("24.GiB", "is not a size"),
        (".5GiB", "is not a size"),
        ("GiB", "is not a size"),
        ("24 24GiB", "is not a size"),
        ("24GiB@", "`` is not a compute capability"),
        ("24GiB@banana", "`banana` is not a compute capability"),
        ("24GiB@8", "`8` is not a compute capability"),
        ("24GiB@8.66", "not a compute capability"),
        ("24GiB@2.1", "3.0 to 15.9"),
        ("24GiB@16.0", "3.0 to 15.9"),
        ("24GiB@8.6@8.6", "not a compute capability"),
        ("24GiBx", "`` is not a number of cards"),
        ("24GiBx0", "`0` is not a number of cards"),
        ("24GiBx-1", "`-1` is not a number of cards"),
        ("24GiBx65", "1 to 64 are"),
        ("24GiBx2x2", "`2x2` is not a number of cards"),
        ("24GiBx2@8.6", "`2@8.6` is not a number of cards"),
        ("0x18GiB", "0 bytes"),
        ("1x18GiB", "`18gib` is not a number of cards"),
        ("11TiB", "more than 10 TiB"),
        ("24576", "24576 GiB?"),
        ("9" * 5000, "is not a size"),
        ("24GiBx" + "9" * 5000, "is not a number of cards"),
        ("２４GiB", "plain digits"),
        ("²GiB", "plain digits"),
        ("nonex2", "not a size"),
        ("none@8.6", "not a size"),
    ],
)
def test_nonsense_is_refused_with_the_argument_the_reason_and_the_grammar(text: str, reason: str) -> None:
    with pytest.raises(GpuArgumentError) as raised:
        machine(text)
    message = str(raised.value)
    assert reason in message
    assert raised.value.text.strip("'") in text
    assert "SIZE[@CAPABILITY][xN]" in message


@pytest.mark.parametrize("arguments", [("none", "24GiB"), ("24GiB,none",), ("none", "none")])
def test_none_stands_alone(arguments: tuple[str, ...]) -> None:
    with pytest.raises(GpuArgumentError, match="stands alone"):
        machine(*arguments)


def test_no_argument_at_all_is_said_to_be_none() -> None:
    with pytest.raises(GpuArgumentError, match="no argument"):
        machine()


def test_cards_are_counted_over_all_arguments() -> None:
    assert len(machine("1GiBx32", "1GiBx32").gpus) == 64
    with pytest.raises(GpuArgumentError, match="more than 64 cards"):
        machine("1GiBx32", "1GiBx33")


@settings(max_examples=300)
@given(st.text(max_size=30) | st.from_regex(r"[0-9.a-z@x, -]{0,20}", fullmatch=True))
def test_any_text_is_read_or_refused_and_nothing_else(text: str) -> None:
    try:
        gpus = machine(text).gpus
    except GpuArgumentError:
        return
    assert all(2**20 <= gpu.free_bytes == gpu.total_bytes <= 10 * 2**40 for gpu in gpus)


def test_reading_an_argument_imports_no_driver() -> None:
    code = (
        "import sys; from branchfit.gpus import parse_gpus; parse_gpus(['24GiB@8.6x2']); "
        "print([name for name in ('pynvml', 'torch', 'subprocess', 'ctypes') if name in sys.modules])"
    )
    path = f"import sys; sys.path[:0] = {sys.path!r}; "
    done = subprocess.run([sys.executable, "-S", "-c", path + code], text=True, capture_output=True, check=True)
    assert done.stdout.strip() == "[]"
