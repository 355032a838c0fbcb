"""Reading many branches at once: what is not in the cache is asked for concurrently, by a bounded pool."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from ..errors import FileNotOnHub, HubError, HubUnreachable
from .answers import MAX_SMALL_FILE_BYTES, is_genuine, json_object, read_info
from .cache import Cache, Configs
from .http import Asked, RevisionUnknown, TooLarge, Transport
from .patience import Workers, settled
from .safetensors import LENGTH_BYTES, BadHeader, header_length, parse_header, weight_headers
from .state import BranchState, RepoFile, TensorEntry, plain

MAX_WORKERS = 16
"""Requests in flight at once, however many branches there are."""

MAX_BRANCHES = 200
"""Branches of a repo that are read in full, at up to five requests each. GPTQ repos of 2023 have up to a dozen."""

FIRST_RANGE_BYTES = 512 * 1024
"""The first bite of a safetensors file. A 70B GPTQ header (2,963 tensors) has 338,509 bytes: one request."""

CONFIG, QUANTIZE_CONFIG = "config.json", "quantize_config.json"
_CONFIGS = (CONFIG, QUANTIZE_CONFIG)


@dataclass(frozen=True)
class Asking:
    """How to ask about one repo: the transport, its cache, and what its addresses are."""

    transport: Transport
    cache: Cache
    info: Callable[[str], Asked]
    file: Callable[[str, str], Asked]


@dataclass(frozen=True)
class Early:
    """What was asked about a branch by its name, while its commit was not known yet: that saves two round trips.

    `info` is the commit and its files, `small` a config and the commit that it came from, if that was said.
    """

    info: Future[tuple[str, tuple[RepoFile, ...]]]
    small: Mapping[str, Future[tuple[bytes, str | None]]]

    def is_of(self, commit: str) -> bool:
        """Whether the list is of this commit. Waits for it; raises what kept it from coming, where asking for the
        commit would fare no better."""
        settled(self.info)
        try:
            return self.info.result()[0] == commit
        except RevisionUnknown:
            return False


@dataclass
class _Commit:
    """What is known of a commit so far."""

    files: tuple[RepoFile, ...] | None = None
    configs: Configs | None = None
    tensors: tuple[TensorEntry, ...] | None = None
    small: dict[str, bytes | str | HubError | None] = field(default_factory=dict)
    shards: dict[str, tuple[TensorEntry, ...]] = field(default_factory=dict)
    shard_names: tuple[str, ...] = ()
    problems: list[str] = field(default_factory=list)
    failure: HubError | None = None


def split_branches(branches: Mapping[str, str], main: str | None) -> tuple[dict[str, str], str]:
    """The branches to read in full, `main` among them, and a sentence about the others ("" if there are none)."""
    if len(branches) <= MAX_BRANCHES:
        return dict(branches), ""
    chosen = [name for name in branches if name != main][: MAX_BRANCHES - (main is not None)]
    kept = {*chosen, main}
    return (
        {name: commit for name, commit in branches.items() if name in kept},
        f"of {len(branches):,} branches {MAX_BRANCHES} are read; name another (owner/name:branch) to have it read",
    )


def unread(branch: str, commit: str) -> BranchState:
    """A branch beyond those that are read in full."""
    return BranchState(branch, commit, problems=(f"not read: it is beyond the first {MAX_BRANCHES} branches",))


def ask_early(pool: Workers, asking: Asking, branch: str) -> Early:
    """Ask for a branch's file list and configs by its name, for `read_branches`."""
    return Early(
        pool.submit(read_info, asking.transport, asking.info(branch)),
        {name: pool.submit(asking.transport.get, asking.file(branch, name), MAX_SMALL_FILE_BYTES) for name in _CONFIGS},
    )


