"""What an update would bring: a branch as it was pulled, and as it stands now, file by file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import DownloadError
from .hashing import expected_hash
from .lockfile import Installed, LockedFile
from .names import ListedFile, folder_name
from .planning import Standing, plan

if TYPE_CHECKING:
    from ..hub import BranchState

Kind = Literal["new", "changed", "removed", "renamed", "unchanged"]


@dataclass(frozen=True)
class FileChange:
    """A file of the branch. `size_bytes` is its size now, of a removed one what it was.

    `was_path` and `was_bytes` are what it was called and how large it was at the pull, None of a new one. A renamed
    one has the same content under another path.
    """

    path: str
    kind: Kind
    size_bytes: int
    was_path: str | None
    was_bytes: int | None


@dataclass(frozen=True)
class BranchChanges:
    """A model and what has become of its branch since. `commit` is where the branch stands now.

    `fetch_bytes` are to come over the line, what is on this machine already not counted; `standing` is the folder's
    (see `planning`): `damaged` where files are missing of the commit that was pulled.
    """

    model: Installed
    commit: str
    files: tuple[FileChange, ...]
    fetch_bytes: int
    standing: Standing

    @property
    def moved(self) -> bool:
        """True when the branch has another commit now, be the files the same or not."""
        return self.commit != self.model.commit

    def of(self, kind: Kind) -> tuple[FileChange, ...]:
        """The files of one kind, by path."""
        return tuple(file for file in self.files if file.kind == kind)

    def to_dict(self) -> dict[str, Any]:
        """A JSON object: the commits, the files, the bytes to fetch."""
        return {
            "commit": self.model.commit,
            "hub_commit": self.commit,
            "moved": self.moved,
            "fetch_bytes": self.fetch_bytes,
            "files": [asdict(file) for file in self.files],
        }


def compare(model: Installed, state: BranchState, staging_dir: Path | None = None) -> BranchChanges:
    """What of a model's branch is other than it was; `state` is the branch's listing now. Only looks.

    Raises as `plan` does where the model could not be updated: `RefusedFiles` for a listing that must not be
    written, `DownloadError` where the folder cannot be replaced or has another name than a pull would give it.
    """
    name = folder_name(model.repo, model.branch)
    if model.folder.name != name:
        raise DownloadError(
            f"{model.folder} holds {model.repo}:{model.branch}, which a pull puts into {name}: rename the folder to "
            f"that, then try again."
        )
    planned = plan(
        state,
        model.repo,
        model.folder.parent,
        staging_dir=staging_dir,
        require_space=False,
        allow_pickle=model.allow_pickle,
    )
    listed = {file.path: file for file in state.files}
    now = {file.path: listed[file.path] for file in planned.files}
    files = _changes({file.path: file for file in model.files}, now)
    return BranchChanges(model, state.commit, files, planned.fetch_bytes, planned.standing)


def _changes(then: Mapping[str, LockedFile], now: Mapping[str, ListedFile]) -> tuple[FileChange, ...]:
    """Every file of either, by path. A content that went under one name and came under another is renamed."""
    gone: dict[str, list[LockedFile]] = {}
    for path, old in sorted(then.items()):
        if path not in now:
            gone.setdefault(expected_hash(old), []).append(old)
    found = []
    for path, file in sorted(now.items()):
        same_place = then.get(path)
        if same_place is not None:
            kind: Kind = "unchanged" if expected_hash(same_place) == expected_hash(file) else "changed"
            found.append(FileChange(path, kind, file.size_bytes, path, same_place.size_bytes))
        elif gone.get(expected_hash(file)):
            old = gone[expected_hash(file)].pop(0)
            found.append(FileChange(path, "renamed", file.size_bytes, old.path, old.size_bytes))
        else:
            found.append(FileChange(path, "new", file.size_bytes, None, None))
    for old in (one for ones in gone.values() for one in ones):
        found.append(FileChange(old.path, "removed", old.size_bytes, old.path, old.size_bytes))
    return tuple(sorted(found, key=lambda one: one.path))
