"""What loads really took on this machine: one JSON line each, in BranchFit's cache folder.

    <cache folder>/memory/records.jsonl    the newest last; a load's last line counts, written as more is read
    <cache folder>/memory/records.lock     held for the moment of a write, so that two processes lose nothing

A record is what was measured and what a prediction has to know to be made again, so that it is compared with
today's formulas and not with those of its day (`correcting`). What does not read is skipped, never believed; a
folder that cannot be written only means that nothing is remembered.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from ..errors import BranchFitError
from ..hub.cache import default_cache_dir
from ..shape import MOST, ModelShape
from ..variants import Variant
from .exllamav2 import CACHE_BYTES

Made = TypeVar("Made")

FORMAT = 1
"""Stands in every line; another number is another program's, and not read."""

MOST_LINES = 400
"""A line takes 1 kB and read in 70 microseconds on a slow core: 400 are 28 ms. A correction looks at eight of them."""

KEPT_LOADS = 200
"""How many loads stay when there are too many lines: a load is written a few times, as longer prompts come."""

MAX_BYTES = 4 * 2**20
"""Several times what MOST_LINES take: a larger file is none of ours, and begun anew."""

LOCK_S = 2.0
"""How long a write waits for another one, which takes milliseconds. A record is not worth more."""

MOST_BYTES = 2**50
"""No figure beyond a pebibyte is believed: a thousand times the memory of any machine that models are loaded on."""

_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError, BranchFitError)
"""What a torn, foreign or planted line raises when it is read as a record."""

_EXTENTS = tuple(each.name for each in fields(ModelShape) if each.init)
_MOST_OF = {
    "hidden": MOST["hidden_size"],
    "intermediate": MOST["intermediate_size"],
    "layers": MOST["num_hidden_layers"],
    "heads": MOST["num_attention_heads"],
    "kv_heads": MOST["num_key_value_heads"],
    "head_dim": MOST["head_dim"],
    "vocab": MOST["vocab_size"],
    "experts": 256,  # the largest published mixtures'; each is listed, which takes a tenth of a second at a thousand
}
_NONE_IS_FINE = frozenset({"experts"})

MOST_CARDS = 64
"""More than any machine has that one process loads a model on."""

_QUANTISED = ("format", "bits", "group_size", "act_order", "zero_bias", "size_bytes")


@dataclass(frozen=True)
class Card:
    """What one GPU gave to a load, or the machine's memory to a process on the CPU. Bytes.

    `layers` is how many decoder layers were planned on it; the first card has the embedding, the last the head, though
    it may have no layer. `peak_bytes` is the most since the load began,
    `resident_bytes` what tensors hold now, both with the process's own `context_bytes` (None on the CPU, where
    nobody tells them apart). `others_*` is what was not this process's before and now; None where nobody says.
    """

    name: str
    total_bytes: int
    layers: int
    peak_bytes: int
    resident_bytes: int
    context_bytes: int | None = None
    others_before_bytes: int | None = None
    others_after_bytes: int | None = None


@dataclass(frozen=True)
class Record:
    """One load. `variant` is what a prediction asks of it, without name and commit.

    `load` is the same in all lines of a load. `process` is "branchfit" or "webui". `kind` and `source` are those of
    `Gpu`. `prompt_tokens` and `read_tokens` (the prompt and its reply) are of the generation that should have taken
    most; 0 where nothing was read yet. `cache` to `plain_attention` are arguments of `terms`. The predicted parts are
    those at the full `context_tokens`, before any correction. `left_out` is why it is never used, "" where it is.
    """

    at: str
    load: str
    process: str
    runtime: str
    version: str | None
    torch: str | None
    driver: str | None
    kind: str
    source: str
    variant: Variant
    context_tokens: int
    cards: tuple[Card, ...]
    prompt_tokens: int = 0
    read_tokens: int = 0
    cache: str = "fp16"
    triton: bool = True
    expandable: bool = True
    plain_attention: bool = False
    weights_bytes: int = 0
    kv_cache_bytes: int = 0
    scratch_bytes: int = 0
    context_bytes: int = 0
    error_bytes: int = 0
    left_out: str = ""


