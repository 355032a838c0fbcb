"""Speaking to a webui's APIs: JSON over HTTP, server-sent events, and the 2023 websocket, in the standard library."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from .compare import Answer

TIMEOUT_S = 90


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as reply:
        return json.loads(reply.read())


def post(url: str, body: dict[str, Any]) -> Answer:
    """The status and every text in the answer, one after another; streamed or not."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:
            status, raw = reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        status, raw = error.code, error.read().decode()
    except OSError as error:
        return Answer(599, f"{type(error).__name__}: {error}")
    return Answer(status, "".join(_texts(raw)))


def _texts(raw: str) -> Iterator[str]:
    """Every string of one JSON document, or of each `data:` line of a stream."""
    lines = [line[5:].strip() for line in raw.splitlines() if line.startswith("data:")] or [raw]
    for line in lines:
        try:
            yield from _strings(json.loads(line))
        except ValueError:
            if line != "[DONE]":
                yield line


def _strings(value: Any, name: str = "") -> Iterator[str]:
    if isinstance(value, str):
        # Of a stream's chunks only what is reply, so that a sentence in pieces comes out whole.
        if name in ("text", "content", "message", "detail", "internal", "error", ""):
            yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _strings(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner, name)


def websocket(port: int, path: str, body: dict[str, Any]) -> Answer:
    """Send one JSON message and read until `stream_end` (extensions/api/streaming_api.py of 2023)."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as link, link.makefile("rwb") as stream:
        key = base64.b64encode(os.urandom(16)).decode()
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        stream.write(f"{head}Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        stream.flush()
        while stream.readline().strip():
            pass
        stream.write(_frame(json.dumps(body).encode()))
        stream.flush()
        text, said = "", ""
        while True:
            message = _message(stream)
            if message is None:
                return Answer(599, said or "the websocket was closed before stream_end")
            if message.get("event") == "stream_end":
                return Answer(200, text or said)
            text += message.get("text", "")
            said = "".join(_strings(message.get("history", "")))


def _frame(payload: bytes) -> bytes:
    """One masked text frame (RFC 6455, 5.2)."""
    mask = os.urandom(4)
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else bytes([0x80 | 126]) + struct.pack(">H", size)
    if size >= 2**16:
        length = bytes([0x80 | 127]) + struct.pack(">Q", size)
    return b"\x81" + length + mask + bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))


def _message(stream: Any) -> dict[str, Any] | None:
    """The next text message, None where the other side closes. Pings are passed over: a run takes seconds."""
    while True:
        head = stream.read(2)
        if len(head) < 2:
            return None
        size = head[1] & 0x7F
        if size == 126:
            size = struct.unpack(">H", stream.read(2))[0]
        elif size == 127:
            size = struct.unpack(">Q", stream.read(8))[0]
        payload = stream.read(size)
        kind = head[0] & 0x0F
        if kind == 8:
            return None
        if kind == 1:
            found: dict[str, Any] = json.loads(payload)
            return found
