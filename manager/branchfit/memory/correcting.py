"""What this machine's own loads say of a prediction: how far it was off, and how surely the next one is known.

A prediction is for the full context; a load after which 64 tokens were read takes less, and says nothing of the
prediction as it stands. So each record is predicted again for what really happened, and like is set beside like:

- a prompt of p tokens and a reply up to r in all were read: the peak, against the KV cache of r tokens (of the full
  context where the runtime allocates it whole) and the transients of a prompt of p;
- nothing was read yet: what tensors hold, against what stays between prompts. Kernels are loaded when they are first
  used and transients come with a prompt, so this can show that more is taken, never that less is.

What is nonsense is not used (`nonsense` says why): somebody else's memory moved meanwhile, less than the weights,
more than the card, a card that was simulated, a difference beyond what could be.

How records become a correction (`correct`), for one runtime at one version on one kind of card:

- The last eight loads of the same shape at the same bits count; where there are none, those of other shapes, and of
  them only what every one took more: that is the process's, not the model's.
- **One load, or two, only raise.** That more was taken is certain; that less will always do is not.
- **From three on it is their median** (the upper one), up or down, and the error becomes what the furthest of them is
  off it, on any card. It never becomes less than that, nor less than what others may have moved unnoticed.
- Only the part of the error that was measured is narrowed. Where the error grows with the context, what it grows by
  from the tokens that were read to those that are asked for stays.
- A record that is not sure (nothing was read; nobody said what this process holds) only raises, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import islice
from statistics import median_high

from ..gpus import Gpu
from ..loaders import RUNTIMES, this_host
from ..shape import ModelShape
from ..units import MIB, error_text, gib
from ..variants import Variant
from .parts import Terms
from .records import Card, Record, RecordFile
from .told import Told

LAST_LOADS = 8
"""How many loads count: with eight, three odd ones are not yet the median, and a new driver's are soon most of them."""

LOADS_TO_LOWER = 3
"""From how many loads on less than the formula may be predicted: the fewest whose median one odd load cannot decide."""

MOVED_BYTES = 128 * MIB
"""What other processes may take or give back meanwhile, chosen, not measured: room for a desktop's windows, and for
none of the models that are the reason to look. No error is narrowed below it, since a record is no surer than that."""

UNSEEN_BYTES = 512 * MIB
"""Where nobody says what this process holds, its CUDA context is what became less free. The first error given for a
context on an unknown card was 256 MiB (`parts`); one that is off by twice that is taken for somebody else's memory."""

BEYOND = 4
"""A difference of more than a quarter of the prediction, and of more than twice its own error, is no error of it: a
choice, which lets everything through that a formula was ever seen to be off by, and no second model."""

ALLOCATED_WHOLE = frozenset({"exllama", "exllamav2"})
"""Runtimes that allocate the KV cache for the full context at the start (`exllama`, `exllamav2`)."""

_EXTENTS = tuple(each.name for each in fields(ModelShape) if each.init and each.name != "max_context_tokens")


@dataclass(frozen=True)
class Correction:
    """What `corrected` adds on each card, both signed: `bytes` to the need, `error_bytes` to the error.

    `least_error_bytes` is what the error stays at in any case; `loads` how many loads it is from.
    """

    bytes: int
    error_bytes: int
    loads: int
    least_error_bytes: int = 0

    @property
    def words(self) -> str:
        """`corrected by +300 MiB from 4 loads on this machine`, or `... +300 MiB and its error by -200 MiB ...`."""
        need = f" by {_signed(self.bytes)}" if self.bytes else ""
        error = f" its error by {_signed(self.error_bytes)}" if self.error_bytes else ""
        loads = f"{self.loads} load{'s' if self.loads != 1 else ''}"
        return f"corrected{need}{' and' if need and error else ''}{error} from {loads} on this machine"


def corrected(terms: Terms, correction: Correction | None) -> Terms:
    """`terms` with what was learned: in the CUDA context and allocator slack, so that a Need's parts still add up."""
    if correction is None:
        return terms
    least = min(terms.error_bytes, correction.least_error_bytes)
    return replace(
        terms,
        context_bytes=max(0, terms.context_bytes + correction.bytes),
        error_bytes=max(least, terms.error_bytes + correction.error_bytes),
    )


