"""Card, refs and the branches' own files become one list, and every disagreement is kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from branchfit.card import read_card
from branchfit.checkpoint import checkpoint_bytes
from branchfit.errors import ConfigError
from branchfit.hub import BranchState, RepoFile, TensorEntry
from branchfit.shape import checkpoint_tensors, read_shape
from branchfit.variants import Disagreement, from_card, from_hub
from models import LLAMA_2_7B, LLAMA_2_70B, MIXTRAL_8X7B, SEED_CARD_ROWS, WIZARDMATH_70B, seed_card

REPO = "TheBloke/WizardMath-70B-V1.0-GPTQ"
SMALL = {**LLAMA_2_7B, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1, "vocab_size": 512}


def quantization(bits: int = 4, group: int = -1, act: bool = True) -> dict[str, Any]:
    settings = {"bits": bits, "group_size": group, "desc_act": act, "sym": True}
    return {**settings, "quant_method": "gptq", "damp_percent": 0.1}


def state(
    branch: str = "main",
    *,
    config: dict[str, Any] | None = None,
    quantize_config: dict[str, Any] | None = None,
    files: dict[str, int] | None = None,
    header: tuple[int, int | None] | None = None,
) -> BranchState:
    """A branch as the Hub client gives it; `header` (bits, group) makes the tensors of SMALL."""
    shape = read_shape(SMALL)
    tensors = None
    if header is not None:
        made = checkpoint_tensors(shape, *header)
        tensors = tuple(TensorEntry(t.name, t.dtype, t.shape, t.size_bytes) for t in made)
    listed = files if files is not None else {"model.safetensors": 1000, "README.md": 5}
    return BranchState(
        branch=branch,
        commit="c" * 40,
        files=tuple(RepoFile(path, size, None, None) for path, size in listed.items()),
        config=config,
        quantize_config=quantize_config,
        tensors=tensors,
        problems=(),
    )


def card(rows: str) -> Any:
    head = "| Branch | Bits | GS | Act Order | Damp % | GPTQ Dataset | Seq Len | Size | ExLlama | Desc |\n"
    return read_card("## Provided files\n\n" + head + "|---|---|---|---|---|---|---|---|---|---|\n" + rows + "\n")


def test_the_seeds_six_rows_come_out_with_the_sizes_its_table_prints() -> None:
    listed = from_card(read_card(seed_card()), WIZARDMATH_70B, REPO)
    found = [(v.branch, v.bits, v.group_size, v.act_order, v.exllama) for v in listed.variants]
    assert found == [(row[0], row[1], row[2], row[3], row[5]) for row in SEED_CARD_ROWS]
    for variant, row in zip(listed.variants, SEED_CARD_ROWS, strict=True):
        assert variant.size_source == "config"
        assert f"{(variant.size_bytes or 0) / 1e9:.2f}" == f"{row[4] / 1e9:.2f}"
    assert listed.disagreements == ()


def test_without_a_config_the_cards_own_sizes_are_taken() -> None:
    listed = from_card(read_card(seed_card()), None, REPO)
    assert [v.size_bytes for v in listed.variants] == [row[4] for row in SEED_CARD_ROWS]
    assert {v.size_source for v in listed.variants} == {"card"}


def test_the_configs_model_type_wins_over_the_cards_and_a_lone_cards_is_translated() -> None:
    """TheBloke's TinyLlama card says tinyllama, its config.json llama."""
    text = seed_card().replace("model_type: llama", "model_type: tinyllama")
    assert {v.model_type for v in from_card(read_card(text), LLAMA_2_70B, REPO).variants} == {"llama"}
    assert {v.model_type for v in from_card(read_card(text), None, REPO).variants} == {"llama"}


def test_a_card_from_before_exllamav2_says_no_to_mixtral_and_the_runtimes_say_yes() -> None:
    text = seed_card().replace("| Yes | words |", "| No | words |")
    alone = from_card(read_card(text), None, REPO)
    assert {v.exllama for v in alone.variants} == {False}
    known = from_card(read_card(text), MIXTRAL_8X7B, REPO)
    assert [v.exllama for v in known.variants] == [True, True, True, True, False, False]
    assert Disagreement("main", "exllama", False, True) in known.disagreements


def test_a_card_without_a_table_says_so() -> None:
    listed = from_card(read_card("# A model\n"), None, "o/r")
    assert listed.variants == ()
    assert listed.notes[-1] == "the card has no table of GPTQ branches"


