"""What unloading the present model would give back, GPU by GPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from branchfit.gpus import Machine

from ..host import Host


def would_free_bytes(host: Host, machine: Machine) -> Mapping[int, int]:
    """GPU index -> bytes. Empty without a model, without a GPU, and where nothing can be told.

    A llama-server is a process of its own: what the driver says it holds. Else what torch has
    reserved: with a model of torch's modules its tensors and the allocator's free blocks, since
    another extension's tensors stay; with ExLlama's, whose tensors cannot be listed, all of it. The
    CUDA context stays either way.
    """
    model = host.model
    if model is None or not machine.gpus:
        return {}
    pid = _server_pid(model)
    if pid is not None:
        held = {
            gpu.index: sum(holder.used_bytes or 0 for holder in gpu.holders if holder.pid == pid)
            for gpu in machine.gpus
        }
        return {index: size for index, size in held.items() if size}
    torch: Any = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "cuda") or not torch.cuda.is_available():
        return {}
    found = {}
    own = _own_bytes(model)
    for index in range(min(torch.cuda.device_count(), len(machine.gpus))):
        reserved, allocated = torch.cuda.memory_reserved(index), torch.cuda.memory_allocated(index)
        freed = reserved if own is None else min(reserved, own.get(index, 0) + reserved - allocated)
        if freed > 0:
            found[index] = int(freed)
    return found


def _server_pid(model: Any) -> int | None:
    """The process of v2.8's and newer LlamaServer (modules/llama_cpp_server.py); a dead one holds nothing."""
    pid = getattr(getattr(model, "process", None), "pid", None)
    return pid if isinstance(pid, int) else None


def _own_bytes(model: Any) -> dict[int, int] | None:
    """Bytes of a module's parameters and buffers by GPU, each storage once; None where it has no such list."""
    sizes: dict[int, int] = {}
    seen: set[int] = set()
    for tensor in _tensors(model):
        device = getattr(tensor, "device", None)
        index = getattr(device, "index", None)
        if getattr(device, "type", None) == "cuda" and index is not None and tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            sizes[index] = sizes.get(index, 0) + tensor.numel() * tensor.element_size()
    return sizes if seen else None


def _tensors(model: Any) -> Iterator[Any]:
    for listed in ("parameters", "buffers"):
        method = getattr(model, listed, None)
        if callable(method):
            yield from method()
