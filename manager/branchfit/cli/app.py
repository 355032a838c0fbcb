"""The command itself: its subcommands, its exit codes, and how an error reaches the user."""

from __future__ import annotations

import difflib
import importlib
import json
import sys
from typing import NoReturn

import click

from .. import __version__
from ..errors import BranchFitError
from .exits import EXIT_COULD_NOT, EXIT_DONE, EXIT_INTERRUPTED, exit_code

COMMANDS = {
    "variants": "advise:variants",
    "recommend": "advise:recommend_command",
    "fit": "fit:fit_command",
    "pull": "pulling:pull_command",
    "queue": "queue:queue",
    "list": "models:list_command",
    "verify": "models:verify_command",
    "repair": "models:repair_command",
    "update": "updating:update_command",
    "du": "disk:du_command",
    "remove": "models:remove_command",
    "prompt": "prompt:prompt",
    "ask": "ask:ask",
    "setup": "setup:setup",
    "unsetup": "setup:unsetup",
    "doctor": "doctor:doctor",
    "demo": "demo:demo",
    "completion": "completion:completion",
}
"""Subcommand -> module:object. A command's module is imported when it is called, or for `--help`."""


class _Commands(click.Group):
    """A group that imports a subcommand only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        where = COMMANDS.get(cmd_name)
        if where is None:
            return None
        module, name = where.split(":")
        found: click.Command = getattr(importlib.import_module(f".{module}", __package__), name)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        nearest = difflib.get_close_matches(args[0], COMMANDS, n=1) if args[0] not in COMMANDS else []
        if nearest:
            ctx.fail(f"No such command '{args[0]}'. Did you mean '{nearest[0]}'?")
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 could not (network, disk, verification), 2 bad usage, 3 nothing fits, "
    "4 not found, 5 access denied. Answers go to stdout, progress and remarks to stderr.",
)
@click.version_option(__version__, prog_name="branchfit", message="%(prog)s %(version)s")
def app() -> None:
    """Paste a quantised repo; get the branch that fits this GPU, downloaded, verified, and prompted
    as its author says.

    \b
    branchfit demo                                            see the whole job in seconds
    branchfit recommend TheBloke/WizardMath-70B-V1.0-GPTQ     which branch fits, and why
    branchfit pull TheBloke/WizardMath-70B-V1.0-GPTQ          download that one, verified
    """


def run() -> NoReturn:
    """Run the command line; errors go to stderr, and with --json to stdout as a document too."""
    for stream in (sys.stdout, sys.stderr):
        # A model card's text goes through here; a console that cannot show a character must not die of it.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    try:
        sys.exit(app(standalone_mode=False) or EXIT_DONE)
    except click.exceptions.Exit as asked:
        sys.exit(asked.exit_code)
    except click.Abort as stopped:
        # click turns Ctrl-C into Abort, which a "no" at a question is too.
        interrupted = isinstance(stopped.__cause__ or stopped.__context__, KeyboardInterrupt)
        if interrupted:
            _tell_json("Interrupted", "interrupted; what was fetched is kept")
        print("branchfit: interrupted." if interrupted else "branchfit: nothing was changed.", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED if interrupted else EXIT_COULD_NOT)
    except click.ClickException as error:
        _tell_json("UsageError", error.format_message())
        error.show()
        sys.exit(error.exit_code)
    except BranchFitError as error:
        _tell_json(type(error).__name__, str(error))
        print(f"branchfit: {error}", file=sys.stderr)
        sys.exit(exit_code(error))


def _tell_json(kind: str, message: str) -> None:
    """With --json, stdout holds one document whatever happens; with --json-lines, a last line."""
    if "--json" in sys.argv[1:]:
        print(json.dumps({"error": {"kind": kind, "message": message}}, ensure_ascii=False))
    elif "--json-lines" in sys.argv[1:]:
        from ..download.events import Failed

        print(json.dumps(Failed(kind, message).to_dict(), ensure_ascii=False))
