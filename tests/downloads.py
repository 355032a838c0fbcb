"""What the download tests share: a loopback Hub with one small repo, a client, and a models folder."""

from __future__ import annotations

import contextlib
import hashlib
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from branchfit.demo.server import LoopbackHub, Request
from branchfit.download import Event, Installed, pull
from branchfit.download.places import STAGING_NAME
from branchfit.download.staging import Staging
from branchfit.hub import Hub

REPO = "TheBloke/Tiny-GPTQ"
BRANCH = "gptq-4bit-32g-actorder_True"
FOLDER = "TheBloke_Tiny-GPTQ_gptq-4bit-32g-actorder_True"
MIB = 2**20

Kind = TypeVar("Kind", bound=Event)


def noise(size_bytes: int, seed: int = 1) -> bytes:
    """Bytes that no two places of the file share, so that a shifted or repeated piece shows."""
    return random.Random(seed).randbytes(size_bytes)


FILES: dict[str, bytes] = {
    "README.md": b"# Tiny\n",
    "config.json": b'{"model_type": "llama"}',
    "empty.txt": b"",
    "sub/notes.txt": b"in a folder\n",
    "model.safetensors": noise(3 * MIB + 17),
}


@dataclass
class World:
    """One server, one client, one models folder."""

    server: LoopbackHub
    hub: Hub
    models_dir: Path
    events: list[Event] = field(default_factory=list)

    @property
    def target(self) -> Path:
        return self.models_dir / FOLDER

    @property
    def staging(self) -> Path:
        return Staging(self.models_dir.parent / STAGING_NAME, self.target).folder

    def serve(self, files: Mapping[str, bytes | Path], branch: str = BRANCH) -> str:
        """Move `branch` to a commit of these files; return the commit."""
        return self.server.add_repo(REPO, {branch: files})[branch]

    def pull(self, branch: str = BRANCH, **options: Any) -> Installed:
        options.setdefault("on_event", self.events.append)
        options.setdefault("retry_waits_s", (0.0, 0.0))
        return pull(self.hub, REPO, branch, self.models_dir, **options)

    def of(self, kind: type[Kind]) -> list[Kind]:
        return [event for event in self.events if isinstance(event, kind)]

    def fetches(self) -> list[Request]:
        """The requests for files' bytes, from both origins."""
        return [one for one in self.server.requests if one.origin == "cdn" or "/resolve" in one.path]

    def fetched_bytes(self, origin: str = "") -> int:
        """Bytes of files that went out, from one origin or both; the CDN has the weights alone."""
        fetches = [one for one in self.fetches() if one.status in (200, 206) and one.origin.startswith(origin)]
        return sum(one.sent_bytes for one in fetches)


@contextlib.contextmanager
def a_world(tmp_path: Path) -> Iterator[World]:
    with LoopbackHub() as server:
        hub = Hub(endpoint=server.endpoint, cache_dir=tmp_path / "cache", timeout_s=20.0)
        models_dir = tmp_path / "the höst" / "my models"
        models_dir.mkdir(parents=True)
        world = World(server, hub, models_dir)
        world.serve(FILES)
        yield world


_KILLED_PULL = """
import os, sys
from pathlib import Path
from branchfit.download import pull
from branchfit.download.staging import Staging
from branchfit.hub import Hub

def kill_at(owner, method, when=lambda *arguments: True):
    real = getattr(owner, method)
    def reached(*arguments, **options):
        if when(*arguments):
            os._exit(9)
        return real(*arguments, **options)
    setattr(owner, method, reached)

endpoint, cache, repo, branch, models, where = sys.argv[1:]
{
    "between the renames": lambda: kill_at(Path, "rename", lambda path, to: path.name == "files"),
    "after the renames": lambda: kill_at(Staging, "drop"),
    "before clearing": lambda: kill_at(Staging, "clear"),
}[where]()
pull(Hub(endpoint=endpoint, cache_dir=Path(cache)), repo, branch, Path(models), latest=True)
"""


def pull_killed(world: World, where: str) -> None:
    """A `--latest` pull in a process of its own that dies, without a chance to tidy, where it is said."""
    arguments = [world.server.endpoint, str(world.hub.cache_dir), REPO, BRANCH, str(world.models_dir), where]
    done = subprocess.run([sys.executable, "-c", _KILLED_PULL, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 9, done.stderr


def contents(folder: Path) -> dict[str, bytes]:
    """Path -> bytes of every file below a folder, the lock apart."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "branchfit.lock.json"
    }


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def flip(path: Path, offset: int = 0) -> None:
    """Turn every bit of one byte of a file on disk."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    path.write_bytes(content)
