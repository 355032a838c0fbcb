"""What helps where memory does not reach: each remedy frees what it says, and the one that frees most comes first."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from branchfit.gpus import Gpu, Holder, Machine
from branchfit.loaders import available_runtimes
from branchfit.memory import fits, place, terms
from branchfit.recommend import Recommendation, recommend
from branchfit.recommend.remedies import (
    CACHE_PLACE,
    Plan,
    Remedy,
    best_way,
    cache_and_context,
    closing,
    helps,
    other_gpus,
    shorter_context,
    smaller_cache,
)
from branchfit.shape import ModelShape
from branchfit.units import error_text, gib
from branchfit.variants import Variant, VariantList

GIB = 2**30
LLAMA_13B = ModelShape("llama", 5120, 13824, 40, 40, 40, 128, 32000, max_context_tokens=4096)
VARIANT = Variant("main", bits=4, group_size=128, act_order=False, shape=LLAMA_13B, format="gptq")
CONTEXT = 4096


def total(cache: str = "fp16", context: int = CONTEXT, runtime: str = "exllamav2") -> int:
    made = terms(VARIANT, runtime, context, cache=cache)
    assert made is not None
    return place(made, (80 * GIB,)).total_bytes


def needed(cache: str = "fp16", context: int = CONTEXT) -> int:
    """The least that one card must have free."""
    made = terms(VARIANT, "exllamav2", context, cache=cache)
    assert made is not None
    need = place(made, (80 * GIB,))
    return need.total_bytes + need.error_bytes


def card(index: int, free: int, *holders: Holder) -> Gpu:
    return Gpu(index, f"card {index}", 80 * GIB, free, "8.6", "nvml", holders)


def offered(free: int, cache: str = "fp16", runtime: str = "exllamav2") -> list[Remedy]:
    made = terms(VARIANT, runtime, CONTEXT, cache=cache)
    assert made is not None
    plan = Plan(VARIANT, runtime, CONTEXT, (free,), cache)
    need = place(made, (free,))
    return [one for one in (smaller_cache(plan, need, judged=True), shorter_context(plan, need, judged=True)) if one]


def test_the_most_exact_cache_that_fits_is_offered_with_what_it_saves() -> None:
    free = needed("q6")
    remedy = offered(free)[0]
    assert remedy.text.startswith("a q6 cache instead of fp16 (saves ")
    assert remedy.text.endswith(", and then it fits)")
    assert remedy.saves_bytes == total() - total("q6")


def test_where_no_cache_is_small_enough_the_smallest_is_offered_and_said_not_to_be_enough() -> None:
    remedy = offered(needed("q4") - 2**20)[0]
    assert remedy.text.startswith("a q4 cache instead of fp16") and remedy.text.endswith(", not enough alone)")
    assert remedy.saves_bytes == total() - total("q4")


def test_only_smaller_caches_than_the_one_in_use_are_offered() -> None:
    assert offered(GIB, cache="q6")[0].text.startswith("a q4 cache instead of q6")
    assert all("cache" not in remedy.text for remedy in offered(GIB, cache="q4"))
    assert all("cache" not in remedy.text for remedy in offered(GIB, runtime="gptqmodel:triton"))


def test_the_longest_context_that_fits_is_offered_with_all_it_saves() -> None:
    free = needed(context=1280) + 2**20
    remedy = offered(free)[-1]
    assert remedy.text.startswith("a context of 1280 tokens instead of 4096 (saves ")
    # The cache, and everything else that grows with the context.
    assert remedy.saves_bytes == total() - total(context=1280)
    assert fits(place(terms(VARIANT, "exllamav2", 1280), (free,)), (free,))  # type: ignore[arg-type]
    assert not fits(place(terms(VARIANT, "exllamav2", 1536), (free,)), (free,))  # type: ignore[arg-type]


def test_half_the_context_is_offered_where_none_fits_or_the_forecast_was_wrong() -> None:
    for free in (GIB, 80 * GIB):
        assert offered(free)[-1].text.startswith("a context of 2048 tokens instead of 4096 (saves ")


def test_a_variant_of_unknown_size_has_its_caches_share_alone() -> None:
    made = terms(VARIANT, "exllamav2", CONTEXT)
    assert made is not None
    need = place(made, (80 * GIB,))
    unknown = Plan(Variant("main"), "exllamav2", CONTEXT, (8 * GIB,))
    for plan in (unknown, None):
        (remedy,) = cache_and_context(plan, need, CONTEXT)
        assert remedy.saves_bytes == need.kv_cache_bytes // 2
    assert list(cache_and_context(unknown, need, None)) == []


def test_another_card_with_room_for_all_of_it_takes_all_of_it_off() -> None:
    made = terms(VARIANT, "exllamav2", CONTEXT)
    assert made is not None
    need = place(made, (80 * GIB, 0))
    gpus = (card(0, 8 * GIB), card(1, 20 * GIB))
    (remedy,) = other_gpus(None, need, gpus, 0)
    assert remedy == Remedy(need.per_gpu_bytes[0], "GPU 1, which has 20.0 GiB free")


def test_two_cards_together_are_offered_with_what_comes_off_the_one_that_was_short() -> None:
    made = terms(VARIANT, "exllamav2", CONTEXT)
    assert made is not None
    need = place(made, (80 * GIB, 0))
    free = (needed() * 3 // 4, needed() * 3 // 4)
    plan = Plan(VARIANT, "exllamav2", CONTEXT, free)
    gpus = (card(0, free[0]), card(1, free[1]))
    (remedy,) = other_gpus(plan, need, gpus, 0)
    spread = place(made, free)
    assert remedy.text.startswith("GPU 0 and GPU 1 together (")
    assert remedy.saves_bytes == need.per_gpu_bytes[0] - spread.per_gpu_bytes[0] > 0
    small = Plan(VARIANT, "exllamav2", CONTEXT, (2 * GIB, 2 * GIB))
    assert list(other_gpus(small, need, (card(0, 2 * GIB), card(1, 2 * GIB)), 0)) == []
    assert list(other_gpus(plan, need, gpus[:1], 0)) == []


def test_the_three_largest_programs_are_named_and_this_process_by_itself() -> None:
    gpu = card(0, GIB, *(Holder(pid, f"p{pid}", pid * GIB) for pid in range(1, 7)))
    assert helps(closing(gpu, 2)) == [
        "closing p6 (pid 6), which holds 6.0 GiB",
        "closing p5 (pid 5), which holds 5.0 GiB",
        "closing p4 (pid 4), which holds 4.0 GiB",
        "unloading what this process holds already (2.0 GiB)",
    ]
    assert "unloading" not in "".join(helps(closing(gpu, 2, own_too=False)))


def test_where_windows_hides_the_sizes_all_that_is_taken_is_the_most_it_can_be() -> None:
    gpu = card(0, 70 * GIB, Holder(5, "dwm.exe", None), Holder(6, "game.exe", None))
    (remedy,) = closing(gpu, 1)
    assert remedy == Remedy(10 * GIB, "closing the 2 programs on it: at most 10.0 GiB, the system does not say whose")
    (one,) = closing(card(0, 70 * GIB, Holder(5, "dwm.exe", None)), 1)
    assert one.text.startswith("closing dwm.exe (pid 5): at most")


def nothing_fits(*gpus: Gpu, runtimes: Sequence[str] = ("exllamav2",), context: int = CONTEXT) -> Recommendation:
    listed = VariantList("o/r", None, (VARIANT,))
    available = available_runtimes([*runtimes], True)
    answer = recommend(listed, Machine(gpus, (), 64 * GIB, 60 * GIB), available, context_tokens=context)
    assert answer.choice is None
    return answer


def test_a_recommendation_that_finds_nothing_says_what_helps_the_most_first() -> None:
    free = needed("q8")
    reason = nothing_fits(card(0, free, Holder(4121, "Xorg", 5 * GIB), Holder(7, "game", 2**20))).reason
    said = reason.partition("What helps, the most first: ")[2]
    places = [said.index(words) for words in ("closing Xorg (pid 4121)", "a context of ", "closing game")]
    assert places == sorted(places)
    assert "which holds 5.0 GiB, and then it fits; a context" in said and ", and then it fits); closing game" in said
    assert "which holds 1 MiB, not enough alone" in said


def test_what_two_cards_hold_is_said_with_the_card() -> None:
    reason = nothing_fits(card(0, 2 * GIB, Holder(1, "Xorg", GIB)), card(1, 2 * GIB, Holder(2, "game", 3 * GIB))).reason
    assert "closing game (pid 2), which holds 3.0 GiB on GPU 1, not enough alone; " in reason
    assert "closing Xorg (pid 1), which holds 1.0 GiB on GPU 0" in reason
    assert "(3.0 GiB held by pid 2, game, 1.0 GiB held by pid 1, Xorg)" in reason


@pytest.mark.parametrize("runtime", ["exllamav2", "gptqmodel:torch"])
def test_without_a_gpu_no_program_is_to_be_closed(runtime: str) -> None:
    listed = VariantList("o/r", None, (VARIANT,))
    answer = recommend(listed, Machine((), (), 8 * GIB, 2 * GIB), available_runtimes([runtime], True))
    assert answer.choice is None and "closing" not in answer.reason


def test_cache_and_context_together_are_said_first_and_they_fit() -> None:
    """As `fit` knows: 2048 tokens with a q4 cache, where neither does for the 4096 that were asked for."""
    free = needed("q4", 2048)
    reason = nothing_fits(card(0, free)).reason
    first = f"With a q4 cache ({CACHE_PLACE}), 2048 tokens fit (exllamav2). What helps, the most first: "
    assert first in reason and reason.count(CACHE_PLACE) == 1
    saves = gib(total() - total("q4"))
    assert f"a q4 cache instead of fp16 (saves {saves}, not enough alone)" in reason
    assert needed("q4", 2304) > free and needed("q6", 2048) > free


def test_of_as_many_tokens_the_most_exact_cache_is_taken() -> None:
    way = best_way([Plan(VARIANT, "exllamav2", CONTEXT, (needed("q6"),))])
    assert way is not None and (way.cache, way.tokens) == ("q6", CONTEXT)
    whole = best_way([Plan(VARIANT, "exllamav2", 4000, (needed(),))])
    assert whole is not None and (whole.cache, whole.tokens, whole.small_cache) == ("fp16", 4000, False)
    assert best_way([Plan(VARIANT, "exllamav2", CONTEXT, (GIB,))]) is None


def test_what_only_another_runtime_of_the_branch_can_do_is_offered_too() -> None:
    """At 512 tokens gptqmodel:triton is nearest, and has no smaller cache."""
    both = ("gptqmodel:triton", "exllamav2")
    short = nothing_fits(card(0, 7 * GIB), runtimes=both, context=512)
    assert short.assessments[0].runtime == "gptqmodel:triton"
    assert f"GiB, not enough alone; on exllamav2; {CACHE_PLACE})" in short.reason
    fitting = nothing_fits(card(0, needed("q4", 512)), runtimes=both, context=512)
    assert fitting.assessments[0].runtime == "gptqmodel:triton"
    assert f"With a q4 cache ({CACHE_PLACE}), 512 tokens fit (exllamav2)." in fitting.reason


def test_where_nothing_is_enough_it_says_how_much_is_short_with_all_of_it() -> None:
    free = needed("q4", 256) - 700 * 2**20
    reason = nothing_fits(card(0, free)).reason
    assert "Even with a q4 cache and 256 tokens, main is short by 0.7 GiB (exllamav2)." in reason
    game = Holder(7, "game", 200 * 2**20)
    closed = nothing_fits(card(0, free, game)).reason
    assert "Even with a q4 cache and 256 tokens and all of these closed, main is short by 0.5 GiB" in closed
    enough = nothing_fits(card(0, free, Holder(7, "game", 701 * 2**20))).reason
    assert f"With all of these closed: with a q4 cache ({CACHE_PLACE}), 256 tokens fit (exllamav2)." in enough


def test_where_only_the_error_does_not_fit_the_margin_is_what_is_missing() -> None:
    made = terms(VARIANT, "exllamav2", CONTEXT)
    assert made is not None
    error = place(made, (80 * GIB,)).error_bytes
    answer = nothing_fits(card(0, needed() - 22 * 2**20))
    words = f"only its margin is missing: 22 of {error_text(error)}"
    assert f"; {words}. With a q8 cache" in answer.reason and "short by" not in answer.reason
    assert answer.assessments[0].verdict.startswith(f"{words}; up to ") and not answer.assessments[0].fits
    flat = nothing_fits(card(0, needed() - error - 2**20))
    assert "margin" not in flat.reason and flat.assessments[0].verdict.startswith("does not fit: short by ")


def test_an_error_below_a_gib_is_told_in_mib() -> None:
    assert [error_text(size) for size in (150 * 2**20, GIB - 1, GIB, 3 * GIB // 2)] == [
        "150 MiB",
        "1.0 GiB",
        "1.0 GiB",
        "1.5 GiB",
    ]
