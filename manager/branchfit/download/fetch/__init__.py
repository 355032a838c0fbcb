"""Files of one commit into a staging folder: by whatever connections pay, resumed, hashed as they come.

`fetch_all` is the door. A `Crew` runs the threads and says how many there are to be (`Connections`); the `Board` gives
each its work: begin a file, fetch a range of it, finish it. `Transfer` does that work, `Reader` one stream of it, and
a `Part` is the file on disk, with its map of what is here and its hash in order.
"""

from __future__ import annotations

from .fetching import Manner, fetch_all, with_prefixes
from .transfer import RETRY_WAITS_S

__all__ = ["RETRY_WAITS_S", "Manner", "fetch_all", "with_prefixes"]
