"""The chat as v3.23 does it: the turn's own row is in the history before the prompt is made."""

import copy
import functools
import html

import modules.shared as shared
from modules.extensions import apply_extensions
from modules.html_generator import chat_html_wrapper
from modules.text_generation import generate_reply, get_encoded_length, get_max_prompt_length
from standin import rows, turns
from standin.hooks import last

LOOK = ("name1", "name2", "mode", "chat_style", "character_menu")


def generate_chat_prompt(user_input, state, **kwargs):
    impersonate, continued = kwargs.get("impersonate", False), kwargs.get("_continue", False)
    history = kwargs.get("history", state["history"])["internal"]
    messages = turns.messages_of(user_input, state, history, not (impersonate or continued))
    prompt = turns.build(
        user_input,
        state,
        history,
        lambda: apply_extensions("bot_prefix", "", state),
        continued=continued,
        impersonate=impersonate,
    )
    limit = get_max_prompt_length(state)
    return turns.shorten(messages, prompt, lambda text: shared.tokenizer is None or get_encoded_length(text) <= limit)


def get_stopping_strings(state):
    return turns.stop_strings(state)


def generate_search_query(user_message, state):
    state = {**state, "auto_max_new_tokens": True, "start_with": ""}
    prompt = generate_chat_prompt(f"{user_message}\n\nTurn this message into a short web search query.", state)
    query = last(generate_reply(prompt, state, stopping_strings=[], is_chat=True), "")
    return query.strip()


def chatbot_wrapper(text, state, regenerate=False, _continue=False, loading_message=True, for_ui=False):
    text = text.get("text", "") if isinstance(text, dict) else text
    output = apply_extensions("history", copy.deepcopy(state["history"]))
    state = apply_extensions("state", state)
    if state["mode"] != "chat":
        state["add_bos_token"] = False  # left to the template
    stops, before = get_stopping_strings(state), ("", "")
    if regenerate or _continue:
        text, visible_text = output["internal"][-1][0], output["visible"][-1][0]
        before = (output["internal"][-1][1], output["visible"][-1][1])
    else:
        visible_text = html.escape(text)
        if state.get("enable_web_search", False):
            generate_search_query(text, state)
        text, visible_text = apply_extensions("chat_input", text, visible_text, state)
        text = apply_extensions("input", text, state, is_chat=True)
        rows.append(output, text, visible_text)
        rows.note(output, "user", len(output["internal"]) - 1)
    if loading_message:
        yield rows.waiting(output, visible_text, f"{before[1]}..." if _continue else shared.processing_message)

    kwargs = {"_continue": _continue, "history": output if _continue else rows.without_last(output)}
    prompt = apply_extensions("custom_generate_chat_prompt", text, state, **kwargs)
    if prompt is None:
        prompt = generate_chat_prompt(text, state, **kwargs)
    rows.note(output, "assistant", len(output["internal"]) - 1)

    turn = rows.Turn(output, text, visible_text, before if _continue else None, has_row=True)
    for reply in generate_reply(prompt, state, stopping_strings=stops, is_chat=True, for_ui=for_ui):
        if shared.stop_everything:
            break
        said = reply if state["mode"] == "instruct" else rows.without_name(reply, state, _continue)
        turn.grow(said, said if state["mode"] == "instruct" else rows.named(said, state))
        if state["stream"]:
            yield output
    turn.show(apply_extensions("output", turn.shown, state, is_chat=True))
    yield output


def impersonate_wrapper(textbox, state):
    typed, page = textbox["text"], chat_html_wrapper(state["history"], *(state[part] for part in LOOK))
    prompt, stops = generate_chat_prompt("", state, impersonate=True), get_stopping_strings(state)
    textbox["text"] = f"{typed}..."
    yield textbox, page
    for reply in generate_reply(prompt + typed, state, stopping_strings=stops, is_chat=True):
        textbox["text"] = (typed + reply).lstrip(" ")
        yield textbox, page
        if shared.stop_everything:
            break


def generate_chat_reply(text, state, regenerate=False, _continue=False, loading_message=True, for_ui=False):
    again = regenerate or _continue
    if again and rows.nothing_to_repeat(state["history"]):
        yield state["history"]
    else:
        message = "" if again else text
        yield from chatbot_wrapper(
            message, state, regenerate=regenerate, _continue=_continue, loading_message=loading_message, for_ui=for_ui
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
        text, state, regenerate and not prefilled, bool(_continue or prefilled), loading_message=True, for_ui=True
    )
    for place, history in enumerate(histories):
        yield chat_html_wrapper(history, *look, last_message_only=bool(place)), history
        state["history"] = history


def remove_last_message(history):
    history.setdefault("metadata", {})
    return rows.take_last(history), history


def send_dummy_message(text, state):
    typed = text["text"] if isinstance(text, dict) else text
    rows.note(state["history"], "user", len(state["history"]["internal"]))
    return rows.append_dummy(state["history"], apply_extensions("input", typed, state, is_chat=True), typed)


def send_dummy_reply(text, state):
    typed = text["text"] if isinstance(text, dict) else text
    made = rows.answer_dummy(state["history"], apply_extensions("input", typed, state, is_chat=True), typed)
    return rows.note(made, "assistant", len(made["internal"]) - 1)


def load_character(character, name1, name2):
    return name1, "AI", None, "How can I help you today?", shared.default_settings["context"]


@functools.cache
def load_character_memoized(character, name1, name2):
    return load_character(character, name1, name2)


def load_instruction_template(template):
    return turns.TEMPLATES.get(template, turns.ALPACA)


@functools.cache
def load_instruction_template_memoized(template):
    return load_instruction_template(template)
