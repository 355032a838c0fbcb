"""What this machine's loads say of the next prediction: like beside like, no nonsense, lowered by several only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from branchfit.gpus import Gpu, Machine, parse_gpus
from branchfit.loaders import available_runtimes
from branchfit.memory import Terms, fits, place, terms
from branchfit.memory.correcting import (
    LAST_LOADS,
    MOVED_BYTES,
    Correction,
    Corrections,
    corrected,
    corrections_here,
    differences,
    happened,
    nonsense,
    on_cards,
)
from branchfit.memory.records import Card, Record, RecordFile, stripped
from branchfit.recommend import recommend
from branchfit.shape import read_shape
from branchfit.variants import Variant, VariantList
from models import LLAMA_2_7B, LLAMA_2_13B, LLAMA_2_70B, QWEN2_05B

MIB, GIB = 2**20, 2**30
NAME = "NVIDIA GeForce RTX 3090"
GPU = Gpu(0, NAME, 24 * GIB, 23 * GIB, "8.6", "nvml")
TRITON, EXLLAMA = "gptqmodel:triton", "exllamav2"
RUNTIMES = (TRITON, EXLLAMA, "exllama", "auto_gptq", "gptqmodel:torch", "gptqmodel:marlin", "gptqmodel:exllama_v2")


def branch(config: dict[str, object], **more: Any) -> Variant:
    return Variant("b", **{"bits": 4, "group_size": 128, "act_order": True, "shape": read_shape(config), **more})


SEVEN, THIRTEEN = branch(LLAMA_2_7B), branch(LLAMA_2_13B)


def load(
    off_bytes: int = 0,
    variant: Variant = SEVEN,
    *,
    runtime: str = TRITON,
    read: int = 2000,
    cards: int = 1,
    **more: Any,
) -> Record:
    """A load of a model that took `off_bytes` more on each card than is predicted for what it read."""
    layers = variant.shape.layers if variant.shape else 0
    each = [layers // cards] * cards
    blank = Card(NAME, 24 * GIB, 0, 0, 0, None, GIB, GIB)
    record = Record(
        at="", load=f"{off_bytes} {read} {more}", process="branchfit", runtime=runtime, version="7.6.0", torch=None,
        driver=None, kind="cuda", source="nvml", variant=stripped(variant), context_tokens=4096,
        cards=tuple(replace(blank, layers=count) for count in each), prompt_tokens=read * 3 // 4, read_tokens=read,
    )  # fmt: skip
    record = replace(record, **{name: value for name, value in more.items() if name in vars(record)})
    made = happened(record)
    assert made is not None
    took = [size + off_bytes for size in on_cards(made, each, resident=not read)]
    changes = {name: value for name, value in more.items() if name in vars(blank)}
    context = {"context_bytes": made.context_bytes} if record.kind == "cuda" else {}
    return replace(
        record,
        cards=tuple(
            replace(card, **{"peak_bytes": size, "resident_bytes": size, **context, **changes})
            for card, size in zip(record.cards, took, strict=True)
        ),
    )


def learned(*records: Record, of: Variant = SEVEN, runtime: str = TRITON, gpu: Gpu = GPU) -> Correction | None:
    return Corrections(records, ((runtime, "7.6.0"),)).of(of, runtime, [gpu])


def error_of(record: Record) -> int:
    made = happened(record)
    assert made is not None
    return made.error_bytes


def change(spread_bytes: int, record: Record) -> int:
    """How the error changes where the furthest load is `spread_bytes` off either way: narrowed, and never widened."""
    return min(0, max(spread_bytes, MOVED_BYTES) - error_of(record))


# ---- like beside like --------------------------------------------------------------------------


def test_a_prompt_of_64_tokens_is_compared_with_64_tokens_and_not_with_the_full_context() -> None:
    record = load(read=64)
    whole, now = terms(SEVEN, TRITON, 4096), happened(record)
    assert whole is not None and now is not None
    # 32 layers x 32 heads x 128 x 4 bytes for K and V
    assert now.kv_layer_bytes * 32 == 32 * 32 * 128 * 4 * 64
    assert now.prefill_bytes < whole.prefill_bytes
    assert now.embedded_bytes == 2 * 4096 * record.prompt_tokens < whole.embedded_bytes
    assert differences(record) == (0,)


def test_a_reply_takes_a_cache_and_no_prompts_activations() -> None:
    now, prompt = happened(replace(load(), prompt_tokens=100, read_tokens=2100)), terms(SEVEN, TRITON, 100)
    whole = terms(SEVEN, TRITON, 2100)
    assert now is not None and prompt is not None and whole is not None
    assert now.prefill_bytes == prompt.prefill_bytes - prompt.unseen_bytes
    assert now.kv_layer_bytes == whole.kv_layer_bytes


def test_a_cache_that_is_allocated_whole_is_predicted_whole() -> None:
    whole, now = terms(SEVEN, EXLLAMA, 4096), happened(load(runtime=EXLLAMA, read=64))
    assert whole is not None and now is not None
    assert (now.kv_layer_bytes, now.fixed_bytes) == (whole.kv_layer_bytes, whole.fixed_bytes)
    quantised = happened(replace(load(runtime=EXLLAMA), cache="q4"))
    assert quantised is not None and quantised.kv_layer_bytes < now.kv_layer_bytes


def test_before_a_prompt_only_what_stays_is_compared() -> None:
    made = happened(load(read=0))
    assert made is not None
    assert (
        on_cards(made, [32])[0] - on_cards(made, [32], resident=True)[0] == made.transient_bytes() + made.logits_bytes
    )
    assert differences(load(7 * MIB, read=0)) == (7 * MIB,)


@given(
    st.sampled_from([LLAMA_2_7B, LLAMA_2_70B, QWEN2_05B]),
    st.sampled_from(RUNTIMES),
    st.lists(st.integers(20, 96), min_size=1, max_size=3),
    st.integers(1, 8192),
)
def test_a_placement_is_worked_out_as_place_does(config: dict[str, object], by: str, sizes: list[int], n: int) -> None:
    made = terms(branch(config), by, n)
    assert made is not None
    need = place(made, [size * GIB for size in sizes])
    used = [count for count, size in zip(need.layers_per_gpu, need.per_gpu_bytes, strict=True) if size]
    assert on_cards(made, used) == tuple(size for size in need.per_gpu_bytes if size)


# ---- nonsense ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (lambda: load(others_after_bytes=GIB + MOVED_BYTES + 1), "other processes took 0.1 GiB"),
        (lambda: load(others_after_bytes=GIB - 2 * MOVED_BYTES), "other processes gave back 0.2 GiB"),
        (lambda: load(source="given"), "simulated"),
        (lambda: load(-5 * GIB), "less than the weights"),
        (lambda: load(peak_bytes=25 * GIB), "more than NVIDIA GeForce RTX 3090 has"),
        (lambda: load(9 * GIB), "9.0 GiB off are beyond what could be"),
        (lambda: load(-2 * GIB, branch(LLAMA_2_7B, bits=2), read=4000), "2.0 GiB off are beyond what could be"),
        (
            lambda: load(others_before_bytes=None, others_after_bytes=None, context_bytes=3 * GIB),
            "not this process's alone",
        ),
        (lambda: replace(load(), variant=Variant("")), "not known"),
    ],
)
def test_nonsense_is_recognised_and_changes_nothing(record: Callable[[], Record], why: str) -> None:
    one = record()
    assert why in nonsense(one)
    assert learned(one, one, one, of=one.variant) is None


def test_what_is_a_little_off_is_no_nonsense() -> None:
    for record in (
        load(others_after_bytes=GIB + MOVED_BYTES), load(400 * MIB), load(-400 * MIB), load(cards=2), load(read=0),
        load(others_before_bytes=None, others_after_bytes=None),
    ):  # fmt: skip
        assert nonsense(record) == ""


def test_a_record_that_is_marked_in_the_file_is_never_used() -> None:
    assert learned(load(300 * MIB)) is not None
    assert learned(load(300 * MIB, left_out="somebody says so")) is None


@pytest.mark.parametrize(("runtime", "told"), [(TRITON, {"expandable": False}), (EXLLAMA, {"plain_attention": True})])
def test_a_load_is_compared_with_what_is_predicted_for_its_host(runtime: str, told: dict[str, bool]) -> None:
    plain, there = load(runtime=runtime), load(runtime=runtime, **told)
    assert differences(there) == (0,)
    assert there.cards[0].peak_bytes > plain.cards[0].peak_bytes
    assert differences(replace(there, cards=plain.cards)) != (0,)


def test_what_no_count_of_allocations_shows_is_not_taken_for_too_much() -> None:
    """Expandable segments' holes are needed and cannot be seen: loads without them must not talk the need down."""
    record = load()
    told = terms(record.variant, TRITON, record.prompt_tokens)
    made = happened(record)
    assert told is not None and made is not None and told.unseen_bytes > 20 * MIB
    assert made.prefill_bytes == told.prefill_bytes - told.unseen_bytes
    assert differences(record) == (0,)
    assert made.error_bytes == told.error_bytes - told.unseen_error_bytes < told.error_bytes
    apart = load(expandable=False)
    reserved, whole = happened(apart), terms(record.variant, TRITON, record.prompt_tokens, expandable=False)
    assert reserved is not None and whole is not None and reserved.prefill_bytes == whole.prefill_bytes


