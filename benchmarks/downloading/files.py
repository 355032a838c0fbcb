"""The repos that are fetched: made once from a seed, hashed while they are made, kept for the next run."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPO = "TheBloke/Bench-GPTQ"

HASHES_NAME = "hashes.json"
"""Written last, beside the files: a folder that has it is whole, and its large files need no hashing again."""

PIECE_BYTES = 1 << 20
"""Random bytes are made in pieces: what this process once held shows in the peak of each client that it starts."""

SMALL_BYTES = (1024, 4096)
"""A file of the repo of many files has a size between these."""

FOLDER_FILES = 500
"""Files in a folder of that repo."""

# fmt: off
BESIDE = (
    ".gitattributes", "LICENSE.md", "README.md", "config.json", "generation_config.json", "quantize_config.json",
    "model.safetensors.index.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json",
)
# fmt: on
"""The ten small files, named as those of a GPTQ branch."""


@dataclass(frozen=True)
class Dataset:
    """A branch's files in `folder`: path -> size in bytes, and the sha256 of the LFS ones."""

    branch: str
    folder: Path
    sizes_bytes: dict[str, int]
    sha256: dict[str, str]

    @property
    def total_bytes(self) -> int:
        return sum(self.sizes_bytes.values())


def two_large(place: Path, name: str, total_bytes: int) -> Dataset:
    """Two safetensors files of random bytes, `total_bytes` together, and ten small files."""
    sizes = {f"model-0000{number}-of-00002.safetensors": total_bytes // 2 for number in (1, 2)}
    rng = random.Random(name)
    sizes |= {path: rng.randint(*SMALL_BYTES) for path in BESIDE}
    return _made(place / name, name, sizes)


def many_small(place: Path, name: str, count: int) -> Dataset:
    """`count` files of 1 to 4 KB: one of them safetensors, as a branch without weights is refused."""
    rng = random.Random(name)
    sizes = {
        f"part-{number // FOLDER_FILES:02}/{number:05}.json": rng.randint(*SMALL_BYTES) for number in range(1, count)
    }
    return _made(place / name, name, {**sizes, "model.safetensors": SMALL_BYTES[1]})


def read_once(data: Dataset) -> None:
    """Read every file, so that the server has them in the page cache: its disk is not what is measured."""
    buffer = bytearray(PIECE_BYTES)
    for path in data.sizes_bytes:
        with (data.folder / path).open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


def load(folder: Path) -> Dataset:
    """The dataset in a folder. Raises `OSError` and `ValueError` where there is none, or half of one."""
    known = json.loads((folder / HASHES_NAME).read_text(encoding="utf-8"))
    return Dataset(known["branch"], folder / "files", known["sizes_bytes"], known["sha256"])


def _made(folder: Path, branch: str, sizes_bytes: dict[str, int]) -> Dataset:
    try:
        found = load(folder)
        if found.sizes_bytes == sizes_bytes:
            return found
    except (OSError, ValueError, KeyError):
        pass  # none yet, or one that was begun
    (folder / HASHES_NAME).unlink(missing_ok=True)
    sha256 = {}
    for path, size_bytes in sizes_bytes.items():
        place = folder / "files" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with place.open("wb") as stream:
            for piece in _content(path, size_bytes):
                stream.write(piece)
                digest.update(piece)
        if path.endswith(".safetensors"):
            sha256[path] = digest.hexdigest()
    known = {"branch": branch, "sizes_bytes": sizes_bytes, "sha256": sha256}
    (folder / HASHES_NAME).write_text(json.dumps(known), encoding="utf-8")
    return Dataset(branch, folder / "files", sizes_bytes, sha256)


def _content(path: str, size_bytes: int) -> Iterator[bytes]:
    """Bytes that are valid for their suffix where that is cheap, since a client may look into them."""
    rng = random.Random(f"{path} {size_bytes}")
    if not path.endswith(".safetensors"):
        text = json.dumps({"model_type": "llama", "noise": rng.randbytes(size_bytes).hex()}).encode()
        yield text[: size_bytes - 2] + b'"}'
        return
    # The header's own length depends on the sizes it names: padded with spaces, as the format's writers do.
    room = 512
    count = size_bytes - 8 - room
    header = json.dumps({"noise": {"dtype": "U8", "shape": [count], "data_offsets": [0, count]}}).encode()
    yield struct.pack("<Q", room) + header.ljust(room)
    while count:
        piece = rng.randbytes(min(count, PIECE_BYTES))
        count -= len(piece)
        yield piece
