"""Where the real model cards lie that some tests read: BRANCHFIT_SHARED, or `shared` beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
OWN_CARDS = TESTS / "cards"
SHARED = Path(os.environ.get("BRANCHFIT_SHARED") or TESTS.parent.parent / "shared")

needs_shared = pytest.mark.skipif(
    not (SHARED / "cards").is_dir(),
    reason=f"needs the folder of real model cards, {SHARED / 'cards'} (BRANCHFIT_SHARED says where it is)",
)


def shared_cards(*families: str) -> list[Path]:
    """The real cards of these families (`gptq`, `awq`, ...).

    Where the folder is not there, one path that does not exist: with it `needs_shared` gives its reason.
    """
    folder = SHARED / "cards"
    return sorted(path for family in families for path in (folder / family).glob("*.md")) or [folder / "none.md"]


def repo_of(path: Path) -> str | None:
    """The repo that a shared card's file name tells: OWNER__NAME@DATE.md."""
    owner, _, name = path.stem.partition("@")[0].partition("__")
    return f"{owner}/{name}" if name and owner != "unknown" else None


def own_card(name: str) -> str:
    return (OWN_CARDS / f"{name}.md").read_text(encoding="utf-8")
