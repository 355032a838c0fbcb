"""A webui's folder is read: its kind, and what this version reads where."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from branchfit_webui.installer.layout import is_webui, python_candidates, read_layout, webui_in
from setup_trees import ERAS, portable, tree, write


@pytest.mark.parametrize("era", ERAS)
def test_each_era_has_its_extension_settings_and_flags_where_it_reads_them(tmp_path: Path, era: str) -> None:
    root = tree(tmp_path / "wéb ui", era)
    layout = read_layout(root)
    assert layout.folder == root / ERAS[era].extension
    assert layout.settings == root / ERAS[era].settings
    assert layout.flags == (root / str(ERAS[era].flags) if ERAS[era].flags else None)
    assert layout.kind == "manual"


def test_who_reads_the_flags_is_told(tmp_path: Path) -> None:
    readers = {era: read_layout(tree(tmp_path / era, era)).flags_reader for era in ERAS}
    assert readers == {
        "v1.5": "",
        "v1.7": "start script",
        "v2.8": "start script",
        "v3.1": "server",
        "v3.7": "server",
        "v4.0": "server",
        "v4.7": "server",
    }


def test_the_lists_that_enable_and_what_holds_without_them_are_read_from_the_webui(tmp_path: Path) -> None:
    oldest = read_layout(tree(tmp_path / "a", "v1.5"))
    assert oldest.settings_keys == ("default_extensions", "chat_default_extensions")
    assert oldest.defaults == {"default_extensions": (), "chat_default_extensions": ("gallery",)}
    assert read_layout(tree(tmp_path / "b", "v1.7")).defaults["default_extensions"] == ("gallery",)
    assert read_layout(tree(tmp_path / "c", "v4.7")).settings_keys == ("default_extensions",)


def test_settings_json_is_the_settings_file_where_it_stands_alone_and_is_read(tmp_path: Path) -> None:
    old, new = tree(tmp_path / "old", "v1.7"), tree(tmp_path / "new", "v3.7")
    write(old / "settings.json", "{}")
    write(new / "user_data" / "settings.json", "{}")
    assert read_layout(old).settings.name == "settings.json"
    assert read_layout(new).settings.name == "settings.yaml"
    write(old / "settings.yaml", "")
    assert read_layout(old).settings.name == "settings.yaml"


def test_one_click_and_portable_are_told_by_their_pythons(tmp_path: Path) -> None:
    one_click = tree(tmp_path / "a", "v3.7")
    (one_click / "installer_files").mkdir()
    assert read_layout(one_click).kind == "one-click"
    (one_click / "portable_env").mkdir()
    assert read_layout(one_click).kind == "portable"


def test_the_one_click_archive_of_2023_has_its_python_beside_the_webui(tmp_path: Path) -> None:
    root = tree(tmp_path / "oobabooga_linux" / "text-generation-webui", "v1.5")
    env = tmp_path / "oobabooga_linux" / "installer_files" / "env" / "bin" / "python"
    write(env, "")
    assert read_layout(root).kind == "one-click"
    assert env in python_candidates(root, windows=False)
    assert webui_in(tmp_path / "oobabooga_linux") == root


def test_a_portable_build_with_a_desktop_window_keeps_its_data_beside_app(tmp_path: Path) -> None:
    above = tmp_path / "textgen-4.7"
    root = portable(above)
    (root / "portable_env").mkdir()
    layout = read_layout(root)
    assert layout.user_data == above / "user_data"
    assert layout.folder == above / "user_data" / "extensions" / "branchfit"
    assert layout.flags == above / "user_data" / "CMD_FLAGS.txt"
    assert layout.start_folder == above
    assert webui_in(above) == root


def test_a_desktop_build_takes_the_data_that_several_versions_share_above_them(tmp_path: Path) -> None:
    root = portable(tmp_path / "textgen-4.7")
    (root / "portable_env").mkdir()
    (tmp_path / "user_data").mkdir()
    assert read_layout(root).user_data == tmp_path / "user_data"


def test_a_portable_build_before_v4_keeps_its_data_inside(tmp_path: Path) -> None:
    root = portable(tmp_path / "tg", "v3.7", electron=False)
    (root / "portable_env").mkdir()
    (tmp_path / "user_data").mkdir()
    assert read_layout(root).user_data == root / "user_data"


def test_a_data_folder_that_was_named_wins(tmp_path: Path) -> None:
    layout = read_layout(tree(tmp_path / "w", "v4.7"), user_data=tmp_path / "mine")
    assert layout.settings == tmp_path / "mine" / "settings.yaml"
    assert layout.folder == tmp_path / "mine" / "extensions" / "branchfit"


@pytest.mark.parametrize("missing", ["server.py", "modules/extensions.py", "modules/shared.py"])
def test_a_folder_that_lacks_a_part_is_no_webui(tmp_path: Path, missing: str) -> None:
    root = tree(tmp_path / "w", "v4.7")
    assert is_webui(root)
    (root / missing).unlink()
    assert not is_webui(root) and webui_in(root) is None


def test_the_models_folder_is_that_of_the_version(tmp_path: Path) -> None:
    assert read_layout(tree(tmp_path / "a", "v1.7")).models == tmp_path / "a" / "models"
    assert read_layout(tree(tmp_path / "b", "v4.0")).models == tmp_path / "b" / "user_data" / "models"


REAL = os.environ.get("WEBUI_HISTORY", "")

ALL_TAGS = {
    "v1.5": ("extensions", "settings.yaml", None),
    "v1.7": ("extensions", "settings.yaml", "CMD_FLAGS.txt"),
    "v2.8.1": ("extensions", "settings.yaml", "CMD_FLAGS.txt"),
    "v3.0": ("extensions", "settings.yaml", "CMD_FLAGS.txt"),
    "v3.1": ("extensions", "user_data/settings.yaml", "user_data/CMD_FLAGS.txt"),
    "v3.6": ("extensions", "user_data/settings.yaml", "user_data/CMD_FLAGS.txt"),
    "v3.7": ("user_data/extensions", "user_data/settings.yaml", "user_data/CMD_FLAGS.txt"),
    "v3.23": ("user_data/extensions", "user_data/settings.yaml", "user_data/CMD_FLAGS.txt"),
    "v4.0": ("user_data/extensions", "user_data/settings.yaml", "user_data/CMD_FLAGS.txt"),
    "v4.7.3": ("user_data/extensions", "user_data/settings.yaml", "user_data/CMD_FLAGS.txt"),
}


@pytest.mark.skipif(not REAL, reason="needs WEBUI_HISTORY: a git folder of text-generation-webui with its tags")
@pytest.mark.parametrize("tag", ALL_TAGS)
def test_the_real_files_of_each_version_read_the_same(tmp_path: Path, tag: str) -> None:
    wanted = ["server.py", "modules", *(["one_click.py"] if tag != "v1.5" else [])]
    packed = subprocess.run(["git", f"--git-dir={REAL}", "archive", tag, *wanted], check=True, capture_output=True)
    subprocess.run(["tar", "x", "-C", tmp_path], input=packed.stdout, check=True)
    extensions, settings, flags = ALL_TAGS[tag]
    layout = read_layout(tmp_path)
    assert layout.extensions == tmp_path / extensions
    assert layout.settings == tmp_path / settings
    assert layout.flags == (tmp_path / flags if flags else None)
