"""The paths and commands of a webui on Windows, by PureWindowsPath. Nothing here was run on Windows."""

from __future__ import annotations

from pathlib import PureWindowsPath

import pytest

from branchfit_webui.installer.layout import python_candidates, start_command

ROOT = PureWindowsPath(r"C:\Users\Jörg B\text-generation-webui")


def test_the_pythons_of_each_kind_of_install_are_looked_for_where_windows_has_them() -> None:
    assert [str(path.relative_to(ROOT.parent)) for path in python_candidates(ROOT, windows=True)] == [
        r"text-generation-webui\portable_env\python.exe",
        r"text-generation-webui\installer_files\env\python.exe",
        r"installer_files\env\python.exe",
        r"text-generation-webui\venv\Scripts\python.exe",
        r"text-generation-webui\.venv\Scripts\python.exe",
        r"text-generation-webui\env\Scripts\python.exe",
    ]


def test_the_installers_folder_beside_is_only_that_of_the_archive_of_2023() -> None:
    other = PureWindowsPath(r"D:\AI\textgen")
    assert PureWindowsPath(r"D:\AI\installer_files\env\python.exe") not in python_candidates(other, windows=True)


@pytest.mark.parametrize(
    ("root", "kind", "start"),
    [
        (ROOT, "one-click", "start_windows.bat"),
        (ROOT, "portable", "start_windows.bat"),
        (PureWindowsPath(r"D:\textgen-4.7\app"), "portable", "textgen.bat"),
        (ROOT, "manual", "python server.py"),
    ],
)
def test_what_is_started_is_the_batch_file_of_the_install(root: PureWindowsPath, kind: str, start: str) -> None:
    assert start_command(root, kind, windows=True) == start  # type: ignore[arg-type]