def test_loads_narrow_no_error_of_what_they_cannot_show() -> None:
    long = terms(SEVEN, TRITON, 32768)
    learned_of = learned(*(load(read=32768) for _ in range(3)))
    assert long is not None and learned_of is not None and long.unseen_error_bytes > 200 * MIB
    assert corrected(long, learned_of).error_bytes >= MOVED_BYTES + long.unseen_error_bytes


def test_a_version_that_nobody_measured_has_its_own_error() -> None:
    assert error_of(load(version="1.0.0")) > error_of(load(version="7.6.0"))


# ---- from records to a correction --------------------------------------------------------------


def test_loads_with_gaps_say_nothing_of_loads_without() -> None:
    kept = Corrections((load(300 * MIB, expandable=False),), ((TRITON, "7.6.0"),))
    assert kept.of(SEVEN, TRITON, [GPU], expandable=True) is None
    assert (
        kept.of(SEVEN, TRITON, [GPU], expandable=False) == Correction(300 * MIB, 0, 1) == kept.of(SEVEN, TRITON, [GPU])
    )


def test_one_load_that_took_more_raises_by_what_it_took_more() -> None:
    assert learned(load(300 * MIB)) == Correction(300 * MIB, 0, 1)


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_loads_that_took_less_lower_nothing_and_narrow_nothing(count: int) -> None:
    assert learned(*[load(-300 * MIB, load=str(number)) for number in range(count)]) is None


