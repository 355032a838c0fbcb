"""The file writer refuses to leave a file that is not what its header says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from branchfit.demo.synth.tensorfile import TensorFile
from branchfit.shape import TensorSpec

SPECS = [TensorSpec("halves", "F16", (3, 2)), TensorSpec("words", "I32", (4,))]


def test_tensors_may_come_in_any_order_and_in_pieces(tmp_path: Path) -> None:
    halves, words = np.arange(6, dtype=np.float16).reshape(3, 2), np.arange(4, dtype=np.int32)
    with TensorFile(tmp_path / "t", SPECS) as file:
        file.write("halves", [halves[:1], halves[1:]])
        file.write("words", [words])
    read = safetensors.numpy.load_file(tmp_path / "t")
    assert np.array_equal(read["halves"], halves) and np.array_equal(read["words"], words)
    assert file.size_bytes == (tmp_path / "t").stat().st_size


def test_a_tensor_left_out_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lacks 1 tensors, first halves"), TensorFile(tmp_path / "t", SPECS) as file:
        file.write("words", [np.arange(4, dtype=np.int32)])


def test_a_tensor_of_another_type_or_length_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="words is I32, not int64"), TensorFile(tmp_path / "t", SPECS) as file:
        file.write("words", [np.arange(4, dtype=np.int64)])
    with pytest.raises(ValueError, match="words takes 16 bytes, not 20"), TensorFile(tmp_path / "t", SPECS) as file:
        file.write("words", [np.arange(5, dtype=np.int32)])


def test_a_tensor_written_twice_is_an_error(tmp_path: Path) -> None:
    words = np.arange(4, dtype=np.int32)
    with pytest.raises(KeyError, match="words"), TensorFile(tmp_path / "t", SPECS) as file:
        file.write("words", [words])
        file.write("words", [words])
