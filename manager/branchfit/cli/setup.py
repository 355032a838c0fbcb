"""`branchfit setup` and `unsetup`: into a text-generation-webui, and out of it again."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from .options import FOLDER, json_option

if TYPE_CHECKING:
    from branchfit_webui.installer import Found, Plan, Search

_webui_option = click.option(
    "--webui", metavar="DIR", type=FOLDER, help="The webui's folder. Default: $BRANCHFIT_WEBUI, else it is looked for."
)
_user_data_option = click.option(
    "--user-data", metavar="DIR", type=FOLDER, help="What you start the webui with as --user-data-dir, if you do."
)
_dry_run_option = click.option("--dry-run", is_flag=True, help="Print every change; make none.")


@click.command()
@_webui_option
@click.option("--python", metavar="PYTHON", type=click.Path(path_type=Path), help="The Python that runs the webui.")
@_user_data_option
@_dry_run_option
@click.option("--uninstall", is_flag=True, help="Undo exactly what setup did. Models stay.")
@click.option("--gptq/--no-gptq", default=None, help="Also install what lets newer webuis read GPTQ. Default: ask.")
@click.option("--own-folder", is_flag=True, help="Packages into the extension's folder, none into the webui's Python.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--fetch-from", metavar="URL", help="Fetch the webui from here if there is none.")
@json_option
def setup(
    webui: Path | None,
    python: Path | None,
    user_data: Path | None,
    dry_run: bool,
    uninstall: bool,
    gptq: bool | None,
    own_folder: bool,
    yes: bool,
    fetch_from: str | None,
    json_: bool,
) -> None:
    """Set BranchFit up in a text-generation-webui: found, installed, enabled. Undone by --uninstall.

    No package that the webui has is moved. It can be run again at any time.
    """
    from branchfit_webui.installer import Wishes, find, plan_setup

    asks = _at_a_terminal() and not yes and not json_
    found = _which(find(webui), asks, None if uninstall else _source(fetch_from), fetch_from is not None, dry_run)
    if uninstall:
        _undo(found, user_data, dry_run, json_)
        return
    plan = plan_setup(found, Wishes(python, user_data, own_folder, gptq))
    if not json_:
        click.echo(f"webui:  {plan.layout.root} ({plan.layout.kind}; {found.how})")
        click.echo(f"Python: {plan.host.executable} ({'.'.join(map(str, plan.host.version))})")
        for note in plan.notes:
            click.echo(f"note:   {note}")
    plan = _with_gptq(plan, gptq, asks and not dry_run)
    _show_or_do(plan, dry_run, asks, json_)


@click.command()
@_webui_option
@_user_data_option
@_dry_run_option
@json_option
def unsetup(webui: Path | None, user_data: Path | None, dry_run: bool, json_: bool) -> None:
    """Undo exactly what setup did in a webui. Models stay."""
    from branchfit_webui.installer import find

    _undo(_which(find(webui), _at_a_terminal() and not json_, None, False, dry_run), user_data, dry_run, json_)


def _at_a_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()  # None: started with its standard input closed


def _source(fetch_from: str | None) -> str:
    from branchfit_webui.installer import SOURCE

    return fetch_from or os.environ.get("BRANCHFIT_WEBUI_SOURCE") or SOURCE


def _which(search: Search, asks: bool, source: str | None, fetches: bool, dry_run: bool) -> Found:
    """The one webui that is meant; asked for where there are several, fetched where there is none."""
    from branchfit_webui.installer import Found, WebuiNotFound, fetch

    if len(search.found) == 1:
        return search.found[0]
    if search.found:
        named = [f"{found.root} ({found.how})" for found in search.found]
        if not asks:
            raise UsageError(f"there are {len(named)} webuis: {'; '.join(named)}. Name one with --webui DIR.")
        for number, line in enumerate(named, 1):
            click.echo(f"{number}  {line}")
        chosen = click.prompt("Which one?", type=click.IntRange(1, len(named)), default=1)
        return search.found[chosen - 1]
    missing = WebuiNotFound("no text-generation-webui was found.", search.tried)
    target = Path.cwd() / "text-generation-webui"
    if source is None or dry_run or not (asks or fetches):
        raise missing
    if asks and not fetches:
        click.echo(f"No text-generation-webui was found. Looked at: {'; '.join(search.tried)}.")
        click.confirm(f"Fetch it from {source} into {target}?", abort=True)
    root = fetch(source, target)
    _first_start(root, asks)
    return Found(root, "just fetched")


def _first_start(root: Path, asks: bool) -> None:
    """A fetched webui has no Python yet: its own start script makes one (several GB, and it asks which GPU)."""
    import subprocess

    script = root / {"nt": "start_windows.bat"}.get(
        os.name, "start_macos.sh" if sys.platform == "darwin" else "start_linux.sh"
    )
    if asks and script.is_file() and click.confirm(f"Run {script.name} now, which installs the webui's own Python?"):
        # LAUNCH_AFTER_INSTALL is read by the webui's one_click.py.
        subprocess.run([str(script)], cwd=root, env={**os.environ, "LAUNCH_AFTER_INSTALL": "no"}, check=False)


def _with_gptq(plan: Plan, gptq: bool | None, asks: bool) -> Plan:
    from branchfit_webui.installer import with_gptq

    if plan.gptq.pairing is None or gptq is not None or not asks:
        return plan
    click.echo(f"GPTQ:   {plan.gptq.why}. Without them no GPTQ model can be loaded here.")
    return with_gptq(plan) if click.confirm("Install them too?", default=True) else plan


def _show_or_do(plan: Plan, dry_run: bool, asks: bool, json_: bool) -> None:
    from branchfit_webui.installer import carry_out

    said: list[str] = []

    def tell(line: str) -> None:
        said.append(line)
        if not json_:
            # The webui's folder stands in the first line; JSON has whole paths.
            click.echo(f"  {line.replace(f'{plan.layout.root}{os.sep}', '')}")

    if dry_run or asks:
        for change in plan.changes:
            tell(change.say())
    if not dry_run:
        if asks and plan.changes:
            click.confirm("Go on?", default=True, abort=True)
            said.clear()
        carry_out(plan, (lambda line: said.append(line)) if asks else tell)
    if json_:
        click.echo(json.dumps(_document(plan, said, dry_run), indent=2, ensure_ascii=False))
        return
    click.echo(f"GPTQ:   {plan.gptq.why}{_how_to_get_it(plan)}.")
    if dry_run:
        click.echo("Nothing was changed." if plan.changes else "Nothing would change: all is set up.")
        return
    click.echo("Set up." if plan.changes else "All was set up already; nothing was changed.")
    if _how_to_get_it(plan):
        click.echo("No GPTQ model can be loaded in this webui yet: run the same again with --gptq.")
    start, folder = plan.layout.start, plan.layout.start_folder
    click.echo(f"Now: start the webui ({start}, in {folder}), and click the tab BranchFit.")


def _how_to_get_it(plan: Plan) -> str:
    wanted = plan.gptq.pairing is not None and not any("GPTQ" in change.target for change in plan.changes)
    return "; --gptq installs them" if wanted else ""


def _document(plan: Plan, said: list[str], dry_run: bool) -> dict[str, Any]:
    layout = plan.layout
    return {
        "webui": str(layout.root),
        "kind": layout.kind,
        "python": str(plan.host.executable),
        "extension": str(layout.folder),
        "settings": str(layout.settings),
        "flags": str(layout.flags) if layout.flags else None,
        "dry_run": dry_run,
        "changes": said,
        "notes": list(plan.notes),
        "gptq": plan.gptq.why,
        "start": layout.start,
    }


def _undo(found: Found, user_data: Path | None, dry_run: bool, json_: bool) -> None:
    from branchfit_webui.installer import unset

    said: list[str] = []

    def tell(line: str) -> None:
        said.append(line)
        if not json_:
            click.echo(f"  {line.replace(f'{found.root}{os.sep}', '')}")

    stays = unset(found.root, user_data or found.user_data, tell, dry_run)
    if json_:
        click.echo(json.dumps({"webui": str(found.root), "dry_run": dry_run, "undone": said, "stays": stays}, indent=2))
        return
    for line in stays:
        click.echo(f"  {line.replace(f'{found.root}{os.sep}', '')}")
    click.echo("Nothing was changed." if dry_run else f"BranchFit is out of {found.root}. Models stay.")
