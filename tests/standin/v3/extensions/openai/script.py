"""The API's doors: an extension among the others. Without a page its setup() never returns."""

import asyncio
import json
from collections import deque

import extensions.openai.completions as OAIcompletions
import extensions.openai.logits as OAIlogits
import extensions.openai.models as OAImodels
from extensions.openai.typing import (
    ChatCompletionRequest,
    CompletionRequest,
    LoadModelRequest,
    LogitsRequest,
    to_dict,
)
from modules import shared
from modules.text_generation import stop_everything_event

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

params = {"embedding_device": "cpu"}

app = FastAPI()


def verify_admin_key(authorization: str = Header(None)) -> None:
    if shared.args.admin_key and authorization != f"Bearer {shared.args.admin_key}":
        raise HTTPException(401, "Unauthorized")


check_admin_key = [Depends(verify_admin_key)]


@app.post("/v1/completions")
async def openai_completions(request: Request, request_data: CompletionRequest):
    if request_data.stream:

        async def generator():
            response = OAIcompletions.stream_completions(to_dict(request_data), is_legacy=False)
            try:
                async for piece in iterate_in_threadpool(response):
                    yield {"data": json.dumps(piece)}
            finally:
                stop_everything_event()
                response.close()

        return EventSourceResponse(generator())
    return JSONResponse(await asyncio.to_thread(OAIcompletions.completions, to_dict(request_data), is_legacy=False))


@app.post("/v1/chat/completions")
async def openai_chat_completions(request: Request, request_data: ChatCompletionRequest):
    if request_data.stream:

        async def generator():
            response = OAIcompletions.stream_chat_completions(to_dict(request_data), is_legacy=False)
            try:
                async for piece in iterate_in_threadpool(response):
                    yield {"data": json.dumps(piece)}
            finally:
                stop_everything_event()
                response.close()

        return EventSourceResponse(generator())
    return JSONResponse(
        await asyncio.to_thread(OAIcompletions.chat_completions, to_dict(request_data), is_legacy=False)
    )


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
    shared.session.serve("openai")


def setup():
    shared.session.open(run_server, in_front=shared.args.nowebui)
