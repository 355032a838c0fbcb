"""The machine's RAM: Linux and its cgroups, Windows, macOS; and Apple silicon's GPU."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from branchfit.gpus.apple import read_apple, working_set_bytes
from branchfit.gpus.system import Memory, read_memory, run_command
from recordings.nvml_player import FOLDER

GIB = 2**30
MEMINFO = "MemTotal:       67108864 kB\nMemFree:         1048576 kB\nMemAvailable:   41943040 kB\nSwapTotal: 0 kB\n"


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def linux(root: Path) -> Memory:
    return read_memory("linux", root)


class Mac:
    """Answers commands as mac-m1pro.json does, with changes; an absent one fails as a missing sysctl does."""

    def __init__(self, **changes: str | None) -> None:
        self.commands = json.loads((FOLDER / "mac-m1pro.json").read_text(encoding="utf-8"))["commands"]
        for end, text in changes.items():
            self.commands[next(name for name in self.commands if name.endswith(end))] = text

    def __call__(self, command: Sequence[str]) -> str:
        answer = self.commands.get(" ".join(command))
        if answer is None:
            raise OSError(f"sysctl: unknown oid '{command[-1]}'")
        return str(answer)


def test_linux_counts_what_is_available_not_what_is_idle(tmp_path: Path) -> None:
    assert linux(write(tmp_path, proc__meminfo=MEMINFO)) == Memory(64 * GIB, 40 * GIB)


def test_a_container_of_cgroup_2_has_its_own_limit_and_gets_its_file_cache_back(tmp_path: Path) -> None:
    write(
        tmp_path,
        proc__meminfo=MEMINFO,
        proc__self__cgroup="0::/\n",
        sys__fs__cgroup__memory_DOT_max=f"{8 * GIB}\n",
        sys__fs__cgroup__memory_DOT_current=f"{3 * GIB}\n",
        sys__fs__cgroup__memory_DOT_stat=f"anon {2 * GIB}\ninactive_file {1 * GIB}\n",
    )
    memory = linux(tmp_path)
    assert (memory.total_bytes, memory.free_bytes) == (8 * GIB, 6 * GIB)
    assert memory.notes == ("a cgroup limits this process to 8.0 GiB of the machine's 64.0 GiB of RAM.",)


def test_a_container_of_cgroup_1_has_its_own_limit(tmp_path: Path) -> None:
    write(
        tmp_path,
        proc__meminfo=MEMINFO,
        proc__self__cgroup="9:name=systemd:/\n4:cpu,memory:/docker/abc\n",
        sys__fs__cgroup__memory__memory_DOT_limit_in_bytes=f"{16 * GIB}\n",
        sys__fs__cgroup__memory__memory_DOT_usage_in_bytes=f"{1 * GIB}\n",
    )
    memory = linux(tmp_path)
    assert (memory.total_bytes, memory.free_bytes) == (16 * GIB, 15 * GIB)


def test_the_tightest_of_nested_cgroups_rules(tmp_path: Path) -> None:
    write(
        tmp_path,
        proc__meminfo=MEMINFO,
        proc__self__cgroup="0::/user.slice/app\n",
        sys__fs__cgroup__user_DOT_slice__memory_DOT_max=f"{4 * GIB}\n",
        sys__fs__cgroup__user_DOT_slice__memory_DOT_current=f"{1 * GIB}\n",
        sys__fs__cgroup__user_DOT_slice__app__memory_DOT_max=f"{6 * GIB}\n",
        sys__fs__cgroup__user_DOT_slice__app__memory_DOT_current="0\n",
    )
    memory = linux(tmp_path)
    assert (memory.total_bytes, memory.free_bytes) == (4 * GIB, 3 * GIB)


@pytest.mark.parametrize("limit", ["max", "9223372036854771712", "rubbish", ""])
def test_no_limit_is_no_limit(tmp_path: Path, limit: str) -> None:
    write(
        tmp_path,
        proc__meminfo=MEMINFO,
        proc__self__cgroup="0::/\n4:memory:/\n",
        sys__fs__cgroup__memory_DOT_max=limit,
        sys__fs__cgroup__memory__memory_DOT_limit_in_bytes=limit,
    )
    assert linux(tmp_path) == Memory(64 * GIB, 40 * GIB)


def test_a_group_over_its_limit_has_nothing_free(tmp_path: Path) -> None:
    write(
        tmp_path,
        proc__meminfo=MEMINFO,
        proc__self__cgroup="0::/\n",
        sys__fs__cgroup__memory_DOT_max=f"{1 * GIB}\n",
        sys__fs__cgroup__memory_DOT_current=f"{2 * GIB}\n",
    )
    assert linux(tmp_path).free_bytes == 0


def test_a_system_without_meminfo_is_a_note_not_an_error(tmp_path: Path) -> None:
    memory = linux(tmp_path)
    assert (memory.total_bytes, memory.free_bytes) == (0, 0)
    assert "no MemTotal" in memory.notes[0]


@pytest.mark.skipif(sys.platform != "linux", reason="reads this machine's /proc, so it needs Linux")
def test_this_machine_has_memory() -> None:
    memory = read_memory()
    assert 0 < memory.free_bytes <= memory.total_bytes


def test_windows_answers_through_global_memory_status() -> None:
    def fill(reference: Any) -> int:
        status = reference._obj
        assert status.length == 64  # sizeof(MEMORYSTATUSEX), which the call checks
        status.total, status.free = 32 * GIB, 20 * GIB
        return 1

    windll = SimpleNamespace(kernel32=SimpleNamespace(GlobalMemoryStatusEx=fill))
    assert read_memory("win32", windll=windll) == Memory(32 * GIB, 20 * GIB)


def test_a_windows_that_refuses_is_a_note() -> None:
    windll = SimpleNamespace(kernel32=SimpleNamespace(GlobalMemoryStatusEx=lambda reference: 0))
    assert "GlobalMemoryStatusEx failed" in read_memory("win32", windll=windll).notes[0]


def test_a_mac_counts_free_speculative_and_inactive_pages() -> None:
    # (100000 + 50000 + 200000) pages of 16384 bytes
    assert read_memory("darwin", run=Mac()) == Memory(17_179_869_184, 5_734_400_000)


@pytest.mark.parametrize(
    "changes", [{"hw.memsize": None}, {"hw.memsize": "rubbish"}, {"vm_stat": None}, {"vm_stat": "?"}]
)
def test_a_mac_that_answers_nonsense_is_a_note(changes: dict[str, str | None]) -> None:
    memory = read_memory("darwin", run=Mac(**changes))
    assert memory.total_bytes == 0
    assert "could not be read" in memory.notes[0]


def test_apple_silicon_offers_what_metal_lets_a_process_use() -> None:
    mac = Mac()
    found = read_apple(read_memory("darwin", run=mac), mac)
    (gpu,) = found.gpus
    assert (gpu.name, gpu.source, gpu.kind) == ("Apple M1 Pro", "mps", "mps")
    assert gpu.total_bytes == 11_453_246_122  # llama.cpp printed 11453.25 MB on such a Mac
    assert gpu.free_bytes == 5_734_400_000
    assert "at most 10.7 GiB" in found.notes[0]


@pytest.mark.parametrize(("ram_gib", "limit_mib"), [(16, 10922), (32, 21845), (64, 49152), (96, 73728)])
def test_metals_default_limit_is_what_users_saw(ram_gib: int, limit_mib: int) -> None:
    assert working_set_bytes(ram_gib * GIB) >> 20 == limit_mib


def test_a_limit_the_user_raised_is_respected() -> None:
    mac = Mac(wired_limit_mb="14336\n")
    (gpu,) = read_apple(Memory(16 * GIB, 15 * GIB), mac).gpus
    assert (gpu.total_bytes, gpu.free_bytes) == (14 * GIB, 14 * GIB)


def test_a_mac_without_the_setting_has_the_default() -> None:
    (gpu,) = read_apple(Memory(16 * GIB, 15 * GIB), Mac(wired_limit_mb=None)).gpus
    assert gpu.total_bytes >> 20 == 10922


def test_an_intel_mac_has_no_gpu_for_this() -> None:
    found = read_apple(Memory(16 * GIB, 8 * GIB), Mac(brand_string="Intel(R) Core(TM) i9-9880H CPU @ 2.30GHz\n"))
    assert found.gpus == ()
    assert "Intel(R) Core(TM) i9" in found.notes[0]


def test_a_mac_whose_chip_does_not_answer_is_a_note() -> None:
    assert "could not be read" in read_apple(Memory(16 * GIB, 8 * GIB), Mac(brand_string=None)).notes[0]
    assert "how much memory" in read_apple(Memory(0, 0), Mac()).notes[0]


@pytest.mark.parametrize("command", [["a-command-that-is-not-there"], [sys.executable, "-c", "raise SystemExit(3)"]])
def test_a_command_that_fails_is_an_os_error(command: list[str]) -> None:
    with pytest.raises(OSError, match=r"."):
        run_command(command)


def test_a_commands_output_is_given_as_it_is() -> None:
    assert run_command([sys.executable, "-c", "print('one'); print('two')"]).split() == ["one", "two"]


def test_a_command_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("branchfit.gpus.system.COMMAND_TIMEOUT_S", 0.5)
    began = time.monotonic()
    with pytest.raises(OSError, match="timed out"):
        run_command([sys.executable, "-c", "import time; time.sleep(30)"])
    assert time.monotonic() - began < 15
