"""Every way by which text reaches the model, each as a function of the user's instruction.

A way gives the reply as whoever asked gets it, and raises Refusal where they get an error instead.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from standin.session import Session
from standin.turns import CHATML
from standin.ways import EARLIER, PARTIAL, PATHS, Refusal, kind_of
from standin.web import Answer


@dataclass(frozen=True)
class Way:
    """One path. `kind` says what the model is asked: a new instruction, the same again, more of a reply..."""

    name: str
    kind: str
    run: Callable[..., str]

    def __call__(self, instruction: str, **fields: Any) -> str:
        return self.run(instruction, **fields)


def paths(session: Session) -> dict[str, Way]:
    return {name: Way(name, kind_of(name), _runner(Client(session), name)) for name in PATHS[session.era]}


def _runner(client: Client, name: str) -> Callable[..., str]:
    button, _, mode = name.removesuffix("]").partition("[")
    return partial(getattr(client, button), mode=mode) if mode else getattr(client, name)


class Client:
    """Whoever asks: an API client, or someone at the page. `fields` go into the request or the page's state."""

    def __init__(self, session: Session) -> None:
        self.session = session

    # The text API

    def completions(self, instruction: str, **fields: Any) -> str:
        return self._choice(self._post("/v1/completions", prompt=instruction, **fields))["text"]

    def completions_stream(self, instruction: str, **fields: Any) -> str:
        return self._streamed("/v1/completions", prompt=instruction, **fields)

    def completions_list(self, instruction: str, **fields: Any) -> str:
        answer = self._post("/v1/completions", prompt=[EARLIER[0], instruction], **fields)
        return answer.json["choices"][-1]["text"]

    def completions_echo(self, instruction: str, **fields: Any) -> str:
        return self.completions(instruction, echo=True, **fields)

    def legacy_generate(self, instruction: str, **fields: Any) -> str:
        return self._post("/api/v1/generate", prompt=instruction, **fields).json["results"][0]["text"]

    def legacy_stream(self, instruction: str, **fields: Any) -> str:
        events = self._socket("_handle_stream_message", {"prompt": instruction, **fields})
        return "".join(event.get("text", "") for event in events)

    def edits(self, instruction: str, **fields: Any) -> str:
        return self._choice(self._post("/v1/edits", instruction=instruction, **fields))["text"]

    # The chat API

    def chat_plain(self, instruction: str, **fields: Any) -> str:
        return self._chat([user(instruction)], **fields)

    def chat_stream(self, instruction: str, **fields: Any) -> str:
        return self._streamed("/v1/chat/completions", messages=[user(instruction)], **fields)

    def chat_system(self, instruction: str, **fields: Any) -> str:
        return self._chat([{"role": "system", "content": "Answer like a pirate."}, user(instruction)], **fields)

    def chat_history(self, instruction: str, **fields: Any) -> str:
        return self._chat([user(EARLIER[0]), assistant(EARLIER[1]), user(instruction)], **fields)

    def chat_continue(self, instruction: str, **fields: Any) -> str:
        return self._chat([user(instruction), assistant(PARTIAL)], continue_=True, **fields)

    def chat_mode_chat(self, instruction: str, **fields: Any) -> str:
        return self.chat_plain(instruction, mode="chat", **fields)

    def chat_mode_chat_instruct(self, instruction: str, **fields: Any) -> str:
        return self.chat_plain(instruction, mode="chat-instruct", **fields)

    def chat_client_template(self, instruction: str, **fields: Any) -> str:
        return self.chat_plain(instruction, instruction_template_str=CHATML, **fields)

    def chat_prompt(self, instruction: str, **fields: Any) -> str:
        return self._post("/v1/internal/chat-prompt", messages=[user(instruction)], **fields).json["prompt"]

    def messages(self, instruction: str, **fields: Any) -> str:
        sent = {"max_tokens": 256, "messages": [user(instruction)], **fields}  # a client has to send max_tokens
        return self._post("/v1/messages", **sent).json["content"][0]["text"]

    def messages_stream(self, instruction: str, **fields: Any) -> str:
        sent = {"max_tokens": 256, "messages": [user(instruction)], "stream": True, **fields}
        answer = self._post("/v1/messages", **sent)
        for event in answer.events:
            if event["type"] == "error":
                raise Refusal(event["error"]["message"], answer.status)
        return "".join(event["delta"]["text"] for event in answer.events if "delta" in event)

    def legacy_chat(self, instruction: str, **fields: Any) -> str:
        sent = {"user_input": instruction, "mode": "instruct", **fields}
        return self._post("/api/v1/chat", **sent).json["results"][0]["history"]["internal"][-1][1]

    def legacy_chat_stream(self, instruction: str, **fields: Any) -> str:
        sent = {"user_input": instruction, "mode": "instruct", **fields}
        return self._socket("_handle_chat_stream_message", sent)[-2]["history"]["internal"][-1][1]

    def legacy_regenerate(self, instruction: str, **fields: Any) -> str:
        return self.legacy_chat("", history=_history([instruction, "No."]), regenerate=True, **fields)

    def legacy_continue(self, instruction: str, **fields: Any) -> str:
        return self.legacy_chat("", history=_history([instruction, PARTIAL]), _continue=True, **fields)

    def api_logits_samplers(self, instruction: str, **fields: Any) -> str:
        return str(self._post("/v1/internal/logits", prompt=instruction, use_samplers=True, **fields).json)

    # The page's text boxes

    def default_generate(self, instruction: str, **fields: Any) -> str:
        return self._page("Generate-default", instruction, self.session.state(**fields))[-1][0]

    def default_continue(self, instruction: str, **fields: Any) -> str:
        box = self._saying(" " + PARTIAL, lambda: self.default_generate(instruction, **fields))
        return self._page("Continue-default", box, self.session.state(**fields))[-1][0]

    def notebook_generate(self, instruction: str, button: str = "Generate-notebook", **fields: Any) -> str:
        saved_as = [] if self.session.era == "v1" else ["notes"]
        return self._page(button, instruction, self.session.state(**fields), *saved_as)[-1][0]

    def notebook_regenerate(self, instruction: str, **fields: Any) -> str:
        self.notebook_generate(instruction, **fields)
        return self.notebook_generate(instruction, "Regenerate-notebook", **fields)

    def notebook_continue(self, instruction: str, **fields: Any) -> str:
        box = self._saying(" " + PARTIAL, lambda: self.notebook_generate(instruction, **fields))
        return self.notebook_generate(box, **fields)

    def logits_samplers(self, instruction: str, **fields: Any) -> str:
        return self._page("get_logits-default", instruction, self.session.state(**fields), True, "")[-1][0]

    def logits_direct(self, instruction: str, **fields: Any) -> str:
        return self._page("get_logits-default", instruction, self.session.state(**fields), False, "")[-1][0]

    # The page's chat

    def send(self, instruction: str, mode: str, **fields: Any) -> str:
        return _last(self._chat_page("Generate", instruction, mode, fields))

    def regenerate(self, instruction: str, mode: str, **fields: Any) -> str:
        history = self._chat_page("Generate", instruction, mode, fields)
        return _last(self._chat_page("Regenerate", "", mode, {**fields, "history": history}))

    def _continue(self, instruction: str, mode: str, **fields: Any) -> str:
        history = self._saying(" " + PARTIAL, lambda: self._chat_page("Generate", instruction, mode, fields))
        return _last(self._chat_page("Continue", "", mode, {**fields, "history": history}))

    def start_with(self, instruction: str, mode: str, **fields: Any) -> str:
        return _last(self._chat_page("Generate", instruction, mode, {**fields, "start_with": PARTIAL}))

    def web_search(self, instruction: str, **fields: Any) -> str:
        return _last(self._chat_page("Generate", instruction, "instruct", {**fields, "enable_web_search": True}))

    def impersonate(self, instruction: str, mode: str, **fields: Any) -> str:
        state = self.session.state(mode=mode, history=_history([*EARLIER]), **fields)
        typed = instruction if self.session.era == "v1" else {"text": instruction, "files": []}
        box = self._page("Impersonate", typed, state)[-1][0]
        return box if isinstance(box, str) else box["text"]

    # How they are asked

    def _chat_page(self, button: str, text: str, mode: str, fields: dict[str, Any]) -> dict[str, Any]:
        typed = text if self.session.era == "v1" else {"text": text, "files": []}
        state = self.session.state(**{**copy.deepcopy(fields), "mode": mode})
        return self._page(button, typed, state)[-1][1]

    def _page(self, button: str, *inputs: Any) -> list[Any]:
        import gradio

        try:
            return self.session.press(button, *inputs)
        except Exception as error:
            raise Refusal(str(error), None, isinstance(error, gradio.Error)) from error

    def _saying(self, reply: str, ask: Callable[[], Any]) -> Any:
        """What `ask` gives while the model answers `reply`."""
        usual = self.session.recorder.answer
        self.session.answer_with(reply)
        try:
            return ask()
        finally:
            self.session.recorder.answer = usual

    def _chat(self, messages: list[dict[str, str]], **fields: Any) -> str:
        return self._choice(self._post("/v1/chat/completions", messages=messages, **fields))["message"]["content"]

    def _streamed(self, path: str, **fields: Any) -> str:
        answer = self._post(path, stream=True, **fields)
        pieces = [event["choices"][0] for event in answer.events if event != "[DONE]"]
        return "".join(piece.get("text") or piece.get("delta", {}).get("content") or "" for piece in pieces)

    def _post(self, path: str, **fields: Any) -> Answer:
        answer = self.session.post(path, fields)
        if answer.broken is not None:
            raise Refusal(str(answer.broken), answer.status, said=False) from answer.broken
        if answer.status != 200:
            raise Refusal(json.dumps(answer.json, ensure_ascii=False), answer.status)
        return answer

    @staticmethod
    def _choice(answer: Answer) -> dict[str, Any]:
        return answer.json["choices"][0]

    def _socket(self, handler: str, message: dict[str, Any]) -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = []

        class Socket:
            async def send(self, text: str) -> None:
                sent.append(json.loads(text))

        streaming = self.session.module("extensions.api.streaming_api")
        asyncio.run(getattr(streaming, handler)(Socket(), json.dumps(message)))
        return sent


setattr(Client, "continue", Client._continue)  # the button's name is a word of the language


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def _history(row: list[str]) -> dict[str, Any]:
    return {"internal": [list(row)], "visible": [list(row)]}


def _last(history: dict[str, Any]) -> str:
    return history["internal"][-1][1]
