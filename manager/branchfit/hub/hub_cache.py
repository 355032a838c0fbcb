"""Where huggingface_hub keeps what it downloaded: the cache that other tools share. It is only looked at.

    HF_HUB_CACHE/models--OWNER--NAME/
        blobs/<etag>                  content: the etag is the sha256 of an LFS file, else git's blob id
        snapshots/<commit>/<path>     links to blobs; where a system has none, files of their own, and no blob
        refs/<branch>                 a commit

Source: huggingface_hub's guide "Understand caching", and `hf_hub_download` in file_download.py (0.16.4 to 2.4).
"""

from __future__ import annotations

import re
import stat
from pathlib import Path

_NAME = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""Git's blob id, or a sha256: the only etags that name a content."""


def hub_cache_dir() -> Path:
    """huggingface_hub's own answer: HF_HUB_CACHE, HF_HOME, or its default."""
    from huggingface_hub import constants

    # The first name came with 0.19.
    return Path(getattr(constants, "HF_HUB_CACHE", None) or constants.HUGGINGFACE_HUB_CACHE).expanduser()


def blobs_folder(repo: str) -> Path | None:
    """The folder of a model repo's blobs, None where there is none; a link below the cache's own folder is none."""
    folder = hub_cache_dir() / "--".join(["models", *repo.split("/")])
    blobs = folder / "blobs"
    try:
        both = all(stat.S_ISDIR(path.lstat().st_mode) for path in (folder, blobs))
    except OSError:
        return None
    return blobs if both else None


def blob(blobs: Path, name: str, size_bytes: int) -> Path | None:
    """The plain file under that sha256 or blob id, if it is there and has this size. Its content is not looked at.

    Files that are still coming have another name (`.incomplete`).
    """
    if not _NAME.fullmatch(name):
        return None
    path = blobs / name
    try:
        found = path.lstat()
    except OSError:
        return None
    return path if stat.S_ISREG(found.st_mode) and found.st_size == size_bytes else None
