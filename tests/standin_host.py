"""The webui's stand-in as tests use it.

with stand_in("v4", ["branchfit"], tmp_path=tmp_path) as host:
    paths(host)["chat_plain"]("What is 2 + 2?")
    assert host.seen[-1] == ...
"""

from __future__ import annotations

import threading
from typing import Any

from standin.paths import Way, paths
from standin.session import ERAS, OWN_SAMPLING, Session, stand_in
from standin.ways import EARLIER, MODES, PARTIAL, PATHS, Refusal, kind_of

__all__ = [
    "EARLIER",
    "ERAS",
    "MODES",
    "OWN_SAMPLING",
    "PARTIAL",
    "PATHS",
    "Refusal",
    "Session",
    "Way",
    "at_once",
    "kind_of",
    "paths",
    "stand_in",
]


def at_once(way: Way, instructions: list[str], **fields: Any) -> list[str]:
    """The replies to several instructions asked at the same time, in their order."""
    replies: list[Any] = [None] * len(instructions)

    def ask(place: int) -> None:
        try:
            replies[place] = way(instructions[place], **fields)
        except Refusal as refusal:
            replies[place] = str(refusal)

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(instructions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return replies
