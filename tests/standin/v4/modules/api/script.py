"""The API's doors."""

import asyncio
import json
import threading
from collections import deque

import modules.api.anthropic as Anthropic
import modules.api.completions as OAIcompletions
import modules.api.logits as OAIlogits
import modules.api.models as OAImodels
from modules import shared
from standin.web import (
    Depends,
    EventSourceResponse,
    FastAPI,
    Header,
    HTTPException,
    JSONResponse,
    Request,
    iterate_in_threadpool,
)

from .errors import OpenAIError
from .typing import (
    AnthropicRequest,
    ChatCompletionRequest,
    CompletionRequest,
    LoadModelRequest,
    LogitsRequest,
    to_dict,
)


class AnthropicError(Exception):
    def __init__(self, message: str, error_type: str = "invalid_request_error", status_code: int = 400):
        self.message, self.error_type, self.status_code = message, error_type, status_code


app = FastAPI()


def verify_admin_key(authorization: str = Header(None)) -> None:
    if shared.args.admin_key and authorization != f"Bearer {shared.args.admin_key}":
        raise HTTPException(401, "Unauthorized")


check_admin_key = [Depends(verify_admin_key)]


@app.exception_handler(OpenAIError)
async def openai_error_handler(request: Request, exc: OpenAIError):
    kind = "server_error" if exc.code >= 500 else "invalid_request_error"
    return JSONResponse({"error": {"message": exc.message, "type": kind}}, exc.code)


@app.exception_handler(AnthropicError)
async def anthropic_error_handler(request: Request, exc: AnthropicError):
    return JSONResponse({"type": "error", "error": {"type": exc.error_type, "message": exc.message}}, exc.status_code)


@app.post("/v1/completions")
async def openai_completions(request: Request, request_data: CompletionRequest):
    stop_event, body = threading.Event(), to_dict(request_data)
    if request_data.stream:

        async def generator():
            response = OAIcompletions.stream_completions(body, is_legacy=False, stop_event=stop_event)
            try:
                async for piece in iterate_in_threadpool(response):
                    yield {"data": json.dumps(piece)}
                yield {"data": "[DONE]"}
            finally:
                stop_event.set()
                response.close()

        return EventSourceResponse(generator())
    return JSONResponse(
        await asyncio.to_thread(OAIcompletions.completions, body, is_legacy=False, stop_event=stop_event)
    )


@app.post("/v1/chat/completions")
async def openai_chat_completions(request: Request, request_data: ChatCompletionRequest):
    stop_event, body = threading.Event(), to_dict(request_data)
    if request_data.stream:

        async def generator():
            response = OAIcompletions.stream_chat_completions(body, is_legacy=False, stop_event=stop_event)
            try:
                async for piece in iterate_in_threadpool(response):
                    yield {"data": json.dumps(piece)}
                yield {"data": "[DONE]"}
            finally:
                stop_event.set()
                response.close()

        return EventSourceResponse(generator())
    return JSONResponse(
        await asyncio.to_thread(OAIcompletions.chat_completions, body, is_legacy=False, stop_event=stop_event)
    )


@app.post("/v1/messages")
async def anthropic_messages(request: Request, request_data: AnthropicRequest):
    converted = Anthropic.convert_request(to_dict(request_data))
    try:
        return await _anthropic_generate(request, request_data, converted, request_data.model or shared.model_name)
    except OpenAIError as error:
        kind = "invalid_request_error" if error.code < 500 else "api_error"
        raise AnthropicError(message=error.message, error_type=kind, status_code=error.code) from error


async def _anthropic_generate(request, request_data, converted, model):
    stop_event = threading.Event()
    if request_data.stream:

        async def generator():
            converter = Anthropic.StreamConverter(model)
            response = OAIcompletions.stream_chat_completions(converted, is_legacy=False, stop_event=stop_event)
            try:
                async for piece in iterate_in_threadpool(response):
                    for event in converter.process_chunk(piece):
                        yield event
                for event in converter.finish():
                    yield event
            except OpenAIError as error:
                yield {"event": "error", "data": json.dumps({"type": "error", "error": {"message": error.message}})}
            finally:
                stop_event.set()
                response.close()

        return EventSourceResponse(generator())
    answer = await asyncio.to_thread(OAIcompletions.chat_completions, converted, is_legacy=False, stop_event=stop_event)
    return JSONResponse(Anthropic.build_response(answer, model))


@app.post("/v1/internal/logits")
async def handle_logits(request_data: LogitsRequest):
    return JSONResponse(OAIlogits._get_next_logits(to_dict(request_data)))


@app.post("/v1/internal/chat-prompt")
async def handle_chat_prompt(request: Request, request_data: ChatCompletionRequest):
    generator = OAIcompletions.chat_completions_common(to_dict(request_data), is_legacy=False, prompt_only=True)
    return JSONResponse(deque(generator, maxlen=1).pop())


@app.post("/v1/internal/model/load")
async def handle_load_model(request_data: LoadModelRequest):
    OAImodels._load_model(to_dict(request_data))
    return JSONResponse("OK")


def run_server():
    shared.session.serve("api")


_server_started = False


def setup():
    global _server_started
    first, _server_started = not _server_started, True
    if first:
        shared.session.open(run_server, in_front=shared.args.nowebui)
