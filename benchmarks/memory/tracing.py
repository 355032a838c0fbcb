"""What a forward pass of transformers allocates and frees, tensor by tensor, without a GPU and without weights.

transformers' own code runs over tensors that have a shape and no content (torch's FakeTensorMode); each storage is
noted when it appears and when it goes. The quantised linears are replaced by ones that allocate what gptqmodel's
kernels do (7.6.0, nn_modules/qlinear: tritonv2.py, torch.py, exllamav2.py, marlin.py).

On the CPU, so that attention is the CPU's: it allocates its output and a sum for each row, as the GPU's kernels do.
It needs torch and transformers 5.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from branchfit.memory.transformers import MARLIN_SMS
from branchfit.shape import ModelShape

CUBLAS = "cuBLAS' workspace"
"""Name of what cuBLAS takes at the first product and keeps."""

PRODUCTS = ("aten.mm", "aten.bmm", "aten.addmm", "aten.baddbmm")

DEQUANTISING = frozenset({"triton", "torch"})
"""Kernels that have a linear's whole weight in fp16 while it is multiplied (torch.py: through triton, on the GPU)."""


class Event(NamedTuple):
    """`kind` is "take", "give" or "read"; the last is the end of the prompt, and then of each further token."""

    kind: str
    name: int | str = ""
    size_bytes: int = 0


class Watch(TorchDispatchMode):  # type: ignore[misc]
    """Notes every storage but those that were there before."""

    def __init__(self, there: Iterator[torch.Tensor], cublas_bytes: int) -> None:
        super().__init__()
        self.events: list[Event] = []
        self._cublas_bytes = cublas_bytes
        self._seen = weakref.WeakSet(tensor.untyped_storage() for tensor in there)
        self._number = 0

    def __torch_dispatch__(
        self, called: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = called(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage())
        if self._cublas_bytes and str(called).startswith(PRODUCTS):
            self.events.append(Event("take", CUBLAS, self._cublas_bytes))
            self._cublas_bytes = 0
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen or not storage.nbytes():
            return
        self._seen.add(storage)
        self._number += 1
        self.events.append(Event("take", self._number, storage.nbytes()))
        weakref.finalize(storage, self.events.append, Event("give", self._number)).atexit = False


def marlin_sums(rows: int) -> int:
    """Elements in fp32 (marlin_scratch_sizes_checked): a block of 16 to 64 rows by max_thread_n for each SM."""
    return MARLIN_SMS * min(64, max(16, -(-rows // 16) * 16)) * 256


class QuantisedLinear(torch.nn.Module):  # type: ignore[misc]
    """Allocates as one of gptqmodel's linears does: the output [tokens, out], and the weight [in, out] before it where
    the kernel dequantises. Behind it marlin's partial sums and, for act order, the reordered input. A bias is added in
    place."""

    def __init__(self, linear: torch.nn.Linear, kernel: str) -> None:
        super().__init__()
        self.extents = linear.in_features, linear.out_features
        self.bias, self.kernel = linear.bias, kernel

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        shape = (*states.shape[:-1], self.extents[1])
        rows = states.reshape(-1, self.extents[0])
        if self.kernel in DEQUANTISING:
            out = torch.matmul(rows, rows.new_empty(self.extents))
        else:
            out = rows.new_empty(len(rows), self.extents[1])
        if self.kernel == "marlin":
            sums, reordered = rows.new_empty(marlin_sums(len(rows)), dtype=torch.float32), torch.empty_like(rows)
            del reordered, sums
        if self.bias is not None:
            out.add_(self.bias)
        return out.reshape(shape)


def config_of(shape: ModelShape, positions: int) -> Any:
    """transformers' configuration of that shape; attention over the whole prompt, by SDPA."""
    config = AutoConfig.for_model(
        shape.model_type,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        vocab_size=shape.vocab,
        max_position_embeddings=positions,
        tie_word_embeddings=shape.tied,
    )
    if hasattr(config, "sliding_window"):
        config.sliding_window = None
    config._attn_implementation = "sdpa"
    return config


def traced(shape: ModelShape, kernel: str, context_tokens: int, new_tokens: int, cublas_bytes: int) -> list[Event]:
    """What a prompt of `context_tokens` takes and gives back, and `new_tokens` more behind it, in fp16.

    `kernel` is gptqmodel's: triton, torch, exllama_v2 or marlin. `cublas_bytes` are taken at the first product. Logits
    are the last token's alone, as `generate` asks for them. The tensors that are left at the end are the KV cache.
    """
    with FakeTensorMode(), torch.no_grad():
        model = AutoModelForCausalLM.from_config(
            config_of(shape, context_tokens + new_tokens), dtype=torch.float16
        ).eval()
        for name, module in list(model.named_modules()):
            if isinstance(module, torch.nn.Linear) and name != "lm_head":
                parent, _, own = name.rpartition(".")
                setattr(model.get_submodule(parent), own, QuantisedLinear(module, kernel))
        watch = Watch(iter([*model.parameters(), *model.buffers()]), cublas_bytes)
        with watch:
            cache = DynamicCache(config=model.config)
            ids = torch.zeros(1, context_tokens, dtype=torch.int64)
            for _ in range(1 + new_tokens):
                output = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
                watch.events.append(Event("read"))
                ids = torch.zeros(1, 1, dtype=torch.int64)
        events = list(watch.events)
        del output, cache, ids
    return events
