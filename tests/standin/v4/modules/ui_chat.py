"""The Chat tab's buttons."""

from functools import partial

from modules import chat, shared
from standin.widgets import Button


def create_event_handlers():
    shared.gradio["Generate"] = Button(chat.generate_chat_reply_wrapper)
    shared.gradio["Regenerate"] = Button(partial(chat.generate_chat_reply_wrapper, regenerate=True))
    shared.gradio["Continue"] = Button(partial(chat.generate_chat_reply_wrapper, _continue=True))
    shared.gradio["Impersonate"] = Button(chat.impersonate_wrapper)
