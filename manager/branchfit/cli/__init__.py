"""The command `branchfit`: one module a command group, one for rendering."""

from __future__ import annotations

import threading
import time

__all__ = ["main"]

LEFT_BEHIND_S = 0.25
"""A choice: longer than it takes to refuse a connection or to set up TLS, too short to be noticed where one hangs."""


def main() -> None:
    """Entry point of the command. Exits with DESIGN's codes; never shows a traceback of our own errors."""
    from .app import run

    try:
        run()
    finally:
        _let_end()


def _let_end() -> None:
    """Questions to the Hub that nobody waits for any longer end, if they are about to.

    The interpreter stops their daemon threads wherever they are, and takes OpenSSL down, in which they may be just
    then: the likely cause of a command that was once seen to die of SIGSEGV when its work was done.
    """
    until = time.monotonic() + LEFT_BEHIND_S
    for thread in threading.enumerate():
        if thread.daemon and thread.name.startswith("branchfit-"):
            thread.join(max(0.0, until - time.monotonic()))
