"""Packages into a host's Python by real pip, without network: nothing that is there moves."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

import branchfit
from branchfit_webui.installer import HostPythonError, SetupError, WouldMove, packages, wheels
from branchfit_webui.installer.gptq import PAIRINGS, offer
from branchfit_webui.installer.host_python import HostPython, ask
from branchfit_webui.installer.layout import read_layout
from branchfit_webui.installer.packages import PackagePlan, install, plan_packages, uninstall
from setup_trees import host_python, pip, place_python, tiny_wheel, tree, write
from setup_trees import packages as listed

try:
    HERE = metadata.version("branchfit") == branchfit.__version__
except metadata.PackageNotFoundError:
    HERE = False
pytestmark = pytest.mark.skipif(not HERE, reason="needs branchfit installed in this Python, with its metadata")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pythons") / "host"
    host_python(folder)
    return folder


@pytest.fixture
def python(template: Path, tmp_path: Path) -> Path:
    return place_python(template, tmp_path / "wéb ui" / "venv")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of wheels as the only index there is."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    yield folder


def put(python: Path, index: Path, name: str, version: str, requires: tuple[str, ...] = ()) -> HostPython:
    """The host with one package more."""
    (index / "direct").mkdir(exist_ok=True)
    pip(python, "install", "--no-deps", "--no-index", str(tiny_wheel(index / "direct", name, version, requires)))
    return ask(python, "manual")


def test_branchfit_and_what_it_lacks_comes_and_the_rest_stays(python: Path, index: Path) -> None:
    before = listed(python)
    host = ask(python, "manual")
    plan = plan_packages(host)
    assert {"branchfit", "nvidia-ml-py", "platformdirs"} <= dict(plan.added).keys()
    assert not plan.online and listed(python) == before
    install(host, plan)
    after = listed(python)
    assert {name: after[name] for name in before} == before
    assert {name.replace("_", "-") for name in after.keys() - before.keys()} == dict(plan.added).keys()


def test_what_was_installed_is_what_runs_here_with_its_command(python: Path, index: Path) -> None:
    host = ask(python, "manual")
    after = install(host, plan_packages(host))
    assert wheels.read_record(after.own["record"]) == wheels.own_record()
    assert (python.parent / ("branchfit.exe" if os.name == "nt" else "branchfit")).is_file()
    assert f"branchfit=={branchfit.__version__}" in pip(python, "freeze").splitlines(), "and no folder long gone"
    assert plan_packages(after).is_empty


def test_another_state_of_the_same_version_is_brought_up_to_date(python: Path, index: Path) -> None:
    files = wheels.own_files()
    files["branchfit/units.py"] += b"# another state\n"
    pip(python, "install", "--no-deps", "--no-index", str(wheels._write(index, "branchfit", wheels.version(), files)))
    host = ask(python, "manual")
    plan = plan_packages(host)
    assert plan.replaces == branchfit.__version__ and "branchfit" not in dict(plan.added)
    after = install(host, plan)
    assert wheels.read_record(after.own["record"]) == wheels.own_record()


def test_a_package_pinned_too_low_is_named_with_both_versions(python: Path, index: Path) -> None:
    host = put(python, index, "click", "7.1.2")
    before = listed(python)
    with pytest.raises(WouldMove, match="none is moved") as refused:
        plan_packages(host)
    ((name, there, wanted),) = refused.value.moves
    assert (name, there) == ("click", "7.1.2") and ">=8.0" in wanted
    assert listed(python) == before


def test_a_low_pin_that_is_enough_is_no_conflict(python: Path, index: Path) -> None:
    host = put(python, index, "click", "8.0.4")
    install(host, plan_packages(host))
    assert listed(python)["click"] == "8.0.4"


def test_a_conflict_further_down_is_named_too(python: Path, index: Path) -> None:
    tiny_wheel(index, "optimum", "2.2.0", ("transformers>=6",))
    with pytest.raises(WouldMove) as refused:
        plan_packages(ask(python, "manual"), ["optimum==2.2.0"])
    assert refused.value.moves[0][:2] == ("transformers", "5.6.2")
    assert "transformers>=6" in refused.value.moves[0][2] and "optimum" in refused.value.moves[0][2]


def test_a_newer_version_on_the_index_tempts_nobody(python: Path, index: Path) -> None:
    for name in ("rich", "transformers"):
        tiny_wheel(index, name, "99.0")
    tiny_wheel(index, "optimum", "2.2.0", ("transformers", "rich"))
    host = ask(python, "manual")
    plan = plan_packages(host, ["optimum"])
    assert plan.added == (("optimum", "2.2.0"),)
    install(host, plan)
    assert listed(python)["transformers"] == "5.6.2"


def test_what_is_nowhere_to_be_had_is_said_in_pip_s_words_and_nothing_changes(python: Path, index: Path) -> None:
    before = listed(python)
    with pytest.raises(HostPythonError, match="no-such-thing") as refused:
        plan_packages(ask(python, "manual"), ["no-such-thing==1"])
    assert "Nothing was changed" in str(refused.value) and listed(python) == before


def test_an_install_that_moves_something_is_put_back(
    python: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the constraints, as if something had slipped through them."""
    monkeypatch.setattr(packages, "_constraints", lambda host, folder: [])
    for name, version in (("rich", "13.9.4"), ("rich", "99.0"), ("extra", "1.0")):
        tiny_wheel(index, name, version)
    before = listed(python)
    with pytest.raises(SetupError, match=r"rich went from 13\.9\.4 to 99\.0.*put back"):
        install(ask(python, "manual"), PackagePlan((("extra", "1.0"), ("rich", "99.0")), ours=False))
    assert listed(python) == before


