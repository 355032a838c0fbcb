"""The Notebook tab: one text box."""

from modules import shared
from modules.text_generation import generate_reply_wrapper
from standin.widgets import Button


def create_event_handlers():
    for name in ("Generate-notebook", "Regenerate-notebook"):
        shared.gradio[name] = Button(generate_reply_wrapper)
