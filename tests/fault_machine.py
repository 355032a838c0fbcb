"""The faults of the machine: its disk, its clock, and processes that are killed."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

from fault_clients import waited_for
from fault_stage import Stage
from fault_wire import CDN, FOR_EVER, LONG_S, WHILE_BYTES_PER_S, ready
from faults import Client, Ended, Plan


def able(needs: str) -> bool:
    """Whether this machine lets this process do what a case needs."""
    if needs == "read-only" and os.name == "posix" and os.geteuid() != 0:
        return True  # permissions do
    return not needs or can_mount()


@functools.cache
def can_mount() -> bool:
    """Whether this process may mount: root, on Linux, outside of most containers."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return False
    tried = subprocess.run(["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True)
    return tried.returncode == 0


def mount(stage: Stage, *arguments: str) -> None:
    """Until `calm`, something is mounted at the last argument."""
    subprocess.run(["mount", *arguments], check=True, capture_output=True)
    stage.undo.callback(subprocess.run, ["umount", "--lazy", arguments[-1]], check=True, capture_output=True)


def fill(folder: Path, leave_bytes: int = 0) -> None:
    """Takes all the space there is but so much."""
    free = os.statvfs(folder)
    with contextlib.suppress(OSError), (folder / "ballast").open("wb", buffering=0) as stream:
        for _ in range(max(0, free.f_bavail * free.f_frsize - leave_bytes) // 4096 + bool(not leave_bytes)):
            stream.write(bytes(4096))


def full_disk(stage: Stage, from_the_start: bool) -> Plan:
    ready(stage)
    disk = stage.base / "a small disk"
    disk.mkdir()
    # It stays for both runs; only the ballast goes.
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "none", str(disk)], check=True, capture_output=True)
    stage.after.callback(subprocess.run, ["umount", "--lazy", str(disk)], check=True, capture_output=True)
    stage.models_dir = disk / "models"
    stage.models_dir.mkdir()
    stage.undo.callback(lambda: (disk / "ballast").unlink(missing_ok=True))
    if from_the_start:
        fill(disk, leave_bytes=stage.offset())
        return Plan("refused", 0)
    stage.server.slow_down(WHILE_BYTES_PER_S, CDN)
    stage.server.when_sent(stage.offset(), partial(fill, disk))
    return Plan("either", 1)  # the last byte may have been written before the disk was full


def read_only(stage: Stage, from_the_start: bool) -> Plan:
    ready(stage)

    def close_it() -> None:
        folder = str(stage.models_dir)
        if os.geteuid() == 0:  # permissions stop no root
            mount(stage, "--bind", folder, folder)
            subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True, capture_output=True)
        else:
            stage.undo.callback(stage.models_dir.chmod, stage.models_dir.stat().st_mode)
            stage.models_dir.chmod(0o555)

    if from_the_start:
        close_it()
        return Plan("refused", 0)
    stage.server.slow_down(WHILE_BYTES_PER_S, CDN)
    stage.server.when_sent(stage.offset(), close_it)
    return Plan("either", 1)


def clock_jumps(stage: Stage) -> Plan:
    ready(stage)
    real, jump_s = time.time, [0.0]
    stage.set(time, "time", lambda: real() + jump_s[0])
    for _ in range(3):
        to_s = stage.rng.choice((-1, 1)) * stage.rng.choice((3600.0, 86400.0, 3e8))
        stage.server.when_sent(stage.offset(), partial(jump_s.__setitem__, 0, to_s))
    stage.server.cut_after(stage.offset(), stage.weights)
    stage.server.slow_down(WHILE_BYTES_PER_S, CDN)
    return Plan(breaks=1)


def broken_off(stage: Stage) -> Plan:
    ready(stage)
    stage.server.cut_after(stage.offset(), stage.weights)
    stage.server.fail_next(503, matching=stage.weights, times=FOR_EVER, skip=1)
    return Plan("refused", 1)


def from_the_future(stage: Stage) -> None:
    """All that is on disk was changed in 2100, it says."""
    for path in stage.base.rglob("*"):
        if not path.is_symlink():
            os.utime(path, (4102444800, 4102444800))


def to_be_killed(stage: Stage) -> Plan:
    ready(stage)
    if not stage.large:
        stage.server.slow_down(WHILE_BYTES_PER_S, CDN)
    stage.server.when_sent(stage.offset(), stage.kill)
    return Plan("either", 1, all_connections=True)


def in_a_process(stage: Stage, client: Client) -> Ended:
    return waited_for(stage, client.start(stage))


def any_moment(stage: Stage) -> Plan:
    ready(stage)
    stage.server.slow_down(WHILE_BYTES_PER_S, CDN)
    return Plan("either", 1, all_connections=True)


def killed_some_time(stage: Stage, client: Client) -> Ended:
    process = client.start(stage)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(stage.rng.uniform(0.1, 1.6))  # from before its first request to after its last
    stage.kill()
    return waited_for(stage, process)


def one_of_two_killed(stage: Stage, client: Client) -> Ended:
    """One begins; somewhere in the file a second comes; one of the two is killed, and the other has to end it."""
    begun, came, go_on = threading.Event(), threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        go_on.wait(LONG_S)

    stage.server.when_sent(stage.offset(), hold)
    first = client.start(stage)
    try:
        while not begun.wait(0.1) and first.poll() is None:
            pass
        stage.server.when_sent(1, came.set, "hub GET")
        second = client.start(stage)
        while not came.wait(0.1) and second.poll() is None:
            pass
        victim, survivor = stage.rng.choice(((first, second), (second, first)))
        stage.kill(victim)
    finally:
        go_on.set()
    waited_for(stage, victim)
    return waited_for(stage, survivor)
