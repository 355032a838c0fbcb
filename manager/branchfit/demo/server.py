"""A loopback Hub: two origins on 127.0.0.1 that speak the Hub's protocol to the unmodified huggingface_hub.

The second origin serves the LFS files by signed addresses, as the Hub's CDN does: with one origin a
client would follow the redirect during its HEAD. Nothing here is a mock; the bytes travel through sockets.

    with LoopbackHub(delay_s=0.05) as hub:
        commits = hub.add_repo("TheBloke/Tiny-GPTQ", {"main": {"README.md": b"..."}})
        ...  # HF_ENDPOINT=hub.endpoint
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, cast

from .origin import Fault, Origin, Request
from .replies import Protocol
from .served import ServedRepo

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["LoopbackHub", "Request"]


class LoopbackHub:
    """Serves repos on two loopback origins while its `with` block lasts.

    `delay_s` is added to every request. `token` is the only good one: any other gets 401; with None
    every token is a stranger's. `requests` is the log, in order of arrival; `peak_requests` and
    `peak_connections` are the most that were in flight or open at once, both origins together, and
    `connections_made` all there ever were. `mistakes` are the server's own errors: a test may ask that there
    be none.

    A fault's `matching` is a regular expression searched in "ORIGIN METHOD /path?query", for example
    "cdn GET" or "refs".
    """

    def __init__(self, delay_s: float = 0.0, token: str | None = None, port: int = 0) -> None:
        self.delay_s = delay_s
        self.protocol = Protocol(token)
        self.requests: list[Request] = []
        self.mistakes: list[BaseException] = []
        self.peak_requests = 0
        self.peak_connections = 0
        self.connections_made = 0
        self._open_requests = 0
        self._connections: set[socket.socket] = set()
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._ports = {"hub": port, "cdn": 0}
        self._servers: list[Origin] = []

    @property
    def endpoint(self) -> str:
        """What HF_ENDPOINT is set to."""
        return self.protocol.hub_origin

    @property
    def cdn_endpoint(self) -> str:
        return self.protocol.cdn_origin

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Opens both origins; after `stop` on the same ports again."""
        for origin in ("hub", "cdn"):
            server = Origin(self, origin, self._ports[origin])
            self._ports[origin] = server.server_address[1]
            self._servers.append(server)
            threading.Thread(target=server.serve_forever, args=(0.02,), name=f"loopback-{origin}", daemon=True).start()
        self.protocol.hub_origin = f"http://127.0.0.1:{self._ports['hub']}"
        self.protocol.cdn_origin = f"http://127.0.0.1:{self._ports['cdn']}"

    def stop(self) -> None:
        """Closes both origins and every connection: from now on connections are refused."""
        servers, self._servers = self._servers, []
        for server in servers:
            server.shutdown()
            server.server_close()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # its client was faster

    def add_repo(
        self,
        repo: str,
        branches: Mapping[str, Mapping[str, Path | bytes]],
        *,
        gated: bool = False,
        private: bool = False,
        lfs: frozenset[str] | None = None,
    ) -> dict[str, str]:
        """Serves `repo`, or moves branches of it if it is there; returns the commit of each branch given.

        `lfs` names the paths served as LFS; by default the Hub's own rule decides (suffix, or over 10 MiB).
        """
        served = self.protocol.repos.setdefault(repo, ServedRepo(repo))
        served.gated, served.private = gated, private
        return {branch: served.set_branch(branch, files, lfs) for branch, files in branches.items()}

    def remove_branch(self, repo: str, branch: str) -> None:
        """The branch is gone; its commits stay readable by their ids."""
        del self.protocol.repos[repo].branches[branch]

    def fail_next(
        self,
        status: int,
        headers: Mapping[str, str] | None = None,
        matching: str = "",
        times: int | None = 1,
        body: bytes = b"",
    ) -> None:
        """The next `times` matching requests get this answer (a 200 with a foreign body is possible too)."""
        fault = Fault("answer", re.compile(matching), times, status=status, headers=headers or {}, body=body)
        self._faults.append(fault)

    def cut_after(self, after_bytes: int, matching: str = "", times: int | None = 1, reset: bool = False) -> None:
        """Closes the connection after so many bytes of the body; with `reset` by RST instead of a clean close."""
        self._faults.append(Fault("reset" if reset else "cut", re.compile(matching), times, after_bytes))

    def corrupt(self, matching: str = "", times: int | None = 1, offset: int = 0) -> None:
        """Flips every bit of the byte at this offset of the file, where the answer holds it."""
        self._faults.append(Fault("corrupt", re.compile(matching), times, offset))

    def ignore_range(self, matching: str = "", times: int | None = 1) -> None:
        """Answers a Range request with 200 and the whole file."""
        self._faults.append(Fault("ignore_range", re.compile(matching), times))

    def shift_range(self, by_bytes: int, matching: str = "", times: int | None = 1) -> None:
        """Answers another range than was asked for, and says so honestly in Content-Range."""
        self._faults.append(Fault("shift_range", re.compile(matching), times, by_bytes))

    def hang(self, seconds: float, matching: str = "", times: int | None = 1) -> None:
        """Says nothing for so long, then answers."""
        self._faults.append(Fault("hang", re.compile(matching), times, seconds))

    def slow_down(self, bytes_per_s: float, matching: str = "", times: int | None = None) -> None:
        """Caps a matching answer's body, each connection by itself, as CDNs do."""
        self._faults.append(Fault("slow", re.compile(matching), times, bytes_per_s))

    def drip_headers(self, bytes_per_s: float, matching: str = "", times: int | None = 1) -> None:
        """Sends the status line and headers byte by byte."""
        self._faults.append(Fault("drip_head", re.compile(matching), times, bytes_per_s))

    def clear_faults(self) -> None:
        with self._lock:
            self._faults.clear()

    def sequential_depth(self, requests: list[Request] | None = None) -> int:
        """The longest chain of requests each of which began after the one before had ended: the round trips waited."""
        log = sorted(self.requests if requests is None else requests, key=lambda request: request.ended_s or 0.0)
        depths: list[tuple[float, int]] = []
        for request in log:
            before = [depth for ended, depth in depths if ended <= request.started_s]
            depths.append((request.ended_s or time.monotonic(), 1 + max(before, default=0)))
        return max((depth for _, depth in depths), default=0)

    def begin(self, request: Request) -> dict[str, Fault]:
        """Logs a request and takes the faults that are meant for it."""
        with self._lock:
            self.requests.append(request)
            self._open_requests += 1
            self.peak_requests = max(self.peak_requests, self._open_requests)
            taken: dict[str, Fault] = {}
            for fault in list(self._faults):
                line = f"{request.origin} {request.method} {request.path}"
                if fault.kind in taken or not fault.pattern.search(line):
                    continue
                if fault.kind in ("ignore_range", "shift_range") and "range" not in request.headers:
                    continue
                taken[fault.kind] = fault
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times <= 0:
                        self._faults.remove(fault)
            return taken

    def end(self, request: Request) -> None:
        """The answer is ready."""
        with self._lock:
            request.ended_s = time.monotonic()
            self._open_requests -= 1

    def connected(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.add(connection)
            self.connections_made += 1
            self.peak_connections = max(self.peak_connections, len(self._connections))

    def disconnected(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.discard(connection)


def main(arguments: list[str] | None = None) -> None:
    """`python -m branchfit.demo.server DIR [--port N]`: DIR/owner/name/branch/files, served until interrupted."""
    import argparse

    parser = argparse.ArgumentParser(prog="branchfit.demo.server", description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args(arguments)
    with LoopbackHub(port=given.port) as hub:
        for name in sorted(path for path in given.folder.glob("*/*") if path.is_dir()):
            branches = {
                branch.name: {file.relative_to(branch).as_posix(): file for file in branch.rglob("*") if file.is_file()}
                for branch in name.iterdir()
                if branch.is_dir()
            }
            hub.add_repo(
                name.relative_to(given.folder).as_posix(), cast("dict[str, dict[str, Path | bytes]]", branches)
            )
        print(f"HF_ENDPOINT={hub.endpoint}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
