"""Serves the tab alone, with the gradio of the Python that runs it:  PYTHON serve.py PORT MODELS

The Hub is the one at HF_ENDPOINT; the host is the stand-in of tab_host.py. Whatever gradio of the webui's
history is installed can be tried so, without its webui.
"""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent / "manager"), str(TESTS.parent / "extension")]

import gradio as gr  # noqa: E402 (found through the line above, as all below)

import branchfit_webui  # noqa: E402
from branchfit_webui import panel  # noqa: E402
from tab_host import Loading, stand_in  # noqa: E402


def main() -> None:
    port, models = int(sys.argv[1]), Path(sys.argv[2])
    branchfit_webui._running["office"] = stand_in(models, Loading())
    javascript = f"() => {{{panel.JAVASCRIPT}}}"
    with gr.Blocks(css=panel.CSS, analytics_enabled=False, title=f"gradio {gr.__version__}") as page:
        with gr.Tab("BranchFit"):
            panel.build()
        # As the webuis do it: `_js` up to gradio 3, `js` from 4 on.
        page.load(None, None, None, **{"_js" if gr.__version__.startswith("3.") else "js": javascript})
    page.queue()
    page.launch(server_name="127.0.0.1", server_port=port, show_api=False, quiet=True)


if __name__ == "__main__":
    main()
