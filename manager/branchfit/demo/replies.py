"""The Hub's protocol without sockets: one request in, one reply out.

Statuses, headers and the order of the checks are those that huggingface_hub 0.16.4 to 2.4 were seen to
rely on: refs, model info, tree with pages, paths-info, resolve (LFS by a signed address on a second
origin, small files by a redirect into the resolve cache), ranges.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from .served import ResizedFile, ServedCommit, ServedFile, ServedRepo, git_blob_id

TREE_PAGE_ENTRIES = 1000
"""Entries on a page of `tree` without expand, as the Hub pages them."""

ADDRESS_LIFETIME_S = 3600.0
"""How long a signed CDN address is good for: the Hub's own lifetime."""


@dataclass(frozen=True)
class Reply:
    """A status, headers, and a body: bytes, or the part of a file from `start` up to `stop`."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    file: ServedFile | None = None
    start: int = 0
    stop: int = 0

    @property
    def length(self) -> int:
        return self.stop - self.start if self.file is not None else len(self.body)


def as_json(value: Any, headers: Mapping[str, str] | None = None) -> Reply:
    """200 with a JSON body."""
    return Reply(
        200, {"Content-Type": "application/json; charset=utf-8", **(headers or {})}, json.dumps(value).encode()
    )


def refusal(status: int, code: str | None, message: str, headers: Mapping[str, str] | None = None) -> Reply:
    """An error as the Hub words it: X-Error-Code, X-Error-Message and the same in a JSON body."""
    named = {"Content-Type": "application/json; charset=utf-8", "X-Error-Message": message, **(headers or {})}
    if code is not None:
        named["X-Error-Code"] = code
    return Reply(status, named, json.dumps({"error": message}).encode())


class Protocol:
    """The origins' answers over a set of repos. `token` is the only good one; with None none is.

    A signed address is good for `address_lifetime_s`, and where `address_uses` is a number for so many requests.
    With `xet` the LFS files are announced as the Hub announces those in its Xet storage.
    """

    def __init__(self, token: str | None = None) -> None:
        self.repos: dict[str, ServedRepo] = {}
        self.token = token
        self.hub_origin = ""
        self.cdn_origin = ""
        self.address_lifetime_s = ADDRESS_LIFETIME_S
        self.address_uses: int | None = None
        self.xet = False
        self.tree_page_entries = TREE_PAGE_ENTRIES
        self._uses: dict[str, int] = {}
        # The server's own clock: a test that sets the client's may run in the same process.
        self._now_s = time.time
        self._secret = b"loopback"
        self._by_sha256: dict[str, ServedFile] = {}

    def hub(self, method: str, target: str, headers: Mapping[str, str], body: bytes = b"") -> Reply:
        """The Hub origin's reply. `headers` have lower-case names."""
        split = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(split.query, keep_blank_values=True).items()}
        given = headers.get("authorization", "").removeprefix("Bearer ") or None
        if given is not None and self.token is not None and given != self.token:
            return refusal(401, None, "Invalid credentials in Authorization header")
        path = split.path
        if path == "/api/whoami-v2":
            return as_json({"type": "user", "name": "reader"}) if given else refusal(401, None, "Unauthorized")
        if cached := re.fullmatch(r"/api/resolve-cache/models/((?:[^/]+/)?[^/]+)/([0-9a-f]{40})/(.+)", path):
            return self._resolve(cached[1], cached[2], unquote(cached[3]), given, headers, cached=True)
        if resolved := re.fullmatch(r"/((?:[^/]+/)?[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve(resolved[1], unquote(resolved[2]), unquote(resolved[3]), given, headers)
        if api := re.fullmatch(r"/api/models/((?:[^/]+/)?[^/]+?)(?:/(refs|revision|tree|paths-info)(?:/(.+))?)?", path):
            return self._api(api[1], api[2] or "", api[3] or "", given, query, method, body)
        return refusal(404, None, "Sorry, we can't find the page you are looking for.")

    def cdn(self, target: str, headers: Mapping[str, str], longer_by: int = 0, other_etag: bool = False) -> Reply:
        """The file origin's reply: the signature and its date are checked, ranges are honoured.

        Its copy may be longer (or shorter) than the file, or go by another ETag than before.
        """
        split = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(split.query).items()}
        expires = query.get("Expires", "")
        if not hmac.compare_digest(query.get("Signature", ""), self._signature(split.path, expires)):
            return Reply(403, {"Content-Type": "application/xml"}, b"<Error><Code>AccessDenied</Code></Error>")
        uses = self._uses[target] = self._uses.get(target, 0) + 1
        if self._now_s() > float(expires) or uses > (self.address_uses or uses):
            return Reply(403, {"Content-Type": "application/xml"}, b"<Error><Code>ExpiredAddress</Code></Error>")
        file = self._by_sha256.get(split.path.rsplit("/", 1)[-1])
        if file is None:
            return Reply(404, {"Content-Type": "application/xml"}, b"<Error><Code>NoSuchKey</Code></Error>")
        etag = f'"{file.sha256}{"-2" if other_etag else ""}"'
        return ranged(ResizedFile(file, longer_by) if longer_by else file, headers, {"ETag": etag})

    def _access(self, name: str, given: str | None, content: bool) -> ServedRepo | Reply:
        repo = self.repos.get(name)
        allowed = given is not None and given == self.token
        if repo is None or (repo.private and not allowed):
            # Without a token the Hub does not say whether a repo is missing or private: 401 for both.
            return refusal(401 if given is None else 404, "RepoNotFound", "Repository not found")
        if content and repo.gated and not allowed:
            if given is None:
                said = f"Access to model {name} is restricted. You must be authenticated to access it."
                return refusal(401, "GatedRepo", said)
            said = f"Access to model {name} is restricted and you are not in the authorized list."
            return refusal(403, "GatedRepo", said)
        return repo

    def _api(
        self, name: str, what: str, rest: str, given: str | None, query: dict[str, str], method: str, body: bytes
    ) -> Reply:
        repo = self._access(unquote(name), given, content=False)
        if isinstance(repo, Reply):
            return repo
        if what == "refs":
            branches = [
                {"name": branch, "ref": f"refs/heads/{branch}", "targetCommit": commit}
                for branch, commit in repo.branches.items()
            ]
            return as_json({"branches": branches, "converts": [], "tags": []})
        revision, _, folder = rest.partition("/")
        commit = repo.at(unquote(revision) or "main")
        if commit is None:
            return refusal(404, "RevisionNotFound", f"Invalid rev id: {unquote(revision)}")
        if what in ("", "revision"):
            return as_json(model_info(repo, commit, blobs=query.get("blobs", "").lower() in ("true", "1")))
        if what == "paths-info":
            if method != "POST":
                return refusal(405, None, "Method Not Allowed")
            entries = dict(commit.entries())
            wanted = [path for path in asked_paths(body) if path in entries]
            return as_json([tree_entry(path, entries[path]) for path in wanted])
        recursive = query.get("recursive", "").lower() in ("true", "1")
        return self._tree_page(repo, commit, unquote(revision), unquote(folder), recursive, int(query.get("cursor", 0)))

    def _tree_page(
        self, repo: ServedRepo, commit: ServedCommit, revision: str, folder: str, recursive: bool, first: int
    ) -> Reply:
        entries = commit.entries(folder, recursive)
        if folder and not entries:
            return refusal(404, "EntryNotFound", f'"{folder}" does not exist on "{revision}"')
        after = first + self.tree_page_entries
        headers = {}
        if after < len(entries):
            query = urlencode({"recursive": str(recursive).lower(), "expand": "false", "cursor": after})
            place = "/".join(part for part in (quote(revision, safe=""), quote(folder)) if part)
            headers["Link"] = f'<{self.hub_origin}/api/models/{repo.name}/tree/{place}?{query}>; rel="next"'
        return as_json([tree_entry(path, file) for path, file in entries[first:after]], headers)

    def _resolve(
        self, name: str, revision: str, path: str, given: str | None, headers: Mapping[str, str], cached: bool = False
    ) -> Reply:
        repo = self._access(unquote(name), given, content=True)
        if isinstance(repo, Reply):
            return repo
        commit = repo.at(revision)
        if commit is None:
            return refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        file = commit.files.get(path)
        if file is None:
            return refusal(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit.commit})
        known = {"X-Repo-Commit": commit.commit, "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
        if cached or (not file.lfs and (repo.private or repo.gated)):
            # huggingface_hub 0.16.4 drops the token when it follows a redirect: only public files go by the cache.
            return ranged(file, headers, known)
        known |= {"X-Linked-Size": str(file.size_bytes), "X-Linked-Etag": f'"{file.etag}"'}
        if file.lfs and self.xet:
            known |= self._xet_headers(repo, commit, file)
        if file.lfs:
            return Reply(302, {**known, "Location": self._address(repo, file)}, b"Found. Redirecting")
        place = f"/api/resolve-cache/models/{repo.name}/{commit.commit}/{quote(path)}"
        return Reply(307, {**known, "Location": place}, b"Temporary Redirect")

    def _address(self, repo: ServedRepo, file: ServedFile) -> str:
        self._by_sha256[file.sha256] = file
        path = f"/repos/{quote(repo.name)}/{file.sha256}"
        expires = str(self._now_s() + self.address_lifetime_s)
        named = f'attachment; filename="{file.path.rsplit("/", 1)[-1]}"'
        query = {
            "response-content-disposition": named,
            "Expires": expires,
            "Signature": self._signature(path, expires),
        }
        return f"{self.cdn_origin}{path}?{urlencode(query)}"

    def _xet_headers(self, repo: ServedRepo, commit: ServedCommit, file: ServedFile) -> dict[str, str]:
        """What the Hub says beside the redirect of a file in its Xet storage, for clients that speak Xet.

        huggingface_hub's utils/_xet.py reads X-Xet-Hash and the link; the addresses lead nowhere here.
        """
        # The real one is a Merkle root over the file's chunks; any 64 hexadecimal digits look like it.
        xet_hash = hashlib.sha256(f"xet {file.sha256}".encode()).hexdigest()
        auth = f"{self.hub_origin}/api/models/{repo.name}/xet-read-token/{commit.commit}"
        links = f'<{auth}>; rel="xet-auth", <{self.hub_origin}/v1/reconstructions/{xet_hash}>; '
        return {"X-Xet-Hash": xet_hash, "Link": f'{links}rel="xet-reconstruction-info"'}

    def _signature(self, path: str, expires: str) -> str:
        return hmac.new(self._secret, f"{path}\n{expires}".encode(), hashlib.sha256).hexdigest()


def model_info(repo: ServedRepo, commit: ServedCommit, blobs: bool) -> dict[str, Any]:
    """What /api/models/{repo} says; with `blobs` every file's size, blob id and LFS sha256."""
    siblings: list[dict[str, Any]] = []
    for path, file in sorted(commit.files.items()):
        sibling: dict[str, Any] = {"rfilename": path}
        if blobs:
            sibling |= {"blobId": file.blob_id, "size": file.size_bytes}
            if file.lfs:
                sibling["lfs"] = {
                    "sha256": file.sha256,
                    "size": file.size_bytes,
                    "pointerSize": len(file.pointer),
                }
        siblings.append(sibling)
    return {
        "_id": commit.commit[:24],
        "id": repo.name,
        "modelId": repo.name,
        "author": repo.name.rpartition("/")[0],
        "sha": commit.commit,
        "lastModified": "2023-08-21T12:00:00.000Z",
        "private": repo.private,
        "gated": "auto" if repo.gated else False,
        "disabled": False,
        "tags": [],
        "downloads": 0,
        "likes": 0,
        "siblings": siblings,
    }


def tree_entry(path: str, file: ServedFile | None) -> dict[str, Any]:
    """One entry of `tree` and `paths-info`."""
    if file is None:
        return {"type": "directory", "oid": git_blob_id(len(path), iter([path.encode()])), "size": 0, "path": path}
    entry: dict[str, Any] = {"type": "file", "oid": file.blob_id, "size": file.size_bytes, "path": path}
    if file.lfs:
        entry["lfs"] = {"oid": file.sha256, "size": file.size_bytes, "pointerSize": len(file.pointer)}
    return entry


def asked_paths(body: bytes) -> list[str]:
    """The `paths` of a paths-info request, which clients send as a form or as JSON."""
    text = body.decode("utf-8", "replace")
    if text.lstrip().startswith("{"):
        paths = json.loads(text).get("paths", [])
        return [paths] if isinstance(paths, str) else list(paths)
    return parse_qs(text).get("paths", [])


def ranged(file: ServedFile, headers: Mapping[str, str], known: Mapping[str, str]) -> Reply:
    """The file, or the one range asked for: 200, 206 or 416. If-Range with another etag gets the whole file."""
    size = file.size_bytes
    base = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **known}
    asked = re.fullmatch(r"\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*", headers.get("range", ""))
    stale = headers.get("if-range", base.get("ETag")) != base.get("ETag")
    if asked is None or not (asked[1] or asked[2]) or stale:
        return Reply(200, base, file=file, start=0, stop=size)
    if asked[1]:
        start, stop = int(asked[1]), min(int(asked[2]) + 1, size) if asked[2] else size
    else:
        start, stop = max(0, size - int(asked[2])), size
    if start >= stop:
        return Reply(416, {**base, "Content-Range": f"bytes */{size}"})
    return Reply(206, {**base, "Content-Range": f"bytes {start}-{stop - 1}/{size}"}, file=file, start=start, stop=stop)