def test_three_loads_that_took_less_lower_by_their_upper_median_and_narrow_the_error_to_their_spread() -> None:
    records = [load(-300 * MIB), load(-200 * MIB), load(-20 * MIB)]
    found = learned(*records)
    # The furthest is 180 MiB off the median.
    widened = max(0, 180 * MIB - error_of(records[0]))
    assert found == Correction(-200 * MIB, widened or change(180 * MIB, records[0]), 3, 180 * MIB)
    four = learned(*records, load(-180 * MIB))
    assert four is not None and four.bytes == -180 * MIB, "of four the upper of the two in the middle"


def test_a_correction_never_lowers_by_more_than_half_of_the_context_it_is_counted_in() -> None:
    """What it says and what it does are the same figure."""
    three = [load(-600 * MIB, load=str(number)) for number in range(3)]
    found = learned(*three)
    made = terms(SEVEN, TRITON, 4096)
    assert found is not None and made is not None
    assert found.bytes == -made.context_bytes // 2
    assert made.context_bytes - corrected(made, found).context_bytes == -found.bytes


def test_a_model_that_cannot_be_is_not_believed_and_breaks_nothing() -> None:
    odd = load(100 * MIB)
    odd = replace(odd, variant=replace(odd.variant, group_size=0))
    assert learned(odd, load(100 * MIB, load="b")) == learned(load(100 * MIB, load="b"))


def test_the_error_never_falls_below_what_others_may_have_moved() -> None:
    records = [load(50 * MIB, load=str(number)) for number in range(5)]
    found, made = learned(*records), terms(SEVEN, TRITON, 2000)
    assert found is not None and made is not None
    assert found.least_error_bytes == MOVED_BYTES
    short = terms(SEVEN, TRITON, 1)
    assert short is not None
    assert corrected(short, found).error_bytes == min(MOVED_BYTES + short.unseen_error_bytes, short.error_bytes)


def test_an_error_that_grows_with_the_context_keeps_growing_from_what_was_read() -> None:
    records = [load(50 * MIB, read=64, load=str(number)) for number in range(5)]
    found, whole = learned(*records), terms(SEVEN, TRITON, 4096)
    assert found is not None and whole is not None
    assert corrected(whole, found).error_bytes == whole.error_bytes + change(0, records[0])


def test_a_load_far_above_the_others_widens_the_error_and_does_not_move_the_median() -> None:
    records = [load(0), load(10 * MIB), load(20 * MIB), load(1200 * MIB)]
    found = learned(*records)
    assert found is not None
    assert found.bytes == 20 * MIB
    assert found.error_bytes == max(0, 1180 * MIB - error_of(records[0]))