def test_an_install_that_breaks_off_leaves_nothing_behind(python: Path, index: Path) -> None:
    tiny_wheel(index, "extra", "1.0")
    before = listed(python)
    host = ask(python, "manual")
    with pytest.raises(HostPythonError, match="Nothing was changed"):
        install(host, PackagePlan((("extra", "1.0"), ("gone", "1.0")), ours=False))
    assert listed(python) == before


def test_uninstalling_leaves_what_others_need_by_now_and_what_was_updated(python: Path, index: Path) -> None:
    for name in ("alpha", "beta", "gamma"):
        put(python, index, name, "1.0")
    put(python, index, "theirs", "1.0", ("beta",))
    host = put(python, index, "gamma", "2.0")
    going, staying = uninstall(host, [("alpha", "1.0"), ("beta", "1.0"), ("gamma", "1.0"), ("never", "1.0")])
    assert going == ["alpha"]
    assert "theirs needs it" in staying[0] and "1.0 when BranchFit brought it and is 2.0 now" in staying[1]
    assert {"beta", "gamma", "theirs"} <= listed(python).keys() and "alpha" not in listed(python)


def test_a_link_to_a_checkout_is_left_to_its_developer(python: Path) -> None:
    host = ask(python, "manual")
    linked = HostPython(
        host.executable,
        "manual",
        host.version,
        {**host.packages, "branchfit": "0.0.1"},
        host.requires,
        {"record": "", "direct_url": '{"url": "file:///x", "dir_info": {"editable": true}}'},
    )
    assert linked.is_editable and plan_packages(linked).replaces is None


