"""What each of two cards takes of a model that is split over them, beside what branchfit.memory says of each.

    python benchmarks/memory_split.py --out FILE [--minutes 7] [--only 1 5 ...] [--jobs 2]
    python benchmarks/memory_split.py --limits --out FILE    # the same, each card held to need and error
    python benchmarks/memory_split.py --plan                 # what would be told to whom; needs no GPU

It needs two CUDA GPUs (without them the exit code is 77) and the extras `[gptq]` and `[exllama]`. What is split, and
what the loaders are told, is in memory/split.py. Recorded is where the layers then lie and, card by card, what the
driver and torch's allocator count. --limits holds the allocator on each card to what was said, error included, where
it must run; then to 97 % of what was allocated there at most, where it must die. Every case is a process of its own,
with a log beside FILE, and a line of FILE as soon as it is done; the same command goes on where it was. What was
measured is in memory/h200-x2.jsonl, and on the page that `python benchmarks/memory.py --table` prints.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from gpu_kernels.records import append, environment
from memory.cases import V2, Record, write_sparse
from memory.split import CARDS, SPLITS, measured
from memory.table import key_of
from memory.two_cards import SPLIT_FIELDS, said

from branchfit.loaders import this_host
from branchfit.units import MIB

HERE = Path(__file__).resolve()

TOO_LITTLE = 0.97
"""Of what was allocated at most: a limit in which nothing can run."""


@dataclass
class Bench:
    """Runs splits by their index, each with what else its record is to say: nothing, or its limit."""

    out: Path
    work: Path
    ends: float
    timeout_s: float
    build: subprocess.Popen[bytes] | None

    def run(self, index: int, limit: Record) -> None:
        """One process, its record and its line; what ended otherwise than by its limit has failed."""
        split, stem = SPLITS[index], "-".join([str(index + 1), *limit.get("limit", "").split()])
        if split.case.runtime == V2 and self.build is not None and self.build.wait():
            print(f"{split.name}: not tried, its kernels were not compiled", flush=True)
            return
        left_s = min(self.timeout_s, self.ends - time.monotonic())
        if left_s <= 0:
            print(f"{split.name}: not tried, the time is up", flush=True)
            return
        folder, result = self.work / split.case.shape / split.case.branch, self.work / f"{stem}.json"
        spec = {"index": index, "folder": str(folder), "result": str(result)}
        spec["allowed_bytes"] = limit.get("allowed_bytes", ())
        with self.out.with_suffix(f".{stem}.log").open("wb") as log:
            command = [sys.executable, str(HERE), "--child", json.dumps(spec)]
            try:
                code = subprocess.run(command, stdout=log, stderr=log, timeout=left_s).returncode
                ended = f"the process ended with {code}"
            except subprocess.TimeoutExpired:
                ended = f"the process took longer than {left_s:.0f} s"
        if result.is_file():
            record = json.loads(result.read_text(encoding="utf-8"))
        else:
            record = {**split.record(this_host()), "outcome": "failed", "error": ended}
        append(self.out, {**record, **limit})
        print(line({**record, **limit}), flush=True)


def child(spec: Record) -> None:
    made = measured(SPLITS[spec["index"]], Path(spec["folder"]), this_host(), spec["allowed_bytes"])
    Path(spec["result"]).write_text(json.dumps(made), encoding="utf-8")


def line(record: Record) -> str:
    """A load on one line, card by card, in MiB."""
    names = ("how", "runtime", "shape", "branch", "cache", "context", "limit")
    name = " ".join(str(record[field]) for field in names if field in record)
    parts = [f"{name}: {record.get('outcome', 'planned')}"]
    if record.get("error"):
        parts.append(f"in {record.get('where')}: {record['error'][:120]!r}")
    there = record.get("layers_placed", record["layers_said"])
    for card, (need, error) in enumerate(said(record, there)):
        text = f"GPU {card}: {there[card]:g} layers, {record['layers_said'][card]} said"
        text += f"; {need / MIB:.0f} MiB said, error {error / MIB:.0f}"
        if record.get("outcome") == "ran":
            got = record["cards"][card]["measured_bytes"]
            text += f"; {got / MIB:.0f} measured, {(need - got) / MIB:+.0f}"
        if "allowed_bytes" in record:
            text += f"; torch held to {record['allowed_bytes'][card] / MIB:.0f}"
        parts.append(text)
    return " | ".join(parts)


def wanted(out: Path, only: list[int] | None, limits: bool) -> list[tuple[int, Record]]:
    """What the file has not yet, what should run first: splits by index, each with its limit."""
    lines = out.read_text(encoding="utf-8").splitlines() if out.is_file() else []
    records = [one for one in map(json.loads, lines) if one.get("outcome") in ("ran", "died")]
    done = {(key_of(one, SPLIT_FIELDS), one.get("limit")) for one in records}
    ran = {key_of(one, SPLIT_FIELDS): one for one in records if one["kind"] == "split" and one["outcome"] == "ran"}
    todo: list[tuple[int, Record]] = []
    for limit in ("enough", "too little") if limits else (None,):
        for index, split in enumerate(SPLITS):
            key = key_of({**split.case.record(), "how": split.how, "context": split.context}, SPLIT_FIELDS)
            if (only and index + 1 not in only) or (key, limit) in done:
                continue
            if limit is None:
                todo.append((index, {}))
            elif key in ran:
                allowed = enough_bytes(ran[key]) if limit == "enough" else too_little_bytes(ran[key])
                todo.append((index, {"kind": "split_limit", "limit": limit, "allowed_bytes": allowed}))
    return todo


def enough_bytes(record: Record) -> list[int]:
    """What torch's allocator is to run with on each card: what is said of it, error included, less the CUDA context."""
    cards = zip(said(record, record["layers_placed"]), record["cards"], strict=True)
    return [need + error - one["context_bytes"] for (need, error), one in cards]


