"""CUDA_VISIBLE_DEVICES as torch reads it."""

from __future__ import annotations

import pytest

from branchfit.gpus.visible import select

UUIDS = ["GPU-aaaa1111", "GPU-aaaa2222", "GPU-bbbb3333"]


def chosen(value: str | None) -> tuple[int, ...]:
    return select("CUDA_VISIBLE_DEVICES", value, UUIDS).chosen


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, (0, 1, 2)),
        ("0,1,2", (0, 1, 2)),
        ("2,0", (2, 0)),
        (" 1 , 2", (1, 2)),
        ("", ()),
        ("-1", ()),
        ("0,2,-1,1", (0, 2)),
        ("0,7,1", (0,)),
        ("1,1", ()),
        ("1gpu2,2ampere", (1, 2)),
        ("NoDevFiles", ()),
        ("GPU-bbbb", (2,)),
        ("GPU-bbbb3333,GPU-aaaa1111", (2, 0)),
        ("GPU-aaaa", ()),
        ("GPU-bbbb,GPU-none,GPU-aaaa1", (2,)),
        ("GPU-bbbb,GPU-bbbb3333", ()),
        ("9" * 5000, ()),
    ],
)
def test_the_variable_selects_what_torch_would_see(value: str | None, expected: tuple[int, ...]) -> None:
    assert chosen(value) == expected


def test_a_variable_that_hides_nothing_is_not_mentioned() -> None:
    assert select("CUDA_VISIBLE_DEVICES", "0,1,2", UUIDS).note is None
    assert select("CUDA_VISIBLE_DEVICES", None, UUIDS).note is None


def test_the_note_says_which_variable_left_how_many_and_what_ended_it() -> None:
    note = select("CUDA_VISIBLE_DEVICES", "0,7,1", UUIDS).note
    assert (
        note == "CUDA_VISIBLE_DEVICES='0,7,1' leaves 1 of 3 GPUs visible. `7` is no device here, which ends the list."
    )


def test_a_device_named_twice_leaves_none_and_the_note_says_so() -> None:
    note = select("CUDA_VISIBLE_DEVICES", "1,1", UUIDS).note
    assert note is not None
    assert "leaves 0 of 3" in note
    assert "twice" in note


def test_the_answers_are_those_of_torch_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = pytest.importorskip("torch.cuda", reason="needs torch, whose own reading of the variable is compared")
    for value in ("0,1,2", "2,0", "", "-1", "0,2,-1,1", "0,7,1", "1,1", "1gpu2,2ampere", "NoDevFiles"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        ordinals = []
        for ordinal in cuda._parse_visible_devices():
            if ordinal >= len(UUIDS):  # torch cuts the list there when it counts devices
                break
            ordinals.append(ordinal)
        assert tuple(ordinals) == chosen(value), value
    several = ("GPU-bbbb3333,GPU-aaaa1111", "GPU-bbbb,GPU-none,GPU-aaaa1", "GPU-bbbb,GPU-bbbb3333")
    for value in ("GPU-bbbb", "GPU-aaaa", *several):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert tuple(cuda._transform_uuid_to_ordinals(cuda._parse_visible_devices(), UUIDS)) == chosen(value), value
