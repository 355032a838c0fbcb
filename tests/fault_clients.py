"""Who is put to the test: BranchFit's pull, huggingface_hub's snapshot_download, and curl in a shell's loop."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from branchfit.download import pull
from branchfit.errors import BranchFitError
from downloads import BRANCH, REPO
from fault_stage import TOKEN, Stage
from faults import Ended

ROOT = Path(__file__).resolve().parent.parent

RETRY_WAITS_S = (0.0, 0.0, 0.0, 0.0)
"""As many tries as a pull has by default, without the waits between them."""

PATIENCE_S = 2
"""What the other clients are told of silence, where they can be told: their own 10 s and more only cost time."""

HANGS_AFTER_S = 90
"""A run that takes longer hangs: of these few MiB the slowest client's own retries end within half of it."""

OURS_HANGS_AFTER_S = 30
"""With the waits made short, no trial of ours takes a tenth of that."""


class Ours:
    """`pull` in this process; `start` is the command."""

    name = "BranchFit"

    def run(self, stage: Stage) -> Ended:
        hung = threading.Event()

        def give_up() -> None:
            hung.set()
            stage.server.stop()  # whatever it waits for ends now
            stage.server.start()

        watchdog = threading.Timer(OURS_HANGS_AFTER_S, give_up)
        watchdog.start()
        try:
            ended = self._pull(stage)
        finally:
            watchdog.cancel()
            watchdog.join()
        said = f"it was still running after {OURS_HANGS_AFTER_S} s"
        return Ended(ended.ok, "HUNG", said, by_surprise=True) if hung.is_set() else ended

    def _pull(self, stage: Stage) -> Ended:
        try:
            pull(stage.hub, REPO, BRANCH, stage.models_dir, retry_waits_s=RETRY_WAITS_S, on_event=stage.events.append)
        except BranchFitError as error:
            return Ended(False, type(error).__name__, str(error))
        except Exception as error:  # noqa: BLE001 - what a pull never promised to raise is a finding, not a crash
            return Ended(False, type(error).__name__, str(error), by_surprise=True)
        return Ended(True, "done")

    def start(self, stage: Stage) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "branchfit", "pull", f"{REPO}:{BRANCH}", "--to", str(stage.models_dir)]
        cache = {"BRANCHFIT_CACHE": str(stage.hub.cache_dir)}
        return started(stage, [*command, "--json-lines"], **cache)


_SNAPSHOT = """
import sys
from huggingface_hub import snapshot_download
repo, branch, folder = sys.argv[1:]
snapshot_download(repo, revision=branch, local_dir=folder)
"""


class SnapshotDownload:
    """huggingface_hub into the folder itself, by plain HTTP."""

    name = "huggingface_hub"

    def run(self, stage: Stage) -> Ended:
        return waited_for(stage, self.start(stage))

    def start(self, stage: Stage) -> subprocess.Popen[str]:
        quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1"}
        patience = {"HF_HUB_DOWNLOAD_TIMEOUT": str(PATIENCE_S), "HF_HUB_ETAG_TIMEOUT": str(PATIENCE_S)}
        command = [sys.executable, "-c", _SNAPSHOT, REPO, BRANCH, str(stage.target)]
        return started(stage, command, **quiet, **patience)


class Curl:
    """Plain curl, one file after another, resuming and retrying as its manual has it; the first that fails ends it.

    Each goes to NAME.part and gets its name when curl says that it is done: resuming a whole file is an error to curl.
    """

    name = "curl"

    def run(self, stage: Stage) -> Ended:
        return waited_for(stage, self.start(stage))

    def start(self, stage: Stage) -> subprocess.Popen[str]:
        asked = ["--fail", "--silent", "--show-error", "--location", "--create-dirs", "--retry", "3"]
        asked += ["--continue-at", "-", "--header", f"Authorization: Bearer {TOKEN}"]
        asked += ["--connect-timeout", str(PATIENCE_S), "--speed-time", str(PATIENCE_S), "--speed-limit", "1000"]
        lines = []
        for path in sorted(stage.files):
            url = f"{stage.server.endpoint}/{REPO}/resolve/{quote(BRANCH, safe='')}/{quote(path)}"
            place = shlex.quote(str(stage.target / path))
            lines.append(f"{{ [ -e {place} ] || {shlex.join(['curl', *asked, url])} --output {place}.part; }}")
            lines.append(f"{{ [ -e {place} ] || mv {place}.part {place}; }}")
        return started(stage, ["sh", "-c", " && ".join(lines)])


def started(stage: Stage, command: Sequence[str], **environment: str) -> subprocess.Popen[str]:
    """A process of its own group with our sources, the loopback Hub and its token; noted in `stage.processes`."""
    own = {"HF_ENDPOINT": stage.server.endpoint, "HF_TOKEN": TOKEN, "HF_HOME": str(stage.base / "hf")}
    own |= {"HUGGING_FACE_HUB_TOKEN": TOKEN, "HF_HUB_DISABLE_TELEMETRY": "1"}
    sources = os.pathsep.join(filter(None, (str(ROOT / "manager"), os.environ.get("PYTHONPATH", ""))))
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **own, "PYTHONPATH": sources, **environment},
        start_new_session=True,
    )
    stage.processes.append(process)
    return process


def waited_for(stage: Stage, process: subprocess.Popen[str]) -> Ended:
    """How a process ended: None for one that a signal ended. One that hangs is killed, and has said nothing true."""
    try:
        _, said = process.communicate(timeout=HANGS_AFTER_S)
    except subprocess.TimeoutExpired:
        stage.kill()
        process.communicate()
        return Ended(False, "HUNG", f"it was still running after {HANGS_AFTER_S} s", by_surprise=True)
    if process.returncode < 0 or process.returncode == 128 + 9:  # a shell whose child was killed says the latter
        return Ended(None, "killed")
    last = said.strip().splitlines()[-1:] or [""]
    return Ended(process.returncode == 0, f"exit {process.returncode}", last[0])
