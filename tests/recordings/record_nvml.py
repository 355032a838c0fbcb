"""Records this machine's NVML as JSON on standard output, for nvml_player.py. Needs an NVIDIA GPU.

    python tests/recordings/record_nvml.py > tests/recordings/nvml-NAME.json

UUIDs and process names are blanked: they are nobody's business.
"""

from __future__ import annotations

import json
import platform
import sys
from typing import Any

import pynvml


def main() -> None:
    calls: dict[str, dict[str, Any]] = {}

    def ask(function: str, *arguments: tuple[str, Any]) -> Any:
        key = ",".join(name for name, _ in arguments)
        try:
            answer = getattr(pynvml, function)(*(value for _, value in arguments))
        except pynvml.NVMLError as error:
            calls.setdefault(function, {})[key] = {"error": error.value}
            return None
        calls.setdefault(function, {})[key] = _plain(answer)
        return answer

    def device(name: str, handle: Any) -> None:
        for function in ("nvmlDeviceGetName", "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetCudaComputeCapability"):
            ask(function, (name, handle))
        ask("nvmlDeviceGetUUID", (name, handle))
        calls["nvmlDeviceGetUUID"][name] = f"{'MIG' if name.startswith('mig') else 'GPU'}-{name}"
        ask("nvmlDeviceGetMemoryInfo", (name, handle), (str(pynvml.nvmlMemory_v2), pynvml.nvmlMemory_v2))
        for function in (
            "nvmlDeviceGetEccMode",
            "nvmlDeviceGetDisplayActive",
            "nvmlDeviceGetDriverModel",
            "nvmlDeviceGetPciInfo",
            "nvmlDeviceGetMaxPcieLinkGeneration",
            "nvmlDeviceGetMaxPcieLinkWidth",
            "nvmlDeviceGetMemoryBusWidth",
        ):
            ask(function, (name, handle))
        ask("nvmlDeviceGetMaxClockInfo", (name, handle), (str(pynvml.NVML_CLOCK_MEM), pynvml.NVML_CLOCK_MEM))
        for function in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"):
            for process in ask(function, (name, handle)) or []:
                calls.setdefault("nvmlSystemGetProcessName", {})[str(process.pid)] = "process"

    pynvml.nvmlInit()
    driver = pynvml.nvmlSystemGetDriverVersion()
    for index in range(ask("nvmlDeviceGetCount") or 0):
        handle = ask("nvmlDeviceGetHandleByIndex", (str(index), index))
        calls["nvmlDeviceGetHandleByIndex"][str(index)] = f"gpu{index}"
        if handle is None:
            continue
        device(f"gpu{index}", handle)
        mode = ask("nvmlDeviceGetMigMode", (f"gpu{index}", handle))
        if mode and mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE:
            for slot in range(ask("nvmlDeviceGetMaxMigDeviceCount", (f"gpu{index}", handle)) or 0):
                where = (f"gpu{index}", handle), (str(slot), slot)
                instance = ask("nvmlDeviceGetMigDeviceHandleByIndex", *where)
                if instance is not None:
                    calls["nvmlDeviceGetMigDeviceHandleByIndex"][f"gpu{index},{slot}"] = f"mig{index}-{slot}"
                    device(f"mig{index}-{slot}", instance)
    source = f"record_nvml.py on {platform.system()}, driver {driver}"
    json.dump({"kind": "recorded", "source": source, "calls": calls}, sys.stdout, indent=1)


def _plain(answer: Any) -> Any:
    if hasattr(answer, "reserved"):
        return {"total": answer.total, "free": answer.free, "reserved": answer.reserved}
    if hasattr(answer, "bus"):
        return {"domain": answer.domain, "bus": answer.bus, "device": answer.device}
    if isinstance(answer, pynvml.c_nvmlMemory_t):
        return {"total": answer.total, "free": answer.free, "used": answer.used}
    if isinstance(answer, list) and answer and hasattr(answer[0], "pid"):
        return [{"pid": process.pid, "usedGpuMemory": process.usedGpuMemory} for process in answer]
    return (
        list(answer) if isinstance(answer, tuple) else answer if isinstance(answer, (int, str, list)) else str(answer)
    )


if __name__ == "__main__":
    main()
