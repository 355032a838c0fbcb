"""A slow, lossy line between two network namespaces, in a process of its own.

    python shaped.py CONGESTION_CONTROL

Two namespaces without names, each with a TUN device, and this process between the two: it holds each packet for as
long as a line of 100 Mbit/s and 50 ms would, and drops one in a hundred. It prints one line of JSON, {"server",
"client", "server_address"}: files under /proc that `nsenter --net=FILE` takes. Nothing is left when it ends, which it
does when its stdin closes. Not netem and tbf, though they do the same: many kernels come without them, and so the line
is one and the same wherever it is measured.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import fcntl
import json
import os
import random
import select
import shutil
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field

RATE_BITS_PER_S = 100e6
DELAY_S = 0.025
"""Each way: 50 ms for a round trip."""

LOSS = 0.01
QUEUE_S = 0.2
"""The longest a packet queues for the line before those behind it are dropped: routers keep 100 to 300 ms."""

MTU_BYTES = 1500
SERVER, CLIENT = "198.18.0.1", "198.18.0.2"
"""Of 198.18.0.0/15, which RFC 2544 sets aside for benchmarks."""

CLONE_NEWNET = 0x40000000
# linux/if_tun.h: a TUN device without the four bytes of packet information.
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


def lacks() -> str | None:
    """Why no such line can be made here, or None."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "it takes Linux and root"
    if not os.path.exists("/dev/net/tun"):  # noqa: PTH110 - a device, not one of our files
        return "there is no /dev/net/tun"
    for tool in ("ip", "nsenter", "nginx"):
        if shutil.which(tool) is None:
            return f"there is no `{tool}`"
    return None


@dataclass
class Way:
    """One direction: packets that are under way, each with the time it arrives. `free_s`: when the line is free."""

    source: int
    sink: int
    free_s: float = 0.0
    under_way: collections.deque[tuple[float, bytes]] = field(default_factory=collections.deque)

    def take(self, now_s: float) -> None:
        """Everything the kernel wants sent: onto the line, or dropped."""
        with contextlib.suppress(BlockingIOError):
            while True:
                packet = os.read(self.source, MTU_BYTES + 100)
                start_s = max(now_s, self.free_s)
                if start_s - now_s > QUEUE_S:
                    continue
                self.free_s = start_s + len(packet) * 8 / RATE_BITS_PER_S
                if random.random() >= LOSS:  # lost on the way: its time on the line is used up
                    self.under_way.append((self.free_s + DELAY_S, packet))

    def give(self, now_s: float) -> None:
        """Everything that has arrived by now."""
        while self.under_way and self.under_way[0][0] <= now_s:
            with contextlib.suppress(BlockingIOError):
                os.write(self.sink, self.under_way[0][1])
            self.under_way.popleft()


def relay(server: int, client: int) -> None:
    """Carry packets between the two devices until stdin closes."""
    ways = (Way(server, client), Way(client, server))
    poller = select.poll()
    for descriptor in (server, client, sys.stdin.fileno()):
        poller.register(descriptor, select.POLLIN | select.POLLHUP)
    while True:
        arrivals = [way.under_way[0][0] for way in ways if way.under_way]
        wait_ms = max(0.0, min(arrivals) - time.monotonic()) * 1000 if arrivals else None
        ready = poller.poll(wait_ms)
        if any(descriptor == sys.stdin.fileno() for descriptor, _ in ready):
            return
        now_s = time.monotonic()
        for way in ways:
            way.take(now_s)
            way.give(now_s)


def namespace(address: str, peer: str, congestion_control: str) -> tuple[int, str]:
    """Move this process into a new namespace with a TUN device: the device, and the namespace's file in /proc."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "no network namespace can be made")
    held = os.open("/proc/self/ns/net", os.O_RDONLY)  # while it is open, the namespace lives
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", b"line", IFF_TUN | IFF_NO_PI))
    for command in (
        "link set lo up",
        f"address add {address} peer {peer} dev line",
        f"link set line mtu {MTU_BYTES} up",
        # By the route: a namespace's own setting takes those alone that the machine lets everybody use.
        f"route replace {peer} dev line src {address} congctl {congestion_control}",
    ):
        subprocess.run(["ip", *command.split()], check=True)
    return tun, f"/proc/{os.getpid()}/fd/{held}"


def main() -> None:
    congestion_control = sys.argv[1]
    server, server_file = namespace(SERVER, CLIENT, congestion_control)
    client, client_file = namespace(CLIENT, SERVER, congestion_control)
    print(json.dumps({"server": server_file, "client": client_file, "server_address": SERVER}), flush=True)
    relay(server, client)


if __name__ == "__main__":
    main()
