"""Anthropic's form of a chat, made into OpenAI's and back."""

import json

_CHAT_ONLY = (
    "instruction_template",
    "instruction_template_str",
    "character",
    "bot_name",
    "context",
    "greeting",
    "user_name",
    "user_bio",
    "chat_template_str",
    "chat_instruct_command",
    "stop",
)


def convert_request(body: dict) -> dict:
    messages = [{"role": "system", "content": body["system"]}] if body.get("system") else []
    for message in body["messages"]:
        content = message["content"]
        if isinstance(content, list):
            content = "\n".join(block.get("text", "") for block in content)
        messages.append({"role": message["role"], "content": content})
    result = {name: value for name, value in body.items() if name not in ("system", "tools")}
    result.update(messages=messages, mode="instruct", stream=body.get("stream", False))
    for name in _CHAT_ONLY:
        result.setdefault(name, None)
    result.setdefault("continue_", False)
    result.setdefault("tools", None)
    return result


def build_response(openai_resp: dict, model: str) -> dict:
    text = openai_resp["choices"][0]["message"]["content"]
    return {"type": "message", "role": "assistant", "model": model, "content": [{"type": "text", "text": text}]}


class StreamConverter:
    def __init__(self, model):
        self.model = model

    def process_chunk(self, chunk: dict):
        text = chunk["choices"][0]["delta"].get("content")
        if text:
            delta = {"type": "text_delta", "text": text}
            yield {"event": "content_block_delta", "data": json.dumps({"type": "content_block_delta", "delta": delta})}

    def finish(self):
        yield {"event": "message_stop", "data": json.dumps({"type": "message_stop"})}
