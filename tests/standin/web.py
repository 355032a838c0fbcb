"""The little of FastAPI and of http.server that the host's API needs, called without a socket."""

from __future__ import annotations

import asyncio
import inspect
import io
import json
import threading
import types
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Answer:
    """What a client gets: one document, or the events of a stream. `broken` is what ended a stream early."""

    status: int
    json: Any = None
    events: list[Any] = field(default_factory=list)
    broken: BaseException | None = None


class HTTPException(Exception):
    def __init__(self, status_code: int, detail: Any = None) -> None:
        super().__init__(detail)
        self.status_code, self.detail = status_code, detail


class JSONResponse:
    def __init__(self, content: Any = None, status_code: int = 200) -> None:
        self.content, self.status_code = content, status_code


class EventSourceResponse:
    def __init__(self, events: AsyncIterator[dict[str, Any]]) -> None:
        self.events = events


async def iterate_in_threadpool(iterator: Iterator[Any]) -> AsyncIterator[Any]:
    """Starlette's: each step may run in another thread than the one before. Here each does."""
    end = object()
    while (item := await asyncio.to_thread(in_thread, lambda: next(iterator, end))) is not end:
        yield item


def in_thread(step: Callable[[], Any]) -> Any:
    """`step` in a thread of its own; what it raises is raised here."""
    done: list[Any] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(step())
        except BaseException as error:  # noqa: BLE001 (carried over to the caller)
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]


class Body:
    """A request's fields. A subclass names those that are there when the client sends nothing."""

    def __init_subclass__(cls, defaults: dict[str, Any]) -> None:
        cls.defaults = defaults

    def __init__(self, **sent: Any) -> None:
        self.__dict__.update(json.loads(json.dumps({**self.defaults, **sent})))


@dataclass(frozen=True)
class Header:
    """A parameter that comes from the request's header of its name."""

    default: Any = None


@dataclass(frozen=True)
class Depends:
    """A function called before the endpoint; what it raises is the answer."""

    dependency: Callable[..., Any]


@dataclass
class Request:
    path: str
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> Any:
        return types.SimpleNamespace(path=self.path)

    async def is_disconnected(self) -> bool:
        return False


@dataclass
class Route:
    path: str
    endpoint: Callable[..., Any]
    methods: set[str]
    dependencies: list[Depends] = field(default_factory=list)


class FastAPI:
    def __init__(self) -> None:
        self.routes: list[Route] = []
        self.exception_handlers: dict[type, Callable[..., Any]] = {HTTPException: _http_exception}

    def add_api_route(self, path: str, endpoint: Callable[..., Any], methods: Any = ("GET",), **options: Any) -> None:
        self.routes.append(Route(path, endpoint, set(methods or ("GET",)), options.get("dependencies") or []))

    def _method(self, method: str, path: str, **options: Any) -> Callable[..., Any]:
        def decorate(endpoint: Callable[..., Any]) -> Callable[..., Any]:
            self.add_api_route(path, endpoint, [method], **options)
            return endpoint

        return decorate

    def get(self, path: str, **options: Any) -> Callable[..., Any]:
        return self._method("GET", path, **options)

    def post(self, path: str, **options: Any) -> Callable[..., Any]:
        return self._method("POST", path, **options)

    def exception_handler(self, error: type) -> Callable[..., Any]:
        def decorate(handler: Callable[..., Any]) -> Callable[..., Any]:
            self.exception_handlers[error] = handler
            return handler

        return decorate

    def ask(
        self, method: str, path: str, sent: dict[str, Any] | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """What a client gets for `sent`. An error nobody handles is status 500, as Starlette makes it."""
        route = next((route for route in self.routes if route.path == path and method in route.methods), None)
        if route is None:
            return Answer(404, {"detail": "Not Found"})
        return asyncio.run(self._answer(route, sent or {}, headers or {}))

    async def _answer(self, route: Route, sent: dict[str, Any], headers: dict[str, str]) -> Answer:
        request = Request(route.path, headers)
        try:
            for needed in route.dependencies:
                needed.dependency(**_arguments(needed.dependency, request, sent))
            arguments = _arguments(route.endpoint, request, sent)
            if inspect.iscoroutinefunction(route.endpoint):
                response = await route.endpoint(**arguments)
            else:
                response = await asyncio.to_thread(route.endpoint, **arguments)
        except Exception as error:  # noqa: BLE001 (a server answers whatever happens in it)
            handler = next(
                (self.exception_handlers[kind] for kind in type(error).__mro__ if kind in self.exception_handlers), None
            )
            if handler is None:
                return Answer(500, "Internal Server Error", broken=error)
            response = await handler(request, error)
        if isinstance(response, EventSourceResponse):
            return await _drained(response)
        if isinstance(response, JSONResponse):
            return Answer(response.status_code, response.content)
        return Answer(200, response)


async def _http_exception(request: Request, error: HTTPException) -> JSONResponse:
    return JSONResponse({"detail": error.detail}, error.status_code)


async def _drained(response: EventSourceResponse) -> Answer:
    answer = Answer(200)
    try:
        async for event in response.events:
            data = event["data"]
            answer.events.append(data if data == "[DONE]" else json.loads(data))
    except Exception as error:  # noqa: BLE001 (the headers are out: the connection just ends)
        answer.broken = error
    return answer


def _arguments(function: Callable[..., Any], request: Request, sent: dict[str, Any]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if isinstance(parameter.default, Header):
            given[name] = request.headers.get(name.replace("_", "-"), parameter.default.default)
        elif isinstance(parameter.annotation, type) and issubclass(parameter.annotation, Body):
            given[name] = parameter.annotation(**sent)
        else:
            given[name] = request
    return given


def post(handler: type, path: str, sent: dict[str, Any]) -> Answer:
    """What a client of an http.server handler gets."""
    raw = json.dumps(sent).encode()
    talk: Any = handler.__new__(handler)
    talk.path, talk.requestline, talk.request_version = path, f"POST {path} HTTP/1.1", "HTTP/1.1"
    talk.client_address, talk.headers = ("127.0.0.1", 0), {"Content-Length": str(len(raw))}
    talk.rfile, talk.wfile = io.BytesIO(raw), io.BytesIO()
    talk.log_message = lambda *parts: None
    broken: BaseException | None = None
    try:
        talk.do_POST()
    except Exception as error:  # noqa: BLE001 (socketserver prints it and closes the connection)
        broken = error
    head, _, body = talk.wfile.getvalue().partition(b"\r\n\r\n")
    status = int(head.split()[1]) if head else 0
    if b"text/event-stream" in head:
        lines = [line[6:] for line in body.decode().split("\r\n\r\n") if line.startswith("data: ")]
        return Answer(status, events=[line if line == "[DONE]" else json.loads(line) for line in lines], broken=broken)
    return Answer(status, json.loads(body) if body else None, broken=broken)
