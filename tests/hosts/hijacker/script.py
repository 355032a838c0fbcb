"""An extension that takes every hook the prompt lock could be masked by. Put first in the list, it wins them."""

PREFIX = "HIJACKED "


def custom_generate_chat_prompt(text, state, **kwargs):
    return PREFIX + text


def custom_generate_reply(question, original_question, *rest, **kwargs):
    from modules import text_generation

    # Until v2.x a seed stands before the state; passed on as it came.
    yield from text_generation.generate_reply_HF(PREFIX + question, original_question, *rest, **kwargs)


def input_modifier(string, state, is_chat=False):
    return string
