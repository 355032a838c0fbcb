"""The page's section on models split over two cards: card by card what was said and taken, and what limits showed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from branchfit.memory.correcting import on_cards
from branchfit.units import MIB

from .cases import Record, variant_of
from .cells import CASE_HEAD, grid, named, of, off, prose, size
from .table import CASE_FIELDS, Summary, key_of, measured, order, predicted, summary

SPLIT_FIELDS = (*CASE_FIELDS, "how")
SPLIT_LIMIT_FIELDS = (*SPLIT_FIELDS, "allowed_bytes")

TEXT = """Models split over two {gpu} ({memory} GiB each; driver {driver}, CUDA {cuda}, torch {torch}){others}. The
cards were taken to be smaller than they are, unequal and too small for the model alone, and each loader was told what
BranchFit tells it: `device_map` is that of `branchfit.load`, `max_memory` (accelerate) and `gpu_split` are what the
webui's loaders get. Told `max_memory`, accelerate balances below these bounds, so that other layers are *said* than
were planned: here more on the second card than it was taken to have room for, which BranchFit refuses in a webui and
which was loaded all the same. *Predicted* and *measured* are of one card each, with the layers that were *placed*
there; as on one card, what is measured through transformers is the least that a load can need. In bold what is out of
the target."""

OTHERS = """, another kind of card than that of the other sections ({gpus})"""

SUMMED = """Of {cards} cards {in_target} are in the target, {covered} within the stated error. The error is {median:.0f}
MiB in the median, {worst:.0f} MiB or {share:.1%} at the worst. {laid} of {loads} loads were laid as said."""

LEARNED = """These loads do not only judge: that through transformers the embedded prompt stays on the first card alone
was learned from them. Before, 20 to 64 MiB more were predicted of the second card, and Mistral-7B's was out of the
target."""

LIMITED = """The same with torch's allocator held to a limit on each card: to just what was said of that card at the
time, error included, {enough} loads ran; to 97 % of what was allocated there at most, {too_little} died. By what is
predicted now, a load being said to fit where need plus error is at most the limit on each card, {right_yes} were said
to fit and ran, {right_no} were said not to fit and died, and {wrong_no} were said not to fit and ran."""


@dataclass(frozen=True)
class Split:
    """A split load that ran, and what is predicted of it now for the layers that were placed: of each card, in bytes,
    the need and its stated error."""

    record: Record
    said: tuple[tuple[int, int], ...]

    @property
    def judged(self) -> list[tuple[int, int, int]]:
        """What `table.summary` sums: predicted, stated error and measured of each card."""
        taken = [one["measured_bytes"] for one in self.record["cards"]]
        return [(need, error, got) for (need, error), got in zip(self.said, taken, strict=True)]

    def said_fits(self, allowed_bytes: Sequence[int]) -> bool:
        """Whether both cards have room where torch's allocator may take so much, its CUDA context beside it."""
        contexts = [one["context_bytes"] for one in self.record["cards"]]
        cards = zip(self.said, allowed_bytes, contexts, strict=True)
        return all(need + error <= allowed + context for (need, error), allowed, context in cards)


def said(record: Record, layers: Sequence[Any]) -> tuple[tuple[int, int], ...]:
    """Need and stated error of each card, in bytes, as they are predicted now with `layers` on each.

    As `branchfit.memory.place` has it for the layers of its own choice; a loader may lay others, and halves of them.
    """
    made = predicted(record, variant_of(record))
    errors = [made.error_bytes + int(count * made.layer_error_bytes) for count in layers]
    return tuple((int(need), error) for need, error in zip(on_cards(made, layers), errors, strict=True))


def over_two_cards(records: Sequence[Record]) -> list[str]:
    """A row for each load and card, what they come to, and how the limits ended; nothing where none was measured."""
    ran = sorted(_last(records, "split", SPLIT_FIELDS, {"ran"}), key=lambda one: (*order(one), one["how"]))
    if not ran:
        return []
    loads = [Split(record, said(record, record["layers_placed"])) for record in ran]
    rows = [row for load in loads for row in _rows(load)]
    head = [*CASE_HEAD, "told by", "card", "layers said", "placed", "predicted, GiB", "measured, GiB", "error, MiB"]
    found = summary([card for load in loads for card in load.judged])
    told = [_text(records), grid(head, rows), _summed(found, ran), prose(LEARNED)]
    return ["## Over two cards", *told, *_limited(records, loads)]


def _last(records: Iterable[Record], kind: str, fields: Sequence[str], outcomes: set[str]) -> list[Record]:
    """The last record of that kind with one of these outcomes, for each case that `fields` tell apart."""
    chosen = (one for one in records if one["kind"] == kind and one["outcome"] in outcomes)
    return list({key_of(one, fields): one for one in chosen}.values())


def _rows(load: Split) -> list[list[str]]:
    record, rows = load.record, []
    for card, one in enumerate(load.judged):
        need, _, got = one
        error = off(need - got) if summary([one]).in_target else f"**{off(need - got)}**"
        layers = [f"{record[name][card]:g}" for name in ("layers_said", "layers_placed")]
        rows.append([*named(record), f"`{record['how']}`", str(card), *layers, size(need), size(got), error])
    return rows


def _text(records: Sequence[Record]) -> str:
    here = [one for one in records if one["kind"] == "environment" and "gpus" in one][-1]
    others = ", ".join(sorted({one["gpu"] for one in measured(records)} - {here["gpu"]}))
    return prose(
        TEXT,
        gpu=here["gpu"],
        memory=size(here["memory_bytes"]),
        driver=here["driver"],
        cuda=here["cuda"],
        torch=here["packages"]["torch"],
        others=prose(OTHERS, gpus=others) if others else "",
    )


def _summed(found: Summary, ran: Sequence[Record]) -> str:
    return prose(
        SUMMED,
        cards=found.cases,
        in_target=found.in_target,
        covered=found.covered,
        median=found.median_bytes / MIB,
        worst=found.worst_bytes / MIB,
        share=found.worst_share,
        laid=sum(one["layers_said"] == one["layers_placed"] for one in ran),
        loads=len(ran),
    )


def _limited(records: Sequence[Record], loads: Sequence[Split]) -> list[str]:
    """How the loads ended under limits; those that were said to fit and died are named."""
    by_key = {key_of(load.record, SPLIT_FIELDS): load for load in loads}
    tried = [
        (one["outcome"] == "ran", by_key[key_of(one, SPLIT_FIELDS)].said_fits(one["allowed_bytes"]), one)
        for one in _last(records, "split_limit", SPLIT_LIMIT_FIELDS, {"ran", "died"})
        if key_of(one, SPLIT_FIELDS) in by_key
    ]
    if not tried:
        return []
    enough = [did_run for did_run, _, one in tried if one["limit"] == "enough"]
    too_little = [did_run for did_run, _, one in tried if one["limit"] == "too little"]
    verdicts = [(fits, did_run) for did_run, fits, _ in tried]
    text = prose(
        LIMITED,
        enough=of(sum(enough), len(enough)),
        too_little=of(len(too_little) - sum(too_little), len(too_little)),
        right_yes=verdicts.count((True, True)),
        right_no=verdicts.count((False, False)),
        wrong_no=verdicts.count((False, True)),
    )
    wrong = [one for did_run, fits, one in tried if fits and not did_run]
    names = "; ".join(f"{' '.join(named(one))} by `{one['how']}` in {one['where']}" for one in wrong)
    return [text, f"**Said to fit, and died:** {names}." if wrong else "Said to fit, and died: none."]
