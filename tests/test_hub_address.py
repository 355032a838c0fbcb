"""What may be pasted for a repo."""

from __future__ import annotations

import pytest

from branchfit.errors import UsageError
from branchfit.hub import RepoRef, parse_repo
from branchfit.hub.address import check_path


@pytest.mark.parametrize(
    ("text", "repo", "branch"),
    [
        ("TheBloke/WizardMath-70B-V1.0-GPTQ", "TheBloke/WizardMath-70B-V1.0-GPTQ", None),
        ("  TheBloke/WizardMath-70B-V1.0-GPTQ/ \n", "TheBloke/WizardMath-70B-V1.0-GPTQ", None),
        (
            "TheBloke/Llama-2-7B-GPTQ:gptq-4bit-32g-actorder_True",
            "TheBloke/Llama-2-7B-GPTQ",
            "gptq-4bit-32g-actorder_True",
        ),
        ("o/r:feature/slash", "o/r", "feature/slash"),
        ("o/r : main", "o/r", "main"),
        ("gpt2", "gpt2", None),
        ("o/r.git", "o/r", None),
        ("https://huggingface.co/o/r", "o/r", None),
        ("https://huggingface.co/o/r/", "o/r", None),
        ("http://www.huggingface.co/o/r?x=1#top", "o/r", None),
        ("https://huggingface.co/o/r.git", "o/r", None),
        ("https://hf.co/o/r/tree/gptq-4bit", "o/r", "gptq-4bit"),
        ("huggingface.co/o/r/tree/main/", "o/r", "main"),
        ("https://huggingface.co/o/r/tree/feature/slash", "o/r", "feature/slash"),
        ("https://huggingface.co/o/r/tree/feature%2Fslash/folder", "o/r", "feature/slash"),
        ("https://huggingface.co/o/r/blob/main/README.md", "o/r", "main"),
        ("https://huggingface.co/o/r/resolve/feature%2Fslash/model.safetensors", "o/r", "feature/slash"),
        ("https://huggingface.co/o/r/discussions/3", "o/r", None),
        ("https://huggingface.co/gpt2/tree/main", "gpt2", "main"),
        ("https://hub.example:8443/proxy/o/r/tree/b", "o/r", "b"),
        ("hub.example:8443/proxy/o/r", "o/r", None),
    ],
)
def test_names_and_addresses_are_understood(text: str, repo: str, branch: str | None) -> None:
    assert parse_repo(text, endpoint="https://hub.example:8443/proxy") == RepoRef(repo, branch)


def test_the_configured_endpoint_is_a_hub_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="not on the Hub"):
        parse_repo("http://127.0.0.1:9000/o/r")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9000")
    assert parse_repo("http://127.0.0.1:9000/o/r") == RepoRef("o/r")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not the name of a repo"),
        ("a/b/c", "not the name of a repo"),
        ("../etc", "not the name of a repo"),
        ("o/r--x", "not the name of a repo"),
        ("o/re po", "not the name of a repo"),
        ("o/" + "r" * 97, "not the name of a repo"),
        ("ö/r", "not the name of a repo"),
        ("o/r:", "without a branch"),
        ("o/r:a b", "cannot be the name of a branch"),
        ("o/r:../../x", "cannot be the name of a branch"),
        ("o/r:a\x00", "cannot be the name of a branch"),
        ("o/r:x.lock", "cannot be the name of a branch"),
        ("o/r:a:b", "cannot be the name of a branch"),
        ("https://huggingface.co/datasets/o/d", "datasets"),
        ("https://evil.example/o/r", "not on the Hub"),
        ("https://huggingface.co.evil.example/o/r", "not on the Hub"),
        ("https://huggingface.co@evil.example/o/r", "not on the Hub"),
        ("https://huggingface.co/", "not the name of a repo"),
        ("git@hf.co:o/r", "not the name of a repo"),
        ("ftp://huggingface.co/o/r", "ftp"),
    ],
)
def test_what_cannot_be_a_repo_is_refused_with_a_sentence(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        parse_repo(text)
    assert "owner/name" in str(caught.value)


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/.", "a\0b"])
def test_a_path_that_leaves_the_repo_never_gets_into_an_address(path: str) -> None:
    with pytest.raises(UsageError):
        check_path(path)
    assert check_path("a/b..c/.hidden") == "a/b..c/.hidden"
