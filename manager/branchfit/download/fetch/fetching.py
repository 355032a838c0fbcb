"""Files of one commit into a staging folder, by whatever connections pay: what a pull and a repair have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..events import OnEvent
from ..line import Line, Open
from ..lockfile import LockedFile
from ..reuse import Sources
from ..staging import Staging
from .crew import Crew
from .limit import Limit
from .transfer import RETRY_WAITS_S, Transfer

if TYPE_CHECKING:
    from ...hub import Hub


@dataclass(frozen=True)
class Manner:
    """How to fetch. `limit_bytes_per_s` is that of all connections together, None for no limit."""

    line: Line | None = None
    limit_bytes_per_s: float | None = None
    retry_waits_s: Sequence[float] = RETRY_WAITS_S


def fetch_all(
    hub: Hub,
    repo: str,
    commit: str,
    staging: Staging,
    wanted: Sequence[LockedFile],
    *,
    here_bytes: Mapping[str, int],
    sources: Sources,
    tell: OnEvent,
    manner: Manner,
    fetched: dict[str, int] | None = None,
) -> int:
    """Stage every wanted file that is not, verified; return the bytes fetched. The folder's lock must be held.

    `here_bytes` is each file's bytes on disk, for the figures of `Progress`. `fetched`, where given, gets by path what
    was fetched of each. Waits for its turn at the line first. Raises as `Transfer` does.
    """
    verified = staging.verified(wanted)
    missing = [file for file in wanted if file.path not in verified]
    line = manner.line or Open()
    total_bytes = sum(file.size_bytes for file in wanted)
    verified_bytes = sum(file.size_bytes for file in wanted if file.path in verified)
    crew = Crew(dict(here_bytes), total_bytes, verified_bytes, tell, line)
    transfer = Transfer(
        hub,
        repo,
        commit,
        staging,
        sources=sources,
        tell=crew.tell,
        stop=crew.stop,
        hold=crew.hold,
        limit=Limit(manner.limit_bytes_per_s, crew.stop),
        retry_waits_s=manner.retry_waits_s,
    )
    with line.turn(tell) if missing else contextlib.nullcontext():
        fetched_bytes = crew.run(missing, transfer)
    if fetched is not None:
        fetched.update(transfer.fetched)
    return fetched_bytes


def with_prefixes(staging: Staging, files: Sequence[LockedFile]) -> tuple[LockedFile, ...]:
    """The files with the hashes of their beginnings, as they were taken while they came."""
    prefixes = staging.journal.prefixes()
    return tuple(replace(file, prefix_sha256=prefixes.get(file.path, file.prefix_sha256)) for file in files)
