"""The APIs of 2023 that are gone since: extensions/api (REST and websocket) and /v1/edits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .client import post, websocket
from .compare import Answer, Wanted
from .host import REPLY_TOKENS, Running
from .paths_api import PARTIAL, TIGHT, TOO_LONG, Numbered, Path, render, together, too_long, whole_or_refused


def rest(path: str, **body: Any) -> Callable[[Running], Answer]:
    return lambda host: post(f"{host.api}/api/v1/{path}", {"max_new_tokens": REPLY_TOKENS, **body})


def stream(path: str, **body: Any) -> Callable[[Running], Answer]:
    return lambda host: websocket(host.ws_port, f"/api/v1/{path}", {"max_new_tokens": REPLY_TOKENS, **body})


def turns(*rows: list[str]) -> dict[str, Any]:
    return {"internal": list(rows), "visible": [list(row) for row in rows]}


def legacy_api(say: Numbered) -> Iterator[Path]:
    for name, send in (("/api/v1/generate", rest), ("ws /api/v1/stream", stream)):
        path = name.rsplit("/", 1)[1]
        text = say()
        yield Path(name, send(path, prompt=text), Wanted((render(text),)))
        text = render(say()) + f" {PARTIAL}"
        yield Path(f"{name}, a rendering and a reply's start", send(path, prompt=text), Wanted((text,)))
        text = say()
        asked = {"prompt": text, "max_new_tokens": 100000, "stopping_strings": ["ok ok"]}
        yield Path(f"{name}, max_new_tokens 100000", send(path, **asked), Wanted((render(text),)))
        for key, value in (("truncation_length", 64), ("truncation_length", 10_000_000), ("add_bos_token", False)):
            text = say()
            wanted = whole_or_refused(render(text), 64) if value == 64 else Wanted((render(text),))
            yield Path(f"{name}, {key} {value}", send(path, prompt=text, **{key: value}), wanted)
        yield Path(f"{name}, too long", send(path, prompt=TOO_LONG), too_long(render(TOO_LONG)))
        asked = {"prompt": TIGHT, "max_new_tokens": 400}
        yield Path(f"{name}, less room than max_new_tokens", send(path, **asked), Wanted((render(TIGHT),)))
    for name, send in (("/api/v1/chat", rest), ("ws /api/v1/chat-stream", stream)):
        path = name.rsplit("/", 1)[1]
        for mode in ("instruct", "chat-instruct", "chat"):
            text = say()
            yield Path(
                f"{name}, {mode}", send(path, user_input=text, mode=mode, history=turns()), Wanted((render(text),))
            )
            text = say()
            asked = {"user_input": "", "mode": mode, "history": turns([text, PARTIAL])}
            yield Path(f"{name}, {mode}, regenerate", send(path, regenerate=True, **asked), Wanted((render(text),)))
            text = say()
            asked = {"user_input": "", "mode": mode, "history": turns([text, PARTIAL])}
            wanted = Wanted((f"{render(text)} {PARTIAL}",))
            yield Path(f"{name}, {mode}, _continue", send(path, _continue=True, **asked), wanted)
        text = say()
        asked = {"user_input": text, "mode": "instruct", "history": turns(["Hello.", "Hello to you."])}
        yield Path(f"{name}, history", send(path, **asked), Wanted((render(text),)))
        asked = {"user_input": TOO_LONG, "mode": "instruct", "history": turns()}
        yield Path(f"{name}, too long", send(path, **asked), too_long(render(TOO_LONG)))
    text = say()
    asked = {"instruction": text, "input": "Speling erors.", "temperature": 0.5}
    yield Path("/v1/edits", lambda host: post(f"{host.openai}/v1/edits", asked), Wanted(holds=(text, "Speling erors.")))
    texts = [say() for _ in range(8)]
    sends = [rest("generate", prompt=text) for text in texts[:4]]
    sends += [rest("chat", user_input=text, mode="instruct", history=turns()) for text in texts[4:]]
    yield Path("8 requests to extensions/api at once", together(sends), Wanted(tuple(map(render, texts))))
