"""What loads on this machine have taught, as `branchfit doctor` tells it, and forgetting it."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import click

from ..errors import BranchFitError
from ..memory.records import Record, RecordFile


def records_document(file: RecordFile) -> dict[str, Any]:
    """`records` of `branchfit doctor --json`: where they are, how many loads, and which of them are never used."""
    found = file.read()
    return {
        "path": str(file.path),
        "loads": len(found),
        "used": [_identity(record) for record in found if not record.left_out],
        "left_out": [{**_identity(record), "why": record.left_out} for record in found if record.left_out],
    }


def _identity(record: Record) -> dict[str, Any]:
    return {
        "at": record.at,
        "runtime": record.runtime,
        "version": record.version,
        "cards": [card.name for card in record.cards],
        "read_tokens": record.read_tokens,
    }


def show_records(file: RecordFile) -> None:
    """How many loads were measured, by what, and why some are left out."""
    found = file.read()
    if not found:
        click.echo(f"Loads measured here: none yet ({file.path})")
        return
    click.echo(f"Loads measured here, which correct what is predicted: {len(found)} ({file.path})")
    by = Counter(f"{one.runtime} {one.version or ''}".strip() for one in found if not one.left_out)
    for name, count in sorted(by.items()):
        click.echo(f"  {count} with {name}")
    for why, count in sorted(Counter(one.left_out for one in found if one.left_out).items()):
        click.echo(f"  {count} left out: {why}")


def forget(file: RecordFile, json_: bool) -> None:
    """Delete them, and say how many there were. Raises BranchFitError where they cannot be deleted."""
    try:
        count = file.forget()
    except OSError as error:
        raise BranchFitError(
            f"{file.path} cannot be deleted: {error}. Delete it yourself; nothing else is in it."
        ) from error
    if json_:
        click.echo(json.dumps({"forgotten": count, "path": str(file.path)}, indent=2))
    else:
        click.echo(f"Forgotten: {count} load{'s' if count != 1 else ''} ({file.path}).")
