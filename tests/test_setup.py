"""The whole setup into webuis of every era, and out again: nothing of the host's is other than before."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

import branchfit
from branchfit.cli.setup import _which
from branchfit.errors import UsageError
from branchfit_webui.installer import (
    Found,
    HostPythonError,
    Plan,
    Search,
    SetupError,
    WebuiNotFound,
    Wishes,
    carry_out,
    changes,
    check_webui,
    plan_setup,
    setting_up,
    unset,
    wheels,
)
from branchfit_webui.installer.changes import CopyPackages, EnableIn, InstallPackages, WriteFile
from branchfit_webui.installer.layout import read_layout
from branchfit_webui.installer.record import Record
from branchfit_webui.installer.setting_up import find_python
from branchfit_webui.loading.config_user import with_settings
from setup_trees import ERAS, host_python, packages, pip, place_python, portable, python_in, snapshot, tree, write

try:
    HERE = metadata.version("branchfit") == branchfit.__version__
except metadata.PackageNotFoundError:
    HERE = False
pytestmark = pytest.mark.skipif(not HERE, reason="needs branchfit installed in this Python, with its metadata")

WEIGHTS = "owner_model/model.safetensors"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pythons") / "host"
    host_python(folder)
    return folder


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("BRANCHFIT_WEBUI", raising=False)
    monkeypatch.delenv("BRANCHFIT_WEBUI_PYTHON", raising=False)
    yield


class Webui:
    """A webui of an era in a folder with a blank and an accent, and what a setup does to it."""

    def __init__(self, root: Path, python: Path, above: Path | None = None, own_folder: bool = True) -> None:
        self.root, self.python, self.above, self.own_folder = root, python, above or root, own_folder

    def plan(self) -> Plan:
        return plan_setup(Found(self.root, "--webui"), Wishes(self.python, own_folder=self.own_folder))

    def setup(self) -> list[str]:
        said: list[str] = []
        carry_out(self.plan(), said.append)
        return said

    def unset(self) -> list[str]:
        said: list[str] = []
        return [*said, *unset(self.root, None, said.append)]

    def files(self) -> dict[str, bytes | None]:
        return snapshot(self.above)


@pytest.fixture
def webui(tmp_path: Path, template: Path) -> Any:
    """Makes a webui; packages go into its own folder, which is quicker than pip, unless a test says otherwise."""

    def make(era: str = "v4.7", own_folder: bool = True) -> Webui:
        root = tree(tmp_path / "wéb ui" / "text-generation-webui", era)
        python = python_in(template) if own_folder else place_python(template, root / "venv")
        return Webui(root, python, own_folder=own_folder)

    return make


@pytest.mark.parametrize("era", ERAS)
def test_into_every_era_and_out_again_to_the_byte(webui: Any, era: str) -> None:
    host = webui(era)
    before = host.files()
    host.setup()
    made = ERAS[era]
    assert (host.root / made.extension / "script.py").is_file()
    enabled = yaml.safe_load((host.root / made.settings).read_text())
    assert enabled["default_extensions"][0] == "branchfit"
    if era == "v1.5":
        assert enabled["chat_default_extensions"] == ["branchfit", "gallery"]
    if era == "v1.7":
        assert enabled["default_extensions"] == ["branchfit", "gallery"], "the webui's own default stays on"
    if made.flags:
        assert "--extensions branchfit\n" in (host.root / made.flags).read_text()
    assert all(host.files()[name] == content for name, content in before.items() if name != made.flags)
    assert host.plan().changes == ()
    host.unset()
    assert host.files() == before
    assert any(name.endswith(WEIGHTS) for name in before)


def test_by_pip_into_a_virtual_environment_and_out_again(webui: Any) -> None:
    host = webui("v4.7", own_folder=False)
    before, listed = host.files(), packages(host.python)
    said = host.setup()
    after = packages(host.python)
    assert {name: after[name] for name in listed} == listed and "branchfit" in after
    assert "no network" in said[0] and not (host.root / "user_data/extensions/branchfit/packages").exists()
    host.unset()
    assert packages(host.python) == listed and host.files() == before


@pytest.mark.parametrize("electron", [True, False])
def test_a_portable_build_gets_its_packages_beside_the_script_and_its_python_none(
    tmp_path: Path, template: Path, electron: bool
) -> None:
    above = tmp_path / "textgen pörtable"
    root = portable(above, "v4.7" if electron else "v3.7", electron)
    python = place_python(template, root / "portable_env")
    if not (python.parent / "python3").exists():
        (python.parent / "python3").symlink_to("python")
    host = Webui(root, None, above, own_folder=False)  # type: ignore[arg-type]
    before, listed = host.files(), packages(python)
    plan = host.plan()
    assert plan.layout.kind == "portable" and "GGUF sister" in plan.gptq.why and plan.own_folder
    host.setup()
    folder = plan.layout.folder
    assert folder.is_relative_to(above / "user_data" if electron else root / "user_data")
    assert packages(python) == listed
    script = f"import runpy; s = runpy.run_path({str(folder / 'script.py')!r}); print(s['branchfit_webui'].__file__)"
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run([python, "-B", "-c", script], capture_output=True, text=True, env=variables, cwd=tmp_path)
    assert str(folder / "packages") in ran.stdout, ran.stderr
    host.unset()
    assert host.files() == before


class Killed(BaseException):
    """What stands for a killed process: nothing catches it."""


STEPS = [(kind, when) for kind in (CopyPackages, WriteFile, EnableIn) for when in ("before", "after")]


@pytest.mark.parametrize(("kind", "when"), STEPS, ids=lambda value: getattr(value, "__name__", value))
@pytest.mark.parametrize("then", ["setup and unset", "unset"])
def test_killed_anywhere_it_can_be_run_again_or_undone(
    webui: Any, kind: type, when: str, then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = webui("v3.7")
    before = host.files()
    whole = kind.apply  # type: ignore[attr-defined]

    def killed(self: Any) -> Any:
        if when == "after":
            whole(self)
        raise Killed

    with monkeypatch.context() as broken:
        broken.setattr(kind, "apply", killed)
        with pytest.raises(Killed):
            host.setup()
    stopped = [entry for entry in Record.load(read_layout(host.root).folder).entries if not entry.done]
    assert [entry.kind for entry in stopped] == [kind.kind]  # type: ignore[attr-defined]
    if then == "setup and unset":
        host.setup()
        assert host.plan().changes == () and all(entry.done for entry in host.plan().record.entries)
    host.unset()
    assert host.files() == before


@pytest.mark.parametrize("place", range(1, 10))
def test_killed_at_any_write_of_the_record_it_can_be_run_again(
    webui: Any, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = webui("v1.7")
    before = host.files()
    whole, count = Record.save, 0

    def save(self: Record) -> None:
        nonlocal count
        count += 1
        if count == place:
            raise Killed
        whole(self)

    with monkeypatch.context() as broken:
        broken.setattr(Record, "save", save)
        with contextlib.suppress(Killed):
            host.setup()
    host.setup()
    assert host.plan().changes == ()
    host.unset()
    assert host.files() == before


def test_a_pip_that_is_killed_is_made_up_for(webui: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    host = webui("v4.7", own_folder=False)
    before, listed = host.files(), packages(host.python)
    with monkeypatch.context() as broken:

        def half(self: InstallPackages) -> Any:
            changes.install(self.host, self.plan)
            raise Killed

        broken.setattr(InstallPackages, "apply", half)
        with pytest.raises(Killed):
            host.setup()
    assert not (host.root / "user_data/settings.yaml").exists(), "nothing is enabled yet"
    host.setup()
    host.unset()
    assert packages(host.python) == listed and host.files() == before


def test_what_the_user_changed_since_stays_and_only_our_name_goes(webui: Any) -> None:
    host = webui()
    host.setup()
    settings, flags = host.root / "user_data/settings.yaml", host.root / "user_data/CMD_FLAGS.txt"
    settings.write_text(f"mode: chat\n{settings.read_text()}- gallery\n")
    flags.write_text(flags.read_text().replace("branchfit", "branchfit other") + "--api\n")
    host.unset()
    assert yaml.safe_load(settings.read_text()) == {"mode": "chat", "default_extensions": ["gallery"]}
    assert flags.read_text().endswith("--extensions other\n--api\n")


def test_the_settings_that_were_there_come_back_to_the_byte(webui: Any) -> None:
    host = webui()
    text = b"\xef\xbb\xbfmode: chat # m\xc3\xbc\r\ndefault_extensions:\r\n    -  'gallery'   # mine\r\nseed: -1"
    settings = write(host.root / "user_data/settings.yaml", text)
    settings.chmod(0o600)
    host.setup()
    assert b"- branchfit" in settings.read_bytes() and settings.stat().st_mode & 0o777 == 0o600
    host.unset()
    assert settings.read_bytes() == text and settings.stat().st_mode & 0o777 == 0o600


def test_a_link_to_a_settings_file_stays_a_link(webui: Any, tmp_path: Path) -> None:
    host = webui()
    real = write(tmp_path / "mine.yaml", "mode: chat\n")
    link = host.root / "user_data/settings.yaml"
    link.symlink_to(real)
    host.setup()
    assert link.is_symlink() and "branchfit" in real.read_text()
    host.unset()
    assert link.is_symlink() and real.read_text() == "mode: chat\n"


def test_a_copy_made_by_hand_is_adopted_with_its_choices(webui: Any) -> None:
    host = webui()
    folder = host.root / "user_data/extensions/branchfit"
    write(folder / "script.py", "# of an earlier version\n")
    write(folder / "choices.json", '{"m": {"template": "off"}}\n')
    before = host.files()
    host.setup()
    assert "earlier" not in (folder / "script.py").read_text()
    assert (folder / "choices.json").read_text() == '{"m": {"template": "off"}}\n'
    host.unset()
    assert host.files() == before


def test_choices_made_since_stay_and_that_is_said(webui: Any) -> None:
    host = webui()
    host.setup()
    write(host.root / "user_data/extensions/branchfit/choices.json", "{}")
    write(host.root / "user_data/extensions/branchfit/__pycache__/script.pyc", "")
    (line,) = host.unset()
    assert "choices.json in it" in line
    assert os.listdir(host.root / "user_data/extensions/branchfit") == ["choices.json"]  # noqa: PTH208 - names alone


@pytest.mark.parametrize("killed", [False, True])
def test_a_newer_version_replaces_its_own_files_and_undoing_goes_back_to_before_the_first(
    webui: Any, killed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = webui()
    before = host.files()
    host.setup()
    script = host.root / "user_data/extensions/branchfit/script.py"
    record = script.with_name("setup.json")
    old = script.read_bytes() + b"# older\n"
    script.write_bytes(old)
    document = json.loads(record.read_text())
    for entry in document["entries"]:
        if entry["target"] == str(script):
            from branchfit_webui.installer.files import sha256

            entry["facts"]["wrote"] = sha256(old)
    record.write_text(json.dumps(document))
    assert [change.target for change in host.plan().changes] == [str(script)]
    if killed:

        def not_even_begun(self: WriteFile) -> dict[str, Any]:
            raise Killed

        monkeypatch.setattr(WriteFile, "apply", not_even_begun)
        with pytest.raises(Killed):
            host.setup()
        assert script.read_bytes() == old
    else:
        host.setup()
    host.unset()
    assert host.files() == before


def test_a_webui_that_was_moved_since_is_undone_where_it_is_now(webui: Any, tmp_path: Path) -> None:
    host = webui("v4.7", own_folder=False)
    before, listed = host.files(), packages(host.python)
    host.setup()
    moved = tmp_path / "elsewhere" / "textgen"
    moved.parent.mkdir()
    host.root.rename(moved)
    unset(moved, None, lambda line: None)
    assert snapshot(moved) == before and packages(python_in(moved / "venv")) == listed


def test_planning_changes_nothing(webui: Any) -> None:
    host = webui()
    before = host.files()
    plan = host.plan()
    assert [type(change) for change in plan.changes] == [CopyPackages, WriteFile, EnableIn, EnableIn]
    assert all(change.target.split(" (")[0] in change.say() for change in plan.changes)
    assert host.files() == before


def test_a_file_changed_while_it_runs_is_not_written_over(webui: Any) -> None:
    host = webui()
    plan = host.plan()
    settings = write(host.root / "user_data/settings.yaml", "mode: chat\n")
    with pytest.raises(SetupError, match="was changed by someone"):
        carry_out(plan, lambda line: None)
    assert settings.read_text() == "mode: chat\n"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_said_with_what_to_do(webui: Any) -> None:
    host = webui()
    (host.root / "user_data").chmod(0o500)
    try:
        with pytest.raises(SetupError, match="cannot be written"):
            host.setup()
    finally:
        (host.root / "user_data").chmod(0o700)


def test_without_a_record_nothing_is_undone(webui: Any) -> None:
    host = webui()
    write(host.root / "user_data/settings.yaml", "default_extensions: [branchfit]\n")
    before = host.files()
    with pytest.raises(SetupError, match="no record of a setup"):
        host.unset()
    assert host.files() == before


def test_a_record_that_cannot_be_read_stops_everything(webui: Any) -> None:
    host = webui()
    write(host.root / "user_data/extensions/branchfit/setup.json", "{")
    before = host.files()
    for act in (host.setup, host.unset):
        with pytest.raises(SetupError, match="cannot be read"):
            act()
    assert host.files() == before


def test_the_python_is_the_webui_s_own_then_the_running_one_s_then_an_active_one_with_gradio(
    tmp_path: Path, template: Path
) -> None:
    root = tree(tmp_path / "w", "v4.7")
    layout = read_layout(root)
    with pytest.raises(HostPythonError, match="start it once"):
        find_python(layout, None, environ={"PATH": ""})
    active = {"PATH": "", "VIRTUAL_ENV": str(template)}
    assert find_python(layout, None, environ=active) == python_in(template)
    running = write(tmp_path / "running" / "python", "")
    assert find_python(layout, None, running, active) == running
    own = write(python_in(root / "venv"), "")
    assert find_python(layout, None, running, active) == own
    assert find_python(layout, Path(sys.executable), running, active) == Path(sys.executable)
    with pytest.raises(HostPythonError, match="is no program"):
        find_python(layout, tmp_path / "missing", environ=active)


def test_a_python_without_gradio_is_not_taken_for_the_webui_s(tmp_path: Path, template: Path) -> None:
    other = place_python(template, tmp_path / "other")
    pip(other, "uninstall", "-y", "gradio")
    layout = read_layout(tree(tmp_path / "w", "v4.7"))
    with pytest.raises(HostPythonError, match="no Python with gradio"):
        find_python(layout, None, environ={"PATH": "", "VIRTUAL_ENV": str(tmp_path / "other")})


def test_the_checkup_says_what_is_missing_and_then_that_nothing_is(webui: Any) -> None:
    host = webui("v4.7")
    write(host.root / "modules" / "transformers_loader.py", "")
    first = check_webui(Found(host.root, ""), host.python)
    assert first.version is None and first.script == "missing" and not any(first.enabled.values())
    assert len(first.missing) == 4 and all("branchfit setup --webui" in remedy for _, remedy in first.missing)
    host.setup()
    second = check_webui(Found(host.root, ""), host.python)
    assert second.missing == () and second.version == branchfit.__version__ and all(second.enabled.values())
    assert "packages" in second.installed_in and second.loaders == ("Transformers",)
    assert {verdict["runtime"] for verdict in second.runtimes} >= {"exllamav2", "gptqmodel:torch"}
    write(host.root / "user_data/extensions/branchfit/script.py", "# older\n")
    assert check_webui(Found(host.root, ""), host.python).script == "other"
    assert json.dumps(second.document())


def command(*arguments: str | Path, code: int = 0, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "branchfit", *map(str, arguments)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
    )
    assert done.returncode == code and "Traceback" not in done.stderr, done.stdout + done.stderr
    return done


def test_the_command_sets_up_says_what_to_click_and_takes_it_out(webui: Any, tmp_path: Path) -> None:
    host = webui("v4.7")
    before = host.files()
    shared = ("--webui", host.root, "--python", host.python, "--own-folder")
    dry = command("setup", *shared, "--dry-run").stdout
    assert (
        "settings.yaml" in dry and "CMD_FLAGS.txt" in dry and "Nothing was changed." in dry and host.files() == before
    )
    done = command("setup", *shared).stdout
    assert "Set up." in done and "click the tab BranchFit" in done
    assert "nothing was changed" in command("setup", *shared).stdout
    document = json.loads(command("doctor", "--webui", host.root, "--python", host.python, "--json").stdout)
    assert document["webui"]["missing"] == []
    inside = command("doctor", "--python", host.python, cwd=host.root / "user_data").stdout
    assert "all of BranchFit is in place" in inside and str(host.root) in inside
    assert "Models stay" in command("setup", "--webui", host.root, "--uninstall").stdout
    assert host.files() == before
    told = json.loads(command("setup", *shared, "--json").stdout)
    assert told["dry_run"] is False and len(told["changes"]) == 4
    assert json.loads(command("unsetup", "--webui", host.root, "--json").stdout)["stays"] == []
    assert host.files() == before


def test_a_folder_that_is_no_webui_is_exit_code_4(tmp_path: Path) -> None:
    done = command("setup", "--webui", tmp_path, code=4)
    assert "git clone" in done.stderr and "--webui DIR" in done.stderr
    error = json.loads(command("setup", "--webui", tmp_path, "--json", code=4).stdout)["error"]
    assert error["kind"] == "WebuiNotFound"


def test_a_webui_that_was_never_started_is_told_to_be(tmp_path: Path) -> None:
    root = tree(tmp_path / "w", "v4.7")
    write(root / ("start_windows.bat" if os.name == "nt" else "start_linux.sh"), "")
    variables = {**os.environ, "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-m", "branchfit", "setup", "--webui", root], capture_output=True, text=True, env=variables
    )
    assert done.returncode == 1 and "start it once" in done.stderr


def test_packages_stay_in_the_folder_they_went_to_once(webui: Any) -> None:
    host = webui()
    host.setup()
    host.own_folder = False
    assert host.plan().changes == ()


def test_of_several_webuis_one_is_asked_for_and_without_a_terminal_all_are_listed(tmp_path: Path) -> None:
    search = Search((Found(tmp_path / "a", "in a"), Found(tmp_path / "b", "in b")), ())
    with pytest.raises(UsageError, match=r"there are 2 webuis: .*a \(in a\); .*b \(in b\)\. Name one with --webui"):
        _which(search, False, None, False, False)
    with CliRunner().isolation(input="2\n"):
        assert _which(search, True, None, False, False).root == tmp_path / "b"


def test_where_there_is_none_it_is_fetched_when_that_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = tree(tmp_path / "published", "v4.7")
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "all"]):
        subprocess.run(["git", *words], cwd=published, check=True, capture_output=True)
    source, nothing = f"file://{published}", Search((), ("everywhere",))
    for place, answer in (("no", "n\n"), ("yes", "y\n")):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        with CliRunner().isolation(input=answer):
            if place == "no":
                with pytest.raises(click.Abort):
                    _which(nothing, True, source, False, False)
            else:
                assert _which(nothing, True, source, False, False).root == tmp_path / "yes" / "text-generation-webui"
    assert list((tmp_path / "no").iterdir()) == []
    for source_, fetches, dry_run in ((source, False, False), (source, True, True), (None, False, False)):
        with pytest.raises(WebuiNotFound, match="everywhere"):
            _which(nothing, False, source_, fetches, dry_run)


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_on_a_terminal_every_change_is_shown_and_asked_for_first(webui: Any) -> None:
    import pty

    host = webui()
    before = host.files()
    shared = ("setup", "--webui", host.root, "--python", host.python, "--own-folder")
    for answer in (b"n\n", b"y\n"):
        ours, theirs = pty.openpty()
        os.write(ours, answer)
        done = subprocess.run(
            [sys.executable, "-m", "branchfit", *map(str, shared)], stdin=theirs, capture_output=True, text=True
        )
        os.close(ours)
        os.close(theirs)
        assert "CMD_FLAGS.txt" in done.stdout and "Go on?" in done.stdout
        if answer == b"n\n":
            assert done.returncode == 1 and "nothing was changed" in done.stderr and host.files() == before
    assert done.returncode == 0 and host.plan().changes == ()


def test_one_broken_module_of_ours_does_not_end_the_webui(webui: Any, tmp_path: Path) -> None:
    host = webui()
    host.setup()
    folder = host.root / "user_data/extensions/branchfit"
    for broken in ("raise RuntimeError('boom')\n", "def x(:\n", "import no_such_module_anywhere\n"):
        write(folder / "packages" / "branchfit_webui" / "__init__.py", broken)
        code = f"""
