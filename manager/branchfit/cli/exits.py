"""The exit codes, which scripts rely on."""

from __future__ import annotations

from ..errors import (
    AccessDenied,
    BranchFitError,
    NotFound,
    NothingFits,
    NotInstalled,
    UsageError,
)

EXIT_DONE = 0
EXIT_COULD_NOT = 1
EXIT_USAGE = 2
EXIT_NOTHING_FITS = 3
EXIT_NOT_FOUND = 4
EXIT_ACCESS_DENIED = 5
EXIT_INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""


def exit_code(error: BranchFitError) -> int:
    """The promised exit code for each kind of error."""
    if isinstance(error, UsageError):
        return EXIT_USAGE
    if isinstance(error, NothingFits):
        return EXIT_NOTHING_FITS
    if isinstance(error, (NotFound, NotInstalled)):
        return EXIT_NOT_FOUND
    if isinstance(error, AccessDenied):
        return EXIT_ACCESS_DENIED
    return EXIT_COULD_NOT
