"""Where a card's memory is, in lines for a person."""

from __future__ import annotations

import os
from dataclasses import replace

from branchfit.gpus import Gpu, Holder, headline, shares

MIB, GIB = 2**20, 2**30
CARD = Gpu(
    0,
    "NVIDIA RTX A5000",
    24 * GIB,
    16 * GIB,
    "8.6",
    "nvml",
    (Holder(7, "Xorg", GIB), Holder(8, "python3", 5 * GIB)),
    reserved_bytes=GIB // 2,
    held_back_bytes=GIB // 4,
    ecc=True,
    display=True,
)


def test_the_headline_says_what_is_free_ecc_and_a_display() -> None:
    assert headline(CARD) == (
        "GPU 0: NVIDIA RTX A5000, 16.0 GiB free of 24.0 GiB, ECC on (what it takes is off that total already), drives "
        "a display"
    )
    assert headline(replace(CARD, ecc=False, display=None)) == ("GPU 0: NVIDIA RTX A5000, 16.0 GiB free of 24.0 GiB")


def test_all_that_is_not_free_is_listed_the_largest_first_and_adds_up() -> None:
    assert shares(CARD) == [
        "5.0 GiB held by pid 8, python3",
        "1.2 GiB held by nobody who can be seen from here",
        "1.0 GiB held by pid 7, Xorg",
        "0.5 GiB kept by the driver for itself: no program can have it",
        "0.2 GiB free too, and not counted: the notes say why",
    ]
    named = 6 * GIB + GIB // 2
    assert CARD.free_bytes + CARD.held_back_bytes + named + CARD.unnamed_bytes == CARD.total_bytes


def test_this_process_and_a_webui_are_told_apart() -> None:
    card = replace(CARD, holders=(Holder(os.getpid(), "python3", GIB), Holder(8, "python3", 5 * GIB)))
    lines = shares(card, {8: "the webui"})
    assert lines[0] == "5.0 GiB held by pid 8, python3: the webui"
    assert f"1.0 GiB held by pid {os.getpid()}, python3: this process itself" in lines


def test_where_windows_hides_the_sizes_the_rest_is_theirs() -> None:
    card = replace(CARD, holders=(Holder(7, "dwm.exe", None),), reserved_bytes=None, held_back_bytes=0)
    assert shares(card) == [
        "8.0 GiB held by the processes of unknown amounts",
        "an unknown amount held by pid 7, dwm.exe",
    ]


def test_a_chip_that_shares_the_machines_memory_has_no_unseen_holder() -> None:
    assert shares(replace(CARD, unified=True, holders=(), reserved_bytes=None, held_back_bytes=0)) == []


def test_an_empty_card_lists_nothing() -> None:
    assert shares(Gpu(0, "a card", GIB, GIB, None, "given")) == []
