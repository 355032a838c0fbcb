"""Everything that can go wrong, as data.

    BranchFitError
    ├── UsageError             the request itself makes no sense
    │   └── GpuArgumentError   ... in a --gpu argument
    ├── CardError              a model card that cannot be read
    ├── ConfigError            a config.json without the fields that are needed
    ├── PromptError            an instruction that no template can carry
    ├── GpuError               the driver answered nonsense
    ├── NothingFits            no branch can be loaded on these GPUs
    ├── HubError               the Hub did not give what was asked for
    │   ├── HubUnreachable     no answer
    │   ├── RateLimited        "later", with the Hub's own Retry-After
    │   ├── AccessDenied       gated, private, or a bad token
    │   └── NotFound
    │       ├── RepoNotFound
    │       ├── BranchNotFound knows the nearest names
    │       └── FileNotOnHub
    ├── DownloadError
    │   ├── RefusedFiles       pickles, code, names that leave the folder
    │   ├── NoSpace            bytes needed and bytes free
    │   ├── BadChecksum        expected and actual, and where the bad file was kept
    │   └── TransferBroken     the line broke; what is there is kept
    ├── LoadError              a model that cannot be loaded as its files are
    │   ├── OutOfMemory        bytes needed, free and short, and the remedies
    │   └── LoadedWrong        what is in memory is not what the files hold
    │       └── WrongKernel    ... it is, but another kernel runs it
    └── NotInstalled           no such model on disk

Each carries its facts as attributes, so that the command and the webui's tab word them in their
own way; `str()` gives the plain wording: what was wanted, what was found, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = [
    "AccessDenied",
    "BadChecksum",
    "BranchFitError",
    "BranchNotFound",
    "CardError",
    "ConfigError",
    "DownloadError",
    "FileNotOnHub",
    "GpuArgumentError",
    "GpuError",
    "HubError",
    "HubUnreachable",
    "LoadError",
    "LoadedWrong",
    "NoSpace",
    "NotFound",
    "NotInstalled",
    "NothingFits",
    "OutOfMemory",
    "PromptError",
    "RateLimited",
    "RefusedFiles",
    "RepoNotFound",
    "TransferBroken",
    "UsageError",
    "WrongKernel",
]


class BranchFitError(Exception):
    """The root. `except BranchFitError` catches whatever this package raises on purpose."""


class UsageError(BranchFitError):
    """The request makes no sense: contradictory options, a malformed `repo:branch`."""


class GpuArgumentError(UsageError):
    """A `--gpu` argument that does not read as SIZE[@CAPABILITY][xN] or `none`."""

    def __init__(self, text: str, reason: str) -> None:
        self.text = text
        self.reason = reason
        super().__init__(
            f"--gpu {text}: {reason}. Write SIZE[@CAPABILITY][xN], for example 24GiB, "
            f"24GiB@8.6 or 24GiB@8.6x2, or `none`."
        )


class CardError(BranchFitError):
    """A model card that cannot be read. `line` counts from 1 where it is known."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        self.reason = reason
        self.line = line
        where = f"line {line}: " if line is not None else ""
        super().__init__(f"this model card cannot be read: {where}{reason}")


class ConfigError(BranchFitError):
    """A config.json that lacks what is needed, or holds what cannot be."""

    def __init__(self, what: str, missing: Sequence[str] = (), source: str = "config.json") -> None:
        self.what = what
        self.missing = tuple(missing)
        self.source = source
        fields = f" (missing: {', '.join(self.missing)})" if self.missing else ""
        super().__init__(f"{source}: {what}{fields}")


class PromptError(BranchFitError):
    """An instruction that no template can carry, or a template nobody knows."""


class GpuError(BranchFitError):
    """A GPU driver that is there and answers nonsense."""


class NothingFits(BranchFitError):
    """No branch can be loaded; `reason` says why and what would help."""

    def __init__(self, repo: str, reason: str) -> None:
        self.repo = repo
        self.reason = reason
        super().__init__(reason)


class HubError(BranchFitError):
    """The Hub did not give what was asked for. `url` is what was asked."""

    def __init__(self, message: str, url: str = "") -> None:
        self.url = url
        super().__init__(message)


class HubUnreachable(HubError):
    """No answer: no network, a timeout, or a server error that outlasted the retries."""

    def __init__(self, url: str, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"the Hub gave no usable answer for {url}: {reason}. "
            f"Check the connection (and HF_ENDPOINT, if you set it), then try again.",
            url,
        )


class RateLimited(HubError):
    """HTTP 429. `retry_after_s` is the Hub's own wish, None where it gave none."""

    def __init__(self, url: str, retry_after_s: float | None) -> None:
        self.retry_after_s = retry_after_s
        wait = f"in {retry_after_s:g} s" if retry_after_s is not None else "later"
        super().__init__(
            f"the Hub limits how often you may ask ({url}): try again {wait}; "
            f"a token (HF_TOKEN or `hf auth login`) has a higher limit.",
            url,
        )


class AccessDenied(HubError):
    """Gated, private, or a token that is not good for it. `kind` is `gated`, `token` or `private`."""

    def __init__(self, repo: str, kind: str, url: str = "") -> None:
        self.repo = repo
        self.kind = kind
        what = {
            "gated": f"{repo} is gated: accept its terms on its page, then give a token of that account",
            "token": f"your token is not good for {repo}: make a new one",
        }.get(kind, f"{repo} is private, or your token may not read it: give a token that can")
        super().__init__(f"{what} (HF_TOKEN, or `hf auth login`).", url)


