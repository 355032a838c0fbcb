"""What models really take on a GPU, load by load: each runtime, real shapes, from the driver and from the allocator.

    python benchmarks/memory.py --out benchmarks/memory/h100.jsonl [--minutes 9] [--runtime NAME ...] [--jobs 4]
    python benchmarks/memory.py --limits --out benchmarks/memory/h100.jsonl      # the same under a limit
    python benchmarks/memory.py --least --shape llama-2-13b --switches "" --out benchmarks/memory/h100.jsonl
    python benchmarks/memory.py --table                                          # docs/memory-measured.md
    python benchmarks/memory.py --cpu --out /tmp/cpu.jsonl                       # the harness alone, tiny

It needs a CUDA GPU, and of the extras `[gptq]` and `[exllama]` what is to be measured; kernels that are compiled are
compiled first, beside the cases that need none. Without CUDA the exit code is 77. Every case is a line of the --out
file as soon as it is done; the same command goes on where it was. Each load is a process of its own; several run at
once where the card has room, since what is recorded is each process's own: after CUDA's start, after the load and at
most in it, after and at most in a prompt of the full context, after 64 tokens more.

The checkpoints have real shapes and no content (`cases.write_sparse`), so that 70B takes no disk and no download.
--limits repeats what was measured with the allocator held to what BranchFit says is just enough, where it must run, and
to 97 % of what was allocated at most, where it must die. --least looks for the least that is enough, by halves: 24 MiB
between what died and what ran are left.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from gpu_kernels.cases import NO_COMPILE, VARIANTS, lacks, needs_nvcc
from gpu_kernels.records import append, environment
from memory.cases import RANKED, TINY, Case, Record, options_of, shortened, variant_of, write_sparse
from memory.table import predicted, unpredicted

from branchfit.memory import place, terms

TOO_LITTLE = 0.97
"""Of what was allocated at most: a limit in which nothing can run."""

NARROW_BYTES = 24 * 2**20
"""Between a limit that suffices and one that does not: less is not looked for."""

KEPT_FREE_BYTES = 3 * 2**30
"""Of the card, beside all that runs at once."""

HERE = Path(__file__).resolve()


@dataclass
class Running:
    case: Case
    limit_bytes: int | None
    process: subprocess.Popen[bytes]
    need_bytes: int
    ends: float


@dataclass
class Bench:
    """Runs what the file does not have yet."""

    out: Path
    work: Path
    device: str
    ends: float
    jobs: int
    limit_s: float
    builds: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    running: list[Running] = field(default_factory=list)

    def run(self, todo: list[tuple[Case, int | None]]) -> None:
        """Until all is done or the time is up; what is then under way is given up, and tried again another time."""
        while (todo or self.running) and time.monotonic() < self.ends:
            for one in list(self.running):
                code = one.process.poll()
                if code is None and time.monotonic() < one.ends:
                    continue
                if code is None:
                    one.process.kill()
                    one.process.wait()
                self.running.remove(one)
                print(f"{one.case.key} {list(one.case.contexts)}: {'too long' if code is None else code}", flush=True)
                if code:
                    failed = {**one.case.record(), "error": f"the process ended with {code}", "outcome": "failed"}
                    append(self.out, {"kind": "case", **failed, "context": one.case.contexts[0]})
            ready = next((item for item in todo if self._may_start(item[0])), None)
            if ready is not None and len(self.running) < self.jobs:
                todo.remove(ready)
                self._start(*ready)
            else:
                if not self.running and not self._building():
                    break  # the rest needs kernels that could not be compiled
                time.sleep(0.2)
        for one in self.running:
            one.process.kill()
            one.process.wait()

    def compile(self, names: list[str]) -> None:
        for name in names:
            command = [sys.executable, str(HERE), "--build", name]
            log = self.out.with_suffix(f".build-{name.replace(':', '_')}.log").open("wb")
            self.builds[name] = subprocess.Popen(command, stdout=log, stderr=log)

    def _building(self) -> bool:
        return any(build.poll() is None for build in self.builds.values())

    def _may_start(self, case: Case) -> bool:
        build = self.builds.get(case.runtime)
        if build is not None and build.poll() != 0:
            return False
        return not self.running or self._need(case) + sum(one.need_bytes for one in self.running) < self._card()

    def _need(self, case: Case) -> int:
        record = case.record()
        made = terms(variant_of(record), case.runtime, max(case.contexts), cache=case.cache, **options_of(record))
        assert made is not None
        return int(place(made, [2**40]).total_bytes * 1.1)

    def _card(self) -> int:
        if self.device == "cpu":
            return 2**40
        import torch

        return int(torch.cuda.get_device_properties(0).total_memory) - KEPT_FREE_BYTES

    def _start(self, case: Case, limit_bytes: int | None) -> None:
        folder = self.work / case.shape / case.branch
        write_sparse(folder, case.shape, case.branch)
        spec = {**case.record(), "folder": str(folder), "out": str(self.out), "device": self.device}
        spec["limit_bytes"] = limit_bytes
        environ = dict(os.environ)
        if "no_compile" in case.switches or self.device == "cpu":
            environ.update(NO_COMPILE)
        if "expandable" in case.switches:
            environ["PYTORCH_CUDA_ALLOC_CONF"] = environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
        if self.device == "cpu":
            environ["GPTQMODEL_CPU_WORKERS"] = "2"
        log = self.out.with_suffix(f".{case.key.replace(' ', '_').replace(':', '_')}.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, str(HERE), "--child", json.dumps(spec)], stdout=log, stderr=log, env=environ
        )
        self.running.append(Running(case, limit_bytes, process, self._need(case), time.monotonic() + self.limit_s))


def records(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def unmeasured(path: Path, asked: tuple[Case, ...]) -> list[tuple[Case, int | None]]:
    """The asked cases with those contexts that the file has not yet. With default segments each in a process of its
    own: what a prompt takes there depends on the ones before it."""
    done = {_key(one) for one in records(path) if one["kind"] == "case"}
    left = [shortened(case, tuple(n for n in case.contexts if (case.key, n) not in done)) for case in asked]
    apart = [
        [shortened(case, (n,)) for n in case.contexts] if "cuda_first" in case.switches else [case] for case in left
    ]
    return [(case, None) for each in apart for case in each if case.contexts]


def unlimited(path: Path) -> list[tuple[Case, int | None]]:
    """What was measured, under each limit that the file has not yet: first those that are said to be enough."""
    found = records(path)
    done = {(_key(one), one["allowed_bytes"] // 2**20) for one in found if one["kind"] == "limit"}
    enough, too_little = [], []
    for one in _measured(found):
        case = _alone(one)
        if "cuda_first" not in case.switches:
            enough.append((case, _said_bytes(one)))
            too_little.append((case, int(_peak(one, "allocated") * TOO_LITTLE)))
    return [(case, n) for case, n in [*enough, *too_little] if ((case.key, case.contexts[0]), n // 2**20) not in done]


def narrowed(path: Path) -> list[tuple[Case, int | None]]:
    """What was measured, each half way between the most that it died of and the least that it ran with.

    What no trial says is what was allocated, and what was reserved or is said to be enough, whichever is more. What
    failed otherwise under a limit is left alone.
    """
    found = records(path)
    tried: dict[tuple[tuple[str, int], str], list[int]] = {}
    for one in found:
        if one["kind"] == "limit":
            tried.setdefault((_key(one), one["outcome"]), []).append(one["allowed_bytes"])
    left = []
    for one in _measured(found):
        key = _key(one)
        low = max([_peak(one, "allocated"), *tried.get((key, "died"), [])])
        high = min(tried.get((key, "ran"), [max(_peak(one, "reserved"), _said_bytes(one))]))
        if high - low > NARROW_BYTES and (key, "failed") not in tried:
            left.append((_alone(one), (low + high) // 2))
    return left


def _measured(found: list[Record]) -> list[Record]:
    """The last measurement of each load that is predicted."""
    cases = {_key(one): one for one in found if one["kind"] == "case" and not one.get("error")}
    return [one for one in cases.values() if not unpredicted(one)]


def _alone(record: Record) -> Case:
    return Case.of({**record, "contexts": [record["context"]]})


def _peak(record: Record, of: str) -> int:
    return max(int(record[stage][f"peak_{of}"]) for stage in ("load", "prefill", "decode"))


def _said_bytes(record: Record) -> int:
    """What torch's allocator is said to need, error included, beside the CUDA context that was measured."""
    need = place(predicted(record, variant_of(record)), [2**40])
    return need.total_bytes + need.error_bytes - int(record["context_bytes"])


