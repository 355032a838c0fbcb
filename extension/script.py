"""What text-generation-webui imports. Every hook is one line that calls branchfit_webui."""

import sys
from pathlib import Path

params = {"display_name": "BranchFit", "is_tab": True}

try:
    import branchfit_webui
    from branchfit_webui import panel
except ImportError as error:
    # v4.0 and newer let a ModuleNotFoundError of an extension end the whole server.
    branchfit_webui = None
    PROBLEM = (
        f"BranchFit is off, and NO model is locked to its template: {error}. Install it into this Python "
        f"({sys.executable} -m pip install, and BranchFit's folder), or disable the extension."
    )
    print(PROBLEM, file=sys.stderr)
else:
    params.update(branchfit_webui.PARAMS)


def setup():
    if branchfit_webui is not None:
        branchfit_webui.setup(Path(__file__).parent, params)


def state_modifier(state):
    return state if branchfit_webui is None else branchfit_webui.last_resort(state)


def ui():
    if branchfit_webui is not None:
        panel.build()
    else:
        import gradio

        gradio.Markdown(PROBLEM)