def too_little_bytes(record: Record) -> list[int]:
    stages = ("load", "prefill", "decode")
    return [int(max(one[stage]["peak_allocated"] for stage in stages) * TOO_LITTLE) for one in record["cards"]]


def bench(given: argparse.Namespace) -> int:
    import torch

    if torch.cuda.device_count() < len(CARDS):
        seen = f"torch {torch.__version__} sees {torch.cuda.device_count()} CUDA GPUs here"
        print(f"{seen}; it takes two.", file=sys.stderr)
        return 77
    ends = time.monotonic() + 60 * given.minutes
    given.out.parent.mkdir(parents=True, exist_ok=True)
    append(given.out, {**environment("cuda:0"), "gpus": [torch.cuda.get_device_name(card) for card in CARDS]})
    todo = wanted(given.out, given.only, given.limits)
    build = None
    if any(SPLITS[index].case.runtime == V2 for index, _ in todo):
        command = [sys.executable, str(HERE.with_name("memory.py")), "--build", V2]
        with given.out.with_suffix(".build.log").open("wb") as log:
            build = subprocess.Popen(command, stdout=log, stderr=log)
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(given.jobs) as pool:
        runs = Bench(given.out, Path(scratch), ends, given.timeout, build)
        for index, _ in todo:
            case = SPLITS[index].case
            write_sparse(runs.work / case.shape / case.branch, case.shape, case.branch)
        for job in [pool.submit(runs.run, index, limit) for index, limit in todo]:
            job.result()
    return 0


def main() -> int:
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("split.jsonl"), help="the file of results, appended to")
    parser.add_argument("--minutes", type=float, default=1e6, help="stop after so many")
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="only these cases, counted from 1")
    parser.add_argument("--limits", action="store_true", help="what was measured once more, under limits")
    parser.add_argument("--jobs", type=int, default=2, help="loads at the same time")
    parser.add_argument("--timeout", type=float, default=150, metavar="S", help="seconds one process may take")
    parser.add_argument("--plan", action="store_true", help="say what would be told, and run nothing")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child)
        return 0
    if given.plan:
        for split in SPLITS:
            record = split.record(this_host())
            print(line(record), "" if split.how == "device_map" else f"| told {record['told']}")
        return 0
    return bench(given)


if __name__ == "__main__":
    sys.exit(main())
