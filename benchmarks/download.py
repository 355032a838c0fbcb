"""How fast, with how much processor time and memory, a branch is downloaded: BranchFit beside the others.

    python benchmarks/download.py [--rounds N] [--lines open,capped,small,shaped] [--out docs/downloads-speed.md]
    python benchmarks/download.py --quick

On each line every client fetches the same branch in turn, several rounds, so that a noisy machine is noisy for all;
what counts are the ratios within a round. Before each run the target is deleted, the disk brought to rest and, as
root, the page cache emptied; then the server's files are read once. The lines:

    open    two large LFS files and ten small ones over loopback
    capped  the same, the server holding each connection to 50 MB/s
    small   10,000 small files
    shaped  100 Mbit/s, 50 ms, 1 % loss between two network namespaces (Linux and root), for two congestion controls

LFS bytes come from nginx where it is installed. The work folder takes 2.5 times --gb of disk. curl and aria2c are left
out where they are not installed; hf_transfer is installed into the work folder, unless --no-hf-transfer. A target that
was missed is printed as missed, and fails nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from downloading import shaped
from downloading.clients import HASHED, HUB, OURS, Client, Scene, known
from downloading.files import Dataset, many_small, two_large
from downloading.measuring import measure, measure_floor
from downloading.table import Results, section, targets

CAP_BYTES_PER_S = 50_000_000
SMALL_FILES = 10_000
"""As many as a pull takes."""

SHAPED_MB = 120
"""At 100 Mbit/s 10 s, and some minutes for a client with one connection that takes every loss for a full line."""

CONGESTION_CONTROLS = {"cubic": ("Linux's default", 1), "bbr": ("that of some CDNs", 4)}
"""What each is, and how many times SHAPED_MB is fetched with it: bbr does not take a loss for a full line."""

HERE = Path(__file__).resolve().parent / "downloading"


class Bench:
    """What all lines share: the clients, the work folder, and the rounds."""

    def __init__(self, work: Path, clients: Sequence[Client], rounds: int) -> None:
        self.work = work
        self.clients = clients
        self.rounds = rounds

    def run(self, results: Results, scene: Scene, floor_scene: Scene | None = None) -> Results:
        """Every client in turn, each round beginning with another."""
        for number in range(self.rounds):
            if floor_scene is not None:
                floor = measure_floor(floor_scene, self.work / "run")
                results.floors.append(floor)
                said = f"read {floor.read_s:.2f} s, write {floor.write_s:.2f} s, sha256 {floor.hash_s:.2f} s"
                print(f"{results.key} {number}: floor: {said}", file=sys.stderr)
            results.runs.append({})
            turn = number % len(results.clients)
            for client in [*results.clients[turn:], *results.clients[:turn]]:
                run = measure(client, scene, self.work / "run")
                results.runs[-1][client.name] = run
                said = f"{run.wall_s:.2f} s, {run.owed_s:.2f} s more to the disk, {run.cpu_s:.2f} CPU s"
                said += f", {run.peak_bytes / 1e6:.0f} MB" + (f", FAILED: {run.problem}" if run.problem else "")
                print(f"{results.key} {number}: {client.name}: {said}", file=sys.stderr)
        return results

    def results(self, key: str, title: str, data: Dataset, *without: str) -> Results:
        clients = [client for client in self.clients if client.name not in without]
        return Results(key, title, data.total_bytes, len(data.sizes_bytes), clients)

    @contextlib.contextmanager
    def served(self, data: Dataset, *options: str, within: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
        """The server in a process of its own: its endpoint, and what sends the LFS bytes."""
        place = self.work / "server"
        place.mkdir(exist_ok=True)
        command = [*within, sys.executable, str(HERE / "serving.py"), str(data.folder.parent), str(place), *options]
        with _helper(command) as told:
            yield told["endpoint"], told["cdn"]

    def open_and_capped(self, data: Dataset, keys: Sequence[str]) -> Iterator[Results]:
        size = f"{data.total_bytes / 1e9:.3g} GB"
        with self.served(data) as (endpoint, cdn):
            floor_scene = Scene(data, endpoint)
            if "open" in keys:
                results = self.results("open", f"Open line: {size} in two files, and ten small ones", data)
                results.notes.append(f"LFS bytes from {cdn}.")
                yield self.run(results, floor_scene, floor_scene)
            if "capped" in keys:
                results = self.results("capped", "Capped line: the same, 50 MB/s a connection", data, HASHED)
                results.notes.append(f"LFS bytes from {cdn}.")
                with self.served(data, "--cap", str(CAP_BYTES_PER_S)) as (capped, _):
                    yield self.run(results, Scene(data, capped), floor_scene)

    def small(self, data: Dataset) -> Results:
        title = f"{len(data.sizes_bytes):,} small files: {data.total_bytes / 1e6:.0f} MB"
        others = [client.name for client in self.clients if client.name not in (OURS, HUB)]
        results = self.results("small", title, data, *others)
        results.notes.append(
            "All from the LoopbackHub, a Python server: it is part of what is measured, for both alike."
        )
        with self.served(data) as (endpoint, _):
            return self.run(results, Scene(data, endpoint))

    def shaped(self, data: Dataset, congestion_control: str) -> Results:
        title = f"Shaped line, {congestion_control}: 100 Mbit/s, 50 ms, 1 % loss; {data.total_bytes / 1e6:.0f} MB"
        results = self.results(f"shaped-{congestion_control}", title, data, HASHED)
        with _helper([sys.executable, str(HERE / "shaped.py"), congestion_control]) as line:
            server = ("nsenter", f"--net={line['server']}")
            with self.served(data, "--address", line["server_address"], within=server) as (endpoint, cdn):
                why, _ = CONGESTION_CONTROLS[congestion_control]
                results.notes.append(
                    f"Two network namespaces and a relay in user space between them (no netem): packets wait for the "
                    f"line, at most {shaped.QUEUE_S * 1000:.0f} ms, then travel 25 ms; 1 % is dropped each way. The "
                    f"server's congestion control is {congestion_control}, {why}. LFS bytes from {cdn}."
                )
                return self.run(results, Scene(data, endpoint, ("nsenter", f"--net={line['client']}")))


class NotStarted(Exception):
    """A helper ended before it said anything; why is on stderr."""


@contextlib.contextmanager
def _helper(command: list[str]) -> Iterator[dict[str, str]]:
    """A process of ours that prints one line of JSON, and ends when its stdin closes, however this one ends."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        told = process.stdout.readline()
        if not told:
            raise NotStarted(f"it did not start: {' '.join(command)}")
        yield json.loads(told)
    finally:
        process.stdin.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()


