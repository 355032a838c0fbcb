"""Reading many branches at once: what is not in the cache is asked for concurrently, by a bounded pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..errors import FileNotOnHub, HubUnreachable
from .answers import MAX_SMALL_FILE_BYTES, is_genuine, json_object, read_info
from .cache import Cache, Configs
from .http import Asked, TooLarge, Transport
from .safetensors import LENGTH_BYTES, BadHeader, header_length, parse_header, weight_headers
from .state import BranchState, RepoFile, TensorEntry

MAX_WORKERS = 16
"""Requests in flight at once, however many branches there are."""

FIRST_RANGE_BYTES = 512 * 1024
"""The first bite of a safetensors file. A 70B GPTQ header (2,963 tensors) has 338,509 bytes: one request."""

CONFIG, QUANTIZE_CONFIG = "config.json", "quantize_config.json"


@dataclass(frozen=True)
class Asking:
    """How to ask about one repo: the transport, its cache, and what its addresses are."""

    transport: Transport
    cache: Cache
    info: Callable[[str], Asked]
    file: Callable[[str, str], Asked]


@dataclass
class _Commit:
    """What is known of a commit so far."""

    files: tuple[RepoFile, ...] | None = None
    configs: Configs | None = None
    tensors: tuple[TensorEntry, ...] | None = None
    small: dict[str, bytes | str | None] = field(default_factory=dict)
    shards: dict[str, tuple[TensorEntry, ...]] = field(default_factory=dict)
    shard_names: tuple[str, ...] = ()
    problems: list[str] = field(default_factory=list)


@contextmanager
def workers() -> Iterator[ThreadPoolExecutor]:
    """A pool that, when something fails, drops what has not begun and does not wait for what has."""
    pool = ThreadPoolExecutor(MAX_WORKERS, thread_name_prefix="branchfit-hub")
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def read_branches(
    pool: ThreadPoolExecutor, asking: Asking, branches: Mapping[str, str], headers: bool
) -> tuple[BranchState, ...]:
    """The state of each branch, in the order given. Branches at the same commit are read once.

    Round trips waited for a commit: its file list, then the headers of its weights; the two configs do
    not wait for the list. What fails for all (no network, no access, rate limit) is raised; a header
    that cannot be had is that branch's problem.
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
            pending[pool.submit(read_info, transport, asking.info(commit))] = (commit, "files", "")
        else:
            ask_headers(commit, known)
    for commit, known in commits.items():
        for name in (CONFIG, QUANTIZE_CONFIG) if known.configs is None else ():
            pending[pool.submit(_small_file, transport, asking.file(commit, name))] = (commit, "small", name)

    while pending:
        done, _ = wait(pending, return_when=FIRST_COMPLETED)
        for job in done:
            commit, kind, name = pending.pop(job)
            known = commits[commit]
            if kind == "header":
                try:
                    known.shards[name] = job.result()
                except BadHeader as error:
                    known.problems.append(f"the header of {name} was refused: {error}")
                except (HubUnreachable, FileNotOnHub) as error:
                    known.problems.append(f"the header of {name} was not read: {error}")
            elif kind == "small":
                known.small[name] = job.result()
            else:
                said, known.files = job.result()
                if said != commit:
                    raise HubUnreachable(asking.info(commit).url, f"it lists the files of another commit ({said})")
                cache.keep_files(commit, known.files)
                ask_headers(commit, known)
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


def _small_file(transport: Transport, asked: Asked) -> bytes | str | None:
    """The bytes, None if there is no such file, or what is wrong with it."""
    try:
        return transport.get(asked, MAX_SMALL_FILE_BYTES)[0]
    except FileNotOnHub:
        return None
    except TooLarge as error:
        return f"{asked.path} is larger than {error.max_bytes:,} bytes"


def _settle(cache: Cache, commit: str, known: _Commit) -> None:
    """Puts together what came for a commit, and remembers what is the author's own word."""
    if known.configs is None:
        listed = {file.path: file for file in known.files or ()}
        values: dict[str, dict[str, Any] | None] = {}
        problems: list[str] = []
        genuine = True
        for name in (CONFIG, QUANTIZE_CONFIG):
            found, file = known.small[name], listed.get(name)
            values[name] = None
            if isinstance(found, str):
                problems.append(found)
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
    problems = (*configs.problems, *sorted(known.problems))
    return BranchState(
        branch, commit, known.files or (), configs.config, configs.quantize_config, known.tensors, problems
    )
