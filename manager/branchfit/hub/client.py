"""The Hub as the rest of BranchFit asks it: a repo's state, a branch's files, a file's bytes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

from ..errors import BranchNotFound, FileNotOnHub, HubUnreachable
from .address import check_branch, check_path, check_repo, quoted
from .answers import MAX_SMALL_FILE_BYTES, read_info, read_refs
from .body import Address, Body
from .branches import MAX_WORKERS, Asking, ask_early, read_branches, split_branches, unread
from .cache import Cache, LastAnswer, default_cache_dir
from .http import Asked, RevisionUnknown, TooLarge, Transport
from .patience import settled, short, workers
from .safetensors import weight_headers
from .state import BranchState, RepoState, is_commit, plain

README = "README.md"

SHORT_TIMEOUT_S = 5.0
"""So long a silent Hub is waited for where a remembered answer serves: a handshake across the world takes one."""

_Card = tuple[str | None, str | None]


class Hub:
    """One endpoint, one token, one cache.

    `endpoint` defaults to huggingface_hub's (HF_ENDPOINT), `token` to its own search (HF_TOKEN, then the
    login), `cache_dir` to BRANCHFIT_CACHE or the platform's cache folder. `timeout_s` bounds every connect
    and every read, three of it a whole small answer; `offline`, or HF_HUB_OFFLINE, asks nobody and answers
    from the cache. A user and password in the endpoint are sent and never shown: `Hub.endpoint` has none.
    Safe to use from several threads. Methods raise HubError's children, UsageError for names that cannot
    be (so does Hub() itself for an endpoint that is no address), and nothing of the HTTP library's.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        token: str | None = None,
        cache_dir: Path | None = None,
        timeout_s: float = 10.0,
        offline: bool = False,
    ) -> None:
        from huggingface_hub import constants

        self._transport = Transport(endpoint or constants.ENDPOINT, token, timeout_s)
        self.endpoint = self._transport.endpoint
        self.cache_dir = cache_dir if cache_dir is not None else default_cache_dir()
        self.offline = offline or bool(constants.HF_HUB_OFFLINE)
        self._short = short(min(timeout_s, SHORT_TIMEOUT_S))

    def repo_state(self, repo: str, branch: str | None = None, *, headers: bool = True) -> RepoState:
        """Every branch of a repo (or only `branch`), each as its own files describe it, and the card.

        With `headers` the tensors come from the safetensors headers, read by range. A branch whose commit
        was read before is answered from the cache; then only the refs are asked for. Where the Hub gives no
        answer, the last one is given, with its date in `as_of` and why in `as_of_reason`. Of a repo with
        very many branches only the first are read in full; the others are listed with a problem. Raises
        BranchNotFound (with the nearest names), RepoNotFound, AccessDenied, RateLimited, HubUnreachable (no
        answer and nothing remembered).
        """
        check_repo(repo)
        if branch is not None:
            check_branch(branch)
        cache = Cache(self.cache_dir, self.endpoint, repo)
        last = cache.last()
        try:
            self._must_be_online(repo)
            return self._ask_state(repo, branch, headers, cache, last)
        except HubUnreachable as error:
            if last is None:
                raise
            return self._remembered_state(repo, branch, headers, cache, last, error.reason)

    def branch_files(self, repo: str, branch_or_commit: str) -> BranchState:
        """The commit a branch stands at and its files, neither configs nor headers. For a commit, from the cache."""
        check_repo(repo)
        check_branch(branch_or_commit)
        cache = Cache(self.cache_dir, self.endpoint, repo)
        if is_commit(branch_or_commit) and (known := cache.files(branch_or_commit)) is not None:
            return BranchState(branch_or_commit, branch_or_commit, known)
        self._must_be_online(repo)
        try:
            commit, files = read_info(self._transport, self._asked_info(repo, branch_or_commit))
        except RevisionUnknown as error:
            known_branches = read_refs(self._transport, self._asked_refs(repo)).branches
            raise BranchNotFound(repo, branch_or_commit, known_branches) from error
        cache.keep_files(commit, files)
        return BranchState(branch_or_commit, commit, files)

    @contextmanager
    def open(
        self,
        repo: str,
        commit: str,
        path: str,
        start: int = 0,
        stop: int | None = None,
        *,
        etag: str | None = None,
        address: Address | None = None,
    ) -> Iterator[Body]:
        """A file of a commit as a stream, from `start` up to `stop` where the server honours ranges (see `Body.start`).

        `etag` binds a range to the content that had it (If-Range); `address` is where the bytes were served last, and
        is kept up to date: give the same one for every range of a file. Tries again until the first byte can be
        read. From then on a broken line raises BrokenStream out of `Body.iter_bytes`: open again, from what is there.
        """
        asked = self._asked_file(repo, commit, path)
        self._must_be_online(repo)
        try:
            with self._transport.stream(asked, start, stop, etag, address) as body:
                yield body
        except RevisionUnknown as error:
            raise BranchNotFound(repo, commit, ()) from error

    def read(self, repo: str, commit: str, path: str, max_bytes: int = MAX_SMALL_FILE_BYTES) -> bytes:
        """A small file whole. Raises HubError if it is larger than `max_bytes`."""
        asked = self._asked_file(repo, commit, path)
        self._must_be_online(repo)
        try:
            return self._transport.get(asked, max_bytes)[0]
        except RevisionUnknown as error:
            raise BranchNotFound(repo, commit, ()) from error

    def _ask_state(
        self, repo: str, branch: str | None, headers: bool, cache: Cache, last: LastAnswer | None
    ) -> RepoState:
        with workers(MAX_WORKERS) as pool:
            asking = Asking(
                transport=self._transport,
                cache=cache,
                info=lambda revision: self._asked_info(repo, revision),
                file=lambda revision, path: self._asked_file(repo, revision, path),
            )
            # With nothing remembered all of it will be needed: it need not wait for the refs.
            job = pool.submit(self._readme, repo, "main") if last is None else None
            early = ask_early(pool, asking, branch) if last is None and branch is not None else None
            patience = self._short if last is not None else None
            refs = read_refs(self._transport, self._asked_refs(repo), patience)
            branches, problems = refs.branches, list(refs.problems)
            if branch is not None and branch not in branches:
                raise BranchNotFound(repo, branch, branches)
            main = branches.get("main") or next(iter(branches.values()), None)
            wanted, beyond = split_branches(branches, "main" if "main" in branches else None)
            if branch is not None:
                wanted, beyond = {branch: branches[branch]}, ""
                early = early if early is not None and early.is_of(branches[branch]) else None
            problems += [beyond] if beyond else []
            if job is None and main is not None and last is not None and last.readme_commit != main:
                job = pool.submit(self._readme, repo, main)
            read = {state.branch: state for state in read_branches(pool, asking, wanted, headers, early)}
            card, problem = self._card(repo, main, job, last)
            problems += [problem] if problem else []
        cache.keep_last(branches, *card)
        names = branches if branch is None else wanted
        states = tuple(read.get(name) or unread(name, branches[name]) for name in names)
        return RepoState(repo, *card, states, problems=tuple(problems))

    def _card(
        self, repo: str, main: str | None, job: Future[_Card] | None, last: LastAnswer | None
    ) -> tuple[_Card, str]:
        """The card and its commit, and a sentence where it could not be read."""
        former: _Card = (last.readme, last.readme_commit) if last is not None else (None, None)
        try:
            card = former
            if job is not None:
                settled(job)
                card = job.result()
            if main is not None and card[1] != main:
                # The branch moved between the two answers, or the first one is not called main.
                card = self._readme(repo, main)
        except HubUnreachable as error:
            kept = ", so this is a former one" if former[0] is not None else ""
            return former, f"the card ({README}) was not read{kept}: {error.reason}"
        return card, ""

    def _remembered_state(
        self, repo: str, branch: str | None, headers: bool, cache: Cache, last: LastAnswer, reason: str
    ) -> RepoState:
        if branch is not None and branch not in last.branches:
            raise BranchNotFound(repo, branch, last.branches)
        states = []
        for name, commit in last.branches.items():
            if branch is not None and name != branch:
                continue
            files, configs = cache.files(commit), cache.configs(commit)
            tensors = cache.tensors(commit) if headers else None
            chosen, odd = weight_headers(files or ())
            problems = [*(configs.problems if configs is not None else ()), *([odd] if odd else [])]
            if files is None or configs is None or (headers and chosen and tensors is None):
                problems.append("not all of it was read while the Hub answered")
            states.append(
                BranchState(
                    branch=name,
                    commit=commit,
                    files=files or (),
                    config=configs.config if configs is not None else None,
                    quantize_config=configs.quantize_config if configs is not None else None,
                    tensors=tensors,
                    problems=tuple(map(plain, problems)),
                )
            )
        return RepoState(repo, last.readme, last.readme_commit, tuple(states), last.as_of, reason)

    def _readme(self, repo: str, revision: str) -> _Card:
        """The card's text, None if there is none, and the commit it was read at."""
        known = revision if is_commit(revision) else None
        try:
            data, commit = self._transport.get(self._asked_file(repo, revision, README), MAX_SMALL_FILE_BYTES)
        except (FileNotOnHub, TooLarge, RevisionUnknown):
            return None, known
        return data.decode("utf-8", "replace"), commit or known

    def _must_be_online(self, repo: str) -> None:
        if self.offline:
            raise HubUnreachable(f"{self.endpoint}/{repo}", "offline mode is on (HF_HUB_OFFLINE)")

    def _asked_refs(self, repo: str) -> Asked:
        return Asked(f"{self.endpoint}/api/models/{repo}/refs", repo)

    def _asked_info(self, repo: str, revision: str) -> Asked:
        return Asked(f"{self.endpoint}/api/models/{repo}/revision/{quoted(revision)}?blobs=true", repo)

    def _asked_file(self, repo: str, revision: str, path: str) -> Asked:
        check_repo(repo)
        check_branch(revision)
        url = f"{self.endpoint}/{repo}/resolve/{quoted(revision)}/{quoted(check_path(path), keep='/')}"
        return Asked(url, repo, path)
