"""The command `branchfit`: one module a command group, one for rendering."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Entry point of the command. Exits with DESIGN's codes; never shows a traceback of our own errors."""
    from .app import run

    run()
