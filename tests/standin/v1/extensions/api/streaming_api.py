"""The first API's websockets."""

import json

from extensions.api.util import build_parameters
from modules.chat import generate_chat_reply
from modules.text_generation import generate_reply


async def _handle_stream_message(websocket, message):
    message = json.loads(message)
    generate_params = build_parameters(message)
    stopping_strings = generate_params.pop("stopping_strings")
    generate_params["stream"] = True
    sent = 0
    for answer in generate_reply(message["prompt"], generate_params, stopping_strings=stopping_strings, is_chat=False):
        if chr(0xFFFD) not in answer[sent:]:
            await websocket.send(json.dumps({"event": "text_stream", "text": answer[sent:]}))
            sent = len(answer)
    await websocket.send(json.dumps({"event": "stream_end"}))


async def _handle_chat_stream_message(websocket, message):
    body = json.loads(message)
    generate_params = build_parameters(body, chat=True)
    generate_params["stream"] = True
    for history in generate_chat_reply(
        body["user_input"],
        generate_params,
        regenerate=body.get("regenerate", False),
        _continue=body.get("_continue", False),
        loading_message=False,
    ):
        await websocket.send(json.dumps({"event": "text_stream", "history": history}))
    await websocket.send(json.dumps({"event": "stream_end"}))