def happened(record: Record) -> Terms | None:
    """The terms of what a load really read, as it is measured; None where its size is not known."""
    whole = record.runtime in ALLOCATED_WHOLE
    made = _terms(record, record.context_tokens if whole else max(record.read_tokens, 1))
    prompt = _terms(record, max(record.prompt_tokens, 1))
    if made is None or prompt is None:
        return None
    made = replace(
        made,
        prefill_bytes=prompt.prefill_bytes - prompt.unseen_bytes,
        error_bytes=prompt.error_bytes - prompt.unseen_error_bytes,
        unseen_bytes=0,
        unseen_error_bytes=0,
        embedded_bytes=prompt.embedded_bytes,
    )
    return made if whole else replace(made, fixed_bytes=prompt.fixed_bytes)


def _terms(record: Record, tokens: int) -> Terms | None:
    # All as `recommend` asks, too: a correction is the difference from what it will be added to.
    cpu = record.kind == "cpu"
    told = Told(cpu, record.triton, record.expandable, record.plain_attention, record.version)
    return told.terms(record.variant, record.runtime, tokens, record.cache)


def on_cards(terms: Terms, layers: Sequence[int], *, resident: bool = False) -> tuple[int, ...]:
    """What a placement takes on each card that it uses, of `layers` each; `resident` without what comes and goes."""
    found = []
    for number, count in enumerate(layers):
        first, last = number == 0, number == len(layers) - 1
        size = terms.context_bytes + terms.fixed_bytes + count * (terms.layer_bytes + terms.kv_layer_bytes)
        size += (terms.first_bytes if first else 0) + (terms.last_bytes if last else 0)
        if not resident:
            size += terms.transient_bytes(first) + (terms.logits_bytes if last else 0)
        found.append(size)
    return tuple(found)


@lru_cache(maxsize=1024)
def differences(record: Record) -> tuple[int, ...] | None:
    """Measured less predicted for what happened, card by card; None where that cannot be predicted."""
    made = happened(record)
    if made is None:
        return None
    resident = not record.read_tokens
    predicted = on_cards(made, [card.layers for card in record.cards], resident=resident)
    return tuple(_measured(card, resident) - size for card, size in zip(record.cards, predicted, strict=True))


def _measured(card: Card, resident: bool) -> int:
    return card.resident_bytes if resident else card.peak_bytes


