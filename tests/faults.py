"""One trial of a download under a fault, and what is promised of it whatever the fault is.

`fault_cases` are the faults, `fault_clients` who is put to the test: ours in the suite; in
benchmarks/download_faults.py huggingface_hub and curl too, against the same misbehaving server.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from downloads import FOLDER
from fault_stage import CHUNK_BYTES, LINE_BYTES, Stage, target_state


@dataclass(frozen=True)
class Plan:
    """What a fault will do in this trial, once it is arranged.

    `ends`: how the first run has to end: "whole", "refused", or "either" where both are honest. `breaks`
    interruptions hit one connection each (with `all_connections` every one that is open); the fault by
    itself makes `again_bytes` come twice, `because` of that. Who gets a 429 has to stay away for `retry_after_s`.
    """

    ends: Literal["whole", "refused", "either"] = "whole"
    breaks: int = 0
    all_connections: bool = False
    again_bytes: int = 0
    because: str = ""
    retry_after_s: float = 0.0

    def allowed_bytes(self, stage: Stage, ended_early: bool) -> int:
        """Bytes that may come twice.

        A run that ends early hangs up on every connection, and what its sockets held was sent in vain: that is
        an interruption of each, and there the small repo can promise no more than the large one.
        """
        many = stage.connections()
        each = CHUNK_BYTES if stage.large or self.all_connections else LINE_BYTES
        lost = self.breaks * min(each * (many if self.all_connections else 1), stage.whole_bytes)
        hung_up = min(many * CHUNK_BYTES, stage.whole_bytes) if ended_early else 0
        return lost + hung_up + self.again_bytes


@dataclass(frozen=True)
class Ended:
    """How a run ended: `ok` is what its exit said, None where it was killed; `said` a word for it."""

    ok: bool | None
    said: str
    message: str = ""
    by_surprise: bool = False


class Client(Protocol):
    """Somebody who downloads the branch into `stage.target`."""

    name: str

    def run(self, stage: Stage) -> Ended: ...

    def start(self, stage: Stage) -> subprocess.Popen[str]:
        """The same in a process of its own, the leader of its group, which is noted in `stage.processes`."""
        ...


def run_once(stage: Stage, client: Client) -> Ended:
    return client.run(stage)


def nothing(stage: Stage) -> None:
    """Between a first run that failed and the second, the fault alone goes away."""


@dataclass(frozen=True)
class Case:
    """A row of the table. `play` is the first run, `between` what happens before the second, if there is one.

    `needs` is what it takes of the machine: "mount" a file system of its own, "read-only" to close a folder.
    `own` marks faults that are inside our process: no other client can be put to them. `slow` ones take a second.
    """

    name: str
    arrange: Callable[[Stage], Plan]
    play: Callable[[Stage, Client], Ended] = run_once
    between: Callable[[Stage], None] = nothing
    needs: Literal["", "mount", "read-only"] = ""
    own: bool = False
    large: bool = False
    slow: bool = False


@dataclass(frozen=True)
class Trial:
    """What came of one: how the runs ended, what stood in the target's place after each, what went over the line."""

    plan: Plan
    ends: tuple[Ended, ...]
    states: tuple[str, ...]
    twice_bytes: int
    allowed_bytes: int
    token_seen_at: frozenset[str]
    strangers: tuple[str, ...]
    too_soon: tuple[str, ...] = ()

    def broken_promises(self) -> list[str]:
        """The invariant. Sentences; none where all of it holds: the target is absent or identical, the bytes that
        came twice are bounded, the exit says the truth, no other host saw the token, who was told to wait waited, and
        a later run ends whole."""
        found = []
        for number, (ended, state) in enumerate(zip(self.ends, self.states, strict=True), 1):
            if state not in ("absent", "whole"):
                found.append(f"run {number} left the target {state}")
            if ended.ok is not None and ended.ok != (state == "whole"):
                found.append(f"run {number} said {ended.said} ({ended.message}) and the target is {state}")
            if ended.by_surprise:
                found.append(f"run {number} ended with {ended.said}, which nobody promised: {ended.message}")
        first, last = self.ends[0], self.ends[-1]
        if first.ok is not None and self.plan.ends != "either" and first.ok != (self.plan.ends == "whole"):
            found.append(f"it should have ended {self.plan.ends} and said {first.said}: {first.message}")
        if self.states[-1] != "whole":
            found.append(f"the fault over, it is still {self.states[-1]}: {last.said} ({last.message})")
        if self.twice_bytes > self.allowed_bytes:
            found.append(f"{self.twice_bytes:,} bytes came twice, {self.allowed_bytes:,} may ({self.plan.because})")
        if self.token_seen_at:
            found.append(f"the token was seen at {sorted(self.token_seen_at)}")
        if self.strangers:
            found.append(f"the models folder holds {self.strangers}")
        if self.too_soon:
            found.append(f"asked again before the {self.plan.retry_after_s} s were over: {self.too_soon}")
        return found


def attempt(case: Case, client: Client, stage: Stage) -> Trial:
    """One trial: the fault, and if that ended the run, the same again without it."""
    try:
        plan = case.arrange(stage)
        ends = [case.play(stage, client)]
        states = [target_state(stage)]
        if states[0] != "whole":
            stage.calm()
            case.between(stage)
            ends.append(client.run(stage))
            states.append(target_state(stage))
        stage.server.wait_idle()
        allowed_bytes = plan.allowed_bytes(stage, ended_early=len(ends) > 1)
        return Trial(
            plan,
            tuple(ends),
            tuple(states),
            stage.twice_bytes(),
            allowed_bytes,
            frozenset(one.origin for one in stage.server.requests if one.origin != "hub" and one.authorization),
            tuple(sorted(path.name for path in stage.models_dir.iterdir() if path.name != FOLDER)),
            asked_too_soon(stage, plan.retry_after_s),
        )
    finally:
        stage.calm()
        stage.after.close()


def asked_too_soon(stage: Stage, retry_after_s: float) -> tuple[str, ...]:
    """The requests that came again before a 429's Retry-After was over."""
    log = list(stage.server.requests)
    refused = [(one.line, one.ended_s or one.started_s) for one in log if one.status == 429 and retry_after_s]
    return tuple(
        one.line
        for one in log
        for line, since_s in refused
        # A signed address is another one each time: the path alone tells what is asked for.
        if one.line.partition("?")[0] == line.partition("?")[0] and 0 < one.started_s - since_s < retry_after_s
    )
