"""Cells: how a row divides, and the values in it."""

from __future__ import annotations

import pytest

from branchfit.card import cells


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("| a | b |", ["a", "b"]),
        ("| a | b", ["a", "b"]),
        ("a | b |", ["a", "b"]),
        ("a | b", ["a", "b"]),
        ("| a | b | ", ["a", "b"]),
        ("|a|b|", ["a", "b"]),
        ("| a |  | b |", ["a", "", "b"]),
        ("|  | b |", ["", "b"]),
        (r"| a \| b | c |", ["a | b", "c"]),
        (r"| a \\| b |", [r"a \\", "b"]),
        (r"| `a | b` |", ["`a", "b`"]),
        (r"| a | b \|", ["a", "b |"]),
        ("| 3.08 GB| 5.58 GB |", ["3.08 GB", "5.58 GB"]),
        ("", [""]),
        ("|", [""]),
    ],
)
def test_rows_divide_at_unescaped_pipes_with_or_without_outer_ones(line: str, expected: list[str]) -> None:
    assert cells.split_row(line) == expected


@pytest.mark.parametrize("line", ["|---|---|", "| :-- | --: |", "-|-", "|-|", "  | - | - |  "])
def test_a_row_of_dashes_is_one(line: str) -> None:
    assert cells.is_delimiter_row(line)


@pytest.mark.parametrize("line", ["---", "", "|", "| |", "|---| |", "| - - | - |", "| -x- |", "|::|--|", "| + |"])
def test_what_only_looks_like_a_row_of_dashes_is_none(line: str) -> None:
    assert not cells.is_delimiter_row(line)


@pytest.mark.parametrize(
    ("cell", "size_bytes", "resolution_bytes"),
    [
        ("35.33 GB", 35_330_000_000, 10_000_000),
        ("0.77 GB", 770_000_000, 10_000_000),
        ("117.46GB", 117_460_000_000, 10_000_000),
        ("2.432 GB", 2_432_000_000, 1_000_000),
        ("~167 GB", 167_000_000_000, 1_000_000_000),
        ("4 gb", 4_000_000_000, 1_000_000_000),
        ("820 MB", 820_000_000, 1_000_000),
        ("1.5 TB", 1_500_000_000_000, 100_000_000_000),
        ("2 GiB", 2 * 2**30, 2**30),
        ("2.5 GiB", 2_684_354_560, 107_374_182),  # 2.5 * 2^30; 2^30 / 10
        ("512 MiB", 512 * 2**20, 2**20),
        ("35332232264.00 GB", 35_332_232_264, 1),
        ("36,652,374,352 GB", 36_652_374_352, 1),
        ("3896726080", 3_896_726_080, 1),
        ("1,234.5 MB", 1_234_500_000, 100_000),
        ("5,7 GB", 5_700_000_000, 100_000_000),
        ("**7.26 GB**", 7_260_000_000, 10_000_000),
        ("7.26&nbsp;GB", 7_260_000_000, 10_000_000),
        ("1000000000000000 B", 10**15, 1),
    ],
)
def test_sizes_are_exact_and_know_their_last_digit(cell: str, size_bytes: int, resolution_bytes: int) -> None:
    assert cells.read_size(cell) == (size_bytes, resolution_bytes)


@pytest.mark.parametrize(
    "cell",
    [
        "",
        "Processing, coming soon",
        "Still processing",
        "-3 GB",
        "0 GB",
        "GB",
        "7.26",
        "1.2.3 GB",
        "7.26 GB or so",
        "1e9 GB",
        "nan GB",
        "inf GB",
        "٣ GB",
        "9" * 64,
        "9" * 100000,
        "1000000000000001 B",
        "5 parsecs",
        "1,23,4 GB",
    ],
)
def test_sizes_that_cannot_be_read_are_none(cell: str) -> None:
    assert cells.read_size(cell) is None


def test_a_column_headed_with_its_unit_needs_none_in_its_cells() -> None:
    assert cells.read_size("7.26", "gb") == (7_260_000_000, 10_000_000)


@pytest.mark.parametrize(
    ("cell", "bits"),
    [
        ("4", 4),
        ("**8**", 8),
        ("3-bit", 3),
        ("4bit", 4),
        ("4 bits", 4),
        ("INT4", 4),
        ("w8", 8),
        ("8.0", 8),
        ("16", 16),
        ("", None),
        ("0", None),
        ("17", None),
        ("4.25", None),
        ("four", None),
        ("-4", None),
        ("4/8", None),
    ],
)
def test_bits(cell: str, bits: int | None) -> None:
    assert cells.read_bits(cell) == bits


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("None", (True, None)),
        ("-1", (True, None)),
        ("-1g", (True, None)),
        ("no groupsize", (True, None)),
        ("128", (True, 128)),
        ("32g", (True, 32)),
        ("1024 g", (True, 1024)),
        ("65536", (True, 65536)),
        ("", (False, None)),
        ("0", (False, None)),
        ("65537", (False, None)),
        ("-32", (False, None)),
        ("x", (False, None)),
    ],
)
def test_group_sizes(cell: str, expected: tuple[bool, int | None]) -> None:
    assert cells.read_group_size(cell) == expected


@pytest.mark.parametrize(
    ("cell", "expected"),
    [("Yes", True), ("yes", True), ("TRUE", True), ("No", False), ("`False`", False), ("Maybe", None), ("", None)],
)
def test_yes_and_no(cell: str, expected: bool | None) -> None:
    assert cells.read_yes_no(cell) is expected


@pytest.mark.parametrize(
    ("cell", "expected"),
    [("0.1", 0.1), ("0.01", 0.01), (".1", 0.1), ("1 %", 1.0), ("5%", 5.0), ("", None), ("nan", None), ("-0.1", None)],
)
def test_damp(cell: str, expected: float | None) -> None:
    assert cells.read_damp(cell) == expected


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("4096", 4096),
        ("4,096", 4096),
        ("32768", 32768),
        ("", None),
        ("16K", 16384),
        ("n/a", None),
        ("0", None),
        ("999999999", None),
        ("4,09", None),
    ],
)
def test_sequence_lengths(cell: str, expected: int | None) -> None:
    assert cells.read_sequence_length(cell) == expected
