"""The split that is told, read by ExLlama's own code: it must lay every layer where the forecast has it.

The packages are no requirement of ours. To run these: torch and safetensors, and
`pip install --no-deps exllamav2==0.3.2 exllama==0.1.0`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from branchfit.checkpoint import checkpoint_bytes
from branchfit.memory import Need, cache_types, place, terms
from branchfit.memory.splits import loader_split, modules_of, split_text
from branchfit.shape import read_shape
from branchfit.variants import Variant
from models import LLAMA_2_7B, LLAMA_2_13B, LLAMA_2_70B, LLAMA_33B, MISTRAL_7B, MIXTRAL_8X7B, QWEN2_05B
from split_loaders import exllama_places, exllamav2_places, imported_without_cuda, installed, write_hollow

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, at import

GIB = 2**30
MODELS = {
    "llama-70b": LLAMA_2_70B,
    "llama-33b": LLAMA_33B,
    "llama-13b": LLAMA_2_13B,
    "llama-7b": LLAMA_2_7B,
    "mistral-7b": MISTRAL_7B,
    "mixtral": MIXTRAL_8X7B,
    "qwen2-0.5b": QWEN2_05B,
}


@pytest.fixture(scope="module")
def exllamav2() -> Iterator[ModuleType]:
    if not installed("exllamav2"):
        pytest.skip("exllamav2 is not installed")
    with imported_without_cuda("exllamav2", "exllamav2_ext") as module:
        yield module


@pytest.fixture(scope="module")
def exllama() -> Iterator[ModuleType]:
    if not installed("exllama"):
        pytest.skip("exllama is not installed")
    with imported_without_cuda("exllama", "exllama_ext", "exllama.cuda_ext") as module:
        yield module


@pytest.fixture(scope="module")
def hollow(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("hollow")

    @functools.cache
    def written(name: str, group: int | None, zero_bias: bool = True) -> Path:
        return write_hollow(root / f"{name}-{group}-{zero_bias}", MODELS[name], 4, group, zero_bias)

    return written


def branch(name: str, group: int | None, zero_bias: bool = True) -> Variant:
    shape = read_shape(MODELS[name])
    size = checkpoint_bytes(shape, 4, group, zero_bias)
    return Variant("b", bits=4, group_size=group, act_order=True, shape=shape, size_bytes=size, zero_bias=zero_bias)


def forecast(variant: Variant, runtime: str, free: list[int], context: int, cache: str = "fp16") -> Need:
    made = terms(variant, runtime, context, cache=cache)
    assert made is not None
    return place(made, free)


def told(variant: Variant, runtime: str, need: Need, context: int, flash: bool = False) -> str:
    modules = modules_of(variant)
    assert modules is not None and variant.shape is not None
    return split_text(loader_split(runtime, modules, variant.shape, need, context, flash_attention=flash).per_gpu_bytes)


def head_on(need: Need) -> int:
    return max(card for card, size in enumerate(need.per_gpu_bytes) if size)


V2 = [
    ("llama-70b", None, [24, 24], 4096),
    ("llama-70b", 32, [24, 24, 24], 4096),
    ("llama-70b", 128, [24, 12, 16], 4096),  # unequal, the largest first
    ("llama-70b", 128, [12, 16, 24], 16384),
    ("llama-13b", 128, [8, 7], 4096),
    ("mistral-7b", 128, [4, 6, 3], 8192),
    ("mixtral", 128, [16, 8, 12, 4], 8192),
    ("qwen2-0.5b", 128, [2, 2.2], 2048),
]


@pytest.mark.parametrize(("name", "group", "free", "context"), V2)
@pytest.mark.parametrize("flash", [False, True])
def test_exllamav2_lays_the_layers_where_the_forecast_has_them(
    exllamav2: ModuleType, hollow: Any, name: str, group: int | None, free: list[float], context: int, flash: bool
) -> None:
    variant = branch(name, group)
    need = forecast(variant, "exllamav2", [int(size * GIB) for size in free], context)
    split = told(variant, "exllamav2", need, context, flash)
    folder = hollow(name, group).parent
    layers, head, scratch = exllamav2_places(exllamav2, folder, split, context, len(free), flash=flash)
    assert (layers, head) == (need.layers_per_gpu, head_on(need))
    # Its buffers are on exactly the cards that the forecast counts them on.
    assert sorted(scratch) == [card for card, size in enumerate(need.per_gpu_bytes) if size]


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["llama-7b", "mistral-7b", "qwen2-0.5b"]),
    st.lists(st.floats(0.2, 1.0), min_size=2, max_size=4),
    st.integers(1, 64).map(lambda pages: pages * 256),
    st.sampled_from(cache_types("exllamav2")),
    st.booleans(),
)
def test_exllamav2_does_so_on_any_cards_at_any_context_with_any_cache(
    exllamav2: ModuleType, hollow: Any, name: str, shares: list[float], context: int, cache: str, flash: bool
) -> None:
    variant = branch(name, 128)
    alone = forecast(variant, "exllamav2", [200 * GIB], context, cache)
    own = alone.scratch_bytes + alone.context_bytes + alone.error_bytes
    free = [own + int(share * (alone.weights_bytes + alone.kv_cache_bytes)) for share in shares]
    need = forecast(variant, "exllamav2", free, context, cache)
    assume(sum(1 for size in need.per_gpu_bytes if size) > 1)
    split = told(variant, "exllamav2", need, context, flash)
    folder = hollow(name, 128).parent
    layers, head, _ = exllamav2_places(exllamav2, folder, split, context, len(free), flash=flash)
    assert (layers, head) == (need.layers_per_gpu, head_on(need))


def test_what_the_cards_need_is_not_what_exllamav2_may_be_told(exllamav2: ModuleType, hollow: Any) -> None:
    """Why there is a conversion: told the need itself, it puts layers where the cache was to be."""
    variant = branch("llama-13b", 128)
    need = forecast(variant, "exllamav2", [8 * GIB, 7 * GIB], 4096)
    naive = split_text(need.split_bytes)
    layers, _, _ = exllamav2_places(exllamav2, hollow("llama-13b", 128).parent, naive, 4096, 2, flash=True)
    assert layers[0] > need.layers_per_gpu[0] + 5


@pytest.mark.parametrize("zero_bias", [True, False])
@pytest.mark.parametrize(
    ("name", "group", "free", "context"),
    [
        ("llama-70b", None, [24, 24], 4096),
        ("llama-70b", 32, [24, 24, 24], 4096),
        ("llama-70b", 128, [24, 13, 17], 4096),
        ("llama-33b", 128, [16, 4, 16], 2048),
        ("llama-13b", 128, [8, 7], 4096),
    ],
)
def test_exllama_lays_the_layers_where_the_forecast_has_them(
    exllama: ModuleType, hollow: Any, name: str, group: int | None, free: list[float], context: int, zero_bias: bool
) -> None:
    variant = branch(name, group, zero_bias)
    need = forecast(variant, "exllama", [int(size * GIB) for size in free], context)
    split = told(variant, "exllama", need, context)
    layers, head = exllama_places(exllama, hollow(name, group, zero_bias), split, len(free))
    assert (layers, head) == (need.layers_per_gpu, head_on(need))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.2, 1.0), min_size=2, max_size=4), st.integers(1, 32).map(lambda pages: pages * 256))
def test_exllama_does_so_on_any_cards_at_any_context(
    exllama: ModuleType, hollow: Any, shares: list[float], context: int
) -> None:
    variant = branch("llama-7b", 64)
    alone = forecast(variant, "exllama", [200 * GIB], context)
    own = alone.scratch_bytes + alone.context_bytes + alone.error_bytes
    free = [own + int(share * (alone.weights_bytes + alone.kv_cache_bytes)) for share in shares]
    need = forecast(variant, "exllama", free, context)
    assume(sum(1 for size in need.per_gpu_bytes if size) > 1)
    split = told(variant, "exllama", need, context)
    layers, head = exllama_places(exllama, hollow("llama-7b", 64), split, len(free))
    assert (layers, head) == (need.layers_per_gpu, head_on(need))
