"""What a load really took, into the records of this machine: after the load, and as longer prompts are read.

Nothing here raises, and nothing is told: a model that answers is worth more than its figure.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from importlib import metadata
from typing import Any

from ..gpus import Machine
from ..loaders import Availability, by_name, host_facts, this_host
from ..memory import Need, Terms
from ..memory.correcting import MOVED_BYTES, happened, nonsense, on_cards, runtime_version
from ..memory.records import Record, RecordFile, stripped
from ..recommend.assess import told_of
from ..variants import Variant
from .measured import Meter

GROWN = 1.25
"""How much longer than all before a generation has to be to be written again while the model is loaded: from 64 tokens
to 32,768 that is 28 lines at the most, whatever is asked of it. The longest is written at the end in any case."""


class Recorder:
    """One load's record. Made once what it is predicted to take is known; safe to use from several threads.

    `loaded` after the load, `begin` before a generation and `read` after it, `close` before it is unloaded. A peak
    that rose though nothing was begun is of tokens that nobody counted: from then on nothing is recorded.
    """

    def __init__(self, meter: Meter, record: Record, layers: dict[int, int], file: RecordFile | None = None) -> None:
        self._meter = meter
        self._record = record
        self._layers = layers
        self._file = file or RecordFile()
        self._lock = threading.Lock()
        self._known_peak = 0
        self._expected = 0
        self._written_tokens: int | None = None
        self._lost = False

    def loaded(self) -> None:
        """Record what it took to load; at the end of the load, before any prompt."""
        with self._quietly():
            self._write()
            self._known_peak = self._meter.highest_bytes()

    def begin(self) -> None:
        """A generation begins."""
        with self._quietly():
            if self._meter.highest_bytes() - self._known_peak > MOVED_BYTES:
                self._lost = True

    def read(self, prompt_tokens: int, read_tokens: int) -> None:
        """A generation is over: `read_tokens` are its prompt and its reply, so far as it was made."""
        with self._quietly():
            self._known_peak = max(self._known_peak, self._meter.highest_bytes())
            longer = replace(self._record, prompt_tokens=prompt_tokens, read_tokens=read_tokens)
            made = happened(longer)
            expected = sum(on_cards(made, list(self._layers.values()))) if made is not None else 0
            if expected <= self._expected:
                return
            self._expected, self._record = expected, longer
            if not self._written_tokens or read_tokens >= GROWN * self._written_tokens:
                self._write()

    def close(self) -> None:
        """The model is about to go: what grew since the last line is written now."""
        with self._quietly():
            if self._record.read_tokens != self._written_tokens:
                self._write()
            self._lost = True

    @contextlib.contextmanager
    def _quietly(self) -> Iterator[None]:
        with self._lock, contextlib.suppress(Exception):
            yield

    def _write(self) -> None:
        if self._lost:
            return
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        cards = self._meter.cards(self._layers)
        if not cards:
            return
        record = replace(self._record, at=now, cards=cards)
        self._file.append(replace(record, left_out=nonsense(record)))
        self._written_tokens = record.read_tokens


def recorder(
    meter: Meter | None,
    *,
    variant: Variant,
    runtime: str,
    need: Need | None,
    machine: Machine,
    context_tokens: int,
    cache: str = "fp16",
    process: str = "branchfit",
    file: RecordFile | None = None,
) -> Recorder | None:
    """What records a load that `meter` measures; None where nothing could be compared.

    `need` is the forecast, laid out over `machine`'s GPUs, or over its memory where it has none. Apple's GPUs are
    left out: what a process took of one is not measured. Never raises.
    """
    devices = machine.gpus or (machine.cpu,)
    cpu = devices[0].kind == "cpu"
    if meter is None or need is None or meter.on_gpus == cpu or any(device.kind == "mps" for device in devices):
        return None
    with contextlib.suppress(Exception):
        placed = zip(devices, need.layers_per_gpu, need.per_gpu_bytes, strict=True)
        layers = {device.index: count for device, count, size in placed if size}
        used = [device for device in devices if device.index in layers]
        here = replace(Availability((), False, "", (), **host_facts(this_host())), expandable=meter.expandable)
        by = replace(by_name(runtime), version=runtime_version(runtime))
        told = told_of(here, by, used, [1] * len(used))
        whole = told.terms(variant, runtime, context_tokens, cache)
        if whole is None or not used:
            return None
        record = Record(
            at="",
            load=uuid.uuid4().hex,
            process=process,
            runtime=runtime,
            version=told.version,
            torch=_version("torch"),
            driver=_driver() if used[0].kind == "cuda" else None,
            kind=used[0].kind,
            source=used[0].source,
            variant=stripped(variant),
            context_tokens=context_tokens,
            cards=(),
            cache=cache,
            triton=told.triton,
            expandable=told.expandable,
            plain_attention=told.plain_attention,
            **_parts(whole, len(used)),
        )
        return Recorder(meter, record, layers, file)
    return None


def _parts(whole: Terms, cards: int) -> dict[str, Any]:
    """What is predicted at the full context, part by part, on so many cards."""
    others = (cards - 1) * (whole.fixed_bytes + whole.transient_bytes(first=False))
    return {
        "weights_bytes": whole.layers * whole.layer_bytes + whole.first_bytes + whole.last_bytes,
        "kv_cache_bytes": whole.layers * whole.kv_layer_bytes,
        "scratch_bytes": whole.fixed_bytes + whole.transient_bytes() + others + whole.logits_bytes,
        "context_bytes": cards * whole.context_bytes,
        "error_bytes": cards * whole.error_bytes + whole.layers * whole.layer_error_bytes,
    }


def _version(package: str) -> str | None:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def _driver() -> str | None:
    """NVIDIA's driver, "580.159.03"; None where NVML does not say."""
    with contextlib.suppress(Exception):
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        try:
            said = nvml.nvmlSystemGetDriverVersion()
        finally:
            nvml.nvmlShutdown()
        return said.decode() if isinstance(said, bytes) else str(said)
    return None
