"""One download measured: wall time, with what the disk still owes too, processor time, peak memory."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from .clients import Client, Scene
from .files import read_once

LIMIT_S = 1800.0
"""After this a client is stopped and counts as failed; the slowest known case takes a tenth of it."""

DROP_CACHES = Path("/proc/sys/vm/drop_caches")


@dataclass(frozen=True)
class Measured:
    """One run. `owed_s` is what bringing its bytes to the disk took afterwards. `problem`: why it does not count."""

    wall_s: float
    owed_s: float
    cpu_s: float
    peak_bytes: int
    problem: str | None = None

    @property
    def synced_s(self) -> float:
        """Wall time until the bytes were on the disk."""
        return self.wall_s + self.owed_s


@dataclass(frozen=True)
class Floor:
    """The three things a verified download cannot do without, each alone, in seconds for the same bytes; `cpu_s` is the
    processor time of all three together, without the server's."""

    read_s: float
    write_s: float
    hash_s: float
    cpu_s: float = 0.0

    @property
    def seconds(self) -> float:
        return max(self.read_s, self.write_s, self.hash_s)

    @property
    def which(self) -> str:
        names = {self.read_s: "loopback read", self.write_s: "disk write with fsync", self.hash_s: "sha256"}
        return names[self.seconds]


def measure(client: Client, scene: Scene, folder: Path) -> Measured:
    """Run a client once: its target gone, the disk at rest, the server's files and the client itself in memory."""
    _settle(scene, folder)
    # What comes from the disk at a first start (a Python, its packages) is no part of a download.
    warm, rehearsal = client.warm(scene, folder), client.environment(scene, folder / "warm")
    with contextlib.suppress(subprocess.TimeoutExpired):  # a client that hangs will do so again, and be seen
        subprocess.run(
            [*scene.within, *warm],
            env=rehearsal,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
    command = [*scene.within, *client.command(scene, folder)]
    environment = client.environment(scene, folder)
    log = folder / "log"
    with log.open("wb") as said:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
        )
        limit = threading.Timer(LIMIT_S, _kill, (process.pid,))
        limit.start()
        try:
            # wait4 counts the process together with the children it waited for.
            _, status, usage = os.wait4(process.pid, 0)
            wall_s = time.perf_counter() - started
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            limit.cancel()
            _kill(process.pid)
    started = time.perf_counter()
    _sync(folder)
    owed_s = time.perf_counter() - started
    problem = _problem(scene, folder / "models", process.returncode, log)
    shutil.rmtree(folder)
    # ru_maxrss is in KiB, on macOS in bytes.
    peak_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Measured(wall_s, owed_s, usage.ru_utime + usage.ru_stime, peak_bytes, problem)


def measure_floor(scene: Scene, folder: Path) -> Floor:
    """The raw read (the faster of curl and a loop over recv_into), the write, and the hash, for the LFS files."""
    addresses = [scene.address(path) for path in scene.data.sha256]
    total_bytes = sum(scene.data.sizes_bytes[path] for path in scene.data.sha256)
    _settle(scene, folder)
    read_s, cpu_s = _floor("read", *addresses)
    if shutil.which("curl"):
        sinks = [part for address in addresses for part in ("-o", os.devnull, address)]
        started = time.perf_counter()
        subprocess.run(["curl", "-sfL", *sinks], check=True)
        read_s = min(read_s, time.perf_counter() - started)
    write_s, write_cpu_s = _floor("write", str(folder / "written"), str(total_bytes))
    shutil.rmtree(folder)
    hash_s, hash_cpu_s = _floor("hash", str(total_bytes))
    return Floor(read_s, write_s, hash_s, cpu_s + write_cpu_s + hash_cpu_s)


def _floor(*arguments: str) -> tuple[float, float]:
    script = str(Path(__file__).with_name("floor.py"))
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"floor.py {arguments[0]} failed: {done.stderr.strip()[-400:]}")
    seconds, cpu_s = map(float, done.stdout.split())
    return seconds, cpu_s


def _settle(scene: Scene, folder: Path) -> None:
    """An empty folder, nothing left to write, and in the page cache what the server sends."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "warm").mkdir(parents=True)
    _sync(folder)
    if os.access(DROP_CACHES, os.W_OK):
        DROP_CACHES.write_text("1", encoding="ascii")
    read_once(scene.data)


def _sync(folder: Path) -> None:
    """Everything written to the file system of `folder` goes to its disk."""
    if sys.platform.startswith("linux"):
        subprocess.run(["sync", "-f", str(folder)], check=True)
    else:
        os.sync()


def _problem(scene: Scene, models: Path, status: int, log: Path) -> str | None:
    """Why a run does not count: its exit, or files that are not there at their size."""
    if status:
        said = log.read_text(encoding="utf-8", errors="replace").strip()[-300:]
        return f"exit {status}: {said}"
    found = {path.name: path.stat().st_size for path in models.rglob("*") if path.is_file()}
    short = [path for path, size in scene.data.sizes_bytes.items() if found.get(path.rpartition("/")[2]) != size]
    return f"it ended well, and {len(short)} files are missing or short: {short[0]}" if short else None


def _kill(group: int) -> None:
    """Whatever is left of a client's process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
