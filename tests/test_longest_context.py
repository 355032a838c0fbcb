"""The longest context that fits: what is returned fits, and 256 tokens more do not."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from branchfit import loaders
from branchfit.checkpoint import checkpoint_bytes
from branchfit.memory import CONTEXT_STEP, Terms, cache_types, fits, longest_context, place, terms
from branchfit.memory.longest import longest_of
from branchfit.shape import read_shape
from branchfit.variants import Variant
from models import LLAMA_2_7B, LLAMA_2_13B, LLAMA_2_70B, LLAMA_33B, MISTRAL_7B, MIXTRAL_8X7B, QWEN2_05B

GIB = 2**30

RUNTIMES = tuple(runtime.name for runtime in loaders.RUNTIMES)
KINDS = [(runtime, cache) for runtime in RUNTIMES for cache in cache_types(runtime)]

shapes = st.sampled_from([LLAMA_2_7B, LLAMA_2_13B, LLAMA_33B, LLAMA_2_70B, MISTRAL_7B, MIXTRAL_8X7B, QWEN2_05B])
kinds = st.sampled_from(KINDS)
cards = st.lists(st.integers(4 * 1024, 96 * 1024).map(lambda size: size * 2**20), min_size=1, max_size=4)
limits = st.integers(1, 200_000)
groups = st.sampled_from([None, 32, 128])


def variant(config: dict[str, object], bits: int = 4, group: int | None = None) -> Variant:
    shape = read_shape(config)
    size = checkpoint_bytes(shape, bits, group)
    return Variant("b", bits=bits, group_size=group, act_order=True, shape=shape, size_bytes=size)


def holds(asked: Variant, runtime: str, cache: str, free: Sequence[int], tokens: int) -> bool:
    made = terms(asked, runtime, tokens, cache=cache)
    return made is not None and fits(place(made, free), free)


@settings(max_examples=200)
@given(shapes, kinds, cards, limits, groups)
def test_the_longest_context_fits_and_256_tokens_more_do_not(
    config: dict[str, object], kind: tuple[str, str], free: list[int], limit: int, group: int | None
) -> None:
    (runtime, cache), asked = kind, variant(config, group=group)
    longest = longest_context(asked, runtime, free, limit, cache=cache)
    assert 0 <= longest <= limit
    assert longest == limit or longest % CONTEXT_STEP == 0
    assert longest == 0 or holds(asked, runtime, cache, free, longest)
    assert longest == limit or not holds(asked, runtime, cache, free, min(longest + CONTEXT_STEP, limit))


@given(shapes, kinds, cards, limits, st.integers(0, 8 * 1024).map(lambda size: size * 2**20), limits)
def test_more_memory_or_a_further_limit_never_make_it_shorter(
    config: dict[str, object], kind: tuple[str, str], free: list[int], limit: int, more: int, further: int
) -> None:
    """In whole steps: a limit that fits is given as it is, and once the limit is further the last step below it."""
    (runtime, cache), asked = kind, variant(config)
    longest = longest_context(asked, runtime, free, limit, cache=cache) // CONTEXT_STEP * CONTEXT_STEP
    assert longest_context(asked, runtime, [size + more for size in free], limit, cache=cache) >= longest
    assert longest_context(asked, runtime, free, limit + further, cache=cache) >= longest


@given(shapes, st.integers(4 * 1024, 96 * 1024), st.integers(1, 4), limits, groups)
def test_a_smaller_cache_never_leaves_less_room(
    config: dict[str, object], mib: int, count: int, limit: int, group: int | None
) -> None:
    """On cards alike: one that takes a layer or two only would have more of the fp16 copy than the cache saves it. By
    more than two steps: a few hundred tokens' K and V in fp16 may just fit gaps that the weights leave, where the
    smaller tensors of a quantised cache share segments of their own."""
    free, asked = [mib * 2**20] * count, variant(config, group=group)
    found = [longest_context(asked, "exllamav2", free, limit, cache=cache) for cache in ("fp16", "q8", "q6", "q4")]
    assert all(later >= earlier - 2 * CONTEXT_STEP for earlier, later in itertools.pairwise(found))


@given(shapes, kinds.filter(lambda kind: kind[0] != "auto_gptq"), cards, limits)
def test_more_bits_never_leave_more_room(
    config: dict[str, object], kind: tuple[str, str], free: list[int], limit: int
) -> None:
    """Not AutoGPTQ's: at 4 bits it has a kernel of its own, whose buffer may be more than a small model's bits."""
    runtime, cache = kind
    found = [longest_context(variant(config, bits=bits), runtime, free, limit, cache=cache) for bits in (8, 4)]
    assert found == sorted(found)


def test_exllamav2_alone_has_smaller_caches_and_q4_reaches_well_beyond_fp16() -> None:
    assert {runtime: cache_types(runtime) for runtime in RUNTIMES if len(cache_types(runtime)) > 1} == {
        "exllamav2": ("fp16", "q8", "q6", "q4")
    }
    asked, free = variant(LLAMA_2_13B), [16 * GIB]
    fp16, q4 = (longest_context(asked, "exllamav2", free, 10**6, cache=cache) for cache in ("fp16", "q4"))
    # Without grouped queries the cache is most of what grows: 4 bytes for K and V in fp16, 1 + 1/8 in q4.
    assert fp16 > 0 and 2 * fp16 < q4 < 4 * fp16


PLAIN = Terms("r", 1, 2, 1000, 0, 0, 0, 0, 0, 0, 0, 0, 0)
"""Two layers of 1000 bytes, and nothing else."""


def growing(bytes_per_token: int) -> Callable[[int], Terms]:
    return lambda tokens: replace(PLAIN, kv_layer_bytes=bytes_per_token * tokens)


@pytest.mark.parametrize(
    ("free", "limit", "tokens"),
    [
        # (100,000 - 2,000) / (2 layers * 10 bytes) = 4,900 tokens, which is 19.1 steps of 256
        (100_000, 8192, 4864),
        (100_000, 4900, 4900),  # the limit itself need be no whole step
        (100_000, 4901, 4864),
        (100_000, 10**8, 4864),
        # 256 tokens take 5,120 bytes
        (7_120, 8192, 256),
        (7_119, 8192, 0),
        (7_120, 255, 255),
        (7_119, 255, 0),  # a limit below a step counts as one: a further limit never makes it shorter
        (7_120, 1, 1),
        (7_119, 1, 0),
        (1_999, 8192, 0),
    ],
)
def test_it_is_what_a_hand_works_out(free: int, limit: int, tokens: int) -> None:
    assert longest_of(growing(10), [free], limit) == tokens


def test_nothing_is_said_of_an_unknown_size_and_nothing_fits_without_a_card() -> None:
    assert longest_context(Variant("b", bits=4), "exllamav2", [24 * GIB], 4096) == 0
    assert longest_context(variant(LLAMA_2_7B), "exllamav2", [], 4096) == 0
    assert longest_context(variant(LLAMA_2_7B), "exllamav2", [0, 0], 4096) == 0


def test_a_smaller_context_than_a_step_is_found_where_it_is_the_limit() -> None:
    asked = variant(LLAMA_2_7B)
    assert longest_context(asked, "exllamav2", [24 * GIB], 100) == 100


stairs = st.lists(st.integers(0, 2000), min_size=1, max_size=200)


@given(stairs, st.integers(1, CONTEXT_STEP), st.integers(0, 2000))
def test_terms_that_are_stairs_are_searched_as_surely_as_those_that_are_lines(
    heights: list[int], over: int, room: int
) -> None:
    heights = sorted(heights)
    limit = (len(heights) - 1) * CONTEXT_STEP + over
    free = 2 * (1000 + room)

    def made(tokens: int) -> Terms:
        return replace(PLAIN, kv_layer_bytes=heights[(tokens - 1) // CONTEXT_STEP])

    steps = [*(step * CONTEXT_STEP for step in range(1, len(heights))), limit]
    by_hand = max((tokens for tokens in steps if heights[(tokens - 1) // CONTEXT_STEP] <= room), default=0)
    assert longest_of(made, [free], limit) == by_hand


@given(stairs, st.integers(0, 2000))
def test_even_where_more_context_took_less_what_is_returned_fits_and_the_next_step_does_not(
    heights: list[int], room: int
) -> None:
    """No term does that; the search would still say nothing that it has not tried."""
    limit = len(heights) * CONTEXT_STEP

    def made(tokens: int) -> Terms:
        return replace(PLAIN, kv_layer_bytes=heights[tokens // CONTEXT_STEP - 1])

    longest = longest_of(made, [2 * (1000 + room)], limit)
    assert longest == 0 or heights[longest // CONTEXT_STEP - 1] <= room
    assert longest == limit or heights[longest // CONTEXT_STEP] > room


@pytest.mark.parametrize(
    ("made", "free", "most"),
    [
        (growing(10), 2_000_000, 5),
        # A cliff at 5 million tokens: interpolation alone would creep towards it.
        (lambda tokens: replace(PLAIN, kv_layer_bytes=0 if tokens <= 5_000_000 else 10**15), 10**6, 60),
    ],
    ids=["line", "cliff"],
)
def test_few_contexts_are_tried(made: Callable[[int], Terms], free: int, most: int) -> None:
    """Up to 100 million tokens: 390,625 steps, 19 halvings."""
    tried: list[int] = []

    def counted(tokens: int) -> Terms:
        tried.append(tokens)
        return made(tokens)

    assert longest_of(counted, [free], 100_000_000) > 0
    assert len(tried) <= most
    assert len(set(tried)) == len(tried), "a context was tried twice"