def test_loads_that_nothing_was_read_after_only_raise() -> None:
    assert learned(*[load(-300 * MIB, read=0, load=str(number)) for number in range(5)]) is None
    raised = learned(*[load(300 * MIB, read=0, load=str(number)) for number in range(5)])
    assert raised is not None and (raised.bytes, raised.error_bytes) == (300 * MIB, 0)


def test_loads_of_which_nobody_says_what_was_this_process_only_raise() -> None:
    unseen = {"others_before_bytes": None, "others_after_bytes": None}
    assert learned(*[load(-300 * MIB, load=str(number), **unseen) for number in range(5)]) is None
    assert learned(*[load(300 * MIB, load=str(number), **unseen) for number in range(5)]) is not None


def test_of_other_shapes_only_what_every_load_took_more_counts() -> None:
    others = [load(300 * MIB, THIRTEEN), load(200 * MIB, THIRTEEN), load(250 * MIB, THIRTEEN)]
    assert learned(*others) == Correction(200 * MIB, 0, 3)
    assert learned(*[load(-300 * MIB, THIRTEEN, load=str(number)) for number in range(5)]) is None
    # As soon as there is one of its own, they are not asked.
    assert learned(*others, load(20 * MIB)) == Correction(20 * MIB, 0, 1)


def test_a_branch_with_other_groups_is_of_the_same_family_and_one_with_other_bits_is_not() -> None:
    three = [load(-300 * MIB, load=str(number)) for number in range(3)]
    assert learned(*three, of=branch(LLAMA_2_7B, group_size=32)) is not None
    assert learned(*three, of=branch(LLAMA_2_7B, bits=8)) is None


def test_only_the_last_loads_count() -> None:
    old = [load(900 * MIB, load=f"old {number}") for number in range(20)]
    found = learned(*old, *[load(100 * MIB, load=f"new {number}") for number in range(LAST_LOADS)])
    assert found is not None
    assert (found.bytes, found.loads) == (100 * MIB, LAST_LOADS)


@pytest.mark.parametrize(
    "changed",
    [
        {"runtime": EXLLAMA, "gpu": GPU},
        {"gpu": replace(GPU, name="NVIDIA H200")},
        {"gpu": replace(GPU, total_bytes=12 * GIB)},
        {"gpu": replace(GPU, source="given")},
        {"gpu": replace(GPU, kind="rocm")},
    ],
)
def test_another_runtime_another_card_or_a_simulated_one_is_not_corrected(changed: dict[str, Any]) -> None:
    assert learned(load(300 * MIB)) is not None
    assert learned(load(300 * MIB), **changed) is None


def test_another_version_is_not_corrected_and_where_none_is_installed_the_last_one_counts() -> None:
    records = (load(300 * MIB, version="7.5.0"), load(100 * MIB))
    for version, wanted in (("7.5.0", 300), ("7.6.0", 100), ("8.0.0", None), (None, 100)):
        found = Corrections(records, ((TRITON, version),)).of(SEVEN, TRITON, [GPU])
        assert (found.bytes if found else None) == (wanted * MIB if wanted else None)


def test_on_cards_of_two_kinds_the_most_that_either_says_counts_on_both() -> None:
    other = replace(GPU, index=1, name="NVIDIA RTX A6000")
    three = [load(-300 * MIB, load=str(number)) for number in range(3)]
    assert Corrections(tuple(three), ((TRITON, "7.6.0"),)).of(SEVEN, TRITON, [GPU, other]) is None
    both = (*three, load(100 * MIB, name=other.name))
    found = Corrections(both, ((TRITON, "7.6.0"),)).of(SEVEN, TRITON, [GPU, other])
    assert found is not None and (found.bytes, found.error_bytes, found.loads) == (100 * MIB, 0, 4)


def test_layers_that_came_to_lie_otherwise_show_in_the_error_and_not_in_the_need() -> None:
    def uneven(number: int) -> Record:
        record = load(cards=2, load=str(number))
        first, second = record.cards
        moved = 200 * MIB
        return replace(
            record,
            cards=(
                replace(first, peak_bytes=first.peak_bytes + moved),
                replace(second, peak_bytes=second.peak_bytes - moved),
            ),
        )

    found = learned(*map(uneven, range(3)))
    assert found is not None
    assert found.bytes == 0 and found.least_error_bytes == 200 * MIB


