"""A branch on the Hub -> a verified folder that appears whole or not at all.

    installed = pull(hub, "TheBloke/Model-GPTQ", "gptq-4bit-32g-actorder_True", models_dir, on_event=show)

`pin` says which commit a pull takes, and `plan` what it would do with it; both touch nothing. `events` is what it
tells while it works; `lockfile` is the record it leaves beside the model.
"""

from __future__ import annotations

from .commits import Pinned, pin
from .events import Event, OnEvent
from .lockfile import BadLock, Installed, LeftOutFile, LockedFile, read_lock, read_lock_file
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
    "Pinned",
    "PlannedFile",
    "folder_name",
    "pin",
    "plan",
    "pull",
    "read_lock",
    "read_lock_file",
]
