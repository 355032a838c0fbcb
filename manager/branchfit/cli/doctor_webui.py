"""The webui's part of `branchfit doctor`: what is installed there, enabled, loadable, and what mends the rest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from branchfit_webui.installer import Checkup


def webui_checkup(webui: Path | None, python: Path | None) -> Checkup | None:
    """The webui that was named, or that this folder is in, looked at; None where there is neither.

    Raises NotInstalled where what was named is no webui, SetupError where it cannot be read.
    """
    import os

    from branchfit_webui.installer import Found, check_webui, find, webui_in

    if webui is not None or os.environ.get("BRANCHFIT_WEBUI"):
        return check_webui(find(webui).found[0], python)
    here = Path.cwd()
    for folder in (here, *here.parents):
        root = webui_in(folder)
        if root is not None:
            named = find(root).found
            return check_webui(named[0] if named else Found(root, "here"), python)
    return None


def show_webui(found: Checkup) -> None:
    """Print it."""
    layout = found.layout
    running = f", running as process {found.running}" if found.running is not None else ""
    click.echo(f"Webui: {layout.root} ({layout.kind}{running})")
    click.echo(f"  Python     {found.python or 'not found'}")
    where = f" in {found.installed_in}" if found.installed_in else ""
    click.echo(f"  branchfit  {found.version or 'not installed'}{where}")
    states = {"current": "is the one of this version", "other": "is another version's", "missing": "is missing"}
    click.echo(f"  extension  {layout.folder / 'script.py'} {states[found.script]}")
    for path, enabled in found.enabled.items():
        click.echo(f"  enabled    {'yes' if enabled else 'no '}  {path}")
    click.echo(f"  loaders    {', '.join(found.loaders) or 'none found'}")
    click.echo(f"  GPTQ       {found.gptq}")
    for verdict in found.runtimes:
        click.echo(
            f"  {'yes' if verdict['can'] else 'no ':3} {verdict['loader']:9} {verdict['runtime']:22} {verdict['why']}"
        )
    for what, remedy in found.missing:
        click.echo(f"  MISSING    {what}")
        click.echo(f"             mend it with: {remedy}")
    if not found.missing:
        click.echo("  all of BranchFit is in place")
    if found.runtimes and not any(verdict["can"] for verdict in found.runtimes):
        click.echo("  but nothing in this webui can load GPTQ: the lines above say what each loader lacks")