def page(given: argparse.Namespace, all_results: Sequence[Results], missing: Sequence[str]) -> str:
    """The whole page."""
    caches = "emptied" if os.geteuid() == 0 else "left as they were (not root)"
    return "\n".join(
        [
            "# How fast a branch is downloaded",
            "",
            f"Printed by `benchmarks/download.py` on {os.cpu_count()} cores ({platform.system()} "
            f"{platform.release().split('-')[0]}, {platform.machine()}, Python {platform.python_version()}), "
            f"{time.strftime('%Y-%m-%d')}; interleaved rounds, {given.rounds} on each line"
            + (f", {given.shaped_rounds} on shaped ones" if given.shaped_rounds != given.rounds else "")
            + ".",
            "*wall* is the time to huggingface_hub's `snapshot_download` (1.00) in the same round, median and "
            "range over rounds; *with sync* counts until the bytes are on the disk, for every client: BranchFit and "
            "aria2c see to that themselves, so that their two times hardly differ. *verified* is what was checked "
            "when the client said that it was done. Processor time is user and system, children included; the peak "
            "is the highest of all rounds, and none can read lower than what started the client (some 20 MB). Before "
            "each run the target was "
            f"deleted, the disk brought to rest, caches {caches}, and the server's files read once.",
            "",
            targets(all_results),
            *map(section, all_results),
            *(["Left out:", "", *(f"- {reason}" for reason in missing), ""] if missing else []),
        ]
    )


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=4.0, help="size of the two large files together (default 4)")
    parser.add_argument("--small", type=int, default=SMALL_FILES, help=f"count of small files (default {SMALL_FILES})")
    parser.add_argument(
        "--shaped-mb",
        type=float,
        default=SHAPED_MB,
        help=f"on the shaped line with cubic, a quarter of bbr's (default {SHAPED_MB})",
    )
    parser.add_argument("--rounds", type=int, default=5, help="(default 5)")
    parser.add_argument("--shaped-rounds", type=int, help="(default: as --rounds, at most 3)")
    parser.add_argument("--lines", default="open,capped,small,shaped", help="which, of open,capped,small,shaped")
    parser.add_argument("--work", type=Path, help="keep files and the hf_transfer environment here for the next run")
    parser.add_argument("--out", type=Path, help="write the page here too")
    parser.add_argument("--no-hf-transfer", action="store_true", help="install nothing")
    parser.add_argument("--only", help="clients whose names begin so (branchfit,aria2c): many rounds of a slow line")
    parser.add_argument("--quick", action="store_true", help="a smoke test: 0.2 GB, 300 small files, one round")
    if "--quick" in sys.argv:
        parser.set_defaults(gb=0.2, small=300, shaped_mb=8.0, rounds=1)
    given = parser.parse_args()
    given.shaped_rounds = given.shaped_rounds or min(given.rounds, 3)
    return given


