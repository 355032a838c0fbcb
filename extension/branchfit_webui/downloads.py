"""The tab's downloads, in the queue that they share with the command: got, held up, put first, and left unfinished."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from branchfit.download import Installed, pull
from branchfit.download.queue import Listed, NotQueued, Queue, Wanted
from branchfit.download.unfinished import Unfinished, discard, unfinished

from .advice import Advice
from .jobs import Job


class Downloads:
    """Those of one webui: `models_dir` gives the folder they go to. Where no queue can be kept, they go on without."""

    def __init__(self, models_dir: Callable[[], Path]) -> None:
        self.queue = Queue()
        self._models_dir = models_dir

    def wanted(self, advice: Advice, branch: str) -> Wanted:
        """What a branch that the page showed is as a download."""
        found, assessment = advice.found, advice.of(branch)
        variant = found.listed.get(branch)
        # What the page showed is what comes, though the branch may move meanwhile; what was begun comes first.
        begun = any((one.repo, one.branch) == (advice.repo, branch) for one in unfinished(self._models_dir()))
        return Wanted(
            advice.repo,
            branch,
            self._models_dir(),
            commit=variant.commit if variant is not None and found.as_of is None and not begun else None,
            template=found.template_record,
            loader=assessment.loader if assessment else None,
            runtime=assessment.runtime if assessment else None,
        )

    def line_up(self, wanted: Wanted) -> None:
        """Take its place now: the order is that in which they were asked for."""
        with contextlib.suppress(OSError):
            self.queue.add(wanted)

    def get(self, job: Job, wanted: Wanted) -> Installed:
        """Download it in its turn."""
        from branchfit.hub import Hub

        job.say("downloading")
        with self.queue.joined(wanted, check=job.check) as line:
            tell = line.watching(job.tell)
            options = wanted.options()
            return pull(Hub(), wanted.repo, wanted.branch, wanted.models_dir, on_event=tell, line=line, **options)

    def under_way(self) -> list[Listed]:
        """The downloads that this webui is at work on, as they stand in the queue."""
        try:
            return [one for one in self.queue.listed() if one.alive and one.entry.pid == os.getpid()]
        except OSError:
            return []

    def pause(self) -> str:
        """Hold them up, those of other programs not; '' where the board says the rest."""
        return self._each(lambda one: self.queue.pause(one.entry.id), "running", "waiting", "busy")

    def unpause(self) -> str:
        """Let them go on, whoever held them up."""
        if self.queue.paused():
            self.queue.resume()
        return self._each(lambda one: self.queue.resume(one.entry.id), "paused", "running", "waiting", "busy")

    def put_first(self) -> str:
        """The last one that waits gets the line; asked again, the one that is the last then."""
        waiting = [one for one in self.under_way() if one.state == "waiting"]
        if not waiting:
            return "No download of this webui is waiting."
        self.queue.move(waiting[-1].entry.id, 1)
        return ""

    def _each(self, act: Callable[[Listed], None], *states: str) -> str:
        found = [one for one in self.under_way() if one.state in states]
        for one in found:
            with contextlib.suppress(NotQueued):  # it has ended meanwhile
                act(one)
        return "" if found else "No download of this webui is under way."

    def unfinished(self) -> list[Unfinished]:
        """Those that did not end: what is on disk of them, and what stands in the queue and nobody is at work on."""
        found = unfinished(self._models_dir())
        known = {one.name for one in found}
        idle = [one.entry.wanted for one in self._idle() if one.entry.wanted.target.name not in known]
        return [*found, *(Unfinished(one.target.name, one.repo, one.branch, one.commit or "", 0) for one in idle)]

    def discard(self, name: str) -> int:
        """Delete what is there of one of them, and forget it; return the bytes given back."""
        freed_bytes = discard(self._models_dir(), name)
        for one in self._idle():
            if one.entry.wanted.target.name == name:
                with contextlib.suppress(NotQueued, OSError):
                    self.queue.remove(one.entry.id)
        return freed_bytes

    def _idle(self) -> list[Listed]:
        """What stands in the queue for this models folder and no process is at work on."""
        here = self._models_dir().resolve()
        try:
            return [one for one in self.queue.listed() if not one.alive and one.entry.wanted.models_dir == here]
        except OSError:
            return []
