"""One origin of the loopback Hub: sockets, the log, and misbehaviour on command."""

from __future__ import annotations

import re
import socket
import struct
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

from .faults import Fault
from .replies import Protocol as HubProtocol
from .replies import Reply

WATCHED_PIECE_BYTES = 1 << 16
"""Where somebody waits for a number of bytes, so many are sent at once: a socket's buffer holds about as many."""


SO_MAX_PACING_RATE = 47
"""Linux's asm-generic/socket.h; Python's socket module does not name it."""


@dataclass
class Request:
    """One request as it came: `path` undecoded with its query, header names in lower case.

    `origin` is "hub", "cdn" or "other"; times are of `time.monotonic`; `sent_bytes` counts the body alone.
    `ended_s` is when the answer was ready to go out (a body above 1 MiB: when it was out), None until then.
    """

    method: str
    path: str
    headers: dict[str, str]
    origin: str
    started_s: float
    ended_s: float | None = None
    status: int = 0
    sent_bytes: int = 0

    @property
    def line(self) -> str:
        """What a fault's `matching` is searched in."""
        return f"{self.origin} {self.method} {self.path}"

    @property
    def asked_range(self) -> str:
        """The Range header, "" without."""
        return self.headers.get("range", "")

    @property
    def authorization(self) -> str:
        """The token as it was seen here, "" where none came."""
        return self.headers.get("authorization", "")


class Backstage(Protocol):
    """What an origin needs of the LoopbackHub behind it: what to answer, how late, and whom to tell."""

    delay_s: float
    cdn_pace_bytes_per_s: int
    protocol: HubProtocol
    mistakes: list[BaseException]

    def begin(self, request: Request) -> dict[str, Fault]: ...

    @property
    def watched(self) -> bool: ...

    def end(self, request: Request) -> None: ...

    def sent(self, request: Request, number_bytes: int) -> None: ...

    def over(self) -> None: ...

    def connected(self, connection: socket.socket) -> None: ...

    def disconnected(self, connection: socket.socket) -> None: ...


