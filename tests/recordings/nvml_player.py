"""Plays a recording of NVML under pynvml's names, errors and structures.

Constants, exceptions and structures are those of the installed nvidia-ml-py; the calls are the
recording's. A function a recording does not hold raises NotRecorded, which nothing catches.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pynvml

FOLDER = Path(__file__).parent

LATER = {
    "nvmlDeviceGetMemoryInfo",  # in its second version, with a key of its own
    "nvmlDeviceGetEccMode",
    "nvmlDeviceGetDisplayActive",
    "nvmlDeviceGetDriverModel",
    "nvmlDeviceGetPciInfo",
    "nvmlDeviceGetMaxPcieLinkGeneration",
    "nvmlDeviceGetMaxPcieLinkWidth",
    "nvmlDeviceGetMaxClockInfo",
    "nvmlDeviceGetMemoryBusWidth",
}
"""Asked since the recordings were made: one that does not hold it answers as a driver that lacks the function."""


class NotRecorded(AssertionError):
    """The code asked what the recording does not answer."""


class Player:
    """Put into sys.modules["pynvml"], it is the machine of one recording.

    `set` changes one answer; an answer {"error": code} is raised as the real pynvml raises it.
    """

    def __init__(self, recording: str) -> None:
        self._calls: dict[str, dict[str, Any]] = json.loads((FOLDER / recording).read_text(encoding="utf-8"))["calls"]
        self.asked: list[str] = []

    def set(self, function: str, key: str, answer: Any) -> Player:
        self._calls.setdefault(function, {})[key] = answer
        return self

    def without(self, function: str) -> Player:
        """An older nvidia-ml-py, that lacks the function."""
        self._calls[function] = {"absent": True}
        return self

    def __getattr__(self, name: str) -> Any:
        real = getattr(pynvml, name)
        if not name.startswith("nvml") or not callable(real):
            return real
        if self._calls.get(name, {}).get("absent"):
            raise AttributeError(f"module 'pynvml' has no attribute '{name}'")
        return self._function(name)

    def _function(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            key = ",".join(str(argument) for argument in arguments)
            self.asked.append(f"{name}({key})")
            if name in ("nvmlInit", "nvmlShutdown") and name not in self._calls:
                return None
            try:
                answer = self._calls[name][key]
            except KeyError:
                if name in LATER and (name != "nvmlDeviceGetMemoryInfo" or len(arguments) > 1):
                    raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND) from None
                raise NotRecorded(f"{name}({key})") from None
            return _as_pynvml(answer)

        return call


def _as_pynvml(answer: Any) -> Any:
    if isinstance(answer, dict) and "error" in answer:
        raise pynvml.NVMLError(answer["error"])
    if isinstance(answer, dict) and "bus" in answer:
        return pynvml.nvmlFriendlyObject(answer)
    if isinstance(answer, dict) and "reserved" in answer:
        second = pynvml.c_nvmlMemory_v2_t()
        second.total, second.free, second.reserved = answer["total"], answer["free"], answer["reserved"]
        return second
    if isinstance(answer, dict):
        info = pynvml.c_nvmlMemory_t()
        info.total, info.free, info.used = answer["total"], answer["free"], answer["used"]
        return info
    if isinstance(answer, list) and answer and isinstance(answer[0], dict):
        return [pynvml.nvmlFriendlyObject(process) for process in answer]
    return answer
