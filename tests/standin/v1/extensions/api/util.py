"""A request of the first API as the host's state."""

from modules import shared
from modules.chat import load_character_memoized

_PASSED = {
    "max_new_tokens": 200,
    "auto_max_new_tokens": False,
    "max_tokens_second": 0,
    "do_sample": True,
    "temperature": 0.5,
    "top_p": 1.0,
    "top_k": 0,
    "repetition_penalty": 1.1,
    "guidance_scale": 1.0,
    "negative_prompt": "",
    "seed": -1,
    "add_bos_token": True,
    "truncation_length": 2048,
    "skip_special_tokens": True,
}


def build_parameters(body, chat=False):
    state = {name: type(given)(body.get(name, given)) for name, given in _PASSED.items()}
    state.update(custom_stopping_strings="", stopping_strings=body.get("stopping_strings", []))
    if chat:
        character = body.get("character") or "Assistant"
        template = body.get("instruction_template", shared.settings["instruction_template"])
        _, name2, _, greeting, context, _ = load_character_memoized(character, "You", "", instruct=False)
        user, bot, _, _, opening, turns = load_character_memoized(template, "", "", instruct=True)
        own = {
            "mode": "chat",
            "name1": shared.settings["name1"],
            "name2": name2,
            "context": context,
            "greeting": greeting,
            "name1_instruct": user,
            "name2_instruct": bot,
            "context_instruct": opening,
            "turn_template": turns,
            "chat-instruct_command": shared.settings["chat-instruct_command"],
            "history": {"internal": [], "visible": []},
        }
        state.update({name: body.get(name, given) for name, given in own.items()})
    return state
