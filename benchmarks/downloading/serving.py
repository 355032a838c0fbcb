"""The server side in a process of its own: the Hub's metadata from LoopbackHub, LFS bytes from nginx.

    python serving.py DATASET WORK [--address A] [--cap BYTES_PER_S]

Prints one line of JSON, {"endpoint", "cdn"}, and serves until its stdin closes, so that it ends with whoever
started it. nginx sends files with sendfile and takes an address by its path alone, as a CDN's edge does; without
nginx, and where each connection is capped, the LoopbackHub's own CDN serves, with sendfile too. On an address other
than 127.0.0.1, nginx stands before the Hub too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from branchfit.demo.server import LoopbackHub

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from downloading.files import REPO, Dataset, load

LOOPBACK = "127.0.0.1"

CONFIG = """
daemon off;
{user}
worker_processes auto;
pid "{work}/nginx.pid";
error_log "{work}/nginx.log" error;
events {{ worker_connections 512; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    etag off;
    keepalive_requests 100000;
    client_body_temp_path "{work}/temp";
    proxy_temp_path "{work}/temp";
    fastcgi_temp_path "{work}/temp";
    scgi_temp_path "{work}/temp";
    uwsgi_temp_path "{work}/temp";
    server {{
        listen {address}:{cdn_port};
        root "{work}/cdn";
        # The ETag that the Hub names for the file, so that If-Range works as it does there.
        location ~ "/([0-9a-f]{{64}})$" {{ add_header ETag '"$1"'; }}
    }}
    {front}
}}
"""

CARD = {"README.md": b"# A branch to be timed\n"}

FRONT = """
    upstream hub {{ server {hub}; keepalive 64; }}
    server {{
        listen {address}:{front_port};
        location / {{
            proxy_pass http://hub;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_redirect off;
        }}
    }}
"""


def serve(data: Dataset, work: Path, address: str, cap_bytes_per_s: int) -> None:
    """Serve `data` until stdin closes."""
    with LoopbackHub() as hub, contextlib.ExitStack() as stack:
        # Like every repo on the Hub it has a main, and its card lies there.
        commits = hub.add_repo(REPO, {"main": CARD, data.branch: {p: data.folder / p for p in data.sizes_bytes}})
        for path, sha256 in data.sha256.items():
            hub.protocol.repos[REPO].commits[commits[data.branch]].files[
                path
            ].sha256 = sha256  # known since it was made
        cdn = "LoopbackHub's own sendfile, as there is no nginx"
        if cap_bytes_per_s:
            # nginx's limit_rate lets every request have a second's worth at once, so that small ranges know no cap.
            cdn = "LoopbackHub's own sendfile, each connection paced by the kernel (SO_MAX_PACING_RATE)"
            hub.cdn_pace_bytes_per_s = cap_bytes_per_s
        elif nginx := shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"):
            stack.enter_context(_nginx(nginx, hub, data, work, address))
            version = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=True).stderr
            cdn = version.strip().removeprefix("nginx version: ") + ", sendfile"
        elif address != LOOPBACK:
            sys.exit(f"there is no nginx, which is needed to serve on {address}")
        print(json.dumps({"endpoint": hub.protocol.hub_origin, "cdn": cdn}), flush=True)
        while not select.select([sys.stdin], [], [], 1.0)[0]:
            hub.requests.clear()  # its log of 10,000 files, some rounds long, would take hundreds of MB


@contextlib.contextmanager
def _nginx(nginx: str, hub: LoopbackHub, data: Dataset, work: Path, address: str) -> Iterator[None]:
    """nginx in front of the dataset's LFS files by their sha256; the hub's addresses point at it meanwhile."""
    names = work / "cdn/repos" / quote(REPO)
    shutil.rmtree(work / "cdn", ignore_errors=True)
    names.mkdir(parents=True)
    for path, sha256 in data.sha256.items():
        (names / sha256).symlink_to((data.folder / path).resolve())
    cdn_port, front_port = _free_port(address), _free_port(address)
    behind = hub.endpoint.removeprefix("http://")
    front = "" if address == LOOPBACK else FRONT.format(hub=behind, address=address, front_port=front_port)
    text = CONFIG.format(
        # A worker of another user could not read files below a temporary folder.
        user="user root;" if os.geteuid() == 0 else "",
        work=work,
        address=address,
        cdn_port=cdn_port,
        front=front,
    )
    config = work / "nginx.conf"
    config.write_text(text, encoding="utf-8")
    process = subprocess.Popen([nginx, "-e", str(work / "nginx.log"), "-c", str(config)], stdin=subprocess.DEVNULL)
    try:
        _await(address, cdn_port, process)
        hub.protocol.cdn_origin = f"http://{address}:{cdn_port}"
        if front:
            hub.protocol.hub_origin = f"http://{address}:{front_port}"
        yield
    finally:
        process.terminate()
        process.wait()


def _free_port(address: str) -> int:
    with socket.socket() as asked:
        asked.bind((address, 0))
        return int(asked.getsockname()[1])


def _await(address: str, port: int, process: subprocess.Popen[bytes]) -> None:
    """Until the port answers; ends this process where nginx does not start."""
    for _ in range(100):
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1):
            return
        time.sleep(0.05)
    sys.exit("nginx did not start")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--address", default=LOOPBACK)
    parser.add_argument("--cap", type=int, default=0)
    given = parser.parse_args()
    serve(load(given.dataset), given.work.resolve(), given.address, given.cap)


if __name__ == "__main__":
    main()
