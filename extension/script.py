"""What text-generation-webui imports. Every hook is one line that calls branchfit_webui."""

from pathlib import Path

params = {"display_name": "BranchFit", "is_tab": True}

try:
    import branchfit_webui
    from branchfit_webui import panel
except ImportError as error:
    # v4.0 and newer let a ModuleNotFoundError of an extension end the whole server.
    print(f"BranchFit is off: {error}. Reinstall it into this Python, or disable the extension.")
    branchfit_webui = None
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
