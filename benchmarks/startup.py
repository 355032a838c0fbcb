"""CPU time of a recommendation from a card on disk, beside `hf version` of huggingface_hub in the same run.

    python benchmarks/startup.py [ROUNDS]

User plus system time of whole processes, in turn, so that a noisy machine is noisy for both.
"""

from __future__ import annotations

import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from branchfit.demo.repo import BRANCHES, SHAPE, card_text
from branchfit.demo.synth.configs import model_config


def cpu_s(command: list[str]) -> float:
    """User plus system seconds of one process and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    peer = shutil.which("hf", path=str(Path(sys.executable).parent))
    if peer is None:
        sys.exit("this Python has no `hf` command: it needs huggingface_hub 0.34 or newer")
    with tempfile.TemporaryDirectory() as scratch:
        card, config = Path(scratch, "README.md"), Path(scratch, "config.json")
        card.write_text(card_text(), encoding="utf-8")
        config.write_text(json.dumps(model_config(SHAPE, BRANCHES["main"])), encoding="utf-8")
        files = ["--card", str(card), "--config", str(config)]
        ours = [sys.executable, "-m", "branchfit", "recommend", *files, "--gpu", "24GiB@8.6x2", "--json"]
        theirs = [peer, "version"]
        cpu_s(ours), cpu_s(theirs)
        pairs = [(cpu_s(ours), cpu_s(theirs)) for _ in range(rounds)]
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"branchfit recommend --card: median {statistics.median(a for a, _ in pairs):.3f} CPU s")
    print(f"hf version:                 median {statistics.median(b for _, b in pairs):.3f} CPU s")
    print(f"ratio, pair by pair:        median {ratio:.2f}, worst {max(a / b for a, b in pairs):.2f} of {rounds}")


if __name__ == "__main__":
    main()
