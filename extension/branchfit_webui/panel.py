"""The tab."""

from __future__ import annotations

from branchfit import __version__

TEXT = f"""\
### BranchFit {__version__}

The manager is installed. In a terminal:

    branchfit recommend TheBloke/WizardMath-70B-V1.0-GPTQ
    branchfit pull TheBloke/WizardMath-70B-V1.0-GPTQ

The prompt lock is not part of this version: prompts are sent as the webui builds them.
"""
"""What the tab says, in Markdown."""


def build() -> None:
    """Build the tab inside the host's Blocks. gradio is imported here, since API-only hosts have none."""
    import gradio

    gradio.Markdown(TEXT)