@pytest.mark.parametrize(
    "settings",
    [
        {"bits": float("nan"), "group_size": 128},
        {"bits": float("inf"), "group_size": float("inf")},
        {"bits": 10**400, "group_size": -(10**400)},
        {"bits": "4", "group_size": "128"},
        {"bits": 0, "group_size": 0},
        {"bits": [4], "group_size": {}},
    ],
)
def test_settings_that_are_no_settings_leave_the_branch_unknown_and_the_others_alone(settings: dict[str, Any]) -> None:
    bad = state("bad", config={**SMALL, "quantization_config": {**settings, "quant_method": "gptq"}})
    good = state("main", config={**SMALL, "quantization_config": quantization(4, 128)})
    unknown, known = from_hub("o/r", None, [bad, good]).variants
    assert unknown.bits is None
    assert (known.bits, known.group_size) == (4, 128)


def test_the_configs_group_size_stands_where_the_last_group_is_not_full() -> None:
    """4544 inputs in groups of 128 are 36 groups, which alone would look like groups of 127."""
    odd = {**SMALL, "hidden_size": 4544, "num_attention_heads": 71, "intermediate_size": 4544}
    made = checkpoint_tensors(read_shape(odd), 4, 128)
    tensors = tuple(TensorEntry(t.name, t.dtype, t.shape, t.size_bytes) for t in made)
    own = replace(state(config={**odd, "quantization_config": quantization(4, 128)}), tensors=tensors)
    assert from_hub("o/r", None, [own]).variants[0].group_size == 128


def test_of_two_weight_files_the_one_a_loader_takes_is_counted() -> None:
    files = {"a.no-act-order.safetensors": 700, "b.act-order.safetensors": 800}
    own = state(config={**SMALL, "quantization_config": quantization()}, files=files, header=(4, None))
    assert from_hub("o/r", None, [own]).variants[0].size_bytes == 800


def test_a_config_of_another_model_is_reported_as_a_disagreement_on_every_size() -> None:
    listed = from_card(read_card(seed_card()), LLAMA_2_7B, REPO)
    assert [d.field for d in listed.disagreements] == ["size_bytes"] * 6


def test_a_config_without_the_needed_fields_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="hidden_size"):
        from_card(read_card(seed_card()), {"model_type": "llama"}, REPO)


def test_the_branchs_own_config_wins_over_the_card_and_the_disagreement_is_kept() -> None:
    """As in an early Llama-2-70B-Chat card: act order No on a branch named actorder_True."""
    row = "| gptq-4bit-32g-actorder_True | 4 | 32 | No | 0.1 | c4 | 4096 | 0.00 GB | Yes | d |"
    own = state("gptq-4bit-32g-actorder_True", config={**SMALL, "quantization_config": quantization(4, 64)})
    listed = from_hub("o/r", card(row), [own])
    (variant,) = listed.variants
    assert (variant.group_size, variant.act_order) == (64, True)
    assert set(listed.disagreements) == {
        Disagreement(variant.branch, "group_size", 32, 64),
        Disagreement(variant.branch, "act_order", False, True),
    }


def test_quantize_config_is_read_where_config_json_has_no_quantization() -> None:
    settings = {"bits": 8, "group_size": 128, "desc_act": False}
    listed = from_hub("o/r", None, [state(config=SMALL, quantize_config=settings)])
    (variant,) = listed.variants
    assert (variant.format, variant.bits, variant.group_size, variant.act_order) == ("gptq", 8, 128, False)


def test_a_repo_without_a_card_table_is_listed_from_its_files() -> None:
    """Qwen/...-GPTQ-Int4: one branch, no table."""
    own = state(config={**SMALL, "quantization_config": quantization(4, 128, False)})
    listed = from_hub("Qwen/Q-GPTQ-Int4", read_card("# Qwen\n"), [own])
    (variant,) = listed.variants
    assert (variant.branch, variant.bits, variant.group_size, variant.exllama) == ("main", 4, 128, True)


def test_the_headers_own_shapes_win_over_what_the_config_claims() -> None:
    own = state(config={**SMALL, "quantization_config": quantization(4, 128)}, header=(3, 32))
    (variant,) = from_hub("o/r", None, [own]).variants
    assert (variant.bits, variant.group_size) == (3, 32)


def test_a_gptq_branch_that_says_nothing_is_known_by_its_tensors() -> None:
    (variant,) = from_hub("o/r", None, [state(config=SMALL, header=(4, None))]).variants
    assert (variant.format, variant.bits, variant.group_size, variant.zero_bias) == ("gptq", 4, None, True)


