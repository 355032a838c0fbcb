"""AutoGPTQ's bit stream, by hand and against the words of its own packing loop."""

from __future__ import annotations

import numpy as np
import pytest

from branchfit.demo.synth.packing import pack_rows, pack_zeros


def words_of(column: list[int], bits: int) -> list[int]:
    packed = pack_rows(np.array(column, dtype=np.uint8)[:, None], bits)
    return [int(word) & 0xFFFFFFFF for word in packed[:, 0]]


def test_eight_codes_of_4_bits_fill_a_word_from_its_lowest_bits() -> None:
    assert words_of([1, 2, 3, 4, 5, 6, 7, 8] * 4, 4) == [0x87654321] * 4


def test_four_codes_of_8_bits_fill_a_word() -> None:
    assert words_of([0x11, 0x22, 0x33, 0xFF] * 8, 8) == [0xFF332211] * 8


def test_sixteen_codes_of_2_bits_fill_a_word() -> None:
    assert words_of([0, 1, 2, 3] * 8, 2) == [0xE4E4E4E4] * 2


def test_at_3_bits_the_codes_10_and_21_straddle_two_words() -> None:
    # Code 10 = 0b110: its low two bits (10) end word 0, its high bit (1) begins word 1.
    ten = [0] * 32
    ten[10] = 0b110
    assert words_of(ten, 3) == [0b10 << 30, 0b1, 0]
    # Code 21 = 0b011: its low bit ends word 1, its high two bits (01) begin word 2.
    twenty_one = [0] * 32
    twenty_one[21] = 0b011
    assert words_of(twenty_one, 3) == [0, 1 << 31, 0b01]


def auto_gptq_3_bit_words(codes: np.ndarray) -> np.ndarray:
    """One block of the loop in auto_gptq 0.7.1, QuantLinear.pack, kept as it stands there."""
    words = np.zeros((3, codes.shape[1]), dtype=np.uint32)
    codes = codes.astype(np.uint32)
    for j in range(0, 10):
        words[0] |= codes[j] << (3 * j)
    words[0] |= codes[10] << 30
    words[1] |= (codes[10] >> 2) & 1
    for j in range(11, 21):
        words[1] |= codes[j] << (3 * (j - 11) + 1)
    words[1] |= codes[21] << 31
    words[2] |= (codes[21] >> 1) & 0x3
    for j in range(22, 32):
        words[2] |= codes[j] << (3 * (j - 22) + 2)
    return words.astype(np.int32)


def test_3_bit_words_are_those_of_auto_gptq() -> None:
    codes = np.random.default_rng(3).integers(0, 8, (32, 500)).astype(np.uint8)
    assert np.array_equal(pack_rows(codes, 3), auto_gptq_3_bit_words(codes))


@pytest.mark.parametrize(("bits", "words"), [(4, [0x77777777]), (3, [0xDB6DB6DB]), (8, [0x7F7F7F7F])])
def test_a_symmetric_zero_is_stored_as_one_less(bits: int, words: list[int]) -> None:
    # 8, 4 and 128 stored as 7, 3 and 127: the words that AutoGPTQ's symmetric checkpoints hold.
    zeros = np.full((2, 32), 2 ** (bits - 1), dtype=np.uint8)
    packed = pack_zeros(zeros, bits)
    assert packed.shape == (2, bits)
    assert {int(word) & 0xFFFFFFFF for word in packed[:, 0]} == set(words)


def test_zeros_are_packed_along_the_outputs() -> None:
    zeros = np.array([[1, 2, 3, 4, 5, 6, 7, 8] * 4], dtype=np.uint8)
    assert [int(word) & 0xFFFFFFFF for word in pack_zeros(zeros, 4)[0]] == [0x76543210] * 4