import runpy, sys
from types import SimpleNamespace
script = runpy.run_path({str(folder / "script.py")!r})
script["setup"]()
shown = []
sys.modules["gradio"] = SimpleNamespace(Markdown=shown.append)
script["ui"]()
assert "NO model is locked" in shown[0], shown
assert script["state_modifier"]({{"a": 1}}) == {{"a": 1}}
assert script["custom_css"]() == "" and script["custom_js"]() == ""
"""
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [host.python, "-B", "-c", code], capture_output=True, text=True, env=variables, cwd=tmp_path
        )
        assert done.returncode == 0 and "BranchFit is off" in done.stderr, done.stderr


def test_the_folder_of_packages_comes_last_on_the_path(webui: Any, tmp_path: Path) -> None:
    host = webui()
    host.setup()
    folder = host.root / "user_data/extensions/branchfit"
    write(folder / "packages" / "gradio.py", "raise RuntimeError('the wrong one')\n")
    twice = f"[runpy.run_path({str(folder / 'script.py')!r}) for _ in range(2)]"
    code = f"import runpy, sys; {twice}; import gradio; print(sys.path)"
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [host.python, "-B", "-c", code], capture_output=True, text=True, env=variables, cwd=tmp_path, check=True
    )
    assert done.stdout.count("branchfit/packages" if os.name != "nt" else "packages") == 1
    shutil.rmtree(folder / "packages")


def test_the_settings_of_models_that_the_tab_loaded_go_too_and_those_of_others_stay(webui: Any) -> None:
    host = webui()
    config = host.root / "user_data/models/config-user.yaml"
    own = b"mine$:\n  loader: llama.cpp\n"
    write(config, own.decode())
    before = host.files()
    host.setup()
    config.write_bytes(with_settings(own, "owner_Model-GPTQ", {"loader": "Transformers", "branchfit_runtime": "x"}))
    host.unset()
    assert host.files() == before

    config.unlink()
    before = host.files()
    host.setup()
    config.write_bytes(with_settings(b"", "owner_Model-GPTQ", {"loader": "Transformers"}))
    host.unset()
    assert host.files() == before


def test_model_settings_that_cannot_be_read_stay_and_are_named(webui: Any) -> None:
    host = webui()
    host.setup()
    write(host.root / "user_data/models/config-user.yaml", "[no mapping")
    assert any("config-user.yaml" in line and "stays as it is" in line for line in host.unset())


def test_a_relative_user_data_folder_is_undone_from_anywhere(webui: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    host = webui()
    before = host.files()
    monkeypatch.chdir(host.root)
    wishes = Wishes(host.python, Path("user_data"), own_folder=True)
    carry_out(plan_setup(Found(host.root, "--webui"), wishes), lambda line: None)
    monkeypatch.chdir("/")
    host.unset()
    assert host.files() == before


def test_one_file_that_cannot_be_edited_keeps_nothing_else_from_being_undone(webui: Any) -> None:
    host = webui()
    host.setup()
    settings = host.root / "user_data/settings.yaml"
    settings.write_text(settings.read_text() + "x: [\n")
    with pytest.raises(SetupError, match=r"all else is undone.*take branchfit out of default_extensions"):
        host.unset()
    assert not (host.root / "user_data/extensions/branchfit/script.py").exists()
    settings.write_text(settings.read_text().replace("x: [\n", ""))
    host.unset()
    assert not (host.root / "user_data/extensions/branchfit").exists()


@pytest.mark.parametrize("what", ["settings.yaml", "CMD_FLAGS.txt"])
def test_a_folder_in_a_files_place_is_said_and_nothing_is_changed(webui: Any, what: str) -> None:
    host = webui()
    place = host.root / "user_data" / what
    place.unlink(missing_ok=True)
    place.mkdir()
    before = host.files()
    with pytest.raises(SetupError, match="is no plain file"):
        host.setup()
    assert host.files() == before


def test_an_empty_yaml_document_takes_the_name(webui: Any) -> None:
    host = webui()
    write(host.root / "user_data/settings.yaml", "---\n")
    before = host.files()
    host.setup()
    assert "branchfit" in yaml.safe_load((host.root / "user_data/settings.yaml").read_text())["default_extensions"]
    host.unset()
    assert host.files() == before


def test_an_own_folder_is_no_cure_for_packages_that_are_too_old(monkeypatch: pytest.MonkeyPatch, webui: Any) -> None:
    host = webui()
    before = host.files()
    monkeypatch.setattr(setting_up.wheels, "too_old", lambda packages: [("click", "7.0", ">=8.0")])
    with pytest.raises(SetupError, match=r"click 7.0 is there, BranchFit needs >=8.0.*update the webui"):
        host.setup()
    assert host.files() == before


def test_too_old_is_told_by_the_declared_ranges() -> None:
    assert wheels.too_old({"click": "7.0", "rich": "13.0", "torch": "1.0"}) == [("click", "7.0", ">=8.0")]
    assert wheels.too_old({"click": "8.1", "huggingface-hub": "1.5.0"}) == []
