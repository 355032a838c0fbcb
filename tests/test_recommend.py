"""One choice, with the numbers that made it, and the same facts for every branch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from branchfit.card import Sister, read_card
from branchfit.gpus import Gpu, Holder, Machine, parse_gpus
from branchfit.loaders import Availability, Host, available_runtimes, of_loader
from branchfit.memory.told import Told
from branchfit.recommend import Recommendation, quality, recommend
from branchfit.shape import read_shape
from branchfit.variants import Variant, VariantList, from_card
from models import LLAMA_2_7B, LLAMA_2_70B, WIZARDMATH_70B, seed_card

REPO = "TheBloke/WizardMath-70B-V1.0-GPTQ"
GGUF = Sister("TheBloke/WizardMath-70B-V1.0-GGUF", "gguf")
GIB = 2**30
SEED = from_card(read_card(seed_card()), LLAMA_2_70B, REPO)


def ask(*gpus: str, listed: VariantList = SEED, runtimes: list[str] | None = None, **options: Any) -> Recommendation:
    return recommend(listed, parse_gpus(gpus), available_runtimes(runtimes, True), sisters=[GGUF], **options)


def chosen(*gpus: str, **options: Any) -> str | None:
    answer = ask(*gpus, **options)
    return answer.choice.branch if answer.choice else None


@pytest.mark.parametrize(
    ("gpu", "branch", "loader"),
    [
        ("24GiB@8.6x2", "gptq-4bit-32g-actorder_True", "ExLlama"),
        ("80GiB@8.0", "gptq-4bit-32g-actorder_True", "ExLlama"),
        ("48GiB@8.6", "gptq-4bit-32g-actorder_True", "ExLlama"),
        ("40GiB@8.0", "gptq-4bit-64g-actorder_True", "ExLlama"),
        ("32GiB@8.6", "gptq-3bit-128g-actorder_True", "AutoGPTQ"),
    ],
)
def test_the_seed_on_the_cards_people_have(gpu: str, branch: str, loader: str) -> None:
    answer = ask(gpu)
    assert answer.choice is not None
    assert (answer.choice.branch, answer.choice.loader) == (branch, loader)
    need = next(a.need for a in answer.assessments if a.variant.branch == branch)
    assert need is not None
    for size, error, device in zip(need.per_gpu_bytes, need.error_per_gpu_bytes, answer.machine.gpus, strict=True):
        assert size + error <= device.free_bytes


PACKAGES = {
    "torch": "2.11.0", "transformers": "5.6.2", "optimum": "2.3.0", "gptqmodel": "7.6.0", "triton": "3.5",
    "exllamav2": "0.3.2", "exllamav2_ext": "0.3.2", "flash_attn": "2.8.3",
}  # fmt: skip


def told(runtime: str, *without: str, platform: str = "linux", kind: str = "cuda", **versions: str) -> tuple[Told, int]:
    """What a forecast knows of a host with these packages, and what it comes to, the error on top."""
    there = {**{name: version for name, version in PACKAGES.items() if name not in without}, **versions}
    host = Host(there.__contains__, there.get, None, platform, (3, 11))
    found = available_runtimes(None, False, host)
    only = replace(found, runtimes=tuple(one for one in found.runtimes if one.name == runtime))
    card = Gpu(0, "a card", 80 * GIB, 80 * GIB, "8.6" if kind == "cuda" else None, "nvml", kind=kind)
    answer = recommend(SEED, Machine((card,), (), 64 * GIB, 60 * GIB), only)
    chosen = next(one for one in answer.assessments if one.variant.branch == "gptq-4bit-32g-actorder_True")
    assert chosen.need is not None
    return chosen.told, chosen.need.total_bytes + chosen.need.error_bytes


def test_a_forecast_is_told_of_the_packages_that_are_here() -> None:
    found, usual = told("exllamav2")
    assert found == Told(version="0.3.2")
    plain, more = told("exllamav2", "flash_attn")
    assert plain == Told(plain_attention=True, version="0.3.2") and more > usual
    assert told("exllamav2", "flash_attn", xformers="0.0.30") == (found, usual)
    other, wider = told("exllamav2", exllamav2="0.1.0")
    assert other.version == "0.1.0" and wider > usual, "a version that nobody measured"


def test_a_forecast_is_told_whether_the_allocators_segments_expand(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    found, usual = told("gptqmodel:torch")
    assert found == Told(version="7.6.0")
    for there in (
        told("gptqmodel:torch", platform="win32"), told("gptqmodel:torch", torch="2.8.0"),
        told("gptqmodel:torch", kind="rocm", platform="linux"),
    ):  # fmt: skip
        assert not there[0].expandable and there[1] > usual
    assert told("exllamav2", platform="win32") == told("exllamav2"), "it asks for none"


def test_on_one_24_gib_card_nothing_fits_and_the_answer_says_what_would_help() -> None:
    answer = ask("24GiB@8.9")
    assert answer.choice is None
    assert "short by" in answer.reason
    assert GGUF.repo in answer.reason
    assert "One more GPU with" in answer.reason


def test_what_is_missing_is_told_card_by_card() -> None:
    answer = ask("24GiB@8.9", "12GiB@8.9", context_tokens=32768)
    nearest = max((one for one in answer.assessments if one.need), key=lambda one: one.room_bytes)
    assert nearest.need is not None
    short = [
        need + error - free
        for need, error, free in zip(
            nearest.need.per_gpu_bytes, nearest.need.error_per_gpu_bytes, nearest.free_bytes, strict=True
        )
    ]
    assert min(short) > 0
    assert f"short by {short[0] / GIB:.1f} GiB on GPU 0 and {short[1] / GIB:.1f} GiB on GPU 1." in answer.reason


def test_the_further_gpu_that_is_promised_would_do() -> None:
    words = ask("24GiB@8.9").reason.split()
    size = int(words[words.index("more") + 3])
    assert chosen("24GiB@8.9", f"{size}GiB@8.9") is not None
    assert chosen("24GiB@8.9", f"{size - 1}GiB@8.9") is None


def test_the_shorter_context_that_is_promised_would_do() -> None:
    answer = ask("28GiB@8.6", context_tokens=4096)
    assert answer.choice is None
    words = answer.reason.split()
    tokens = int(words[words.index("fit") - 2])
    assert chosen("28GiB@8.6", context_tokens=tokens) is not None
    assert chosen("28GiB@8.6", context_tokens=tokens + 256) is None


def test_exllama_is_taken_before_better_quality_on_autogptq_unless_quality_is_preferred() -> None:
    shape = read_shape(LLAMA_2_7B)
    listed = VariantList(
        "o/r",
        None,
        (
            Variant("four", bits=4, group_size=128, act_order=True, size_bytes=3_900_000_000, shape=shape),
            Variant("eight", bits=8, group_size=128, act_order=True, size_bytes=7_300_000_000, shape=shape),
        ),
    )
    assert chosen("24GiB@8.6", listed=listed) == "four"
    assert chosen("24GiB@8.6", listed=listed, prefer="quality") == "eight"


def test_speed_prefers_the_fewest_bytes_on_exllama_and_context_the_longest() -> None:
    assert chosen("80GiB@8.0", prefer="speed") == "main"
    wide = from_card(read_card(seed_card()), {**LLAMA_2_70B, "max_position_embeddings": 131072}, REPO)
    longest = ask("48GiB@8.6", listed=wide, prefer="context")
    assert longest.choice is not None
    assert longest.choice.max_context_tokens == max(a.max_context_tokens for a in longest.assessments)
    assert longest.choice.branch.startswith("gptq-3bit") or longest.choice.branch == "main"


def test_the_default_context_is_the_smaller_of_the_models_own_and_4096() -> None:
    assert ask("80GiB").context_tokens == 4096
    short = from_card(read_card(seed_card()), WIZARDMATH_70B, REPO)
    assert ask("80GiB", listed=short).context_tokens == 2048
    assert ask("80GiB", context_tokens=1000).context_tokens == 1000


def test_a_context_beyond_the_models_own_is_said() -> None:
    assert any("not trained" in note for note in ask("80GiB", context_tokens=8192).notes)


def test_every_branch_says_why_it_was_or_was_not_taken() -> None:
    for gpu in ("24GiB@8.6x2", "32GiB@8.6", "none"):
        answer = ask(gpu)
        for assessment in answer.assessments:
            words = assessment.why
            taken = answer.choice is not None and assessment.variant.branch == answer.choice.branch
            assert (
                words.startswith("taken; ")
                if taken
                else words.startswith(("not taken: ", "does not fit", "only its margin"))
            )
            assert "GiB" in words


def test_a_branch_without_weights_is_never_recommended() -> None:
    empty = replace(SEED.variants[1], holds_weights=False, problem="it holds no weights")
    listed = VariantList(REPO, None, (empty,))
    answer = ask("80GiB@8.0", listed=listed)
    assert answer.choice is None
    assert "holds no weights" in answer.assessments[0].why


def test_asking_about_one_branch_answers_about_that_one() -> None:
    assert chosen("80GiB@8.0", branch="gptq-3bit--1g-actorder_True") == "gptq-3bit--1g-actorder_True"
    refused = ask("32GiB@8.6", branch="main")
    assert refused.choice is None
    assert "main" in refused.reason


def test_a_branch_that_cannot_be_had_is_answered_with_those_that_fit() -> None:
    empty = replace(SEED.variants[0], holds_weights=False, problem="it holds no weights")
    answer = ask("80GiB@8.0", listed=VariantList(REPO, None, (empty, *SEED.variants[1:])), branch="main")
    assert answer.choice is None
    assert "main: it holds no weights. Fits: gptq-4bit-32g-actorder_True" in answer.reason
    assert all(assessment.why for assessment in answer.assessments)


def test_a_loader_that_is_asked_for_is_the_only_one_considered() -> None:
    everything = available_runtimes(None, True)
    only = Availability(of_loader(everything.runtimes, "AutoGPTQ"), True, "")
    answer = recommend(SEED, parse_gpus(["80GiB@8.0"]), only)
    assert answer.choice is not None and answer.choice.loader == "AutoGPTQ"


def test_three_bits_need_torch_and_say_so_where_it_is_not_there() -> None:
    answer = ask("80GiB@8.0", runtimes=["exllamav2"])
    (three,) = [a for a in answer.assessments if a.variant.branch == "gptq-3bit--1g-actorder_True"]
    assert not three.fits
    assert "4 bits, not 3" in three.why


def test_the_torch_kernel_needs_more_where_there_is_no_triton() -> None:
    """Pascal has no triton: 3 bits are dequantised at 14 bytes a weight, 2.6 GiB more at 70B."""
    (new,), (old,) = (
        [a for a in ask(gpu).assessments if a.variant.branch == "gptq-3bit-128g-actorder_True"]
        for gpu in ("32GiB@8.6", "32GiB@6.1")
    )
    assert new.need is not None and old.need is not None
    assert old.need.scratch_bytes - new.need.scratch_bytes == 12 * 8192 * 28672
    assert new.fits and not old.fits
    windows = replace(available_runtimes(None, True), triton=False)
    (unaided,) = [
        a
        for a in recommend(SEED, parse_gpus(["32GiB@8.6"]), windows).assessments
        if a.variant.branch == "gptq-3bit-128g-actorder_True"
    ]
    assert not unaided.fits


def test_a_context_between_two_steps_that_fits_is_within_the_longest() -> None:
    for context in (4000, 10_000):
        answer = ask("80GiB@8.0", context_tokens=context)
        for assessment in answer.assessments:
            assert not assessment.fits or assessment.max_context_tokens >= context


def test_the_longest_context_wins_where_context_is_preferred() -> None:
    shape = replace(read_shape(LLAMA_2_7B), max_context_tokens=131_072)
    small = Variant("three", bits=3, group_size=None, act_order=True, size_bytes=3_000_000_000, shape=shape)
    large = Variant("four", bits=4, group_size=32, act_order=True, size_bytes=4_300_000_000, shape=shape)
    listed = VariantList("o/r", None, (large, small))
    assert chosen("12GiB@8.6", listed=listed) == "four"
    answer = ask("12GiB@8.6", listed=listed, prefer="context", runtimes=["gptqmodel:torch"])
    assert answer.choice is not None and answer.choice.branch == "three"
    assert "leaves room for" in answer.assessments[0].why


def test_an_unusable_card_counts_neither_as_free_nor_as_a_place() -> None:
    answer = ask("24GiB@6.1", "24GiB@8.6", runtimes=["gptqmodel:triton"])
    assert answer.choice is None
    assert "24.0 GiB free on 1 GPU" in answer.reason


def test_the_reason_says_nothing_false_when_one_branch_was_asked_for() -> None:
    answer = ask("80GiB@8.0", branch="main")
    assert answer.choice is not None
    assert "best" not in answer.choice.reason and "which you asked for" in answer.choice.reason
    assert all("better quality" not in a.why for a in answer.assessments)


def test_equal_branches_are_not_called_worse() -> None:
    first = SEED.variants[0]
    answer = ask("80GiB@8.0", listed=VariantList("o/r", None, (first, replace(first, branch="copy"))))
    assert {a.verdict for a in answer.assessments} == {"taken", "not taken: main is of the same quality and no larger"}


def test_a_card_too_old_for_the_runtime_is_not_used() -> None:
    listed = from_card(read_card(seed_card()), LLAMA_2_7B, REPO)
    answer = ask("24GiB@8.6", "24GiB@6.1", listed=listed, runtimes=["gptqmodel:marlin"])
    fitting = [a for a in answer.assessments if a.fits and a.need]
    assert all(a.need is not None and a.need.per_gpu_bytes[1] == 0 for a in fitting)


def test_what_the_processes_hold_is_part_of_the_answer() -> None:
    gpu = Gpu(0, "RTX 3090", 24 * GIB, 20 * GIB, "8.6", "nvml", (Holder(4121, "Xorg", 4 * GIB),))
    answer = recommend(SEED, Machine((gpu,), (), 64 * GIB, 60 * GIB), available_runtimes(None, True))
    assert "4.0 GiB held by pid 4121, Xorg" in answer.reason


def test_a_machine_without_a_gpu_is_answered_with_its_own_memory_and_the_word_slow() -> None:
    machine = Machine((), (), 64 * GIB, 60 * GIB)
    answer = recommend(SEED, machine, available_runtimes(None, True), sisters=[GGUF])
    assert answer.choice is not None
    assert answer.choice.runtime == "gptqmodel:torch"
    assert "slow" in answer.reason
    nothing = recommend(SEED, Machine((), (), 16 * GIB, 12 * GIB), available_runtimes(None, True), sisters=[GGUF])
    assert nothing.choice is None
    assert GGUF.repo in nothing.reason


def test_an_empty_list_is_an_answer_and_not_an_error() -> None:
    answer = ask("80GiB", listed=VariantList("o/r", None, ()))
    assert answer.choice is None
    assert answer.reason.startswith("No branch to choose from")


def test_quality_goes_by_bits_then_finer_groups_then_act_order() -> None:
    made = [
        Variant("8", bits=8, group_size=None, act_order=True),
        Variant("4-32", bits=4, group_size=32, act_order=False),
        Variant("4-64", bits=4, group_size=64, act_order=True),
        Variant("4-128a", bits=4, group_size=128, act_order=True),
        Variant("4-128", bits=4, group_size=128, act_order=False),
        Variant("4", bits=4, group_size=None, act_order=True),
        Variant("3-32", bits=3, group_size=32, act_order=True),
        Variant("3", bits=3, group_size=None, act_order=True),
    ]
    assert sorted(made, key=quality, reverse=True) == made


@given(st.lists(st.integers(4, 96), min_size=1, max_size=4), st.integers(256, 4096))
def test_whatever_is_chosen_fits_card_by_card_and_more_memory_never_makes_it_worse(
    sizes: list[int], context: int
) -> None:
    answer = ask(*(f"{size}GiB@8.6" for size in sizes), context_tokens=context)
    larger = ask(*(f"{size + 8}GiB@8.6" for size in sizes), context_tokens=context)
    if answer.choice is None:
        return
    (taken,) = [a for a in answer.assessments if a.variant.branch == answer.choice.branch]
    assert taken.fits and taken.need is not None
    cards = zip(taken.need.per_gpu_bytes, taken.need.error_per_gpu_bytes, sizes, strict=True)
    assert all(need + error <= size * GIB for need, error, size in cards if need)
    assert larger.choice is not None
    better = next(a for a in larger.assessments if a.variant.branch == larger.choice.branch)
    assert (better.loader == "ExLlama", quality(better.variant)) >= (taken.loader == "ExLlama", quality(taken.variant))
