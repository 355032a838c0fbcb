"""A loopback Hub: origins on 127.0.0.1 that speak the Hub's protocol to the unmodified huggingface_hub.

The second origin serves the LFS files by signed addresses, as the Hub's CDN does: with one origin a
client would follow the redirect during its HEAD. The third, "other", is a host that nobody should give a token
to, and has the same files. Nothing here is a mock; the bytes travel through sockets.

    with LoopbackHub(delay_s=0.05) as hub:
        commits = hub.add_repo("TheBloke/Tiny-GPTQ", {"main": {"README.md": b"..."}})
        ...  # HF_ENDPOINT=hub.endpoint
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, cast

from .faults import Fault, Misbehaviour
from .origin import Origin, Request
from .replies import Protocol
from .served import ServedRepo

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["LoopbackHub", "Request"]


class LoopbackHub(Misbehaviour):
    """Serves repos on its loopback origins while its `with` block lasts, and misbehaves as it is told.

    `delay_s` is added to every request; with `cdn_pace_bytes_per_s` Linux itself holds each new connection to the
    second origin to that rate, whatever is asked for on it. `token` is the only good one: any other gets 401; with None
    every token is a stranger's. `requests` is the log, in order of arrival; `peak_requests` and
    `peak_connections` are the most that were in flight or open at once, all origins together, and
    `connections_made` all there ever were. `mistakes` are the server's own errors: a test may ask that there
    be none.
    """

    def __init__(self, delay_s: float = 0.0, token: str | None = None, port: int = 0) -> None:
        super().__init__()
        self.delay_s = delay_s
        self.cdn_pace_bytes_per_s = 0
        self.protocol = Protocol(token)
        self.requests: list[Request] = []
        self.mistakes: list[BaseException] = []
        self.peak_requests = 0
        self.peak_connections = 0
        self.connections_made = 0
        self._open_requests = 0
        self._busy = 0
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._ports = {"hub": port, "cdn": 0, "other": 0}
        self._servers: list[Origin] = []

    @property
    def endpoint(self) -> str:
        """What HF_ENDPOINT is set to."""
        return self.protocol.hub_origin

    @property
    def cdn_endpoint(self) -> str:
        return self.protocol.cdn_origin

    @property
    def other_endpoint(self) -> str:
        """Another host (another port is one) that answers as both of them do, and is none of them."""
        return f"http://127.0.0.1:{self._ports['other']}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Opens all origins; after `stop` on the same ports again."""
        for origin in self._ports:
            server = Origin(self, origin, self._ports[origin])
            self._ports[origin] = server.server_address[1]
            self._servers.append(server)
            threading.Thread(target=server.serve_forever, args=(0.02,), name=f"loopback-{origin}", daemon=True).start()
        self.protocol.hub_origin = f"http://127.0.0.1:{self._ports['hub']}"
        self.protocol.cdn_origin = f"http://127.0.0.1:{self._ports['cdn']}"

    def stop(self) -> None:
        """Closes all origins and every connection: from now on connections are refused."""
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
            self._busy += 1
            self.peak_requests = max(self.peak_requests, self._open_requests)
        return self.take_faults(request.line, request.headers.get("range"))

    def end(self, request: Request) -> None:
        """The answer is ready."""
        with self._lock:
            request.ended_s = time.monotonic()
            self._open_requests -= 1

    def sent(self, request: Request, number_bytes: int) -> None:
        """So many bytes of its body are on their way."""
        request.sent_bytes += number_bytes
        if self.watched:
            self.went_out(request.line, number_bytes)

    def over(self) -> None:
        """Nothing more is sent for a request."""
        with self._idle:
            self._busy -= 1
            self._idle.notify_all()

    def wait_idle(self, timeout_s: float = 10.0) -> bool:
        """Waits until nothing is being sent: only then is `sent_bytes` the last word. False where that takes longer."""
        with self._idle:
            return self._idle.wait_for(lambda: self._busy == 0, timeout_s)

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