def _key(record: Record) -> tuple[str, int]:
    return Case.of({**record, "contexts": []}).key, record["context"]


def child(spec: Record) -> None:
    from memory.measure import measure

    case, out = Case.of(spec), Path(spec["out"])
    for record in measure(case, Path(spec["folder"]), spec["device"], spec["limit_bytes"]):
        append(out, record)


def asked_of(given: argparse.Namespace, asked: tuple[Case, ...]) -> list[tuple[Case, int | None]]:
    """What is to be run now."""
    if not (given.limits or given.least):
        return unmeasured(given.out, asked)
    keys = {case.key for case in asked}
    todo = narrowed(given.out) if given.least else unlimited(given.out)
    return [item for item in todo if item[0].key in keys]


def bench(given: argparse.Namespace) -> int:
    import torch

    if not given.cpu and not torch.cuda.is_available():
        print(f"torch {torch.__version__} sees no CUDA GPU here; --cpu tries the harness without one.", file=sys.stderr)
        return 77
    given.out.parent.mkdir(parents=True, exist_ok=True)
    device = "cpu" if given.cpu else "cuda:0"
    append(given.out, environment(device))
    asked = TINY if given.cpu else tuple(case for case in RANKED if not given.runtime or case.runtime in given.runtime)
    asked = tuple(case for case in asked if not given.shape or case.shape in given.shape)
    asked = tuple(case for case in asked if not given.switches or ",".join(case.switches) in given.switches)
    for name in sorted({case.runtime for case in asked}):
        if missing := lacks(VARIANTS[name]):
            print(f"{name}: skipped, {missing} is not installed", file=sys.stderr)
            asked = tuple(case for case in asked if case.runtime != name)
    todo = asked_of(given, asked)
    with tempfile.TemporaryDirectory() as scratch:
        runs = Bench(
            given.out,
            given.work or Path(scratch),
            device,
            time.monotonic() + 60 * given.minutes,
            given.jobs,
            given.timeout,
        )
        if not given.cpu:
            runs.compile(
                [name for name in dict.fromkeys(case.runtime for case, _ in todo) if needs_nvcc(VARIANTS[name])]
            )
        runs.run(todo)
        done: list[tuple[Case, int | None]] = []
        while given.least and (todo := asked_of(given, asked)) and todo != done:  # else nothing has come of it
            done = list(todo)
            runs.run(todo)
        for build in runs.builds.values():
            build.kill()
    return 0


