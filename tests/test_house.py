"""The house keeps its shape: who may import whom, what importing costs, what is public."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import branchfit

ROOT = Path(branchfit.__file__).parent

ORDER = (
    "errors",
    "units",
    "prompts",
    "shape",
    "checkpoint",
    "card",
    "hub",
    "gpus",
    "loaders",
    "variants",
    "gather",
    "memory",
    "recommend",
    "download",
    "installed",
    "running",
    "demo",
    "cli",
    "__main__",
)
"""docs/architecture.md: a room may import what stands before it."""

PUBLIC = [
    "BranchFitError",
    "Gpu",
    "Hub",
    "Installed",
    "Loaded",
    "Machine",
    "ModelCard",
    "Recommendation",
    "Template",
    "Variant",
    "__version__",
    "available_runtimes",
    "detect",
    "load",
    "parse_repo",
    "pull",
    "read_card",
]


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def room(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imported_rooms(path: Path) -> Iterator[str]:
    """The rooms of this package that a file imports, wherever in it the import stands."""
    package = path.relative_to(ROOT.parent).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            full = [*base, *(node.module.split(".") if node.module else [])]
            if full[:1] != ["branchfit"]:
                continue
            yield from [full[1]] if len(full) > 1 else [name.name for name in node.names]
        elif isinstance(node, ast.Import):
            for name in node.names:
                parts = name.name.split(".")
                if parts[0] == "branchfit" and len(parts) > 1:
                    yield parts[1]


def test_every_room_has_its_place_in_the_order() -> None:
    assert {room(path) for path in modules()} - {"__init__"} == set(ORDER)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_stands_before_it(path: Path) -> None:
    own = room(path)
    if own == "__init__":
        return
    for other in imported_rooms(path):
        if other.startswith("__"):
            continue
        assert other == own or ORDER.index(other) < ORDER.index(own), f"{path.name} ({own}) imports {other}"


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


HEAVY = "{'torch', 'transformers', 'gradio', 'huggingface_hub', 'numpy', 'pynvml', 'rich', 'markdown_it', 'yaml'}"


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert run(f"import sys, branchfit; print(sorted({HEAVY} & set(sys.modules)))").strip() == "[]"


def test_importing_every_module_imports_neither_torch_nor_transformers_nor_gradio() -> None:
    names = [
        ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__") for path in modules()
    ]
    code = (
        "import sys, importlib\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print(sorted({'torch', 'transformers', 'gradio'} & set(sys.modules)))"
    )
    assert run(code).strip() == "[]"


def test_the_public_names_are_these() -> None:
    assert sorted(branchfit.__all__) == PUBLIC
    for name in branchfit.__all__:
        assert getattr(branchfit, name) is not None
    assert not {room(path) for path in modules()} & set(PUBLIC), "importing a room of that name would hide it"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = branchfit.nonsense


def test_the_version_is_the_one_that_is_published() -> None:
    project = (ROOT.parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{branchfit.__version__}"' in project