def read_branches(
    pool: Workers, asking: Asking, branches: Mapping[str, str], headers: bool, early: Early | None = None
) -> tuple[BranchState, ...]:
    """The state of each branch, in the order given. Branches at the same commit are read once.

    Round trips waited for a commit: its file list, then the headers of its weights; the two configs do
    not wait for the list. `early` has these three already, of the only commit that is asked for. No access and a rate
    limit are raised, and what fails for every branch (no network). A list, a config or a header that alone cannot be
    had is that branch's problem.
    """
    cache, transport = asking.cache, asking.transport
    commits = {commit: _Commit() for commit in branches.values()}
    pending: dict[Future[Any], tuple[str, str, str]] = {}

    def ask_headers(commit: str, known: _Commit) -> None:
        chosen, odd = weight_headers(known.files or ())
        known.problems += [odd] if odd else []
        if not headers:
            return
        known.shard_names = tuple(file.path for file in chosen)
        known.tensors = cache.tensors(commit)
        if known.tensors is None:
            for file in chosen:
                job = pool.submit(read_header, transport, asking.file(commit, file.path), file.size_bytes)
                pending[job] = (commit, "header", file.path)

    for commit, known in commits.items():
        known.files = cache.files(commit)
        known.configs = cache.configs(commit)
        if known.files is None:
            info = early.info if early else pool.submit(read_info, transport, asking.info(commit))
            pending[info] = (commit, "files", "")
        else:
            ask_headers(commit, known)
    for commit, known in commits.items():
        for name in _CONFIGS if known.configs is None else ():
            if early is not None and all(file.path != name for file in early.info.result()[1]):
                known.small[name] = None
                continue
            there = early.small[name] if early is not None else None
            small = pool.submit(_small_file, transport, asking.file(commit, name), commit, there)
            pending[small] = (commit, "small", name)

    while pending:
        for job in settled(*pending):
            commit, kind, name = pending.pop(job)
            known = commits[commit]
            if kind == "header":
                try:
                    known.shards[name] = job.result()
                except BadHeader as error:
                    known.problems.append(f"the header of {name} was refused: {error}")
                except (HubUnreachable, FileNotOnHub, RevisionUnknown) as error:
                    known.problems.append(f"the header of {name} was not read: {_why(error)}")
            elif kind == "small":
                known.small[name] = job.result()
            else:
                try:
                    said, files = job.result()
                    if said != commit:
                        lists = f"it lists the files of another commit ({said})"
                        raise HubUnreachable(asking.info(commit).url, lists)
                except (HubUnreachable, RevisionUnknown) as error:
                    known.failure = error
                    known.problems.append(f"its files were not listed: {_why(error)}")
                    continue
                known.files = files
                cache.keep_files(commit, files)
                ask_headers(commit, known)
    failures = [known.failure for known in commits.values() if known.failure is not None]
    if failures and len(failures) == len(commits):
        raise failures[0]
    for commit, known in commits.items():
        _settle(cache, commit, known)
    return tuple(_state(branch, commit, commits[commit]) for branch, commit in branches.items())


def read_header(transport: Transport, asked: Asked, file_bytes: int) -> tuple[TensorEntry, ...]:
    """The tensors of one safetensors file on the Hub; of its weights at most the first bite's rest is read.

    Raises BadHeader, HubError.
    """
    if file_bytes < LENGTH_BYTES:
        raise BadHeader(f"the file has {file_bytes} bytes, fewer than a header's length takes")
    data, total = transport.get_range(asked, 0, min(FIRST_RANGE_BYTES, file_bytes))
    if total is not None and total != file_bytes:
        raise BadHeader(f"the Hub lists {file_bytes:,} bytes and serves {total:,}")
    end = LENGTH_BYTES + header_length(data, file_bytes)
    if len(data) < end:
        more, _ = transport.get_range(asked, len(data), end)
        data += more
    return parse_header(data[LENGTH_BYTES:end], file_bytes - end)


def _why(error: HubError) -> str:
    return error.reason if isinstance(error, HubUnreachable) else str(error)


def _small_file(
    transport: Transport, asked: Asked, commit: str, early: Future[tuple[bytes, str | None]] | None
) -> bytes | str | HubError | None:
    """The bytes, None if there is no such file, what is wrong with it, or why it could not be had.

    Not asked for where `early` has them and was of that commit.
    """
    if early is not None:
        settled(early)
        if early.exception() is None and early.result()[1] == commit:
            return early.result()[0]
    try:
        return transport.get(asked, MAX_SMALL_FILE_BYTES)[0]
    except FileNotOnHub:
        return None
    except TooLarge as error:
        return f"{asked.path} is larger than {error.max_bytes:,} bytes"
    except (HubUnreachable, RevisionUnknown) as error:
        return error


def _settle(cache: Cache, commit: str, known: _Commit) -> None:
    """Puts together what came for a commit, and remembers what is the author's own word."""
    if known.configs is None:
        listed = {file.path: file for file in known.files or ()}
        values: dict[str, dict[str, Any] | None] = {}
        problems: list[str] = []
        genuine = known.files is not None
        for name in _CONFIGS:
            found, file = known.small[name], listed.get(name)
            values[name] = None
            if isinstance(found, str):
                problems.append(found)
            elif isinstance(found, HubError):
                genuine = False
                problems += [] if known.failure is not None else [f"{name} was not read: {_why(found)}"]
            elif found is None:
                genuine = genuine and file is None
                problems += [f"{name} is listed but not served"] if file is not None else []
            elif file is not None and not is_genuine(found, file):
                genuine = False
                problems.append(f"{name} came other than the Hub lists it")
            else:
                values[name], wrong = json_object(name, found)
                problems += [wrong] if wrong else []
        known.configs = Configs(values[CONFIG], values[QUANTIZE_CONFIG], tuple(problems))
        if genuine:
            cache.keep_configs(commit, known.configs)
    if known.tensors is None and known.shard_names and len(known.shards) == len(known.shard_names):
        entries = tuple(entry for name in known.shard_names for entry in known.shards[name])
        if len({entry.name for entry in entries}) < len(entries):
            known.problems.append("two shards hold a tensor of the same name")
            return
        known.tensors = entries
        cache.keep_tensors(commit, entries)


def _state(branch: str, commit: str, known: _Commit) -> BranchState:
    configs = known.configs or Configs(None, None)
    problems = tuple(map(plain, (*configs.problems, *sorted(known.problems))))
    return BranchState(
        branch, commit, known.files or (), configs.config, configs.quantize_config, known.tensors, problems
    )