def test_the_size_is_the_weight_files_sum_and_says_where_it_was_read() -> None:
    files = {"model-00001-of-00002.safetensors": 700, "model-00002-of-00002.safetensors": 300, "pytorch_model.bin": 999}
    read = state(config={**SMALL, "quantization_config": quantization()}, files=files, header=(4, None))
    unread = state(config={**SMALL, "quantization_config": quantization()}, files=files)
    assert [(v.size_bytes, v.size_source) for s in (read, unread) for v in from_hub("o/r", None, [s]).variants] == [
        (1000, "headers"),
        (1000, "files"),
    ]


@pytest.mark.parametrize(
    "files", [{"README.md": 3}, {}, {"measurement.json": 9, "training_args.bin": 4000}, {"model.safetensors": 0}]
)
def test_a_branch_that_holds_no_weights_is_listed_as_such(files: dict[str, int]) -> None:
    (variant,) = from_hub("o/r", None, [state(files=files)]).variants
    assert not variant.holds_weights
    assert variant.format == "none"
    assert variant.problem == "it holds no weights"


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"gptq_model-4bit.pt": 900, "README.md": 3}, "pickles (gptq_model-4bit.pt)"),
        ({"pytorch_model-00001-of-00002.bin": 9, "pytorch_model-00002-of-00002.bin": 9}, "pickles"),
        ({"model-00001-of-00003.safetensors": 9, "model-00003-of-00003.safetensors": 9}, "2 of the 3 shards"),
    ],
)
def test_weights_that_cannot_be_had_are_told_and_never_recommended(files: dict[str, int], why: str) -> None:
    (variant,) = from_hub("o/r", None, [state(config=SMALL, files=files)]).variants
    assert not variant.holds_weights
    assert why in variant.problem


def test_a_branch_that_is_in_the_card_and_not_on_the_hub_is_kept_and_reported() -> None:
    main = state("main", config={**WIZARDMATH_70B, "quantization_config": quantization()})
    listed = from_hub(REPO, read_card(seed_card()), [main])
    gone = listed.get("gptq-4bit-32g-actorder_True")
    assert gone is not None and not gone.holds_weights
    assert Disagreement("gptq-4bit-32g-actorder_True", "branch", "listed", "not on the Hub") in listed.disagreements


def test_a_branch_on_the_hub_that_the_card_does_not_know_is_listed_behind_the_cards() -> None:
    extra = state("gptq-8bit-128g-actorder_True", config={**SMALL, "quantization_config": quantization(8, 128)})
    listed = from_hub(REPO, read_card(seed_card()), [extra])
    assert listed.variants[-1].branch == extra.branch
    assert listed.variants[-1].exllama is False


def test_the_card_may_say_exllama_yes_at_eight_bits_and_is_not_believed() -> None:
    """Mistral-7B-Instruct-v0.1's card does."""
    row = "| main | 8 | 128 | Yes | 0.1 | c4 | 4096 | 0.00 GB | Yes | d |"
    listed = from_hub("o/r", card(row), [state(config={**SMALL, "quantization_config": quantization(8, 128)})])
    assert listed.variants[0].exllama is False
    assert Disagreement("main", "exllama", True, False) in listed.disagreements


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "awq"),
        ({"quant_method": "exl2", "bits": 4.25}, "exl2"),
        ({"quant_method": "exl3", "bits": 3.07}, "exl3"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "checkpoint_format": "marlin"}, "marlin"),
        ({"bits": 4, "group_size": 128, "is_marlin_format": True}, "marlin"),
    ],
)
def test_other_formats_are_told_apart(config: dict[str, Any], expected: str) -> None:
    (variant,) = from_hub("o/r", None, [state(config={**SMALL, "quantization_config": config})]).variants
    assert variant.format == expected
    assert variant.bits == config["bits"]


def test_a_gguf_repo_is_not_taken_for_gptq() -> None:
    (variant,) = from_hub("o/r", None, [state(files={"m.Q4_K_M.gguf": 9})]).variants
    assert variant.format == "gguf"


def test_a_branch_whose_config_describes_no_model_is_listed_and_never_recommended() -> None:
    listed = from_hub("o/r", None, [state(config={"model_type": "llama", "quantization_config": quantization()})])
    (variant,) = listed.variants
    assert variant.shape is None and not variant.holds_weights
    assert "hidden_size" in variant.problem


def test_a_size_printed_to_two_digits_agrees_with_the_real_one() -> None:
    size = checkpoint_bytes(read_shape(WIZARDMATH_70B), 4, 32)
    row = f"| main | 4 | 32 | Yes | 0.1 | c4 | 4096 | {size / 1e9:.2f} GB | Yes | d |"
    config = {**WIZARDMATH_70B, "quantization_config": quantization(4, 32)}
    own = state(config=config, files={"model.safetensors": size})
    assert from_hub("o/r", card(row), [own]).disagreements == ()
