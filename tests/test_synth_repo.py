"""The demo's repo: the seed's six branches, honest sizes, one exact prompt."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import yaml

from branchfit.demo.repo import BRANCHES, REPO, SHAPE, DemoRepo, demo_repo
from branchfit.prompts import ALPACA_COT


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoRepo:
    return demo_repo(tmp_path_factory.mktemp("demo"))


def test_the_branches_are_those_of_the_repo_it_is_laid_out_like(demo: DemoRepo) -> None:
    assert list(demo.branches) == [
        "main",
        "gptq-4bit-32g-actorder_True",
        "gptq-4bit-64g-actorder_True",
        "gptq-4bit-128g-actorder_True",
        "gptq-3bit--1g-actorder_True",
        "gptq-3bit-128g-actorder_True",
    ]


def test_every_branch_holds_what_a_published_one_holds(demo: DemoRepo) -> None:
    for branch, files in demo.branches.items():
        assert sorted(files) == [
            "README.md",
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "quantize_config.json",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ], branch
        assert all(path.is_file() for path in files.values())
        assert files["README.md"].read_bytes() == demo.card.encode()


def test_the_whole_repo_is_small(demo: DemoRepo) -> None:
    assert sum(path.stat().st_size for files in demo.branches.values() for path in files.values()) < 8_000_000


def test_the_card_prints_the_sizes_of_the_real_files(demo: DemoRepo) -> None:
    for branch, files in demo.branches.items():
        (row,) = (line for line in demo.card.splitlines() if line.startswith(f"| [{branch}]"))
        printed = row.split(" | ")[7]
        assert printed == f"{files['model.safetensors'].stat().st_size / 1e6:.2f} MB"


def test_the_card_holds_the_exact_template_in_its_fence_and_its_front_matter(demo: DemoRepo) -> None:
    template = ALPACA_COT.text.replace("{instruction}", "{prompt}")
    assert f"## Prompt template: Alpaca-CoT\n\n```\n{template}\n\n```\n" in demo.card
    front_matter = yaml.safe_load(demo.card.split("---\n")[1])
    # Cards of that time end the value in a line end.
    assert front_matter["prompt_template"] == template + "\n"
    assert front_matter["model_type"] == "llama"


def test_the_card_says_that_the_model_is_random(demo: DemoRepo) -> None:
    assert "nonsense" in demo.card and "random" in demo.card
    assert f"{REPO.split('/')[0]}/TinyMath-GGUF" in demo.card


def test_every_linear_has_several_groups_and_a_power_of_two_of_inputs_in_each() -> None:
    # ExLlamaV2 wants in_features / groups to be a power of two.
    for recipe in BRANCHES.values():
        for linear in SHAPE.linears:
            if recipe.group_size is not None:
                assert linear.in_features // recipe.group_size >= 2
            assert linear.in_features & (linear.in_features - 1) == 0
            assert linear.out_features % 64 == 0


def test_the_same_seed_gives_the_same_repo(demo: DemoRepo, tmp_path: Path) -> None:
    def digests(repo: DemoRepo) -> list[str]:
        return [
            hashlib.sha256(path.read_bytes()).hexdigest() for files in repo.branches.values() for path in files.values()
        ]

    assert digests(demo_repo(tmp_path)) == digests(demo)
