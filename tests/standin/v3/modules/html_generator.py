"""What the page shows. Only that it is made of the history counts here."""

import html


def generate_basic_html(string):
    return f"<div>{html.escape(string)}</div>"


def chat_html_wrapper(history, name1, name2, mode, style, character, reset_cache=False, last_message_only=False):
    return "".join(f"<p>{row[0]}</p><p>{row[1]}</p>" for row in history["visible"])
