"""Who downloads: each client as a command line and an environment, for the same branch into the same folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from .files import REPO, Dataset

OURS, HUB, HASHED = "branchfit pull", "huggingface_hub", "... then sha256 of each file"

TRANSFER_PINS = ("huggingface_hub==0.36.0", "hf_transfer==0.1.9")
"""huggingface_hub 1.0 dropped hf_transfer; 0.36 is the last line that takes it."""

SNAPSHOT = """
import sys
from huggingface_hub import snapshot_download
repo, branch, folder, then_hash = sys.argv[1:]
snapshot_download(repo, revision=branch, local_dir=folder)
if then_hash:
    import hashlib
    from pathlib import Path
    buffer = bytearray(1 << 20)
    for path in Path(folder).rglob("*"):
        if path.is_file():
            digest = hashlib.sha256()
            with path.open("rb", buffering=0) as stream:
                while count := stream.readinto(buffer):
                    digest.update(memoryview(buffer)[:count])
"""
"""snapshot_download as its own documentation calls it, everything else at its default."""


@dataclass(frozen=True)
class Scene:
    """What is fetched, and from where. `within` goes before every command: it moves it into a namespace."""

    data: Dataset
    endpoint: str
    within: tuple[str, ...] = ()

    def address(self, path: str) -> str:
        return f"{self.endpoint}/{REPO}/resolve/{self.data.branch}/{quote(path)}"


Command = Callable[[Scene, Path], list[str]]


@dataclass(frozen=True)
class Client:
    """A client's name, what it verifies, its version, and its command for a scene and an empty folder.

    `warm` is a command that reads what a first start reads from the disk, and fetches nothing.
    """

    name: str
    verifies: str
    version: str
    command: Command
    warm: Command
    variables: tuple[tuple[str, str], ...] = ()

    def environment(self, scene: Scene, folder: Path) -> dict[str, str]:
        """This process's, with every cache in `folder` and no proxy: the line is what is measured."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.lower().endswith("_proxy") and not name.startswith(("HF_", "BRANCHFIT_", "HUGGING"))
        }
        places = {"HF_HOME": str(folder / "hf"), "BRANCHFIT_CACHE": str(folder / "cache"), "HOME": str(folder)}
        return {**kept, **places, "HF_ENDPOINT": scene.endpoint, **dict(self.variables)}


def known(work: Path, hf_transfer: bool) -> tuple[list[Client], list[str]]:
    """The clients that are here, ours first, and why each of the others is not."""
    python = sys.executable
    clients = [Client(OURS, "sha256", _version(python, "branchfit"), _ours, lambda *at: [*_ours(*at), "--dry-run"])]
    version = _version(python, "huggingface_hub")
    clients.append(Client(HUB, "size", version, _snapshot(python), _imported(python)))
    hashed = _snapshot(python, then_hash=True)
    clients.append(Client(HASHED, "sha256", version, hashed, _imported(python)))
    missing = []
    for tool, command in (("curl", _curl), ("aria2c", _aria2c)):
        if shutil.which(tool):
            said = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout
            name = "curl, one stream" if tool == "curl" else "aria2c -x16 -s16"
            version = next(word for word in said.split() if word[0].isdigit())
            clients.append(Client(name, "no", version, command, _said(tool)))
        else:
            missing.append(f"{tool}: it is not installed")
    if hf_transfer:
        its_python, reason = _transfer_python(work)
        if its_python is None:
            missing.append(f"hf_transfer: {reason}")
        else:
            on = (("HF_HUB_ENABLE_HF_TRANSFER", "1"),)
            version = TRANSFER_PINS[1].partition("==")[2]
            clients.append(Client("hf_transfer", "size", version, _snapshot(its_python), _imported(its_python), on))
    return clients, missing


def _ours(scene: Scene, folder: Path) -> list[str]:
    return [sys.executable, "-m", "branchfit", "pull", f"{REPO}:{scene.data.branch}", "--to", str(folder / "models")]


def _snapshot(python: str, then_hash: bool = False) -> Command:
    def command(scene: Scene, folder: Path) -> list[str]:
        return [python, "-c", SNAPSHOT, REPO, scene.data.branch, str(folder / "models"), "1" if then_hash else ""]

    return command


def _imported(python: str) -> Command:
    return lambda scene, folder: [python, "-c", "from huggingface_hub import snapshot_download"]


def _said(tool: str) -> Command:
    return lambda scene, folder: [tool, "--version"]


def _curl(scene: Scene, folder: Path) -> list[str]:
    """One file after the other, over one connection where the server keeps it."""
    command = ["curl", "-sfL", "--create-dirs"]
    for path in scene.data.sizes_bytes:
        command += ["-o", str(folder / "models" / path), scene.address(path)]
    return command


def _aria2c(scene: Scene, folder: Path) -> list[str]:
    """Splits from 1 MiB on, and no space allocated first: its fastest, as far as options go."""
    listing = folder / "aria2c.txt"
    lines = [f"{scene.address(path)}\n  out={path}\n" for path in scene.data.sizes_bytes]
    listing.write_text("".join(lines), encoding="utf-8")
    fast = ["-x16", "-s16", "-k1M", "--file-allocation=none", "--auto-file-renaming=false", "--console-log-level=error"]
    return ["aria2c", *fast, "-d", str(folder / "models"), "-i", str(listing)]


def _version(python: str, package: str) -> str:
    code = f"import importlib.metadata; print(importlib.metadata.version({package!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{python} has no {package}: run this with the Python that BranchFit is installed in.")
    return done.stdout.strip()


def _transfer_python(work: Path) -> tuple[str | None, str]:
    """A Python with an old huggingface_hub and hf_transfer, made in the work folder; or None and why."""
    venv = work / "hf_transfer"
    python = venv / "bin/python"
    check = [str(python), "-c", "import hf_transfer, huggingface_hub.constants"]
    if python.exists() and subprocess.run(check, capture_output=True, check=False).returncode == 0:
        return str(python), ""
    make = [sys.executable, "-m", "venv", "--clear", str(venv)]
    install = [str(python), "-m", "pip", "install", "-q", *TRANSFER_PINS]
    for command in (make, install):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()
            return None, f"`{' '.join(command[1:3])}` failed: {said[-1] if said else done.returncode}"
    return str(python), ""