def test_on_the_cpu_a_webuis_process_and_the_commands_are_told_apart() -> None:
    cpu = Machine((), (), 32 * GIB, 30 * GIB).cpu
    on_cpu = {
        "kind": "cpu",
        "source": "none",
        "name": cpu.name,
        "others_before_bytes": None,
        "others_after_bytes": None,
    }
    records = tuple(
        load(100 * MIB, runtime="gptqmodel:torch", load=str(number), process="webui", **on_cpu) for number in range(3)
    )
    asked = ("gptqmodel:torch", [cpu])
    found = Corrections(records, (("gptqmodel:torch", "7.6.0"),), "webui").of(SEVEN, *asked)
    assert found is not None and found.bytes == 100 * MIB and found.least_error_bytes == MOVED_BYTES
    assert Corrections(records, (("gptqmodel:torch", "7.6.0"),)).of(SEVEN, *asked) is None


# ---- and into the answer -----------------------------------------------------------------------

amounts = st.integers(-2048, 2048).map(lambda size: size * MIB)


@given(st.sampled_from(RUNTIMES), st.integers(1, 8192), amounts, amounts, st.integers(0, GIB))
def test_a_corrected_needs_parts_add_up_and_more_context_never_needs_less(
    by: str, n: int, add: int, error: int, least: int
) -> None:
    correction = Correction(add, error, 3, least)

    def made(tokens: int) -> Terms:
        found = terms(SEVEN, by, tokens)
        assert found is not None
        return corrected(found, correction)

    need, more = place(made(n), [40 * GIB]), place(made(n + 256), [40 * GIB])
    assert sum(need.per_gpu_bytes) == need.total_bytes
    assert min(need.weights_bytes, need.kv_cache_bytes, need.scratch_bytes, need.context_bytes, need.error_bytes) >= 0
    assert need.total_bytes + need.error_bytes <= more.total_bytes + more.error_bytes
    assert corrected(made(n), None) == made(n)


def test_the_answer_is_the_corrected_one_says_so_and_its_longest_context_still_fits() -> None:
    listed = VariantList("o/r", None, (SEVEN,))
    whole = terms(SEVEN, TRITON, 4096)
    assert whole is not None
    need = place(whole, [24 * GIB])
    machine = Machine((replace(GPU, free_bytes=need.total_bytes + need.error_bytes),), (), 0, 0)
    available = available_runtimes([TRITON], simulated=False)
    plain = recommend(listed, machine, available).assessments[0]
    corrections = Corrections((load(300 * MIB),), ((TRITON, "7.6.0"),))
    answer = recommend(listed, machine, available, corrections=corrections)
    (found,) = answer.assessments
    assert found.need is not None and plain.need is not None
    assert found.need.total_bytes - plain.need.total_bytes == 300 * MIB
    assert found.need.context_bytes - plain.need.context_bytes == 300 * MIB
    assert "corrected by +300 MiB from 1 load on this machine" in found.detail
    assert f"what {TRITON} needs is corrected by +300 MiB from 1 load on this machine" in answer.notes[-1]
    assert found.correction == Correction(300 * MIB, 0, 1) and plain.correction is None
    assert 0 < found.max_context_tokens < plain.max_context_tokens

    def holds(tokens: int) -> bool:
        made = terms(SEVEN, TRITON, tokens)
        assert made is not None
        return fits(place(corrected(made, found.correction), found.free_bytes), found.free_bytes)

    assert holds(found.max_context_tokens) and not holds(found.max_context_tokens + 256)


def test_a_simulated_machine_is_answered_as_if_nothing_had_ever_been_loaded() -> None:
    listed, machine = VariantList("o/r", None, (SEVEN,)), parse_gpus(["24GiB@8.6"])
    simulated = replace(machine, gpus=(replace(machine.gpus[0], name=NAME),))
    available = available_runtimes([TRITON], simulated=True)
    corrections = Corrections((load(300 * MIB),), ((TRITON, "7.6.0"),))
    assert recommend(listed, simulated, available, corrections=corrections) == recommend(listed, simulated, available)


def test_the_words_tell_what_was_added_to_what() -> None:
    assert Correction(300 * MIB, 0, 1).words == "corrected by +300 MiB from 1 load on this machine"
    assert Correction(-90 * MIB, -GIB, 4).words == (
        "corrected by -90 MiB and its error by -1.0 GiB from 4 loads on this machine"
    )
    assert Correction(0, GIB, 2).words == "corrected its error by +1.0 GiB from 2 loads on this machine"


def test_what_is_here_is_read_from_the_file(tmp_path: Any) -> None:
    file = RecordFile(tmp_path)
    assert corrections_here(file=file).of(SEVEN, TRITON, [GPU]) is None
    file.append(load(300 * MIB))
    assert corrections_here(file=file).records == file.read() != ()
