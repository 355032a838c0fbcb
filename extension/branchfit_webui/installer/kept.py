"""What the tab has kept in the webui's config-user.yaml: taken out when BranchFit goes."""

from __future__ import annotations

from collections.abc import Callable

from ..loading.config_user import Unreadable, ours, without_any
from .files import read, write
from .layout import Layout

__all__ = ["forget_models"]

NAME = "config-user.yaml"


def forget_models(layout: Layout, tell: Callable[[str], None], dry_run: bool) -> list[str]:
    """Take the settings of models that BranchFit loaded out of the file; everything else in it stays, to the byte.

    A file with nothing else in it goes. Returns what stays, in sentences: a file that cannot be read. Raises OSError.
    """
    path = layout.models / NAME
    content = read(path)
    if content is None:
        return []
    try:
        names = ours(content)
        bare = without_any(content)
    except Unreadable as error:
        return [f"{path} {error}: it stays as it is, with the settings of models that BranchFit loaded"]
    if bare == content:
        return []
    tell(f"{path}: {'would go' if dry_run else 'out of it'}: the settings of {len(names)} models")
    if dry_run:
        return []
    if bare.strip():
        write(path, bare)
    else:
        path.unlink()
    return []
