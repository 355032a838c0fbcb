"""The 2023 API: a chat is rendered to text here, before any hook, and generated from as text."""

from extensions.openai.defaults import default, get_default_req_params
from extensions.openai.errors import InvalidRequestError
from modules import shared
from modules.text_generation import encode, generate_reply

from standin import old_turns
from standin.hooks import last

TOO_LONG = "The prompt and max_tokens together are longer than the model's context."


def marshal_common_params(body):
    params = get_default_req_params()
    params["truncation_length"] = shared.settings["truncation_length"]
    for name in ("add_bos_token", "seed", "custom_stopping_strings"):
        params[name] = shared.settings.get(name, params[name])
    if default(body, "n", 1) != 1:
        raise InvalidRequestError(message="Only n = 1 is supported.", param="n")
    if "stop" in body:
        params["stopping_strings"] = [body["stop"]] if isinstance(body["stop"], str) else body["stop"]
    return params


def messages_to_prompt(body: dict, req_params: dict, max_tokens):
    if "messages" not in body:
        raise InvalidRequestError(message="messages is required", param="messages")
    stops = req_params.setdefault("stopping_strings", [])
    known = old_turns.TEMPLATES.get(shared.settings["instruction_template"])
    if known is None:
        forms = {"user": "User: {message}\n", "assistant": "Assistant: {message}\n", "context": ""}
        last = "Assistant:"
        stops += ["\nUser:", "User:"]
    else:
        turn = old_turns.Turn(known["turn_template"], known["user"], known["bot"])
        forms = {
            "user": turn.user.replace("<|user-message|>", "{message}"),
            "assistant": turn.bot.replace("<|bot-message|>", "{message}"),
            "context": known["context"],
        }
        last = turn.before_bot.rstrip(" ")
        stops += ["\n###"] if shared.settings["instruction_template"] == "Alpaca" else ["\n" + known["user"]]
    system, said = "", ""
    for message in body["messages"]:
        if "role" not in message or "content" not in message:
            raise InvalidRequestError(message="messages: missing role or content", param="messages")
        if message["role"] == "system":
            system += message["content"] + "\n"
        else:
            said += forms[message["role"]].replace("{message}", message["content"])
    prompt = system + forms["context"] + said + last
    count = len(encode(prompt)[0])
    if count >= req_params["truncation_length"]:
        raise InvalidRequestError(message=f"The messages took {count} tokens, which is too many.", param="messages")
    return prompt, count


def chat_completions(body: dict, is_legacy: bool = False) -> dict:
    req_params = marshal_common_params(body)
    limit = req_params["truncation_length"]
    req_params.update(stream=False, top_k=20, max_new_tokens=default(body, "max_tokens", limit))
    prompt, count = messages_to_prompt(body, req_params, req_params["max_new_tokens"])
    req_params["max_new_tokens"] = min(req_params["max_new_tokens"], limit - count)
    stopping_strings = req_params.pop("stopping_strings", [])
    answer = last(generate_reply(prompt, req_params, stopping_strings=stopping_strings, is_chat=False), "")
    message = {"role": "assistant", "content": answer.removeprefix(" ")}
    return {"model": shared.model_name, "choices": [{"message": message}], "usage": {"prompt_tokens": count}}


def stream_chat_completions(body: dict, is_legacy: bool = False):
    req_params = marshal_common_params(body)
    limit = req_params["truncation_length"]
    req_params.update(stream=True, top_k=20, max_new_tokens=default(body, "max_tokens", limit))
    prompt, count = messages_to_prompt(body, req_params, req_params["max_new_tokens"])
    req_params["max_new_tokens"] = min(req_params["max_new_tokens"], limit - count)
    stopping_strings = req_params.pop("stopping_strings", [])
    yield {"choices": [{"delta": {"content": ""}}]}
    seen = ""
    for answer in generate_reply(prompt, req_params, stopping_strings=stopping_strings, is_chat=False):
        new = answer[len(seen) :]
        if new and chr(0xFFFD) not in new:
            seen = answer
            yield {"choices": [{"delta": {"content": new}}]}


def completions(body: dict, is_legacy: bool = False):
    if "prompt" not in body:
        raise InvalidRequestError("Missing required input", param="prompt")
    req_params = marshal_common_params(body)
    req_params.update(stream=False, max_new_tokens=default(body, "max_tokens", req_params["max_new_tokens"]))
    stopping_strings = req_params.pop("stopping_strings", [])
    choices = []
    for prompt in [body["prompt"]] if isinstance(body["prompt"], str) else body["prompt"]:
        if len(encode(prompt)[0]) + req_params["max_new_tokens"] > req_params["truncation_length"]:
            raise InvalidRequestError(message=TOO_LONG, param="max_tokens")
        answer = last(generate_reply(prompt, req_params, stopping_strings=stopping_strings, is_chat=False), "")
        choices.append({"index": len(choices), "text": answer.removeprefix(" ")})
    return {"model": shared.model_name, "choices": choices}


def stream_completions(body: dict, is_legacy: bool = False):
    prompt = body["prompt"]
    if not isinstance(prompt, str):
        raise InvalidRequestError(message="API Batched generation not yet supported.", param="prompt")
    req_params = marshal_common_params(body)
    req_params.update(stream=True, max_new_tokens=default(body, "max_tokens", req_params["max_new_tokens"]))
    stopping_strings = req_params.pop("stopping_strings", [])
    if len(encode(prompt)[0]) + req_params["max_new_tokens"] > req_params["truncation_length"]:
        raise InvalidRequestError(message=TOO_LONG, param="max_tokens")
    yield {"choices": [{"text": ""}]}
    seen = ""
    for answer in generate_reply(prompt, req_params, stopping_strings=stopping_strings, is_chat=False):
        new = answer[len(seen) :]
        if new and chr(0xFFFD) not in new:
            seen = answer
            yield {"choices": [{"text": new}]}