class Origin(ThreadingHTTPServer):
    """Listens on a loopback port and answers as `origin`, "hub", "cdn" or "other", of what stands behind it."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, hub: Backstage, origin: str, port: int) -> None:
        self.hub = hub
        self.origin = origin
        self.to_reset: set[Any] = set()
        super().__init__(("127.0.0.1", port), _Handler)

    def shutdown_request(self, request: Any) -> None:
        if request in self.to_reset:
            self.to_reset.discard(request)
            self.close_request(request)
        else:
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients hang up as they please; anything else is the server's own mistake, and kept."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):
            self.hub.mistakes.append(error)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body are two writes: with Nagle's algorithm the second waits for the first one's delayed ACK.
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    server: Origin

    def setup(self) -> None:
        super().setup()
        pace = self.server.hub.cdn_pace_bytes_per_s
        if pace and self.server.origin == "cdn":
            self.connection.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, pace)
        self.server.hub.connected(self.connection)

    def finish(self) -> None:
        self.server.hub.disconnected(self.connection)
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr: the log is `LoopbackHub.requests`."""

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_GET

    def _serve(self) -> None:
        hub = self.server.hub
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers, self.server.origin, time.monotonic())
        faults = hub.begin(request)
        ended = False
        try:
            body = self.rfile.read(int(headers.get("content-length") or 0))
            time.sleep(hub.delay_s)
            if "hang" in faults:
                self._silence(faults["hang"].seconds)
            reply = self._reply(request, body, faults)
            request.status = reply.status
            # The client may act on the last byte before this thread runs again: a short answer ends in the log first.
            if reply.length <= 1 << 20:
                hub.end(request)
                ended = True
            self._send(request, reply, faults)
        except OSError:
            self.close_connection = True  # the client hung up
        finally:
            if not ended:
                hub.end(request)
            hub.over()

    def _reply(self, request: Request, body: bytes, faults: Mapping[str, Fault]) -> Reply:
        protocol = self.server.hub.protocol
        if "answer" in faults:
            fault = faults["answer"]
            place = {name: value.replace("{path}", request.path) for name, value in fault.headers.items()}
            return Reply(fault.status, place, fault.body or b"")
        headers = misread(request.headers, faults)
        if request.origin == "cdn" or (request.origin == "other" and "Signature=" in request.path):
            longer_by = int(faults["resize"].number) if "resize" in faults else 0
            reply = protocol.cdn(request.path, headers, longer_by, other_etag="other_etag" in faults)
        else:
            reply = protocol.hub(request.method, request.path, headers, body)
        said = faults["say_range"].said if "say_range" in faults else None
        if said is not None and reply.status == 206 and reply.file is not None:
            content_range = said(reply.start, reply.stop - 1, reply.file.size_bytes)
            reply = replace(reply, headers={**reply.headers, "Content-Range": content_range})
        return reply

    def _send(self, request: Request, reply: Reply, faults: Mapping[str, Fault]) -> None:
        hub = self.server.hub
        chunked = "chunked" in faults and request.method != "HEAD"
        headers = {**reply.headers, **({"Transfer-Encoding": "chunked"} if chunked else {})}
        if not chunked:
            headers["Content-Length"] = str(reply.length)
        if "drip_head" in faults:
            self._drip(reply.status, headers, faults["drip_head"].number)
        else:
            self.send_response(reply.status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
        if request.method == "HEAD":
            return
        if reply.file is not None and isinstance(reply.file.content, Path) and not faults and not hub.watched:
            self.wfile.flush()
            with reply.file.content.open("rb") as stream:
                # sendfile where the system has it: the server must not be what a benchmark measures.
                hub.sent(request, self.connection.sendfile(stream, reply.start, reply.length))
            return
        cut = faults.get("cut") or faults.get("reset") or faults.get("stall")
        limit = min(reply.length, int(cut.number)) if cut is not None else reply.length
        piece_bytes = WATCHED_PIECE_BYTES if hub.watched else None
        for piece in pieces(reply, limit, faults, piece_bytes):
            self.wfile.write(framed(piece) if chunked else piece)
            if "slow" in faults or piece_bytes is not None:
                self.wfile.flush()
            hub.sent(request, len(piece))
        if cut is not None and limit < reply.length:
            self.wfile.flush()
            if cut.kind == "stall":
                self._silence(cut.seconds)
            self._hang_up(by_reset=cut.kind == "reset")
        elif chunked:
            extra = bytes(int(faults["chunked"].number))
            self.wfile.write((framed(extra) if extra else b"") + framed(b""))
            hub.sent(request, len(extra))

    def _silence(self, seconds: float) -> None:
        """Waits so long. Raises OSError where the client hung up meanwhile, or the Hub was stopped."""
        self.wfile.flush()
        patience_s = self.connection.gettimeout()
        self.connection.settimeout(seconds)
        try:
            if not self.connection.recv(1, socket.MSG_PEEK):
                raise ConnectionAbortedError("the client hung up")
        except TimeoutError:
            return
        finally:
            self.connection.settimeout(patience_s)

    def _drip(self, status: int, headers: Mapping[str, str], bytes_per_s: float) -> None:
        lines = [f"HTTP/1.1 {status} -", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        for byte in "\r\n".join(lines).encode():
            self.wfile.write(bytes((byte,)))
            self.wfile.flush()
            time.sleep(1 / bytes_per_s)

    def _hang_up(self, by_reset: bool) -> None:
        self.close_connection = True
        if by_reset:
            # Without lingering a close sends RST; the server must then not shut the connection down first.
            self.connection.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
            )
            self.server.to_reset.add(self.connection)


def misread(headers: Mapping[str, str], faults: Mapping[str, Fault]) -> dict[str, str]:
    """A request's headers as the server takes them, with what was asked of its Range."""
    taken = dict(headers)
    if "ignore_range" in faults:
        taken.pop("range")
    if "shift_range" in faults:
        by = int(faults["shift_range"].number)
        taken["range"] = re.sub(r"\d+", lambda number: str(max(0, int(number[0]) + by)), taken["range"])
    if "shorten_range" in faults and (asked := re.fullmatch(r"bytes=(\d+)-(\d*)", taken["range"])):
        last = int(asked[1]) + max(1, int(faults["shorten_range"].number)) - 1
        taken["range"] = f"bytes={asked[1]}-{min(last, int(asked[2] or last))}"
    return taken


def framed(piece: bytes) -> bytes:
    """One chunk of a chunked body (RFC 9112, 7.1); the empty one ends it."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def pieces(reply: Reply, limit: int, faults: Mapping[str, Fault], piece_bytes: int | None = None) -> Iterator[bytes]:
    """The first `limit` bytes of the body, with a byte flipped or at a capped rate where that was asked for.

    In pieces of at most `piece_bytes` where that is given.
    """
    chunks = iter([reply.body]) if reply.file is None else reply.file.chunks(reply.start, reply.stop)
    bad = int(faults["corrupt"].number) - reply.start if "corrupt" in faults else -1
    rate = faults["slow"].number if "slow" in faults else None
    began, done = time.monotonic(), 0
    for chunk in chunks:
        chunk = chunk[: limit - done]
        if done <= bad < done + len(chunk):
            flipped = bytearray(chunk)
            flipped[bad - done] ^= 0xFF
            chunk = bytes(flipped)
        step = max(1, min(piece_bytes or len(chunk), len(chunk) if rate is None else int(rate / 50)))
        for start in range(0, len(chunk), step):
            yield chunk[start : start + step]
            done += min(step, len(chunk) - start)
            if rate is not None:
                time.sleep(max(0.0, began + done / rate - time.monotonic()))
        if done >= limit:
            return
