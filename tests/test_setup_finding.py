"""The webui is found, or it is said where it was looked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from branchfit.cli.exits import EXIT_NOT_FOUND, exit_code
from branchfit_webui.installer import SetupError, WebuiNotFound
from branchfit_webui.installer.finding import Search, fetch, find, running_webuis
from setup_trees import tree, write

NOTHING = Path("/nonexistent-proc")


def look(cwd: Path, asked: Path | None = None, home: Path | None = None, **environ: str) -> Search:
    return find(asked, {**({"HOME": str(home)} if home else {}), **environ}, cwd, NOTHING, ())


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    folder = tmp_path / "nothing here"
    folder.mkdir()
    return folder


def test_what_is_named_is_the_only_answer(tmp_path: Path, empty: Path) -> None:
    named, other = tree(tmp_path / "a", "v4.7"), tree(tmp_path / "text-generation-webui", "v4.7")
    assert [found.root for found in look(other, named).found] == [named]
    assert [found.root for found in look(other, BRANCHFIT_WEBUI=str(named)).found] == [named]
    assert [found.root for found in look(empty, other, BRANCHFIT_WEBUI=str(named)).found] == [other]


def test_something_named_that_is_no_webui_is_refused_and_not_looked_past(tmp_path: Path, empty: Path) -> None:
    here = tree(tmp_path / "text-generation-webui", "v4.7")
    for asked, environ in ((empty, {}), (None, {"BRANCHFIT_WEBUI": str(empty)}), (tmp_path / "missing", {})):
        with pytest.raises(WebuiNotFound, match=r"is no text-generation-webui") as refused:
            look(here, asked, **environ)
        assert exit_code(refused.value) == EXIT_NOT_FOUND


def test_from_inside_a_webui_that_one_is_meant(tmp_path: Path) -> None:
    root = tree(tmp_path / "wéb ui", "v4.7")
    tree(tmp_path / "text-generation-webui", "v4.7")
    assert [found.root for found in look(root / "user_data" / "models", home=tmp_path).found] == [root]


@pytest.mark.parametrize(
    "place", ["text-generation-webui", "textgen-4.7", "Downloads/text-generation-webui-main", "oobabooga_linux"]
)
def test_the_usual_places_of_a_home_are_looked_at(tmp_path: Path, empty: Path, place: str) -> None:
    root = tree(tmp_path / "home" / place, "v4.7")
    assert [found.root for found in look(empty, home=tmp_path / "home").found] == [root]


def test_a_webui_beside_the_current_folder_s_own_is_found_in_it(tmp_path: Path) -> None:
    root = tree(tmp_path / "text-generation-webui", "v3.7")
    assert [found.root for found in look(tmp_path).found] == [root]


def test_several_are_all_told_and_nothing_found_names_the_places(tmp_path: Path, empty: Path) -> None:
    home = tmp_path / "home"
    roots = {tree(home / "textgen", "v4.7"), tree(home / "Downloads" / "textgen-3", "v3.7")}
    assert {found.root for found in look(empty, home=home).found} == roots
    nothing = look(empty, home=empty)
    assert nothing.found == () and str(empty) in " ".join(nothing.tried)


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="needs Linux's /proc")
def test_a_running_one_is_found_with_its_python_and_its_data_folder(tmp_path: Path, empty: Path) -> None:
    root = tree(tmp_path / "eigener Ort", "v4.7")
    write(root / "server.py", "print('up', flush=True); input()\n")
    command = [sys.executable, "server.py", "--user-data-dir", "../mine"]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        server.stdout.readline()
        found = {one.root: one for one in find(None, {}, empty, system=()).found}[root]
        assert found.pid == server.pid and found.python == Path(sys.executable)
        assert found.user_data == root / "../mine"
        assert look(root).found[0].pid is None
        server.communicate(b"\n")


def test_processes_that_are_no_webui_or_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    proc, root = tmp_path / "proc", tree(tmp_path / "w", "v4.7")
    for pid, words in {
        "1": ["bash", "server.py"],
        "2": ["python3", "manage.py"],
        "3": ["/usr/bin/python3", "server.py"],
    }.items():
        write(proc / pid / "cmdline", "\0".join([*words, ""]))
        (proc / pid / "cwd").symlink_to(root if pid != "3" else tmp_path)
    (proc / "4").mkdir()
    (proc / "self").mkdir()
    assert list(running_webuis(proc)) == []
    write(proc / "5" / "cmdline", "/usr/bin/python3\0server.py\0")
    (proc / "5" / "cwd").symlink_to(root)
    assert [found.pid for found in running_webuis(proc)] == [5]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A git repository of a webui."""
    root = tree(tmp_path / "published", "v4.7")
    quiet = {"cwd": root, "check": True, "capture_output": True}
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "init", "-q"], **quiet)  # type: ignore[call-overload]
    subprocess.run(["git", "add", "."], **quiet)  # type: ignore[call-overload]
    subprocess.run(["git", *identity, "commit", "-qm", "all"], **quiet)  # type: ignore[call-overload]
    return root


def test_fetching_clones_from_where_it_is_told(tmp_path: Path, published: Path) -> None:
    root = fetch(f"file://{published}", tmp_path / "näw" / "text-generation-webui")
    assert (root / "server.py").is_file() and (root / ".git").is_dir()
    assert sorted(os.listdir(root.parent)) == ["text-generation-webui"]  # noqa: PTH208 - names alone are wanted


def test_a_fetch_that_fails_or_brings_something_else_leaves_nothing(tmp_path: Path, published: Path) -> None:
    target = tmp_path / "t" / "text-generation-webui"
    with pytest.raises(SetupError, match="did not come from"):
        fetch(f"file://{tmp_path}/no-such", target)
    subprocess.run(["git", "rm", "-q", "server.py"], cwd=published, check=True)
    subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "less"],
        cwd=published,
        check=True,
    )
    with pytest.raises(SetupError, match="is no text-generation-webui"):
        fetch(f"file://{published}", target)
    assert not target.exists() and list(target.parent.glob("*")) == []


def test_a_fetch_writes_over_nothing(tmp_path: Path, published: Path) -> None:
    target = write(tmp_path / "text-generation-webui" / "mine.txt", "mine").parent
    with pytest.raises(SetupError, match="is there already"):
        fetch(f"file://{published}", target)
    assert (target / "mine.txt").read_text() == "mine"