def test_variables_that_send_pip_elsewhere_do_not_count(
    python: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("PIP_USER", "1")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    host = ask(python, "manual")
    install(host, plan_packages(host))
    assert not (tmp_path / "elsewhere").exists()
    monkeypatch.delenv("PIP_TARGET")
    monkeypatch.delenv("PIP_USER")
    assert "branchfit" in listed(python)


def test_a_python_without_pip_is_served_by_the_pip_that_runs_this(python: Path, index: Path) -> None:
    pip(python, "uninstall", "-y", "pip")
    host = ask(python, "manual")
    command = host.pip()
    own = tuple(int(part) for part in metadata.version("pip").split(".")[:2])
    if own < (22, 3):
        assert command is None
        return
    assert command is not None and command[0] == sys.executable
    after = install(host, plan_packages(host))
    assert "branchfit" in after.packages


def test_a_python_that_is_none_or_too_old_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(HostPythonError, match="cannot be run"):
        ask(tmp_path / "missing", "manual")
    fake = write(tmp_path / "python", '#!/bin/sh\necho \'{"version": [3, 9, 18], "prefix": ""}\'\n')
    fake.chmod(0o755)
    with pytest.raises(HostPythonError, match=r"is Python 3\.9\.18, and BranchFit needs 3\.10 or newer\. Update"):
        ask(fake, "manual")
    write(fake, "#!/bin/sh\necho no Python >&2; exit 3\n")
    with pytest.raises(HostPythonError, match="does not run as a Python"):
        ask(fake, "manual")


def test_a_wheel_of_ours_holds_both_packages_and_what_the_webui_imports(tmp_path: Path) -> None:
    with zipfile.ZipFile(wheels.own_wheel(tmp_path)) as wheel:
        names = set(wheel.namelist())
    assert {"branchfit/__init__.py", "branchfit_webui/lock.py", "branchfit_webui/host_files/script.py"} <= names
    assert not any("__pycache__" in name for name in names)
    made = [path.read_bytes() for path in (wheels.own_wheel(tmp_path), wheels.own_wheel(tmp_path))]
    assert made[0] == made[1], "equal files make equal wheels"


def test_only_pure_packages_are_lent() -> None:
    assert wheels.files_of("no-such-package") is None
    click = wheels.files_of("click")
    assert click is not None and "click/__init__.py" in click
    assert "numpy" not in [name for name in wheels.needs() if wheels.files_of(name) is not None]


def test_the_needs_stop_at_what_is_there() -> None:
    everything = wheels.needs()
    assert {"click", "rich", "pygments"} <= set(everything)
    assert "pygments" not in wheels.needs(stop_at=["rich"])


def test_the_gptq_packages_are_those_that_go_with_the_transformers_there(python: Path, tmp_path: Path) -> None:
    layout = read_layout(tree(tmp_path / "w", "v4.7"))
    host = ask(python, "manual")
    for name, version in {"torch": "2.9", "accelerate": "1.13", "safetensors": "0.7", "datasets": "4.0"}.items():
        host.packages[name] = version
    assert offer(host, layout).pairing is PAIRINGS[0]
    host.packages["accelerate"] = "1.11.0"
    assert offer(host, layout).pairing is None and "accelerate 1.12 or newer" in offer(host, layout).why
    host.packages["transformers"] = "5.40"
    assert "no optimum and gptqmodel are known" in offer(host, layout).why
    host.packages["transformers"] = "4.57.1"
    assert "brings its own GPTQ loaders" in offer(host, layout).why
    write(layout.root / "modules" / "exllamav2.py", "")
    host.packages["exllamav2"] = "0.3.2"
    assert "ExLlamav2 0.3.2 reads GPTQ here" in offer(host, layout).why
    del host.packages["transformers"], host.packages["exllamav2"]
    assert "GGUF sister" in offer(host, layout).why


def test_pip_s_account_of_a_conflict_is_read(python: Path) -> None:
    said = (
        "The conflict is caused by:\n"
        "    branchfit 0.1.0 depends on click>=8.0\n"
        "    The user requested (constraint) click==7.1\n"
    )
    host = ask(python, "manual")
    assert packages._moves(said, host) == [("click", "7.1", "click>=8.0 (by branchfit 0.1.0)")]


def test_the_whole_runs_from_an_installed_wheel_too(python: Path, index: Path, tmp_path: Path) -> None:
    """Packed again from an installation without a checkout: the same files come out."""
    host = ask(python, "manual")
    install(host, plan_packages(host))
    code = (
        "import json; from branchfit_webui.installer import wheels; "
        "print(json.dumps([wheels.own_record(), len(wheels.host_script())]))"
    )
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(python), "-c", code], capture_output=True, text=True, env=variables, cwd=tmp_path, check=True
    )
    assert str(len(wheels.host_script())) in done.stdout
    for name, digest in wheels.own_record().items():
        assert f'"{name}": "{digest}"' in done.stdout


def test_what_a_killed_pip_has_left_under_another_name_is_not_there(python: Path) -> None:
    site = next((python.parents[1] / "lib").glob("python*/site-packages"))
    left = site / "~eft_behind-1.0.dist-info"
    left.mkdir()
    (left / "METADATA").write_text("Metadata-Version: 2.1\nName: left-behind\nVersion: 1.0\n")
    assert "left-behind" not in ask(python, "manual").packages
    left.rename(site / "left_behind-1.0.dist-info")
    assert ask(python, "manual").packages["left-behind"] == "1.0"
