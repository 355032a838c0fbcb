"""Models split over two cards: which, what their loaders are told, and how one load is measured on both cards."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partialmethod
from pathlib import Path
from typing import Any
from unittest.mock import patch

from branchfit.demo.synth import model_config
from branchfit.gpus import Machine, parse_gpus
from branchfit.loaders import Host as Packages
from branchfit.memory import Need, Terms, place
from branchfit.memory.splits import split_text
from branchfit.recommend import Recommendation
from branchfit.running.choosing import Plan, device_map
from branchfit.running.folder import ModelFolder
from branchfit.shape import checkpoint_tensors
from branchfit.units import MIB
from branchfit_webui.loading.sharing import loader_told

from . import measure
from .cases import ACT_128G, RECIPES, SHAPES, TRITON, V2, Case, Record, measured_bytes, variant_of
from .table import LARGE_ENOUGH_BYTES, predicted

CARDS = (0, 1)

STAGES = ("init", "load", "prefill", "decode")

ONE_CARDS_FIGURES, ONE_CARDS_RECORD = measure.figures, measure.finished
"""As they are before `measured` puts those of both cards in their place."""


@dataclass(frozen=True)
class Split:
    """A case of one context over two cards that are taken to be smaller than they are.

    `how` is the loader's parameter: "device_map" as branchfit.load gives it; "max_memory" (accelerate) and "gpu_split"
    (ExLlamaV2) as the webui's loaders are told. `shares` are the cards' free memory, in parts of what the model needs
    beyond what each card has of its own: each less than 1, so that it is split, and together more, so that it fits.
    """

    case: Case
    how: str
    shares: tuple[float, float]

    @property
    def context(self) -> int:
        return self.case.contexts[0]

    @property
    def name(self) -> str:
        return f"{self.how} {self.case.key} {self.context}"

    @cached_property
    def terms(self) -> Terms:
        record = {**self.case.record(), "context": self.context}
        return predicted(record, variant_of(record))

    @cached_property
    def machine(self) -> Machine:
        made = self.terms
        own = made.context_bytes + made.fixed_bytes + made.transient_bytes() + made.error_bytes
        rest = place(made, [LARGE_ENOUGH_BYTES]).total_bytes + made.error_bytes - own
        return parse_gpus([f"{(own + int(rest * share)) // MIB}MiB" for share in self.shares])

    @cached_property
    def need(self) -> Need:
        return place(self.terms, self.free_bytes)

    @property
    def free_bytes(self) -> list[int]:
        return [gpu.free_bytes for gpu in self.machine.gpus]

    def told(self, packages: Packages) -> tuple[Any, tuple[int, ...]]:
        """The loader's parameter, and how many layers it is expected to lay on each card for it.

        accelerate, told `max_memory`, lays others than were forecast, since it balances below these bounds.
        """
        case, need, shape, recipe = self.case, self.need, SHAPES[self.case.shape], RECIPES[self.case.branch]
        if self.how == "device_map":
            unasked = Recommendation("", None, self.context, self.machine, None, "", (), (), (), ())
            plan = Plan(variant_of(case.record()), case.runtime, need, unasked)
            return device_map(plan, self.machine, shape.model_type), need.layers_per_gpu
        tensors: Any = {one.name: one for one in checkpoint_tensors(shape, recipe.bits, recipe.group_size)}
        folder = ModelFolder(Path(), model_config(shape, recipe), None, (), {}, (), tensors)  # nothing is read
        made = loader_told(case.runtime, folder, need, self.machine, self.context, packages)
        assert made is not None and made.layers_per_gpu is not None
        parts = split_text(made.per_gpu_bytes).split(",")
        if self.how == "gpu_split":
            return [float(part) for part in parts], made.layers_per_gpu
        # The webui's Transformers loader always has an allowance for the CPU beside it.
        return {**{card: f"{part}GiB" for card, part in enumerate(parts)}, "cpu": "99GiB"}, made.layers_per_gpu

    def record(self, packages: Packages) -> Record:
        """The case and what is said of it before it is loaded."""
        case = self.case.record()
        del case["contexts"]
        told, layers = self.told(packages)
        said = {"told": told, "free_bytes": self.free_bytes, "layers_said": list(layers)}
        return {"kind": "split", **case, "how": self.how, "context": self.context, **said}


SPLITS = (
    Split(Case(TRITON, "llama-2-13b", ACT_128G, (2048,)), "device_map", (2 / 3, 1 / 2)),
    Split(Case(TRITON, "llama-2-13b", ACT_128G, (2048,)), "max_memory", (2 / 3, 1 / 2)),
    Split(Case(TRITON, "llama-2-70b", "main", (4096,)), "device_map", (1 / 2, 2 / 3)),
    Split(Case(TRITON, "mistral-7b", ACT_128G, (8192,)), "device_map", (2 / 3, 1 / 2)),
    Split(Case(V2, "llama-2-13b", ACT_128G, (4096,)), "gpu_split", (1 / 2, 2 / 3)),
    Split(Case(V2, "llama-2-70b", "main", (2048,)), "gpu_split", (2 / 3, 1 / 2)),
    Split(Case(V2, "mistral-7b", ACT_128G, (8192,), "q4"), "gpu_split", (1 / 2, 2 / 3)),
)


def measured(split: Split, folder: Path, packages: Packages, allowed_bytes: Sequence[int] = ()) -> Record:
    """Load `folder`, read, generate: the record, in which "cards" has what each card took.

    `allowed_bytes` is what torch's allocator may reserve on each; what dies of it is told, not raised. The load is
    `measure.measure`'s, in which only what opens the model and what looks at the first card are replaced. It wants a
    process of its own: limits stay, and so does what CUDA loads.
    """
    import torch

    if split.case.runtime != V2:
        import gptqmodel  # noqa: F401 - it sets how torch's allocator works, as long as nobody has used CUDA
    for card in CARDS:
        torch.zeros(1, device=f"cuda:{card}")
    for card, allowed in enumerate(allowed_bytes):
        torch.cuda.set_per_process_memory_fraction(allowed / torch.cuda.get_device_properties(card).total_memory, card)
    argument, _ = split.told(packages)
    laid: Record = {}

    def opened_split(case: Case, folder: Path, device: str, context: int) -> Any:
        model = opened(split, argument, folder, device)
        laid.update(placed(split.how, model.model))
        return model

    both = {"figures": figures, "reset": reset, "driver_bytes": driver_bytes, "finished": finished}
    with patch.multiple(measure, opened=opened_split, **both):
        (record,) = measure.measure(split.case, folder, "cuda:0")
    return {**record, **split.record(packages), **laid}


def opened(split: Split, argument: Any, folder: Path, device: str) -> Any:
    """measure's model of the case, its loader told of two cards where measure tells it of one."""
    vocab = SHAPES[split.case.shape].vocab
    if split.how == "gpu_split":
        from exllamav2 import ExLlamaV2

        with patch.object(ExLlamaV2, "load", partialmethod(ExLlamaV2.load, argument)):
            return measure.ExLlamaV2(split.case, folder, split.context, vocab)
    from transformers import AutoModelForCausalLM

    load = AutoModelForCausalLM.from_pretrained
    where = {"device_map": argument} if split.how == "device_map" else {"device_map": "auto", "max_memory": argument}
    with patch.object(
        AutoModelForCausalLM, "from_pretrained", lambda *given, **more: load(*given, **{**more, **where})
    ):
        return measure.Transformers(split.case, folder, device, vocab)


