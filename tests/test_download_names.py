"""Names: the webui's folder name, what a listing may not hold, what is left out."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from branchfit.download.names import (
    MAX_FILES,
    check_listing,
    folder_name,
    has_weights,
    is_pickle,
    left_out,
    unsafe_name,
)
from branchfit.errors import RefusedFiles, UsageError
from branchfit.hub import RepoFile

BLOB = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"  # git's id of the empty blob


def listing(*paths: str) -> list[RepoFile]:
    return [RepoFile(path, 0, BLOB, None) for path in paths]


def reasons(*paths: str) -> dict[str, str]:
    with pytest.raises(RefusedFiles) as caught:
        check_listing("owner/repo", listing(*paths), Path("/models/x"))
    return dict(caught.value.refused)


@pytest.mark.parametrize(
    ("repo", "branch", "name"),
    [
        ("TheBloke/WizardMath-70B-V1.0-GPTQ", "main", "TheBloke_WizardMath-70B-V1.0-GPTQ"),
        ("TheBloke/A", "gptq-4bit-32g-actorder_True", "TheBloke_A_gptq-4bit-32g-actorder_True"),
        ("TheBloke/A", "gptq-3bit--1g-actorder_True", "TheBloke_A_gptq-3bit--1g-actorder_True"),
        ("owner/repo", "feature/slash", "owner_repo_feature_slash"),
        ("gpt2", "main", "gpt2"),
    ],
)
def test_a_folder_is_named_as_the_webui_names_it(repo: str, branch: str, name: str) -> None:
    assert folder_name(repo, branch) == name


@pytest.mark.parametrize(
    ("repo", "branch"),
    [
        ("../etc", "main"),
        ("a/..", "main"),
        ("a/b/c", "main"),
        ("a\\b", "main"),
        ("", "main"),
        ("a/b", ""),
        ("a/b", "x:y"),
        ("a/b", "x\u202e"),
        ("a/b", "x\ny"),
        ("a/b", "x" * 300),
        ("a/b", "dot."),
    ],
)
def test_a_repo_or_branch_that_makes_no_safe_folder_is_a_usage_error(repo: str, branch: str) -> None:
    with pytest.raises(UsageError):
        folder_name(repo, branch)


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "a/../../x",
        "a/..",
        "/etc/passwd",
        "C:/x",
        "C:x",
        "..\\x",
        "a\\..\\x",
        "\\\\host\\x",
        "a//b",
        "a/",
        "",
        ".",
        "./x",
        "x\0y",
        "x\ny",
        "x\x1b[2Jy",
        "x\x7fy",
        "x\x85y",
        "invoice\u202efdp.txt",
        "x\u2066y",
        "x\u2028y",
        "\ud800",
        "trailing.",
        "trailing ",
        "a./b",
        "a /b",
        "NUL",
        "nul.txt",
        "sub/Con",
        "COM1",
        "com1.tar.gz",
        "LPT\u00b9",
        "aux .x",
        "CONOUT$",
        "model.safetensors:hidden",
        "a<b",
        "a>b",
        'a"b',
        "a|b",
        "a?b",
        "a*b",
        "x" * 256,
        "\u00e9" * 128,
        "/".join("a" * 40),
        "%2e%2e%2fx",
        "a%2fb",
        "a%5cb",
        "%2e%2e/x",
    ],
)
def test_a_name_that_leaves_the_folder_or_harms_some_system_is_unsafe(path: str) -> None:
    assert unsafe_name(path) is not None
    assert reasons("config.json", path)[path]


@pytest.mark.parametrize(
    "path",
    [
        "model.safetensors",
        ".gitattributes",
        "sub/folder/x.json",
        "model-00001-of-00003.safetensors",
        "..x",
        "x..y",
        "-f",
        "\u043c\u043e\u0434\u0435\u043b\u044c.safetensors",
        "100%.txt",
        "a b.txt",
        "console.txt",
        "com.txt",
        "x" * 255,
    ],
)
def test_an_ordinary_name_is_safe(path: str) -> None:
    assert unsafe_name(path) is None
    check_listing("owner/repo", listing(path), Path("/models/x"))


@given(st.text(max_size=30))
def test_a_safe_name_never_leaves_its_folder(path: str) -> None:
    if unsafe_name(path) is None:
        base = Path("/models/x")
        assert (base / path).resolve().is_relative_to(base)
        assert (base / path) != base
        path.encode()


def test_two_names_that_are_one_on_some_file_system_are_refused() -> None:
    assert "same name" in reasons("Model.safetensors", "model.safetensors")["model.safetensors"]
    assert "same name" in reasons("caf\u00e9.txt", "cafe\u0301.txt")["cafe\u0301.txt"]
    assert "same name" in reasons("A/x", "a/y")["a/y"]
    assert "same name" in reasons("x", "x")["x"]


def test_a_file_that_is_a_folder_too_is_refused() -> None:
    assert "file and a folder" in reasons("a", "a/b")["a"]
    assert "file and a folder" in reasons("A/b", "a")["a"]


def test_every_refused_name_is_listed_with_its_reason() -> None:
    found = reasons("../a", "NUL", "fine.txt", "b\\c")
    assert set(found) == {"../a", "NUL", "b\\c"}


def test_a_hostile_name_is_printed_escaped() -> None:
    with pytest.raises(RefusedFiles) as caught:
        check_listing("owner/repo", listing("a\u202eb", "c\x1b[2J"), Path("/models/x"))
    assert "\u202e" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_too_many_files_are_refused_at_once() -> None:
    check_listing("o/r", listing(*(f"{n}.txt" for n in range(MAX_FILES))), Path("/m"))
    with pytest.raises(RefusedFiles, match="10,001 files"):
        check_listing("o/r", listing(*(f"{n}.txt" for n in range(MAX_FILES + 1))), Path("/m"))


@pytest.mark.parametrize("size", [-1, 2**63])
def test_a_size_that_cannot_be_is_refused(size: int) -> None:
    with pytest.raises(RefusedFiles, match="size cannot be"):
        check_listing("o/r", [RepoFile("x", size, BLOB, None)], Path("/m"))


@pytest.mark.parametrize(
    ("blob_id", "digest", "said"),
    [(None, None, "no hash"), ("abc", None, "git blob id"), (BLOB, "../../x", "sha256"), (BLOB, "A" * 64, "sha256")],
)
def test_a_file_without_a_hash_that_can_be_checked_is_refused(
    blob_id: str | None, digest: str | None, said: str
) -> None:
    with pytest.raises(RefusedFiles, match=said):
        check_listing("o/r", [RepoFile("x", 1, blob_id, digest)], Path("/m"))


def test_a_path_too_long_for_the_disk_is_refused() -> None:
    long = "/".join(["d" * 200] * 6)
    assert "longer than" in reasons(long)[long]


@pytest.mark.parametrize(
    "path",
    [
        "pytorch_model.bin",
        "model.pt",
        "consolidated.00.PTH",
        "training_args.bin",
        "x.pkl",
        "x.pickle",
        "a.ckpt",
        "x.pkl.gz",
        "sub/optimizer.pt",
        "x.joblib",
    ],
)
def test_a_pickle_is_left_out(path: str) -> None:
    reason = left_out(path)
    assert reason is not None
    assert "pickle" in reason
    assert is_pickle(path)
    assert left_out(path, allow_pickle=True) is None
    assert has_weights([path], allow_pickle=True)
    assert not has_weights([path])


@pytest.mark.parametrize(
    "path",
    ["modeling.py", "sub/x.PY", "run.sh", "x.so", "libx.so.1.2", "x.dll", "x.exe", "x.bat", "x.ps1", "m.llamafile"],
)
def test_code_is_left_out(path: str) -> None:
    for allow_pickle in (False, True):
        reason = left_out(path, allow_pickle)
        assert reason is not None
        assert "code" in reason


@pytest.mark.parametrize(
    "path",
    [
        "model.safetensors",
        "model.gguf",
        "README.md",
        ".gitattributes",
        "tokenizer.model",
        "tokenizer.json",
        "LICENSE.txt",
        "model.safetensors.index.json",
        "quantize_config.json",
        "USE_POLICY.md",
        "x.npy",
        "chat_template.jinja",
    ],
)
def test_everything_else_the_author_published_is_kept(path: str) -> None:
    assert left_out(path) is None


def test_a_file_of_the_repo_never_passes_for_the_lock() -> None:
    assert left_out("branchfit.lock.json") is not None
    assert left_out("BranchFit.Lock.JSON") is not None
    assert left_out("branchfit.lock.json", allow_pickle=True) is not None
    assert left_out("sub/branchfit.lock.json") is None
