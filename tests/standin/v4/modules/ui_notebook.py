"""The Notebook tab: one text box, whose text is saved while it is written."""

from modules import shared
from modules.text_generation import generate_reply_wrapper
from standin.widgets import Button


def create_event_handlers():
    for name in ("Generate-notebook", "Regenerate-notebook"):
        shared.gradio[name] = Button(generate_and_save_wrapper_notebook)


def generate_and_save_wrapper_notebook(textbox_content, interface_state, prompt_name):
    yield from generate_reply_wrapper(textbox_content, interface_state)