def placed(how: str, model: Any) -> Record:
    """`layers_placed`, card by card, and the devices of embedding and head, `ends_placed`, read off the model.

    A layer whose attention is on another card than its MLP is half a layer on each. ExLlamaV2 keeps the embedding in
    the machine's memory: -1.
    """

    def device(module: Any) -> int:
        if how == "gpu_split":
            return int(module.device_idx)
        (found,) = {tensor.device.index for tensor in (*module.parameters(), *module.buffers())}
        return int(found)

    if how == "gpu_split":
        embedding, head, halves = model.modules[0], model.modules[-1], model.modules[1:-2]
    else:
        embedding, head = model.model.embed_tokens, model.lm_head
        halves = [half for layer in model.model.layers for half in (layer.self_attn, layer.mlp)]
    on = [device(half) for half in halves]
    return {"layers_placed": [on.count(card) / 2 for card in CARDS], "ends_placed": [device(embedding), device(head)]}


def figures(device: str) -> list[Record]:
    """Those of each card."""
    import torch

    found = []
    for card in CARDS:
        with torch.cuda.device(card):
            found.append(ONE_CARDS_FIGURES(device))
    return found


def reset(device: str) -> None:
    import torch

    for card in CARDS:
        torch.cuda.reset_peak_memory_stats(card)


def driver_bytes() -> int | None:
    """What this process takes on the current card as the driver counts it; None if it won't say.

    The driver may count cards in another order than CUDA, so that they are told apart by UUID.
    """
    import pynvml
    import torch

    pynvml.nvmlInit()
    uuid = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
    running = pynvml.nvmlDeviceGetComputeRunningProcesses(pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"))
    return next((process.usedGpuMemory for process in running if process.pid == os.getpid()), None)


def finished(record: Record, device: str, started: float) -> Record:
    """measure's record of a load, with the stages' figures under "cards", and each card's sums by the rules for one."""
    stages = [name for name in STAGES if name in record]
    rest = {name: value for name, value in record.items() if name not in stages}
    cards = []
    for card in CARDS:
        alone = ONE_CARDS_RECORD({**rest, **{name: record[name][card] for name in stages}}, device, started)
        one = {name: alone[name] for name in (*stages, "context_bytes") if name in alone}
        cards.append({**one, **({"measured_bytes": measured_bytes(alone)} if alone["outcome"] == "ran" else {})})
    return {**ONE_CARDS_RECORD(rest, device, started), "cards": cards}