def lines(given: argparse.Namespace, work: Path, missing: list[str], clients: Sequence[Client]) -> Iterator[Results]:
    """The asked lines, one after the other; why one could not be had goes into `missing`."""
    keys = given.lines.split(",")
    bench = Bench(work, clients, given.rounds)
    if "open" in keys or "capped" in keys:
        yield from bench.open_and_capped(two_large(work, f"large-{given.gb:g}", int(given.gb * 1e9)), keys)
    if "small" in keys:
        yield bench.small(many_small(work, f"small-{given.small}", given.small))
    if "shaped" in keys:
        if reason := shaped.lacks():
            missing.append(f"shaped line: {reason}")
            return
        bench.rounds = given.shaped_rounds
        here = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text(encoding="ascii").split()
        for name, (_, times) in CONGESTION_CONTROLS.items():
            megabytes = given.shaped_mb * times
            data = two_large(work, f"large-{megabytes:g}-mb", int(megabytes * 1e6))
            if name not in here:
                missing.append(f"shaped line, {name}: this kernel does not have it")
                continue
            try:
                yield bench.shaped(data, name)
            except NotStarted as error:  # a container may forbid namespaces to its root
                missing.append(f"shaped line, {name}: {error}")


def main() -> None:
    given = options()
    if not hasattr(os, "wait4"):
        sys.exit("it needs os.wait4 to measure other processes, which this system does not have")
    # A termination unwinds like any other end: helpers stop, folders go.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with contextlib.ExitStack() as stack:
        work = given.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="branchfit-bench-")))
        work.mkdir(parents=True, exist_ok=True)
        work = work.resolve()
        needed_bytes, free_bytes = int(given.gb * 2.5e9), shutil.disk_usage(work).free
        if free_bytes < needed_bytes:
            sys.exit(
                f"{needed_bytes / 1e9:.1f} GB are needed in {work}, {free_bytes / 1e9:.1f} GB are free: --gb, --work"
            )
        for name in ("run", "server"):
            stack.callback(shutil.rmtree, work / name, ignore_errors=True)
        clients, missing = known(work, not (given.no_hf_transfer or given.only))
        if given.only:
            clients = [client for client in clients if client.name.startswith(tuple(given.only.split(",")))]
        all_results = []
        for results in lines(given, work, missing, clients):
            all_results.append(results)
            print(section(results), flush=True)
            if given.out:  # after each line: an hour of rounds must not be lost to the last one
                given.out.write_text(page(given, all_results, missing), encoding="utf-8")
    print(targets(all_results), *(f"Left out: {reason}" for reason in missing), sep="\n")
    if given.out:
        given.out.write_text(page(given, all_results, missing), encoding="utf-8")


if __name__ == "__main__":
    main()
