"""What the page shows. Only that it is made of the history counts here."""

import html


def generate_basic_html(string):
    return f"<div>{html.escape(string)}</div>"


def chat_html_wrapper(history, name1, name2, mode, style, reset_cache=False):
    return "".join(f"<p>{user}</p><p>{bot}</p>" for user, bot in history["visible"])
