"""Start of the page, as v4.7.3 does it: extensions, then the API, then what the buttons call."""

import modules.extensions as extensions_module
from modules import shared


def create_interface():
    from modules import ui_chat, ui_default, ui_notebook

    if shared.args.extensions:
        extensions_module.load_extensions()
    if shared.args.api:
        from modules.api.script import setup as api_setup

        api_setup()
    extensions_module.apply_extensions("css")
    extensions_module.apply_extensions("js")
    for page in (ui_chat, ui_default, ui_notebook):
        page.create_event_handlers()
