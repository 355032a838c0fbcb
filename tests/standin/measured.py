"""What was measured on real hosts: which hooks fire on each path, and in which order."""

from __future__ import annotations

from standin.ways import kind_of

PROBE = """
import modules.shared as shared
import modules.text_generation as text_generation

heard = shared.session.heard


def setup():
    for name in ("generate_reply_HF", "generate_reply_custom"):
        inner = getattr(text_generation, name)
        if not hasattr(inner, "probed"):
            def outer(*args, inner=inner, **kwargs):
                heard.append("G")
                yield from inner(*args, **kwargs)
            outer.probed = True
            setattr(text_generation, name, outer)


def state_modifier(state):
    heard.append("S")
    return state


def history_modifier(history):
    heard.append("H")
    return history


def chat_input_modifier(text, visible_text, state):
    heard.append("CI")
    return text, visible_text


def input_modifier(string, state, is_chat=False):
    heard.append(f"I({is_chat})")
    return string


def output_modifier(string, state, is_chat=False):
    heard.append(f"O({is_chat})")
    return string


def bot_prefix_modifier(string, state):
    heard.append("BP")
    return string


def custom_generate_chat_prompt(text, state, **kwargs):
    heard.append("CP")
    return None


def tokenizer_modifier(state, prompt, input_ids, input_embeds):
    heard.append("T")
    return prompt, input_ids, input_embeds


def logits_processor_modifier(processor_list, input_ids):
    heard.append("L")
"""

TEXT = "S I(False) G T L O(False)"
SEND = "H S CI I(True) CP G T L O(True)"
SEND_BP = "H S CI I(True) CP BP G T L O(True)"
AGAIN, AGAIN_BP = "H S CP G T L O(True)", "H S CP BP G T L O(True)"
DUMMY = "I(True) I(True) " + AGAIN
BARE = "G T L"


def expected(era: str, name: str) -> str:
    """The order of hooks on one path: the table of what was measured on v1.7 and v4.7.3."""
    kind, mode = kind_of(name), name.removesuffix("]").partition("[")[2]
    prefixed = era == "v1" or mode in ("chat", "chat-instruct") or name in ("chat_mode_chat", "chat_mode_chat_instruct")
    if kind == "impersonate":
        return BARE
    if kind == "direct":
        return ""
    if kind == "chat_prompt":
        return ""
    if kind == "web_search":
        return "H S " + BARE + " CI I(True) CP G T L O(True)"
    if kind == "start_with":
        return DUMMY.replace("CP", "CP BP") if (era, mode) == ("v1", "chat-instruct") else DUMMY
    if name == "legacy_continue" or (kind == "continue" and name.startswith(("continue", "chat"))):
        return AGAIN_BP if (era, mode) == ("v1", "chat-instruct") else AGAIN
    if kind == "regenerate" and not name.startswith("notebook"):
        return AGAIN_BP if prefixed else AGAIN
    chats = name.startswith(("send", "legacy_chat", "messages")) or (era != "v1" and name.startswith("chat_"))
    if not chats:
        return TEXT
    # v3's API makes the prompt once more, before all else, to count its tokens.
    before = "BP " if era == "v3" and name.startswith("chat_mode_chat") else ""
    return before + (SEND_BP if prefixed else SEND)