@lru_cache(maxsize=1024)
def nonsense(record: Record) -> str:
    """Why a record cannot be believed, in a clause; "" where it can."""
    if record.source == "given":
        return "the card was simulated"
    made, off = happened(record), differences(record)
    if made is None or off is None or not any(card.layers for card in record.cards):
        return "its prediction is not known"
    for card in record.cards:
        if card.others_before_bytes is not None and card.others_after_bytes is not None:
            moved = card.others_after_bytes - card.others_before_bytes
            if abs(moved) > MOVED_BYTES:
                way = "took" if moved > 0 else "gave back"
                return f"other processes {way} {gib(abs(moved))} of {card.name} meanwhile"
        elif card.context_bytes is not None and abs(card.context_bytes - made.context_bytes) > UNSEEN_BYTES:
            return f"what became less free on {card.name} is not this process's alone"
        if card.peak_bytes > card.total_bytes:
            return f"{gib(card.peak_bytes)} are more than {card.name} has: it spilled into the machine's memory"
        if card.peak_bytes < card.layers * made.layer_bytes:
            return f"{gib(card.peak_bytes)} on {card.name} are less than the weights alone"
    total = sum(_measured(card, not record.read_tokens) for card in record.cards)
    could_be = max((total - sum(off)) // BEYOND, 2 * made.error_bytes * len(record.cards))
    return f"{gib(abs(sum(off)))} off are beyond what could be" if abs(sum(off)) > could_be else ""


def is_sure(record: Record) -> bool:
    """Whether a record may lower: something was read, and it is certain what was this process's."""
    seen = record.kind == "cpu" or all(card.others_after_bytes is not None for card in record.cards)
    return record.read_tokens > 0 and seen


def correct(records: Sequence[Record], variant: Variant) -> Correction | None:
    """What `records`, all of one runtime, version and kind of card, say of `variant`; None where nothing changes."""
    family = _family(variant)
    same = _last_good([record for record in records if _family(record.variant) == family])
    used = same or _last_good(records)
    samples = [differences(record) or (0,) for record in used]
    if not used:
        return None
    means = [-(-sum(sample) // len(sample)) for sample in samples]
    errors = [made.error_bytes for record in used if (made := happened(record)) is not None]
    sure = bool(same) and sum(map(is_sure, used)) >= LOADS_TO_LOWER
    if sure:
        trusted = [mean for mean, record in zip(means, used, strict=True) if is_sure(record)]
        by = median_high(trusted)
    else:
        by = max(0, median_high(means) if same else min(means))
    by = max(by, _lowest(used))
    above = max(max(sample) for sample in samples) - by
    change = max(0, above - min(errors))
    least = 0
    if sure:
        kept = [sample for sample, record in zip(samples, used, strict=True) if is_sure(record)]
        least = max(MOVED_BYTES, above, max(by - min(sample) for sample in kept))
        if least < min(errors):
            change = least - min(errors)
    return Correction(by, change, len(used), least) if by or change else None


def _lowest(records: Sequence[Record]) -> int:
    """How far down a correction can go: by half of the CUDA context, which is the part that it is counted in."""
    return max(-made.context_bytes // 2 for record in records if (made := happened(record)) is not None)


def _last_good(records: Sequence[Record]) -> list[Record]:
    """The last of them that can be believed, oldest first."""
    found = (record for record in reversed(records) if not record.left_out and _believed(record))
    return [*islice(found, LAST_LOADS)][::-1]


def _believed(record: Record) -> bool:
    try:
        return not nonsense(record)
    except (ArithmeticError, LookupError, ValueError):  # a model that cannot be, or another version's runtime
        return False


def _family(variant: Variant) -> tuple[object, ...]:
    """Variants that take alike: the same extents at the same bits, whatever the groups and the longest context."""
    shape = variant.shape
    extents = None if shape is None else tuple(getattr(shape, name) for name in _EXTENTS)
    return variant.bits, variant.format, extents


@dataclass(frozen=True)
class Corrections:
    """The records of this machine, asked what they say. Empty, it says nothing.

    `versions` are those of the runtimes in this Python, None for one that is not here: then it is taken to be the one
    that was last used. `process` is who asks: on the CPU a webui's process is another than the command's.
    """

    records: tuple[Record, ...] = ()
    versions: tuple[tuple[str, str | None], ...] = ()
    process: str = "branchfit"

    def of(
        self, variant: Variant, runtime: str, gpus: Sequence[Gpu], expandable: bool | None = None
    ) -> Correction | None:
        """What is known of `variant` by `runtime` on these cards. None for simulated ones, whatever their name.

        `expandable` is as `terms` is told, and only such loads count: gaps between tensors are measured with default
        segments, and where segments expand no count shows them. None: all of them.

        Where a card of another kind is among them nobody knows which the model will lie on, so on each the most that
        any kind says counts.
        """
        kinds = {(gpu.kind, gpu.name, gpu.total_bytes) for gpu in gpus}
        if not self.records or not kinds or any(gpu.source == "given" for gpu in gpus):
            return None
        known = [self._of_kind(variant, runtime, expandable, *kind) for kind in sorted(kinds)]
        each = [one if one is not None else Correction(0, 0, 0) for one in known]
        by, change = max(one.bytes for one in each), max(one.error_bytes for one in each)
        least, loads = max(one.least_error_bytes for one in each), sum(one.loads for one in each)
        return Correction(by, change, loads, least) if by or change else None

    def _of_kind(
        self, variant: Variant, runtime: str, expandable: bool | None, kind: str, name: str, total_bytes: int
    ) -> Correction | None:
        found = [record for record in self.records if record.runtime == runtime and record.kind == kind]
        if expandable is not None:
            found = [record for record in found if record.expandable == expandable]
        if kind == "cpu":  # its memory is what a container leaves of it, and no part of the prediction
            found = [record for record in found if record.process == self.process]
        else:
            found = [r for r in found if all((card.name, card.total_bytes) == (name, total_bytes) for card in r.cards)]
        version = dict(self.versions).get(runtime) or next((record.version for record in reversed(found)), None)
        return correct([record for record in found if record.version == version], variant)


def corrections_here(process: str = "branchfit", file: RecordFile | None = None) -> Corrections:
    """What this machine's records say, read now. Never raises: without records there is nothing to say."""
    records = (file or RecordFile()).read()
    versions = tuple((name, runtime_version(name)) for name in sorted({record.runtime for record in records}))
    return Corrections(records, versions, process)


def runtime_version(runtime: str) -> str | None:
    """The version of a runtime's package in this Python, None where it is not here or no such runtime is known."""
    package = next((one.packages[0] for one in RUNTIMES if one.name == runtime), None)
    return this_host().version(package) if package is not None else None


def _signed(size_bytes: int) -> str:
    return f"{'+' if size_bytes >= 0 else '-'}{error_text(abs(size_bytes))}"
