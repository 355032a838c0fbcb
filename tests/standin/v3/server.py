"""Start of the page, as v3.23 does it: extensions, the API among them, then what the buttons call."""

import modules.extensions as extensions_module
from modules import shared, ui_chat, ui_default, ui_notebook


def create_interface():
    if shared.args.extensions:
        extensions_module.load_extensions()
    extensions_module.apply_extensions("css")
    extensions_module.apply_extensions("js")
    for page in (ui_chat, ui_default, ui_notebook):
        page.create_event_handlers()