class NotFound(HubError):
    """The thing asked for is not there."""


class RepoNotFound(NotFound):
    def __init__(self, repo: str, url: str = "") -> None:
        self.repo = repo
        owner = "" if "/" in repo else " Is its owner missing (owner/name)?"
        super().__init__(
            f"no repo {repo} on the Hub (or it is private): check the spelling; a private one needs HF_TOKEN.{owner}",
            url,
        )


class BranchNotFound(NotFound):
    """`known` are the repo's branches, `nearest` those spelt most like what was asked."""

    def __init__(self, repo: str, branch: str, known: Iterable[str]) -> None:
        self.repo = repo
        self.branch = branch
        self.known = tuple(known)
        self.nearest = tuple(difflib.get_close_matches(branch, self.known, n=3, cutoff=0.3))
        shown = self.nearest or self.known[:6]
        hint = f"nearest: {', '.join(shown)}" if shown else "it has no branches"
        super().__init__(f"{repo} has no branch {branch}; {hint}.")


class FileNotOnHub(NotFound):
    def __init__(self, repo: str, path: str, url: str = "") -> None:
        self.repo = repo
        self.path = path
        super().__init__(f"{repo} has no file {path}.", url)


class DownloadError(BranchFitError):
    """A download that did not end with a whole, verified model."""


class RefusedFiles(DownloadError):
    """Files of a repo that are not taken: `refused` is (name, reason) for each."""

    def __init__(self, repo: str, refused: Sequence[tuple[str, str]]) -> None:
        self.repo = repo
        self.refused = tuple(refused)
        lines = "; ".join(f"{name!r}: {reason}" for name, reason in self.refused[:5])
        more = f"; and {len(self.refused) - 5} more" if len(self.refused) > 5 else ""
        super().__init__(f"{repo} holds files that are refused, nothing was downloaded: {lines}{more}.")


class NoSpace(DownloadError):
    def __init__(self, path: Path, needed_bytes: int, free_bytes: int) -> None:
        self.path = path
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes
        super().__init__(
            f"no space under {path}: {needed_bytes:,} bytes needed, {free_bytes:,} free; "
            f"free {needed_bytes - free_bytes:,} more, or give another folder with --to."
        )


class BadChecksum(DownloadError):
    """`kept` is where the bad file was put aside, None where it was left in place.

    `twice` says that the same wrong bytes came twice: it is what serves them that is wrong, not the line.
    """

    def __init__(self, path: str, expected: str, actual: str, kept: Path | None = None, *, twice: bool = False) -> None:
        self.twice = twice
        self.path = path
        self.expected = expected
        self.actual = actual
        self.kept = kept
        aside = f"; the bad file is kept as {kept}" if kept else ""
        remedy = (
            "The same bytes came twice: it is wrong where it is served. Tell its author, or take another branch."
            if twice
            else "Run the same pull again; if the hash is another each time, the line or this machine's memory is bad."
        )
        super().__init__(f"{path} is not what the Hub says it is: expected {expected}, got {actual}{aside}. {remedy}")


class TransferBroken(DownloadError):
    """The line broke. `done_bytes` of `total_bytes` are on disk and are used by the next run."""

    def __init__(self, path: str, done_bytes: int, total_bytes: int, reason: str) -> None:
        self.path = path
        self.done_bytes = done_bytes
        self.total_bytes = total_bytes
        self.reason = reason
        super().__init__(
            f"the download of {path} broke off at {done_bytes:,} of {total_bytes:,} bytes: {reason}. "
            f"Run the same command again; it goes on from there."
        )


class LoadError(BranchFitError):
    """A model that cannot be loaded; the message says why and what to do."""


class OutOfMemory(LoadError):
    """The memory of `device` ("GPU 0", "this machine") did not reach; the message says it with these numbers.

    `needed_bytes` is what the model takes there by the forecast, else what was asked for last; `free_bytes`
    what was free then; `short_bytes` the difference; each None where nobody knows. `remedies` are clauses, the
    one that saves most first.
    """

    def __init__(
        self,
        message: str,
        *,
        device: str,
        needed_bytes: int | None,
        free_bytes: int | None,
        short_bytes: int | None,
        remedies: Sequence[str] = (),
    ) -> None:
        self.device = device
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes
        self.short_bytes = short_bytes
        self.remedies = tuple(remedies)
        super().__init__(message)


class LoadedWrong(LoadError):
    """The model in memory is not what its files hold. `missing` are the names of all that came from nowhere."""

    def __init__(self, message: str, missing: Sequence[str] = ()) -> None:
        self.missing = tuple(missing)
        super().__init__(message)


class WrongKernel(LoadedWrong):
    """Another kernel runs the model than the one that was asked for."""

    def __init__(self, runtime: str, found: str) -> None:
        self.runtime = runtime
        self.found = found
        super().__init__(
            f"{runtime} was asked for, and the model's linears are {found}: what was worked out for {runtime} does "
            f"not hold for it. Unload it, and load it with the runtime named in its quantization config."
        )


class NotInstalled(BranchFitError):
    def __init__(self, name: str, folder: Path, known: Iterable[str]) -> None:
        self.name = name
        self.folder = folder
        self.known = tuple(known)
        hint = f"there are: {', '.join(self.known)}" if self.known else "nothing is installed there"
        super().__init__(f"no installed model {name} under {folder}; {hint}.")
