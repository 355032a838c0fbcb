"""What bounds every download, each alone; prints its seconds and its processor seconds, without the start of Python.

python floor.py read ADDRESS...        bytes from the server into one buffer, and forgotten
python floor.py write FILE BYTES       one stream to the disk, fsynced
python floor.py hash BYTES             sha256 on one core
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

BUFFER_BYTES = 1 << 20
"""What recv_into, write and update are given at once. Larger ones were no faster."""


def read(*addresses: str) -> None:
    buffer = bytearray(BUFFER_BYTES)
    for address in addresses:
        with urllib.request.urlopen(address) as answer:
            while answer.readinto(buffer):
                pass


def write(place: str, total: str) -> None:
    piece, left = memoryview(_noise()), int(total)
    with Path(place).open("wb", buffering=0) as stream:
        while left:
            left -= stream.write(piece[:left])
        os.fsync(stream.fileno())


def hashed(total: str) -> None:
    piece, left, digest = memoryview(_noise()), int(total), hashlib.sha256()
    while left > 0:
        digest.update(piece[:left])
        left -= BUFFER_BYTES


def _noise() -> bytes:
    return random.Random(1).randbytes(BUFFER_BYTES)


if __name__ == "__main__":
    work: dict[str, Callable[..., None]] = {"read": read, "write": write, "hash": hashed}
    started, worked = time.perf_counter(), time.process_time()
    work[sys.argv[1]](*sys.argv[2:])
    print(time.perf_counter() - started, time.process_time() - worked)
