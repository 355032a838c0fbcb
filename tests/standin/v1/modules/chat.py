"""The chat as v1.7 does it: rows [message, reply] in `internal`, and what is shown in `visible`."""

import copy
import functools
import html
import re

import modules.shared as shared
from modules.extensions import apply_extensions
from modules.html_generator import chat_html_wrapper
from modules.logging_colors import logger
from modules.text_generation import generate_reply, get_encoded_length, get_max_prompt_length
from standin import old_turns, rows

LOOK = ("name1", "name2", "mode", "chat_style")


def generate_chat_prompt(user_input, state, **kwargs):
    limit = get_max_prompt_length(state)
    return old_turns.build(
        user_input,
        state,
        kwargs.get("history", state["history"])["internal"],
        lambda prefix: apply_extensions("bot_prefix", prefix, state),
        lambda prompt: get_encoded_length(prompt) < limit,
        continued=kwargs.get("_continue", False),
        impersonate=kwargs.get("impersonate", False),
    )


def get_stopping_strings(state):
    return old_turns.stop_strings(state)


def chatbot_wrapper(text, state, regenerate=False, _continue=False, loading_message=True):
    output = apply_extensions("history", copy.deepcopy(state["history"]))
    state = apply_extensions("state", state)
    if shared.model is None or shared.model_name == "None":
        logger.error("no model is loaded")
        yield output
        return
    stops, before = get_stopping_strings(state), ("", "")
    if regenerate or _continue:
        text, visible_text = output["internal"][-1][0], output["visible"][-1][0]
        before = (output["internal"][-1][1], output["visible"][-1][1])
        output = rows.without_last(output) if regenerate else output
    else:
        visible_text = html.escape(text)
        text, visible_text = apply_extensions("chat_input", text, visible_text, state)
        text = apply_extensions("input", text, state, is_chat=True)
    if loading_message:
        shown = output if _continue else {**output, "visible": [*output["visible"], []]}
        yield rows.waiting(shown, visible_text, f"{before[1]}..." if _continue else shared.processing_message)

    kwargs = {"_continue": _continue, "history": output}
    prompt = apply_extensions("custom_generate_chat_prompt", text, state, **kwargs)
    if prompt is None:
        prompt = generate_chat_prompt(text, state, **kwargs)

    turn = rows.Turn(output, text, visible_text, before if _continue else None)
    for reply in generate_reply(prompt, state, stopping_strings=stops, is_chat=True):
        if shared.stop_everything:
            break
        if turn.grow(reply, re.sub("(<USER>|<user>|{{user}})", state["name1"], reply)) and state["stream"]:
            yield output
    turn.show(apply_extensions("output", turn.shown, state, is_chat=True))
    yield output


def impersonate_wrapper(text, state):
    page = chat_html_wrapper(state["history"], *(state[part] for part in LOOK))
    if shared.model is None or shared.model_name == "None":
        yield "", page
        return
    prompt, stops = generate_chat_prompt("", state, impersonate=True), get_stopping_strings(state)
    yield f"{text}...", page
    for reply in generate_reply(prompt + text, state, stopping_strings=stops, is_chat=True):
        yield (text + reply).lstrip(" "), page
        if shared.stop_everything:
            break


def generate_chat_reply(text, state, regenerate=False, _continue=False, loading_message=True):
    again = regenerate or _continue
    if again and rows.nothing_to_repeat(state["history"]):
        yield state["history"]
    else:
        message = "" if again else text
        yield from chatbot_wrapper(
            message, state, regenerate=regenerate, _continue=_continue, loading_message=loading_message
        )


def character_is_loaded(state, raise_exception=False):
    nameless = state["mode"] != "instruct" and not state["name2"]
    if nameless and raise_exception:
        raise ValueError
    return not nameless


def generate_chat_reply_wrapper(text, state, regenerate=False, _continue=False):
    if not character_is_loaded(state):
        return
    prefilled = state["start_with"] and not _continue
    if prefilled and regenerate:
        text, _ = remove_last_message(state["history"])
    if prefilled:
        send_dummy_message(text, state)
        send_dummy_reply(state["start_with"], state)
    look = [state[part] for part in LOOK]
    histories = generate_chat_reply(
        text, state, regenerate and not prefilled, bool(_continue or prefilled), loading_message=True
    )
    for history in histories:
        yield chat_html_wrapper(history, *look), history


def remove_last_message(history):
    return rows.take_last(history), history


def send_dummy_message(text, state):
    return rows.append_dummy(state["history"], apply_extensions("input", text, state, is_chat=True), text)


def send_dummy_reply(text, state):
    return rows.answer_dummy(state["history"], apply_extensions("input", text, state, is_chat=True), text)


def load_character(character, name1, name2, instruct=False):
    if instruct:
        known = old_turns.TEMPLATES[character]
        return known["user"], known["bot"], None, "", known["context"], known["turn_template"].replace("\n", r"\n")
    known = old_turns.CHARACTERS[character]
    return name1, known["name"], None, known["greeting"], known["context"], ""


@functools.cache
def load_character_memoized(character, name1, name2, instruct=False):
    return load_character(character, name1, name2, instruct=instruct)
