"""Downloads under faults, many times: BranchFit, huggingface_hub and curl against the same misbehaving server.

    python benchmarks/download_faults.py [--rounds 20] [--others 5] [--only REGEX] [--seed N] [--out FILE]

The faults are those of the test suite (tests/fault_cases.py), each at places left to chance; the seed makes them
the same for every client and every run. Prints a line for each fault, and writes docs/download-faults.md after it.
The other clients are told to lose patience with silence after 2 s, where they can be told.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "manager"), str(ROOT / "tests")]
for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING")) or name.lower().endswith("_proxy")]:
    del os.environ[name]  # huggingface_hub reads its environment when it is imported

from branchfit.demo.server import LoopbackHub  # noqa: E402 (only after the paths and the environment are set)
from fault_cases import CASES  # noqa: E402
from fault_clients import PATIENCE_S, Curl, Ours, SnapshotDownload  # noqa: E402
from fault_machine import able  # noqa: E402
from fault_stage import SMALL, a_server, a_stage, large_files  # noqa: E402
from faults import Case, Client, Trial, attempt  # noqa: E402

MIB = 2**20

HEAD = """# Downloads under faults

Written by `python benchmarks/download_faults.py`: BranchFit's `pull`, huggingface_hub's `snapshot_download` into the
model's folder, and curl (`--fail --location --retry 3 --continue-at -`, file after file, each renamed when curl says
that it is done), each against the same misbehaving server, each fault at the same places left to chance (seed {seed}).
The repo is {small:.1f} MiB in six files; in the rows that say 80 MiB one file has that size and each connection a cap.
huggingface_hub {hub}, {curl}, Python {python}, {system}. The other clients were told to wait {patience} s for a silent
server, ours 0.3 to 0.5 s in the rows about silence: the waiting is not what is looked at. A run that did not end whole
was run again without the fault.

- **absent or identical**: runs, the second ones included, after which the model's folder was not there, or was the
  repo to the byte.
- **bytes twice**: the most that went over the line beyond one copy of the repo, both runs together, by the server's
  log; in brackets what is allowed: 16 MiB a connection for each interruption (1 MiB where a stream of the small repo
  breaks), and what the fault itself makes unavoidable.
- **exit**: what the first run said. *whole* means it said done, and was; anything else, that it named the error and the
  folder was absent.
- The others: *whole*; *failed*: it said so, and left a part of the files in the folder, where a loader finds them;
  **said done, was not**: the exit was 0 and the files are not the repo's; *hung*. After *then*: how the second run
  ended.

| fault | runs | absent or identical | bytes twice | exit | huggingface_hub | curl |
|---|---|---|---|---|---|---|
"""


def trials(case: Case, client: Client, server: LoopbackHub, rounds: int, seed: str) -> list[Trial]:
    """So many trials of one client under one fault."""
    found = []
    files = LARGE if case.large else SMALL
    for number in range(rounds):
        with tempfile.TemporaryDirectory(prefix="branchfit-faults-") as scratch:
            stage = a_stage(server, files, Path(scratch) / "trial", f"{seed}-{number}-{case.name}")
            found.append(attempt(case, client, stage))
    return found


def of_ours(case: Case, runs: Sequence[Trial]) -> list[str]:
    """Our four cells; what broke a promise goes to stderr, and into the exit's cell."""
    states = [state for trial in runs for state in trial.states]
    kept = sum(state in ("absent", "whole") for state in states)
    twice = max(trial.twice_bytes for trial in runs)
    allowed = max(trial.allowed_bytes for trial in runs)
    said = Counter("whole" if trial.ends[0].ok else trial.ends[0].said for trial in runs)
    broken = [promise for trial in runs for promise in trial.broken_promises()]
    for promise in broken:
        print(f"    {case.name}: {promise}", file=sys.stderr)
    exits = counted(said) + (f"; **{len(broken)} promises broken**" if broken else "")
    return [str(len(runs)), f"{kept} of {len(states)}", f"{mib(twice)} ({mib(allowed)})", exits]


def verdict(trial: Trial, number: int) -> str:
    """How one run of another client ended, in a word or two."""
    ended, whole = trial.ends[number], trial.states[number] == "whole"
    if ended.said == "HUNG":
        return "hung"
    if ended.ok is None:
        return "killed"
    if whole:
        return "whole" if ended.ok else "whole, said failed"
    return "**said done, was not**" if ended.ok else "failed"


def of_others(runs: Sequence[Trial]) -> str:
    """Another client's cell."""
    if not runs:
        return "–"
    cell = counted(Counter(verdict(trial, 0) for trial in runs))
    again = [trial for trial in runs if len(trial.ends) > 1]
    if again:
        cell += f"; then {counted(Counter(verdict(trial, 1) for trial in again))}"
    if leaked := sum(bool(trial.token_seen_at) for trial in runs):
        cell += f"; **token sent elsewhere: {leaked}**"
    return f"{cell}; {mib(max(trial.twice_bytes for trial in runs))} twice"


def counted(words: Counter[str]) -> str:
    """The most frequent one first."""
    return ", ".join(f"{count} {word}" for word, count in words.most_common())


def mib(size_bytes: int) -> str:
    """For the table; a little is not nothing."""
    return "0" if not size_bytes else f"{max(0.1, size_bytes / MIB):.1f} MiB"


def main() -> None:
    global LARGE
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=20, help="trials of BranchFit for each fault")
    parser.add_argument("--others", type=int, default=5, help="trials of each other client")
    parser.add_argument("--only", default="", help="regular expression: the faults to run")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "download-faults.md")
    given = parser.parse_args()
    curl = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout.split(" (")[0]
    text = HEAD.format(
        seed=given.seed,
        small=sum(map(len, SMALL.values())) / MIB,
        hub=metadata.version("huggingface_hub"),
        curl=curl,
        python=platform.python_version(),
        system=platform.system(),
        patience=PATIENCE_S,
    )
    LARGE = large_files()
    with a_server() as server:
        for case in CASES:
            if not re.search(given.only, case.name):
                continue
            if not able(case.needs):
                row = [case.name, "not run: needs root on Linux", "", "", "", "", ""]
            else:
                ours = of_ours(case, trials(case, Ours(), server, given.rounds, given.seed))
                others = 0 if case.own else given.others
                cells = [
                    of_others(trials(case, one, server, others, given.seed)) for one in (SnapshotDownload(), Curl())
                ]
                row = [case.name, *ours, *cells]
            text += f"| {' | '.join(row)} |\n"
            print(text.splitlines()[-1], flush=True)
            given.out.write_text(text, encoding="utf-8")


LARGE: dict[str, bytes] = {}

if __name__ == "__main__":
    main()
