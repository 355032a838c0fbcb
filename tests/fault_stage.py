"""Where a trial takes place: a loopback Hub that misbehaves, a repo, a models folder, and chance."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from branchfit.demo.replies import ADDRESS_LIFETIME_S
from branchfit.demo.server import LoopbackHub, Request
from branchfit.hub import Hub
from downloads import MIB, World, noise, sha256

TOKEN = "hf_secret"
"""Every trial has one: no origin but the Hub's may ever see it."""

WEIGHTS = "model.safetensors"

CHUNK_BYTES = 16 * MIB
"""What an interruption may cost a connection: the promise."""

LINE_BYTES = MIB
"""In repos of some MiB that promise says nothing: there a stream that breaks may cost what is read at once."""

SMALL: dict[str, bytes] = {
    "README.md": b"# Tiny\n",
    "config.json": b'{"model_type": "llama"}',
    "empty.txt": b"",
    "sub/notes.txt": b"in a folder\n",
    "tokenizer.model": noise(300_003, seed=3),
    WEIGHTS: noise(6 * MIB + 17, seed=4),
}
LARGE_BYTES = 80 * MIB
"""Files above 32 MiB come over several connections where that pays: two and a half of those."""


def large_files() -> dict[str, bytes]:
    """Like SMALL, with weights that are worth several connections."""
    return {**SMALL, WEIGHTS: noise(LARGE_BYTES + 17, seed=5)}


@dataclass(kw_only=True)
class Stage(World):
    """Where one trial takes place: a world with a repo of its own, a source of chance, and changes to be undone.

    `undo` is done when the fault is over, `after` when the trial is.
    """

    files: Mapping[str, bytes]
    rng: random.Random
    base: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    undo: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    after: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def large(self) -> bool:
        return len(self.files[WEIGHTS]) >= LARGE_BYTES

    @property
    def weights_bytes(self) -> int:
        return len(self.files[WEIGHTS])

    @property
    def whole_bytes(self) -> int:
        return sum(map(len, self.files.values()))

    @property
    def weights(self) -> str:
        """Matches the requests for the weights' bytes."""
        return f"cdn GET .*{sha256(self.files[WEIGHTS])}"

    def offset(self, below: int | None = None) -> int:
        """Somewhere in the weights, or among their first bytes."""
        return self.rng.randrange(min(below or self.weights_bytes, self.weights_bytes))

    def set(self, owner: object, name: str, value: object) -> None:
        """Until `calm`, `owner.name` is something else, if it is there at all."""
        if hasattr(owner, name):
            self.undo.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)

    def impatient(self, timeout_s: float = 0.5) -> None:
        """Waits end early: a fault that is silence costs a test no more."""
        self.hub = a_client(self.server, self.hub.cache_dir, timeout_s)

    def kill(self, process: subprocess.Popen[str] | None = None) -> None:
        """Ends a process (the youngest) as a power cut would, and all that it started."""
        process = process or self.processes[-1]
        if os.name == "posix":
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
        else:
            process.kill()

    def calm(self) -> None:
        """The server behaves from now on, and the machine is as it was."""
        self.server.clear_faults()
        protocol = self.server.protocol
        protocol.address_lifetime_s, protocol.address_uses, protocol.xet = ADDRESS_LIFETIME_S, None, False
        self.undo.close()

    def file_answers(self) -> list[Request]:
        """The answers that carried files' bytes, from any origin."""
        return [
            one
            for one in self.server.requests
            if one.method == "GET" and one.status in (200, 206) and ("/resolve" in one.path or "/repos/" in one.path)
        ]

    def twice_bytes(self) -> int:
        """Bytes of files that went out beyond one copy of the repo."""
        return max(0, sum(one.sent_bytes for one in self.file_answers()) - self.whole_bytes)

    def connections(self) -> int:
        """The most file answers that were on their way at once."""
        edges = sorted(
            edge for one in self.file_answers() for edge in ((one.started_s, 1), (one.ended_s or float("inf"), -1))
        )
        open_now = most = 0
        for _, step in edges:
            open_now += step
            most = max(most, open_now)
        return max(1, most)


def target_state(stage: Stage) -> str:
    """ "absent", "whole", or what is wrong with it. Records of the client's own, beside the files, do not count."""
    if not (stage.target.exists() or stage.target.is_symlink()):
        return "absent"
    found = {path.relative_to(stage.target).as_posix(): path for path in stage.target.rglob("*") if not path.is_dir()}
    found = {name: path for name, path in found.items() if name != "branchfit.lock.json" and name[:7] != ".cache/"}
    if extra := sorted(set(found) - set(stage.files)):
        return f"half (with {', '.join(extra)})"
    if missing := sorted(set(stage.files) - set(found)):
        return f"half (without {', '.join(missing)})"
    wrong = [name for name, content in stage.files.items() if found[name].read_bytes() != content]
    return f"wrong ({', '.join(sorted(wrong))})" if wrong else "whole"


def a_client(server: LoopbackHub, cache_dir: Path, timeout_s: float = 10.0) -> Hub:
    return Hub(endpoint=server.endpoint, token=TOKEN, cache_dir=cache_dir, timeout_s=timeout_s)


@contextlib.contextmanager
def a_server() -> Iterator[LoopbackHub]:
    """A loopback Hub that knows the token; many trials can share it, one after another."""
    with LoopbackHub(token=TOKEN) as server:
        yield server
    assert server.mistakes == []


def a_stage(server: LoopbackHub, files: Mapping[str, bytes], base: Path, seed: str) -> Stage:
    """Everything as it is before the first run of a trial: nothing fetched, nothing logged, no fault."""
    server.wait_idle()
    models_dir = base / "the höst" / "my models"
    models_dir.mkdir(parents=True)
    stage = Stage(server, a_client(server, base / "cache"), models_dir, files=files, rng=random.Random(seed), base=base)
    stage.calm()
    stage.serve(files)
    server.requests.clear()
    return stage
