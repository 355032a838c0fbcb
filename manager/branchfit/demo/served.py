"""What the loopback Hub serves: files with their true git and LFS identities, commits, repos."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

CHUNK_BYTES = 1 << 20
"""Files on disk are hashed and served in pieces of this size, so that a model never lies in memory."""

# fmt: off
LFS_SUFFIXES = frozenset((
    ".7z", ".arrow", ".bin", ".bz2", ".ckpt", ".gguf", ".gz", ".h5", ".model",
    ".msgpack", ".npy", ".npz", ".onnx", ".parquet", ".pb", ".pickle", ".pkl", ".pt",
    ".pth", ".rar", ".safetensors", ".tar", ".tflite", ".tgz", ".wasm", ".xz", ".zip",
    ".zst",
))
# fmt: on
"""The Hub's default .gitattributes, as a new model repo gets it."""

LFS_FROM_BYTES = 10 * 1024 * 1024
"""The Hub refuses a push of larger plain git files."""

SAMPLED_FROM_BYTES = 64 * 1024 * 1024
"""Above this a file enters its commit's id by its size, first and last MiB: listing 35 GB does not hash them."""


class ServedFile:
    """One file: bytes in memory, or a path on disk that is read in pieces. Hashes are computed once, when asked."""

    def __init__(self, path: str, content: Path | bytes, lfs: bool) -> None:
        self.path = path
        self.content = content
        self.lfs = lfs

    @cached_property
    def size_bytes(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    @cached_property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        """The text that git holds in place of an LFS file (git-lfs, docs/spec.md)."""
        return (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size_bytes}\n".encode()
        )

    @cached_property
    def blob_id(self) -> str:
        """git's id of the blob; an LFS file's is that of its pointer."""
        if self.lfs:
            return git_blob_id(len(self.pointer), iter([self.pointer]))
        return git_blob_id(self.size_bytes, self.chunks())

    @property
    def etag(self) -> str:
        """Without quotes: the sha256 of an LFS file, the blob id of any other."""
        return self.sha256 if self.lfs else self.blob_id

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` up to `stop` (the end if None), in pieces."""
        end = self.size_bytes if stop is None else stop
        if isinstance(self.content, bytes):
            for offset in range(start, end, CHUNK_BYTES):
                yield self.content[offset : min(offset + CHUNK_BYTES, end)]
            return
        with self.content.open("rb") as stream:
            stream.seek(start)
            left = end - start
            while left > 0 and (chunk := stream.read(min(CHUNK_BYTES, left))):
                left -= len(chunk)
                yield chunk

    def fingerprint(self) -> str:
        """What a commit's id is made of: the content's hash, or a sample of a large file on disk."""
        if isinstance(self.content, bytes) or self.size_bytes <= SAMPLED_FROM_BYTES:
            return self.sha256
        digest = hashlib.sha256(str(self.size_bytes).encode())
        for start in (0, self.size_bytes - CHUNK_BYTES):
            for chunk in self.chunks(start, start + CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()


class ResizedFile(ServedFile):
    """A copy of a file that lacks its last bytes, or has zeros behind them, under the name and hash of the whole."""

    def __init__(self, whole: ServedFile, by_bytes: int) -> None:
        super().__init__(whole.path, whole.content, whole.lfs)
        self.whole = whole
        self.size_bytes = max(0, whole.size_bytes + by_bytes)
        self.sha256 = whole.sha256

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        end = self.size_bytes if stop is None else min(stop, self.size_bytes)
        own_end = min(end, self.whole.size_bytes)
        if start < own_end:
            yield from self.whole.chunks(start, own_end)
        if end > max(start, own_end):
            yield bytes(end - max(start, own_end))


@dataclass(frozen=True)
class ServedCommit:
    """A tree of files that never changes again. `commit` is 40 hex digits made from the content."""

    commit: str
    files: Mapping[str, ServedFile]

    def entries(self, folder: str = "", recursive: bool = True) -> list[tuple[str, ServedFile | None]]:
        """(path, file) in `folder`, sorted; file is None for a folder, which the Hub lists too."""
        prefix = f"{folder}/" if folder else ""
        found: dict[str, ServedFile | None] = {}
        for path, file in self.files.items():
            if not path.startswith(prefix):
                continue
            parts = path[len(prefix) :].split("/")
            for depth in range(1, len(parts)):
                found[prefix + "/".join(parts[:depth])] = None
            found[path] = file
        return sorted((path, file) for path, file in found.items() if recursive or "/" not in path[len(prefix) :])


@dataclass
class ServedRepo:
    """A repo: where each branch stands, and every commit that a branch ever stood at."""

    name: str
    gated: bool = False
    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, ServedCommit] = field(default_factory=dict)

    def set_branch(self, branch: str, files: Mapping[str, Path | bytes], lfs: frozenset[str] | None = None) -> str:
        """Puts `branch` at a commit of `files` and returns it; what it stood at stays readable by its commit."""
        served = {
            path: ServedFile(path, content, is_lfs(path, content) if lfs is None else path in lfs)
            for path, content in files.items()
        }
        digest = hashlib.sha1(self.name.encode(), usedforsecurity=False)
        for path in sorted(served):
            digest.update(f"\0{path}\0{served[path].lfs}\0{served[path].fingerprint()}".encode())
        commit = digest.hexdigest()
        self.commits.setdefault(commit, ServedCommit(commit, served))
        self.branches[branch] = commit
        return commit

    def at(self, revision: str) -> ServedCommit | None:
        """The files at a branch or a full commit id, None if there is no such revision."""
        return self.commits.get(self.branches.get(revision, revision))


def is_lfs(path: str, content: Path | bytes) -> bool:
    """Whether the Hub would hold this file in LFS: by its suffix, or by its size."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    return PurePosixPath(path).suffix.lower() in LFS_SUFFIXES or size > LFS_FROM_BYTES


def git_blob_id(size_bytes: int, chunks: Iterator[bytes]) -> str:
    """sha1("blob " + size + NUL + content), as `git hash-object` prints it."""
    digest = hashlib.sha1(f"blob {size_bytes}\0".encode(), usedforsecurity=False)
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()
