"""Completions and chats, each as one document or as a stream of pieces."""

import copy
from collections import deque

from modules import shared
from modules.chat import (
    generate_chat_prompt,
    generate_chat_reply,
    load_character_memoized,
    load_instruction_template_memoized,
)
from modules.text_generation import encode, generate_reply
from standin.hooks import last

from .errors import InvalidRequestError


def _compute_prompt_logprob_entries(prompt, logprobs_count, input_ids=None):
    shared.model(input_ids=encode(prompt) if input_ids is None else input_ids)
    return []


def process_parameters(body, is_legacy=False):
    generate_params = body
    generate_params["max_new_tokens"] = body.pop("length" if is_legacy else "max_tokens")
    if generate_params["truncation_length"] == 0:
        generate_params["truncation_length"] = shared.settings["truncation_length"]
    stop = body.get("stop") or []
    generate_params["custom_stopping_strings"] = [stop] if isinstance(stop, str) else stop
    return generate_params


def convert_history(history):
    rows, pending, user_input, system, spoken = [], "", "", [], False
    for entry in history:
        role, content = entry["role"], entry["content"]
        spoken = spoken or role not in ("system", "developer")
        if role in ("user", "system", "developer") and spoken and pending:
            rows.append([pending, "", "", {}])
            pending = ""
        if role == "user":
            user_input = pending = content
        elif role == "assistant":
            rows.append([pending, content, "", {}])
            user_input = pending = ""
        elif role == "tool":
            rows.append(["", "", content, {}])
            user_input = ""
        elif spoken:
            rows.append([content, "", "", {"role": "system"}])
        else:
            system.append(content)
    return user_input, "\n".join(system), {"internal": rows, "visible": copy.deepcopy(rows), "messages": history}


def chat_completions_common(
    body: dict, is_legacy: bool = False, stream=False, prompt_only=False, stop_event=None
) -> dict:
    for message in body["messages"]:
        if "role" not in message or message.get("content") is None:
            raise InvalidRequestError(message="messages: missing role or content", param="messages")
    generate_params = process_parameters(body, is_legacy=is_legacy)
    if stop_event is not None:
        generate_params["stop_event"] = stop_event
    if body["instruction_template_str"]:
        instruction_template_str = body["instruction_template_str"]
    elif body["instruction_template"]:
        instruction_template_str = load_instruction_template_memoized(body["instruction_template"])
    else:
        instruction_template_str = shared.settings["instruction_template_str"]
    defaults = shared.default_settings
    _, name2, _, greeting, context = load_character_memoized(body["character"] or "Assistant", "You", "")
    user_input, custom_system_message, history = convert_history(body["messages"])
    generate_params.update(
        {
            "mode": body["mode"],
            "name1": body["user_name"] or defaults["name1"],
            "name2": body["bot_name"] or name2,
            "context": body["context"] or context,
            "greeting": body["greeting"] or greeting,
            "user_bio": body["user_bio"] or "",
            "instruction_template_str": instruction_template_str,
            "custom_system_message": custom_system_message,
            "chat_template_str": body["chat_template_str"] or defaults["chat_template_str"],
            "chat-instruct_command": body["chat_instruct_command"] or defaults["chat-instruct_command"],
            "tools": body["tools"],
            "history": history,
            "stream": stream,
        }
    )
    if generate_params["max_new_tokens"] is None:
        generate_params.update(max_new_tokens=512, auto_max_new_tokens=True)
    elif generate_params["max_new_tokens"] <= 0:
        raise InvalidRequestError(message="max_tokens must be greater than 0.", param="max_tokens")
    if prompt_only:
        yield {"prompt": generate_chat_prompt(user_input, generate_params, _continue=body["continue_"])}
        return
    if stream:
        yield {"choices": [{"delta": {"role": "assistant", "content": ""}}]}
    seen, answer = "", ""
    for history in generate_chat_reply(
        user_input, generate_params, regenerate=False, _continue=body["continue_"], loading_message=False
    ):
        answer = history["internal"][-1][1]
        new = answer[len(seen) :]
        if stream and new and chr(0xFFFD) not in new:
            seen = answer
            yield {"choices": [{"delta": {"content": new}}]}
    usage = {"prompt_tokens": getattr(shared.model, "last_prompt_token_count", 0)}
    if stream:
        yield {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": usage}
    else:
        yield {"choices": [{"message": {"role": "assistant", "content": answer}}], "usage": usage}


def completions_common(body: dict, is_legacy: bool = False, stream=False, stop_event=None):
    if body.get("prompt") is None:
        raise InvalidRequestError("Missing required input", param="prompt")
    generate_params = process_parameters(body, is_legacy=is_legacy)
    if generate_params["max_new_tokens"] is None:
        generate_params.update(max_new_tokens=512, auto_max_new_tokens=True)
    elif generate_params["max_new_tokens"] < 0:
        raise InvalidRequestError(message="max_tokens must be greater than or equal to 0.", param="max_tokens")
    generate_params["stream"] = stream
    if stop_event is not None:
        generate_params["stop_event"] = stop_event
    prompts = [body["prompt"]] if isinstance(body["prompt"], str) else body["prompt"]
    if stream:
        if len(prompts) > 1:
            raise InvalidRequestError(message="API Batched generation not yet supported.", param="prompt")
        seen = ""
        yield {"choices": [{"text": prompts[0] if body["echo"] else ""}]}
        for answer in generate_reply(prompts[0], generate_params, is_chat=False):
            new = answer[len(seen) :]
            if new and chr(0xFFFD) not in new:
                seen = answer
                yield {"choices": [{"text": new}]}
        return
    choices = []
    for prompt in prompts:
        if body["echo"] and body["logprobs"] is not None:
            _compute_prompt_logprob_entries(prompt, body["logprobs"], input_ids=encode(prompt))
        for _ in range(body["n"]):
            if generate_params["max_new_tokens"] == 0:  # only the prompt is scored
                choices.append({"index": len(choices), "text": prompt})
                continue
            answer = last(generate_reply(prompt, generate_params, is_chat=False), "")
            choices.append({"index": len(choices), "text": (prompt if body["echo"] else "") + answer})
    usage = {"prompt_tokens": sum(len(encode(prompt)[0]) for prompt in prompts)}
    yield {"model": shared.model_name, "choices": choices, "usage": usage}


def chat_completions(body: dict, is_legacy: bool = False, stop_event=None) -> dict:
    return deque(chat_completions_common(body, is_legacy, stream=False, stop_event=stop_event), maxlen=1).pop()


def stream_chat_completions(body: dict, is_legacy: bool = False, stop_event=None):
    yield from chat_completions_common(body, is_legacy, stream=True, stop_event=stop_event)


def completions(body: dict, is_legacy: bool = False, stop_event=None) -> dict:
    return deque(completions_common(body, is_legacy, stream=False, stop_event=stop_event), maxlen=1).pop()


def stream_completions(body: dict, is_legacy: bool = False, stop_event=None):
    yield from completions_common(body, is_legacy, stream=True, stop_event=stop_event)
