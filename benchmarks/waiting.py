"""How long `recommend` waits for the Hub, with 50 ms added to every request, on a repo of six branches.

    python benchmarks/waiting.py [ROUNDS]

Each round runs the command twice in processes of their own with an empty cache: against a loopback Hub that
answers at once, and against one that takes 50 ms for each request. The difference is the waiting.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from branchfit.demo.repo import demo_repo
from branchfit.demo.server import LoopbackHub

DELAY_S = 0.05


def run(endpoint: str, cache: Path, repo: str) -> float:
    """Seconds one `branchfit recommend` takes."""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "BRANCHFIT_CACHE": str(cache), "HF_HOME": str(cache / "hf")}
    command = [sys.executable, "-m", "branchfit", "recommend", repo, "--gpu", "24GiB@8.6", "--json"]
    started = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    waits, warm = [], []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        made = demo_repo(folder / "repo")
        with LoopbackHub() as quick, LoopbackHub(delay_s=DELAY_S) as slow:
            for hub in (quick, slow):
                hub.add_repo(made.repo, made.branches)
            for number in range(rounds):
                at_once = run(quick.endpoint, folder / f"quick{number}", made.repo)
                slow.requests.clear()
                delayed = run(slow.endpoint, folder / f"slow{number}", made.repo)
                requests = len(slow.requests)
                depth = slow.sequential_depth()
                waits.append(delayed - at_once)
                again = run(slow.endpoint, folder / f"slow{number}", made.repo)
                warm.append(again - at_once)
                print(
                    f"round {number}: {at_once:.2f} s at once, {delayed:.2f} s delayed, {waits[-1]:.2f} s waiting "
                    f"({requests} requests, {depth} after one another); cached: {warm[-1]:+.2f} s"
                )
    print(f"waiting: median {statistics.median(waits):.2f} s, worst {max(waits):.2f} s of {rounds}")


if __name__ == "__main__":
    main()
