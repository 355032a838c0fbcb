"""The Default tab: two text boxes. Its buttons keep the function that stood here when the page was built."""

from modules import logits, shared
from modules.text_generation import generate_reply_wrapper
from standin.widgets import Button


def create_event_handlers():
    for name in ("Generate-default", "Continue-default"):
        shared.gradio[name] = Button(generate_reply_wrapper)
    shared.gradio["get_logits-default"] = Button(logits.get_next_logits)
