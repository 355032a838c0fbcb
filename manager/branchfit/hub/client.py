"""The Hub as the rest of BranchFit asks it: a repo's state, a branch's files, a file's bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import BranchNotFound, FileNotOnHub, HubUnreachable
from .address import check_branch, check_path, check_repo, quoted
from .answers import MAX_SMALL_FILE_BYTES, is_commit, read_info, read_refs
from .body import Body
from .branches import Asking, read_branches, workers
from .cache import Cache, LastAnswer, default_cache_dir
from .http import Asked, RevisionUnknown, TooLarge, Transport
from .safetensors import weight_headers
from .state import BranchState, RepoState

README = "README.md"


class Hub:
    """One endpoint, one token, one cache.

    `endpoint` defaults to huggingface_hub's (HF_ENDPOINT), `token` to its own search (HF_TOKEN, then the
    login), `cache_dir` to BRANCHFIT_CACHE or the platform's cache folder. `timeout_s` bounds every connect
    and every read; `offline`, or HF_HUB_OFFLINE, asks nobody and answers from the cache.
    Safe to use from several threads. Methods raise HubError's children, UsageError for names that cannot
    be, and nothing of the HTTP library's.
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

        self.endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        self.cache_dir = cache_dir if cache_dir is not None else default_cache_dir()
        self.offline = offline or bool(constants.HF_HUB_OFFLINE)
        self._transport = Transport(self.endpoint, token, timeout_s)

    def repo_state(self, repo: str, branch: str | None = None, *, headers: bool = True) -> RepoState:
        """Every branch of a repo (or only `branch`), each as its own files describe it, and the card.

        With `headers` the tensors come from the safetensors headers, read by range. A branch whose commit
        was read before is answered from the cache; then only the refs are asked for. Without network the
        last answer is given with its date in `as_of`. Raises BranchNotFound (with the nearest names),
        RepoNotFound, AccessDenied, RateLimited, HubUnreachable (no network and nothing remembered).
        """
        check_repo(repo)
        if branch is not None:
            check_branch(branch)
        cache = Cache(self.cache_dir, self.endpoint, repo)
        last = cache.last()
        try:
            self._must_be_online(repo)
            return self._ask_state(repo, branch, headers, cache, last)
        except HubUnreachable:
            if last is None:
                raise
            return self._remembered_state(repo, branch, headers, cache, last)

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
            known_branches = read_refs(self._transport, self._asked_refs(repo))
            raise BranchNotFound(repo, branch_or_commit, known_branches) from error
        cache.keep_files(commit, files)
        return BranchState(branch_or_commit, commit, files)

    @contextmanager
    def open(self, repo: str, commit: str, path: str, start: int = 0) -> Iterator[Body]:
        """A file of a commit as a stream, from `start` on where the server honours ranges (see `Body.start`).

        Tries again until the first byte can be read. From then on a broken line raises BrokenStream out of
        `Body.iter_bytes`: open again, from what is there.
        """
        asked = self._asked_file(repo, commit, path)
        self._must_be_online(repo)
        try:
            with self._transport.stream(asked, start) as body:
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
        with workers() as pool:
            # With nothing remembered the card will be needed: it need not wait for the refs.
            early = pool.submit(self._readme, repo, "main") if last is None else None
            branches = read_refs(self._transport, self._asked_refs(repo))
            if branch is not None and branch not in branches:
                raise BranchNotFound(repo, branch, branches)
            main = branches.get("main") or next(iter(branches.values()), None)
            asking = Asking(
                transport=self._transport,
                cache=cache,
                info=lambda commit: self._asked_info(repo, commit),
                file=lambda commit, path: self._asked_file(repo, commit, path),
            )
            wanted = branches if branch is None else {branch: branches[branch]}
            card = (last.readme, last.readme_commit) if last is not None else (None, None)
            job = early
            if job is None and main is not None and card[1] != main:
                job = pool.submit(self._readme, repo, main)
            states = read_branches(pool, asking, wanted, headers)
            if job is not None:
                card = job.result()
            if main is not None and card[1] != main:
                # The branch moved between the two answers, or the first one is not called main.
                card = self._readme(repo, main)
        cache.keep_last(branches, *card)
        return RepoState(repo, card[0], card[1], states)

    def _remembered_state(
        self, repo: str, branch: str | None, headers: bool, cache: Cache, last: LastAnswer
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
                problems.append("not all of it was read before the network went")
            states.append(
                BranchState(
                    branch=name,
                    commit=commit,
                    files=files or (),
                    config=configs.config if configs is not None else None,
                    quantize_config=configs.quantize_config if configs is not None else None,
                    tensors=tensors,
                    problems=tuple(problems),
                )
            )
        return RepoState(repo, last.readme, last.readme_commit, tuple(states), last.as_of)

    def _readme(self, repo: str, revision: str) -> tuple[str | None, str | None]:
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
