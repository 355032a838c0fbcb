"""Results as JSON lines: one a case, appended as soon as it is done."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from .cases import gpu_here

Record = dict[str, Any]

SHOWN_PACKAGES = (
    "torch", "triton", "transformers", "accelerate", "optimum", "gptqmodel", "exllamav2", "xformers", "flash-attn",
    "safetensors", "numpy",
)  # fmt: skip


def append(out: Path, record: Record) -> None:
    line = json.dumps({**record, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}) + "\n"
    with out.open("a", encoding="utf-8") as file:
        file.write(line)


def records_in(*paths: Path) -> dict[tuple[str, ...], Record]:
    """The last record of every case; of the environment all packages there ever were."""
    found = {}
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            record = json.loads(line)
            key = record_key(record)
            if key in found and record["kind"] == "environment":
                record["packages"] = {**found[key]["packages"], **record["packages"]}
            found[key] = record
    return found


def record_key(record: Record) -> tuple[str, ...]:
    return tuple(record.get(name, "") for name in ("kind", "variant", "shape", "branch"))


def environment(device: str) -> Record:
    """What the numbers were taken on."""
    import torch

    gpu = gpu_here(device)
    record: Record = {"kind": "environment", "gpu": gpu.name, "compute_capability": gpu.compute_capability}
    record["memory_bytes"] = gpu.total_bytes
    record["python"], record["cores"] = platform.python_version(), os.cpu_count()
    record["cuda"] = torch.version.cuda
    if device != "cpu":
        import pynvml

        pynvml.nvmlInit()
        record["driver"] = str(pynvml.nvmlSystemGetDriverVersion())
        nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
        said = (
            subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout if Path(nvcc).is_file() else ""
        )
        record["nvcc"] = said.partition("release ")[2].partition(",")[0]
    record["packages"] = {}
    for name in SHOWN_PACKAGES:
        try:
            record["packages"][name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return record
