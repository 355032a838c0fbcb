"""What reached the model: the last prompts, kept in memory, so that the lock can be checked and not just believed."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from branchfit.prompts import Difference, first_difference

Verdict = Literal["waiting", "text exact", "tokens exact", "refused"]
"""`text exact`: the rendering was handed to the model's own generate, whose tokens cannot be seen here.
`tokens exact`: the token ids that entered the model were compared with the rendering's."""


@dataclass
class Proof:
    """One prompt.

    `text` is the prompt as it was handed over, or the one refused. `wanted` gives what the host had
    wanted to send, when asked: its own builder runs only then.
    """

    path: str
    template: str
    text: str
    instruction: str = ""
    verdict: Verdict = "waiting"
    reason: str = ""
    notes: list[str] = field(default_factory=list)
    tokens: int | None = None
    at: float = field(default_factory=time.time)
    wanted: Callable[[], str | None] | None = None
    _wanted: str | None = None

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()

    def host_wanted(self) -> str | None:
        """The prompt the host would have sent, None where it is not known."""
        if self.wanted is not None:
            self._wanted, self.wanted = self.wanted(), None
        return self._wanted

    def difference(self) -> Difference | None:
        """Where the host's own prompt first differs from what was sent. None where it does not, is not known, or
        nothing was sent."""
        wanted = self.host_wanted() if self.verdict != "refused" else None
        return first_difference(printable(self.text), printable(wanted)) if wanted is not None else None

    def to_dict(self) -> dict[str, Any]:
        difference = self.difference()
        return {
            "at": self.at,
            "path": self.path,
            "template": self.template,
            "text": printable(self.text),
            "size_bytes": len(self.text.encode("utf-8", "surrogatepass")),
            "sha256": self.sha256,
            "tokens": self.tokens,
            "verdict": self.verdict,
            "reason": self.reason,
            "notes": list(self.notes),
            "host_wanted": printable(self.host_wanted() or "") or None,
            "difference": difference.to_dict() if difference is not None else None,
        }


def printable(text: str) -> str:
    """Text that has bytes: a lone surrogate, which a client can send and no page can show, is spelled out."""
    return text.encode("utf-8", "backslashreplace").decode()


class Proofs:
    """The last prompts, newest first. Nothing is written to disk unless a file is named."""

    def __init__(self, kept: int = 20, file: Path | None = None) -> None:
        self._kept: deque[Proof] = deque(maxlen=max(kept, 0))
        self._lock = threading.Lock()
        self.file = file

    def add(self, proof: Proof) -> None:
        with self._lock:
            self._kept.appendleft(proof)

    def done(self, proof: Proof) -> None:
        """The generation is over; where the user asked for a file, the proof is appended to it as one line."""
        if self.file is None:
            return
        try:
            with self._lock, self.file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(proof.to_dict()) + "\n")
        except OSError as error:  # a reply is not lost for it
            proof.notes.append(f"this cannot be written to {self.file}: {error.strerror or error}")

    def last(self) -> list[Proof]:
        with self._lock:
            return list(self._kept)
