"""AutoGPTQ's packing: codes of 2, 3, 4 or 8 bits as a little-endian bit stream in 32-bit words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .recipe import PACKED_TOGETHER

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WORD_BITS = 32


def pack_rows(codes: NDArray[np.uint8], bits: int) -> NDArray[np.int32]:
    """Pack `codes` [n, columns] down each column into [n * bits / 32, columns].

    n is a multiple of 32: 32 codes fill `bits` whole words. Code i of a column takes the bits from
    i * bits on, counted from the first word's lowest; at 3 bits the codes 10 and 21 of each 32
    straddle two words. Source: QuantLinear.pack in auto_gptq 0.7.1's qlinear_cuda.py.
    """
    import numpy as np

    rows, columns = codes.shape
    blocks = codes.reshape(rows // PACKED_TOGETHER, PACKED_TOGETHER, columns)
    words = np.zeros((rows // PACKED_TOGETHER, bits, columns), dtype=np.uint32)
    for index in range(PACKED_TOGETHER):
        word, shift = divmod(index * bits, WORD_BITS)
        code = blocks[:, index].astype(np.uint32)
        words[:, word] |= code << np.uint32(shift)
        if shift + bits > WORD_BITS:
            words[:, word + 1] |= code >> np.uint32(WORD_BITS - shift)
    return words.reshape(rows // PACKED_TOGETHER * bits, columns).view(np.int32)


def pack_zeros(zeros: NDArray[np.uint8], bits: int) -> NDArray[np.int32]:
    """Pack `zeros` [groups, out] along out into [groups, out * bits / 32], each as zero - 1.

    The v1 format stores one less than the zero (`zeros -= 1` in QuantLinear.pack), and its readers
    add it again. A zero of 0 would borrow from its neighbours: the caller keeps zeros at 1 and up.
    """
    import numpy as np

    stored = (zeros - np.uint8(1)).T
    return np.ascontiguousarray(pack_rows(np.ascontiguousarray(stored), bits).T)