def main() -> int:
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("memory.jsonl"), help="the file of results, appended to")
    parser.add_argument("--work", type=Path, help="where the sparse checkpoints are (default: a temporary folder)")
    parser.add_argument("--runtime", nargs="+", metavar="NAME", help="only these runtimes")
    parser.add_argument("--limits", action="store_true", help="what was measured once more, under limits")
    parser.add_argument("--least", action="store_true", help="the least limit of what was measured, by halving")
    parser.add_argument("--shape", nargs="+", metavar="NAME", help="only these models")
    parser.add_argument("--switches", nargs="+", metavar="NAME", help='only cases with these, as "late" or "" for none')
    parser.add_argument("--jobs", type=int, default=4, help="loads at the same time, as far as the card has room")
    parser.add_argument("--timeout", type=float, default=240, metavar="S", help="seconds one process may take")
    parser.add_argument("--minutes", type=float, default=1e6, help="stop after so many")
    parser.add_argument("--cpu", action="store_true", help="the harness on the CPU, on a tiny shape")
    parser.add_argument("--peers", action="store_true", help="what other estimators say of the measured cases")
    parser.add_argument("--table", nargs="*", type=Path, metavar="FILE", help="print the page, run nothing")
    parser.add_argument("--images", type=Path, default=HERE.parent.parent / "docs" / "images", help="of that page")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--build", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(json.loads(given.child))
        return 0
    if given.build:
        from gpu_kernels.fast import build

        print(build(VARIANTS[given.build]))
        return 0
    if given.table is not None:
        from memory.page import page

        files = given.table or sorted((HERE.parent / "memory").glob("*.jsonl"))
        print(page(files, given.images), end="")
        return 0
    if given.peers:
        from memory.peers import run

        run(given.out)
        return 0
    return bench(given)


if __name__ == "__main__":
    sys.exit(main())
