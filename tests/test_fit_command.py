"""`branchfit fit`: branch x cache type x the longest context that fits, as a table and as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from branchfit.card import read_card
from branchfit.cli import render
from branchfit.demo.repo import REPO, demo_repo
from branchfit.demo.server import LoopbackHub
from branchfit.gpus import Gpu, Holder, Machine, parse_gpus
from branchfit.loaders import RUNTIMES, available_runtimes
from branchfit.memory import cache_types, fits, longest_context, place, terms
from branchfit.memory.correcting import Corrections
from branchfit.memory.records import Card as RecordedCard
from branchfit.memory.records import Record
from branchfit.recommend import Grid, Row, context_grid, recommend
from branchfit.shape import read_shape
from branchfit.variants import Variant, VariantList, from_card
from models import LLAMA_2_7B, LLAMA_2_13B, LLAMA_2_70B, MISTRAL_7B, SEED_CARD_ROWS, seed_card
from test_docs import ROOT, generated

GIB = 2**30
SEED = from_card(read_card(seed_card()), LLAMA_2_70B, "TheBloke/WizardMath-70B-V1.0-GPTQ")
EVERY = [runtime.name for runtime in RUNTIMES]


def repo(config: dict[str, object], *kinds: tuple[int, int | None]) -> VariantList:
    shape = read_shape(config)
    variants = (
        Variant(f"{bits}bit-{group}", bits=bits, group_size=group, act_order=True, model_type="llama", shape=shape)
        for bits, group in kinds
    )
    return VariantList("o/r", None, tuple(variants))


def grid(listed: VariantList, *gpus: str, runtimes: list[str] | None = None, **options: Any) -> Grid:
    return context_grid(listed, parse_gpus(gpus), available_runtimes(runtimes, True), **options)


def on_card(free_bytes: int, capability: str = "8.6") -> Machine:
    return Machine((Gpu(0, "RTX", 96 * GIB, free_bytes, capability, "given"),), (), 64 * GIB, 60 * GIB)


def least_bytes(variant: Variant, runtime: str, tokens: int, cache: str) -> int:
    """What one card needs to have free, the error counted."""
    made = terms(variant, runtime, tokens, cache=cache)
    assert made is not None
    need = place(made, [96 * GIB])
    return need.total_bytes + need.error_bytes


def told(row: Row) -> dict[str, int]:
    return {cell.cache: cell.longest_tokens for cell in row.cells}


def text(found: Grid, capsys: pytest.CaptureFixture[str]) -> list[str]:
    render.context_grid(found)
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


# What is worked out


@settings(max_examples=30)
@given(
    st.sampled_from([LLAMA_2_13B, LLAMA_2_70B, MISTRAL_7B]),
    st.lists(st.integers(4, 48), min_size=1, max_size=3),
    st.sampled_from([None, 1000, 3000, 50_000]),
    st.booleans(),
)
def test_every_cell_fits_as_far_as_it_says_and_256_tokens_more_do_not(
    config: dict[str, object], sizes: list[int], asked: int | None, every: bool
) -> None:
    listed = repo(config, (4, None), (4, 32), (3, 128), (8, 128))
    found = grid(listed, *(f"{size}GiB@8.6" for size in sizes), context_tokens=asked, all_runtimes=every)
    free = [size * GIB for size in sizes]
    assert {row.variant.branch for row in found.rows} == {variant.branch for variant in listed.variants}
    for row in found.rows:
        assert row.runtime is not None
        assert tuple(cell.cache for cell in row.cells) == cache_types(row.runtime)
        for cell in row.cells:
            beyond = terms(row.variant, row.runtime, min(cell.longest_tokens + 256, row.limit_tokens), cache=cell.cache)
            assert beyond is not None
            assert fits(cell.need, free) == (cell.longest_tokens > 0) == (cell.headroom_bytes >= 0)
            assert cell.longest_tokens == row.limit_tokens or not fits(place(beyond, free), free)
            assert (cell.limited_by == "memory") == (cell.longest_tokens < row.limit_tokens)


@pytest.mark.parametrize("gpu", ["12GiB@8.6", "24GiB@8.6", "24GiB@8.6x2", "40GiB@8.0", "24GiB@6.1", "80GiB@8.0"])
def test_the_runtime_and_the_fp16_context_are_those_that_are_recommended(gpu: str) -> None:
    for listed in (SEED, repo(MISTRAL_7B, (4, 32), (8, None), (3, 128))):
        answer = recommend(listed, parse_gpus([gpu]), available_runtimes(None, True))
        rows = {row.variant.branch: row for row in grid(listed, gpu).rows}
        for assessment in answer.assessments:
            row = rows[assessment.variant.branch]
            if assessment.fits:
                assert (row.loader, row.runtime) == (assessment.loader, assessment.runtime)
                assert told(row)["fp16"] == assessment.max_context_tokens


def test_where_the_planned_context_fits_nowhere_the_runtime_with_the_longest_one_is_shown() -> None:
    listed = repo(LLAMA_2_13B, (4, 128))
    (variant,) = listed.variants
    # With a q4 cache ExLlamaV2 has room for a little, and nothing has for 4096 tokens.
    free = least_bytes(variant, "exllamav2", 512, "q4")
    available = available_runtimes(EVERY, True)
    assert recommend(listed, on_card(free), available).choice is None
    (best,) = context_grid(listed, on_card(free), available).rows
    every = context_grid(listed, on_card(free), available, all_runtimes=True).rows
    assert max(told(best).values()) == max(max(told(row).values()) for row in every) >= 512


def test_all_runtimes_are_those_that_load_the_branch_in_the_order_of_preference() -> None:
    found = grid(repo(LLAMA_2_7B, (4, 128), (3, None)), "24GiB@8.6", runtimes=EVERY, all_runtimes=True)
    by_branch = [(row.variant.branch, row.runtime) for row in found.rows]
    assert by_branch == [
        ("4bit-128", "exllamav2"),
        ("4bit-128", "gptqmodel:exllama_v2"),
        ("4bit-128", "exllama"),
        ("4bit-128", "gptqmodel:marlin"),
        ("4bit-128", "gptqmodel:triton"),
        ("4bit-128", "gptqmodel:torch"),
        ("4bit-128", "auto_gptq"),
        ("3bit-None", "gptqmodel:torch"),
        ("3bit-None", "auto_gptq"),
    ]


def test_what_ends_a_context_is_the_model_or_memory_or_the_search() -> None:
    (row,) = grid(repo(MISTRAL_7B, (4, 128)), "80GiB@8.0").rows
    assert (row.own_tokens, row.limit_tokens) == (32768, 32768)
    assert {cell.limited_by for cell in row.cells} == {"model"} and set(told(row).values()) == {32768}
    (row,) = grid(repo(MISTRAL_7B, (4, 128)), "80GiB@8.0", context_tokens=40_000).rows
    assert {cell.limited_by for cell in row.cells} == {"search"} and set(told(row).values()) == {40_000}
    unknown = {**MISTRAL_7B, "max_position_embeddings": None}
    (row,) = grid(repo(unknown, (4, 128)), "80GiB@8.0").rows
    assert (row.own_tokens, row.limit_tokens) == (None, 4096)
    assert {cell.limited_by for cell in row.cells} == {"search"}


def test_a_context_between_two_steps_is_reached_where_it_fits() -> None:
    listed = repo(LLAMA_2_13B, (4, 128))
    (variant,) = listed.variants
    for tokens in (2100, 2303):
        free = least_bytes(variant, "exllamav2", tokens, "fp16")
        for asked, reached in ((tokens, tokens), (tokens + 1, 2048), (None, 2048)):
            (row,) = context_grid(
                listed, on_card(free), available_runtimes(["exllamav2"], True), context_tokens=asked
            ).rows
            assert told(row)["fp16"] == reached


def test_on_the_cpu_the_cache_is_fp32_and_said_to_be() -> None:
    machine = Machine((), (), 64 * GIB, 60 * GIB)
    (row,) = context_grid(repo(LLAMA_2_7B, (4, 128)), machine, available_runtimes(None, True)).rows
    assert (row.runtime, told(row)) == ("gptqmodel:torch", {"fp32": 4096})
    # 32 layers, K and V, 32 heads of 128, 4 bytes each
    assert row.cells[0].need.kv_cache_bytes == 32 * 2 * 32 * 128 * 4 * 4096


def test_branches_that_cannot_be_judged_say_why_and_one_asked_for_is_shown_alone() -> None:
    sized = repo(LLAMA_2_7B, (4, 128)).variants[0]
    empty = replace(sized, branch="empty", holds_weights=False, problem="it holds no weights")
    unknown = Variant("unknown", bits=4, group_size=128)
    five = replace(sized, branch="five", bits=5)
    listed = VariantList("o/r", None, (sized, empty, unknown, five))
    _, *rows = grid(listed, "24GiB@8.6").rows
    assert [row.cells for row in rows] == [(), (), ()]
    assert [row.runtime for row in rows] == [None, "exllamav2", None]
    assert "no weights" in rows[0].why and "size is unknown" in rows[1].why and "not 5" in rows[2].why
    assert [row.variant.branch for row in grid(listed, "24GiB@8.6", branch="five").rows] == ["five"]
    assert not grid(listed, "24GiB@8.6", branch="five").fits and grid(listed, "24GiB@8.6").fits


def test_a_card_that_the_runtime_cannot_use_gives_no_room() -> None:
    listed = repo(LLAMA_2_13B, (4, 128))
    both = grid(listed, "12GiB@8.6", "12GiB@6.1", runtimes=["gptqmodel:marlin"])
    alone = grid(listed, "12GiB@8.6", runtimes=["gptqmodel:marlin"])
    assert told(both.rows[0]) == told(alone.rows[0])
    assert both.rows[0].cells[0].need.per_gpu_bytes[1] == 0


def test_a_card_without_triton_is_judged_by_the_torch_kernels_own_dequantisation() -> None:
    old, new = (grid(SEED, f"80GiB@{capability}", branch="gptq-3bit-128g-actorder_True") for capability in (6.1, 8.6))
    (by_torch,), (by_triton,) = old.rows, new.rows
    assert by_torch.runtime == by_triton.runtime == "gptqmodel:torch"
    # 14 bytes a weight of the largest linear instead of 2
    difference = by_torch.cells[0].need.scratch_bytes - by_triton.cells[0].need.scratch_bytes
    assert difference == 12 * 8192 * 28672


def test_what_this_machine_has_learned_moves_every_cell_and_is_said() -> None:
    listed = repo({**LLAMA_2_13B, "max_position_embeddings": 131072}, (4, 128))
    (variant,) = listed.variants
    gpu = Gpu(0, "NVIDIA GeForce RTX 3090", 24 * GIB, 16 * GIB, "8.6", "nvml")
    machine, available = Machine((gpu,), (), 64 * GIB, 60 * GIB), available_runtimes(["exllamav2"], True)
    made = terms(variant, "exllamav2", 4096)
    assert made is not None
    need = place(made, [gpu.total_bytes])
    # One load that took 300 MiB more than its prediction: certain enough to raise the next.
    peak = need.total_bytes + 300 * 2**20
    card = RecordedCard(gpu.name, gpu.total_bytes, 40, peak, peak, need.context_bytes, 0, 0)
    load = Record(
        "2026-11-25T10:00:00", "1", "branchfit", "exllamav2", None, None, None, "cuda", "nvml", variant, 4096, (card,),
        prompt_tokens=4096, read_tokens=4096,
    )  # fmt: skip
    learned = Corrections((load,))
    (plain,), (raised,) = (
        context_grid(listed, machine, available, corrections=corrections).rows for corrections in (None, learned)
    )
    assert raised.correction is not None and raised.correction.bytes == 300 * 2**20
    assert "from 1 load on this machine" in raised.why and "on this machine" not in plain.why
    for before, after in zip(plain.cells, raised.cells, strict=True):
        assert (after.limited_by, after.longest_tokens < before.longest_tokens) == ("memory", True)
    notes = context_grid(listed, machine, available, corrections=learned).notes
    assert sum("on this machine" in note for note in notes) == 1
    (assessment,) = recommend(listed, machine, available, corrections=learned).assessments
    assert told(raised)["fp16"] == assessment.max_context_tokens


# What `recommend` says of it


@pytest.mark.parametrize("cache", ["q8", "q6", "q4"])
def test_a_branch_that_would_fit_with_a_smaller_cache_says_so_and_it_would(cache: str) -> None:
    listed = repo({**LLAMA_2_13B, "max_position_embeddings": 16384}, (4, 128))
    (variant,) = listed.variants
    free = least_bytes(variant, "exllamav2", 8192, cache)
    answer = recommend(listed, on_card(free), available_runtimes(["exllamav2"], True), context_tokens=8192)
    (assessment,) = answer.assessments
    assert not assessment.fits
    longest = longest_context(variant, "exllamav2", [free], 16384, cache=cache)
    assert 8192 <= longest < 8192 + 256
    assert f"with a {cache} cache on exllamav2 up to {longest} tokens would fit" in assessment.why


def test_no_smaller_cache_is_promised_where_none_would_do_or_none_is_there() -> None:
    listed = repo(LLAMA_2_13B, (4, 128))
    (variant,) = listed.variants
    short = least_bytes(variant, "exllamav2", 4096, "q4") - 1
    for runtime, free in (("exllamav2", short), ("gptqmodel:triton", 6 * GIB)):
        (assessment,) = recommend(listed, on_card(free), available_runtimes([runtime], True)).assessments
        assert not assessment.fits and "cache" not in assessment.verdict


# What is printed


def test_the_table_has_a_row_for_each_branch_and_a_column_for_each_cache(capsys: pytest.CaptureFixture[str]) -> None:
    found = grid(SEED, "48GiB@8.6")
    lines = text(found, capsys)
    assert lines[0] == "The longest context that fits, in tokens; the model's own is 4096"
    assert lines[1] == "GPU 0: given GPU, 48 GiB, 48.0 GiB free of 48.0 GiB"
    assert lines[3].split() == ["branch", "fp16", "q8", "q6", "q4", "runtime"]
    table = {line.split()[0]: line.split()[1:] for line in lines[4 : 4 + len(SEED_CARD_ROWS)]}
    for row in found.rows:
        assert table[row.variant.branch] == [*map(str, told(row).values()), row.runtime]
    (words,) = [line for line in lines if line.startswith("gptq-3bit-128g-actorder_True: ")]
    assert "with gptqmodel:torch it needs" in words and "give or take" in words and "to spare" in words


@pytest.mark.parametrize("options", [{}, {"context_tokens": 8192}, {"context_tokens": 8192, "all_runtimes": True}])
@pytest.mark.parametrize("width", [80, 64])
def test_it_fits_a_narrow_terminal_digits_under_digits(
    options: dict[str, Any], width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "PLAIN_WIDTH", width)
    longest_name = "gptq-4bit-128g-actorder_False"
    variants = repo({**MISTRAL_7B, "max_position_embeddings": 131072}, (4, 128), (8, 32), (3, None)).variants
    listed = VariantList("o/r", None, (replace(variants[0], branch=longest_name), *variants[1:]))
    found = grid(listed, "16GiB@8.6", runtimes=EVERY, **options)
    lines = text(found, capsys)
    assert max(map(len, lines)) <= width
    shown = "\n".join(lines)
    assert longest_name in shown
    for row in found.rows:
        assert row.runtime in shown
        for cell in row.cells:
            assert str(cell.longest_tokens or "-") in shown
    if width == 64:
        # A table for each runtime, with its own cache types only.
        assert lines[lines.index("runtime gptqmodel:torch") + 1].split() == ["branch", "fp16"]
        assert lines[lines.index("runtime exllamav2") + 1].split() == ["branch", "fp16", "q8", "q6", "q4"]
    table = [line for line in lines if line.startswith(longest_name) and not line.startswith(f"{longest_name}:")]
    ends = {line.index(word) + len(word.rstrip("*")) for line in table for word in line.split()[1:2]}
    assert len(ends) == 1, "fp16's column is not straight"


def test_what_was_asked_for_is_marked_and_said_to_be_nowhere_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    config = {**LLAMA_2_13B, "max_position_embeddings": 16384}
    listed = repo(config, (4, 128))
    (variant,) = listed.variants
    machine = on_card(least_bytes(variant, "exllamav2", 8192, "q6"))
    available = available_runtimes(["exllamav2"], True)
    found = context_grid(listed, machine, available, context_tokens=8192)
    lines = text(found, capsys)
    (line,) = [line for line in lines if line.startswith("4bit-128 ")]
    assert [cell.endswith("*") for cell in line.split()[1:5]] == [False, False, True, True]
    assert "* has room for 8192 tokens" in lines
    finer = VariantList("o/r", None, (*listed.variants, *repo(config, (4, 32)).variants))
    tighter = on_card(least_bytes(variant, "exllamav2", 8192, "q4"))
    lines = text(context_grid(finer, tighter, available, context_tokens=8192), capsys)
    last = [line.split("exllamav2")[0].rstrip() for line in lines if "exllamav2" in line and "with" not in line]
    assert [line.endswith("*") for line in last] == [True, False]
    assert len(last[0]) == len(last[1]) + 1, "the last digits do not stand under each other"
    lines = text(context_grid(listed, machine, available, context_tokens=16384), capsys)
    assert "none has room for 16384 tokens" in lines and not any("*" in line for line in lines)
    assert not any("room for" in line for line in text(context_grid(listed, machine, available), capsys))


def test_how_far_was_looked_is_said_once_or_in_each_cell_where_it_differs(capsys: pytest.CaptureFixture[str]) -> None:
    unknown = {**MISTRAL_7B, "max_position_embeddings": None}
    assert text(grid(repo(unknown, (4, 128)), "24GiB@8.6"), capsys)[0].endswith("is unknown: looked for up to 4096")
    further = grid(repo(MISTRAL_7B, (4, 128)), "24GiB@8.6", context_tokens=40_000)
    assert text(further, capsys)[0].endswith("the model's own is 32768, looked for up to 40000")
    mixed = VariantList("o/r", None, repo(MISTRAL_7B, (4, 128)).variants + repo(LLAMA_2_7B, (4, 32)).variants)
    found = grid(mixed, "8GiB@8.6", runtimes=["gptqmodel:triton"])
    lines = text(found, capsys)
    assert lines[0].endswith("by each branch's own limit")
    (first, _) = found.rows
    assert 0 < told(first)["fp16"] < 32768
    assert any(line.startswith("4bit-128 ") and f"{told(first)['fp16']} of 32768" in line for line in lines)
    nothing = text(grid(VariantList("o/r", None, ()), "8GiB@8.6"), capsys)
    assert nothing[0].endswith("nothing here loads any branch")


def test_who_holds_the_memory_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    gpu = Gpu(0, "RTX 3090", 24 * GIB, 20 * GIB, "8.6", "nvml", (Holder(4121, "Xorg", 4 * GIB),))
    found = context_grid(SEED, Machine((gpu,), (), 64 * GIB, 60 * GIB), available_runtimes(None, True))
    assert "4.0 GiB held by pid 4121, Xorg" in "\n".join(text(found, capsys))


# The command


def branchfit(*arguments: str | Path, code: int = 0, expected: str = "", hub: LoopbackHub | None = None) -> Any:
    """Run the command in a process of its own, check its exit code; its stdout, as a document with --json."""
    environment = {**os.environ, **({"HF_ENDPOINT": hub.endpoint} if hub else {})}
    command = [sys.executable, "-m", "branchfit", "fit", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode == code, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    if code == 3:
        assert expected.encode() in done.stderr
    return json.loads(done.stdout) if "--json" in arguments else done.stdout.decode()


@pytest.fixture
def card(tmp_path: Path) -> list[str]:
    (tmp_path / "card.md").write_text(seed_card(), encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_2_70B), encoding="utf-8")
    return ["--card", str(tmp_path / "card.md"), "--config", str(tmp_path / "config.json")]


def test_the_document_has_bytes_and_tokens_as_whole_numbers(card: list[str]) -> None:
    answer = branchfit(*card, "--gpu", "24GiB@8.6x2", "--context", "3000", "--json")
    assert set(answer) == {"repo", "commit", "context_tokens", "gpus", "fits", "rows", "notes"}
    assert answer["context_tokens"] == 3000 and answer["fits"] is True and len(answer["gpus"]) == 2
    assert [row["branch"] for row in answer["rows"]] == [row[0] for row in SEED_CARD_ROWS]
    for row in answer["rows"]:
        keys = {
            "branch",
            "loader",
            "runtime",
            "own_context_tokens",
            "searched_to_tokens",
            "caches",
            "correction",
            "why",
        }
        assert set(row) == keys and row["correction"] is None
        assert row["own_context_tokens"] == row["searched_to_tokens"] == 4096
        assert [cell["cache"] for cell in row["caches"]] == list(cache_types(row["runtime"]))
        for cell in row["caches"]:
            need = cell["need_bytes"]
            assert need["weights"] + need["kv_cache"] + need["scratch"] + need["context"] == need["total"]
            assert sum(cell["need_per_gpu_bytes"]) == need["total"]
            assert cell["reaches_context"] is (cell["max_context_tokens"] >= 3000)
            assert cell["need_at_tokens"] == cell["max_context_tokens"] and cell["limited_by"] in ("model", "memory")
            whole = [*need.values(), cell["error_bytes"], cell["headroom_bytes"], cell["max_context_tokens"]]
            assert all(type(value) is int for value in whole)


def test_a_card_that_is_too_small_is_exit_code_3_with_the_document_on_stdout(card: list[str]) -> None:
    nearest = (
        "nothing fits at any context; gptq-3bit--1g-actorder_True, the nearest, does not fit: with gptqmodel:torch"
    )
    answer = branchfit(*card, "--gpu", "8GiB@8.6", "--json", code=3, expected=nearest)
    assert answer["fits"] is False and answer["context_tokens"] is None
    for row in answer["rows"]:
        for cell in row["caches"]:
            assert (cell["max_context_tokens"], cell["need_at_tokens"]) == (0, 256) and cell["headroom_bytes"] < 0
            assert cell["reaches_context"] is None
    assert "does not fit" in branchfit(*card, "--gpu", "8GiB@8.6", code=3, expected=nearest)
    nothing = branchfit(*card, "--gpu", "none", "--runtime", "exllama", code=3, expected="no branch can be loaded here")
    assert "exllama runs on NVIDIA GPUs and AMD GPUs" in nothing


def test_the_options_are_those_of_recommend_less_its_preference(card: list[str]) -> None:
    narrowed = branchfit(*card, "--gpu", "80GiB@8.0", "--loader", "AutoGPTQ", "--json")
    assert {row["loader"] for row in narrowed["rows"]} == {"AutoGPTQ"}
    named = branchfit(*card, "--gpu", "80GiB@8.0", "--runtime", "exllama", "--runtime", "exllamav2", "--json")
    assert {row["runtime"] for row in named["rows"]} == {"exllamav2", None}
    every = branchfit(*card, "--gpu", "80GiB@8.0", "--all-runtimes", "--json")
    assert len(every["rows"]) > len(SEED_CARD_ROWS)
    branchfit(*card, "--prefer", "speed", code=2)
    branchfit(*card, "--gpu", "80GiB", "--loader", "ExLlama", "--runtime", "gptqmodel:torch", code=2)
    branchfit(code=2)


def test_on_the_hub_every_branch_or_one_is_answered_and_what_is_not_there_is_4_or_5(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    made = demo_repo(tmp_path_factory.mktemp("repo"))
    with LoopbackHub() as hub:
        hub.add_repo(made.repo, made.branches)
        hub.add_repo("o/gated", {"main": {"README.md": b"# gated\n"}}, gated=True)
        answer = branchfit(REPO, "--gpu", "8GiB@8.6", "--json", hub=hub)
        assert [row["branch"] for row in answer["rows"]] == list(made.branches) and answer["commit"]
        alone = branchfit(f"{REPO}:gptq-4bit-32g-actorder_True", "--gpu", "8GiB@8.6", "--json", hub=hub)
        assert [row["branch"] for row in alone["rows"]] == ["gptq-4bit-32g-actorder_True"]
        branchfit(f"{REPO}:gptq-4bit-32g", "--gpu", "8GiB", code=4, hub=hub)
        branchfit("o/none", "--gpu", "8GiB", code=4, hub=hub)
        branchfit("o/gated", "--gpu", "8GiB", code=5, hub=hub)


# The documents


def test_the_grid_in_the_readme_is_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """UPDATE_DOCS=1 writes it anew, as in test_docs."""
    lines = text(grid(SEED, "40GiB@8.0"), capsys)
    table = "\n".join(lines[: lines.index("", 3)])
    generated(ROOT / "README.md", "fit", f"```\n{table}\n```\n")
