"""A branch on the Hub -> a verified folder that appears whole or not at all.

    installed = pull(hub, "TheBloke/Model-GPTQ", "gptq-4bit-32g-actorder_True", models_dir, on_event=show)

`plan` says what a pull would do and touches nothing; `events` is what it tells while it works;
`lockfile` is the record it leaves beside the model.
"""

from __future__ import annotations

from .events import Event, OnEvent
from .lockfile import BadLock, Installed, LeftOutFile, LockedFile, read_lock
from .names import LOCK_NAME, folder_name
from .planning import DownloadPlan, PlannedFile, plan
from .pulling import pull

__all__ = [
    "LOCK_NAME",
    "BadLock",
    "DownloadPlan",
    "Event",
    "Installed",
    "LeftOutFile",
    "LockedFile",
    "OnEvent",
    "PlannedFile",
    "folder_name",
    "plan",
    "pull",
    "read_lock",
]