@dataclass(frozen=True)
class RecordFile:
    """The records of this user on this machine. Two processes may use it at once."""

    folder: Path = field(default_factory=lambda: default_cache_dir().absolute() / "memory")

    @property
    def path(self) -> Path:
        return self.folder / "records.jsonl"

    def read(self) -> tuple[Record, ...]:
        """Every load, oldest first, each as it was last written. () where there are none, or none can be read."""
        found: dict[str, Record] = {}
        for line in self._lines()[-MOST_LINES:]:
            with suppress(*_UNREADABLE):
                record = from_line(line)
                found.pop(record.load, None)  # its place is that of its last line
                found[record.load] = record
        return tuple(found.values())

    def append(self, record: Record) -> bool:
        """Add a line; False where it cannot be written, which is no error."""
        try:
            with _locked(self.folder / "records.lock"):
                lines = self._lines()
                if len(lines) < MOST_LINES:
                    self._add(to_line(record), lines)
                else:
                    self._rewrite([*(to_line(one) for one in self.read()[-KEPT_LOADS + 1 :]), to_line(record)])
        except (OSError, NotImplementedError):  # filelock's word for a file system without locks
            return False
        return True

    def forget(self) -> int:
        """Delete all records; how many there were. Raises OSError where they cannot be deleted."""
        count = len(self.read())
        if self.path.exists():
            with _locked(self.folder / "records.lock"):
                self.path.unlink(missing_ok=True)
        return count

    def _lines(self) -> list[bytes]:
        try:
            if not self.path.is_file():  # a pipe would never end
                return []
            with self.path.open("rb") as stream:
                content = stream.read(MAX_BYTES + 1)
        except OSError:
            return []
        return content.splitlines(keepends=True) if len(content) <= MAX_BYTES else []

    def _add(self, line: bytes, before: list[bytes]) -> None:
        if not before:
            self._rewrite([line])
            return
        torn = b"" if before[-1].endswith(b"\n") else b"\n"  # a writer was killed: its line stays alone
        with self.path.open("ab") as stream:
            stream.write(torn + line)

    def _rewrite(self, lines: Iterable[bytes]) -> None:
        with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".tmp", delete=False) as stream:
            stream.write(b"".join(lines))
        try:
            Path(stream.name).replace(self.path)
        except OSError:  # on Windows, somebody is reading it this moment
            with suppress(OSError):
                Path(stream.name).unlink()
            raise


def _locked(path: Path) -> Any:
    """The lock, held. Raises OSError where it is not to be had."""
    from filelock import FileLock, Timeout  # costs 20 ms, and only a write needs it

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        return lock.acquire(timeout=LOCK_S, poll_interval=0.01)
    except Timeout:
        raise OSError(f"{path} has been held for {LOCK_S:g} s") from None


def to_line(record: Record) -> bytes:
    """One line of JSON."""
    shape, said = record.variant.shape, record.variant
    model = {name: getattr(said, name) for name in _QUANTISED}
    model["shape"] = None if shape is None else {name: getattr(shape, name) for name in _EXTENTS}
    cards = [vars(card) for card in record.cards]
    document = {"format": FORMAT, **vars(record), "variant": model, "cards": cards}
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def from_line(line: bytes) -> Record:
    """The record of a line. Raises one of `_UNREADABLE` for anything that this program does not write."""
    said = json.loads(line)
    if said.pop("format") != FORMAT:
        raise ValueError("another program's")
    model = said.pop("variant")
    shape = model.pop("shape")
    if shape is not None:  # before it is made: a mixture lists the linears of every expert
        _expect(all((name not in _NONE_IS_FINE) <= shape[name] <= most for name, most in _MOST_OF.items()))
    cards = tuple(_checked(Card(**card)) for card in said.pop("cards"))
    known = None if shape is None else _checked(ModelShape(**shape))
    variant = _checked(Variant("", shape=known, **model))
    record = _checked(Record(variant=variant, cards=cards, **said))
    _expect(record.read_tokens >= record.prompt_tokens and record.context_tokens > 0)
    _expect(record.cache in CACHE_BYTES and len(cards) <= MOST_CARDS)
    _expect((variant.group_size is None or variant.group_size > 0) and (variant.bits is None or variant.bits >= 1))
    return record


_KINDS: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "str | None": (str, type(None)),
    "int": (int,),
    "int | None": (int, type(None)),
    "float | None": (float, int, type(None)),
    "bool": (bool,),
    "bool | None": (bool, type(None)),
}


def _checked(made: Made) -> Made:
    """`made`, where every plain field is of its kind and no number is negative or beyond belief."""
    for each in fields(made):  # type: ignore[arg-type] # all three are dataclasses
        value = getattr(made, each.name)
        if each.type not in _KINDS:
            continue
        _expect(isinstance(value, _KINDS[str(each.type)]))
        _expect(isinstance(value, bool) == ("bool" in str(each.type)) or value is None)
        if isinstance(value, (int, float)):
            _expect(0 <= value <= MOST_BYTES)
    return made


def _expect(holds: bool) -> None:
    if not holds:
        raise TypeError("not what this program writes")


def stripped(variant: Variant) -> Variant:
    """What a record keeps of a variant: what its memory depends on, and nothing that names it."""
    return replace(Variant(""), shape=variant.shape, **{name: getattr(variant, name) for name in _QUANTISED})
