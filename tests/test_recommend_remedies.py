"""What helps where memory does not reach: each remedy frees what it says, and the one that frees most comes first."""

from __future__ import annotations

import pytest

from branchfit.gpus import Gpu, Holder, Machine
from branchfit.loaders import available_runtimes
from branchfit.memory import fits, place, terms
from branchfit.recommend import Recommendation, recommend
from branchfit.recommend.remedies import Plan, Remedy, cache_and_context, closing, helps, other_gpus
from branchfit.shape import ModelShape
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
    return list(cache_and_context(plan, place(made, (free,)), CONTEXT, promise=", and then it fits"))


def test_the_most_exact_cache_that_fits_is_offered_with_what_it_saves() -> None:
    free = needed("q6")
    remedy = offered(free)[0]
    assert remedy.text.startswith("a q6 cache instead of fp16 (saves ")
    assert remedy.text.endswith(", and then it fits)")
    assert remedy.saves_bytes == total() - total("q6")


def test_where_no_cache_is_small_enough_the_smallest_is_offered_without_a_promise() -> None:
    remedy = offered(needed("q4") - 2**20)[0]
    assert remedy.text.startswith("a q4 cache instead of fp16") and "fits" not in remedy.text
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


def nothing_fits(*gpus: Gpu) -> Recommendation:
    listed = VariantList("o/r", None, (VARIANT,))
    answer = recommend(listed, Machine(gpus, (), 64 * GIB, 60 * GIB), available_runtimes(["exllamav2"], True))
    assert answer.choice is None
    return answer


def test_a_recommendation_that_finds_nothing_says_what_helps_the_most_first() -> None:
    free = needed("q8")
    reason = nothing_fits(card(0, free, Holder(4121, "Xorg", 5 * GIB), Holder(7, "game", 2**20))).reason
    said = reason.partition("What helps, the most first: ")[2]
    places = [said.index(words) for words in ("closing Xorg (pid 4121)", "a q8 cache instead of fp16", "closing game")]
    assert places == sorted(places)
    assert ", and then it fits)" in said


def test_what_two_cards_hold_is_said_with_the_card() -> None:
    reason = nothing_fits(card(0, 2 * GIB, Holder(1, "Xorg", GIB)), card(1, 2 * GIB, Holder(2, "game", 3 * GIB))).reason
    assert "closing game (pid 2), which holds 3.0 GiB on GPU 1; " in reason
    assert "closing Xorg (pid 1), which holds 1.0 GiB on GPU 0" in reason
    assert "(3.0 GiB held by pid 2, game, 1.0 GiB held by pid 1, Xorg)" in reason


@pytest.mark.parametrize("runtime", ["exllamav2", "gptqmodel:torch"])
def test_without_a_gpu_no_program_is_to_be_closed(runtime: str) -> None:
    listed = VariantList("o/r", None, (VARIANT,))
    answer = recommend(listed, Machine((), (), 8 * GIB, 2 * GIB), available_runtimes([runtime], True))
    assert answer.choice is None and "closing" not in answer.reason
