"""What text-generation-webui imports. Every hook is one line that calls branchfit_webui."""

import sys
from pathlib import Path

params = {"display_name": "BranchFit", "is_tab": True}

PACKAGES = str(Path(__file__).parent / "packages")  # where `branchfit setup` puts them if this Python takes none
if Path(PACKAGES).is_dir() and PACKAGES not in sys.path:
    sys.path.append(PACKAGES)  # last, so that the webui's own win

try:
    import branchfit_webui
    from branchfit_webui import panel
except Exception as error:  # noqa: BLE001 - a missing or broken module of anyone's must not end the webui
    # v3.7 and newer let a ModuleNotFoundError of an extension end the whole server.
    branchfit_webui = None
    PROBLEM = (
        f"BranchFit is off, and NO model is locked to its template: {type(error).__name__}: {error}. Run its setup "
        f"again (`branchfit setup`, for {sys.executable}), or disable the extension."
    )
    print(PROBLEM, file=sys.stderr)
else:
    params.update(branchfit_webui.PARAMS)


def setup():
    if branchfit_webui is not None:
        branchfit_webui.setup(Path(__file__).parent, params)


def state_modifier(state):
    return state if branchfit_webui is None else branchfit_webui.last_resort(state)


def custom_css():
    return "" if branchfit_webui is None else panel.CSS


def custom_js():
    return "" if branchfit_webui is None else panel.JAVASCRIPT


def ui():
    if branchfit_webui is not None:
        panel.build()
    else:
        import gradio

        gradio.Markdown(PROBLEM)
