"""`branchfit completion`: the shell's own script for completing commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that completes branchfit's commands and options.

    \b
    bash: add to ~/.bashrc    eval "$(branchfit completion bash)"
    zsh:  add to ~/.zshrc     eval "$(branchfit completion zsh)"
    fish: branchfit completion fish > ~/.config/fish/completions/branchfit.fish
    """
    from .app import app

    kind = get_completion_class(shell)
    assert kind is not None, shell
    click.echo(kind(app, {}, "branchfit", "_BRANCHFIT_COMPLETE").source())
