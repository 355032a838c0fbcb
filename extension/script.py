"""What text-generation-webui imports. Every hook is one line that calls branchfit_webui."""

params = {"display_name": "BranchFit", "is_tab": True}

try:
    from branchfit_webui import panel
except ImportError as error:
    # v4.0 and newer let a ModuleNotFoundError of an extension end the whole server.
    print(f"BranchFit is off: {error}. Reinstall it into this Python, or disable the extension.")
    panel = None


def ui():
    if panel is not None:
        panel.build()
