"""The tab: which model, get it and load it; the models on disk; the prompt lock.

Only what gradio 3.33 to 4.37 have in common is used (`wiring` says what that leaves out). The functions in
here give text; what they tell is decided elsewhere.
"""

from __future__ import annotations

import branchfit_webui
from branchfit import __version__

from . import installed, models, prompt_lock
from .pieces import CSS
from .wiring import JAVASCRIPT, Board

__all__ = ["CSS", "JAVASCRIPT", "build"]


def build() -> None:
    """Build the tab inside the host's Blocks. gradio is imported in here, since API-only hosts have none.

    v1.7 ends where an extension's tab raises, so nothing is let out; a part that cannot be built says so and
    leaves the others alone.
    """
    try:
        import gradio as gr

        gr.Markdown(f"### BranchFit {__version__}")
        office = branchfit_webui.get_office()
        board = Board(office) if office is not None else None
        if board is None:
            gr.Markdown(f"**Getting and loading models: not running.** {branchfit_webui.problem()}")
        else:
            with gr.Tab("Get and load a model"):
                _part("Getting models", lambda: models.build(board))
            with gr.Tab("Models on disk"):
                _part("The models on disk", lambda: installed.build(board))
        with gr.Tab("Prompt lock") as page:
            _part("The prompt lock's page", lambda: prompt_lock.build(board, page))
        if board is not None:
            _part("The progress display", board.wire)
    except Exception as error:  # noqa: BLE001 - whatever an unknown gradio brings: the page must come up, and say this
        print(f"BranchFit's tab could not be built ({type(error).__name__}: {error}); the prompt lock is not affected.")


def _part(what: str, build_it: object) -> None:
    import gradio as gr

    try:
        build_it()  # type: ignore[operator]
    except Exception as error:  # noqa: BLE001 - as above; the other parts can do without this one
        said = f"{what} could not be shown here ({type(error).__name__}: {error})."
        print(f"BranchFit: {said}")
        gr.Markdown(f"**{said}** The rest works; `branchfit` in a terminal does the same.")
