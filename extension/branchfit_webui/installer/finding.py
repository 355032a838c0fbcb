"""Where the webui is: named, in the environment, around here, running, or in a usual place."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import SetupError, WebuiNotFound
from .layout import is_webui, webui_in

__all__ = ["SOURCE", "Found", "Search", "fetch", "find", "running_webuis"]

SOURCE = "https://github.com/oobabooga/text-generation-webui"
"""Where the webui is published. BRANCHFIT_WEBUI_SOURCE and --fetch-from name another."""

NAMES = ("text-generation-webui*", "textgen*", "oobabooga*", "one-click-installers*")
"""How its folders are called: the repo's name and its later one, archives of both, the installers of 2023."""

_USUAL_DEPTH = ("", "Downloads", "Desktop", "Documents", "src", "git", "ai", "AI", "apps", "projects")


MOST_SIBLINGS = 500
"""Folders beside the checkout that are looked at: a home has some dozens; a folder of thousands is a store of data."""

SYSTEM_PLACES = (Path("/opt"), Path("/workspace"), Path("/srv"))
"""Outside the home: /workspace is where rented GPU machines keep it."""


@dataclass(frozen=True)
class Found:
    """A webui, how it was found, and the process and settings of one that runs."""

    root: Path
    how: str
    pid: int | None = None
    python: Path | None = None
    user_data: Path | None = None


@dataclass(frozen=True)
class Search:
    """Everything found, the surest first, and where it was looked, in words."""

    found: tuple[Found, ...]
    tried: tuple[str, ...]


def find(
    asked: Path | None,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    proc: Path = Path("/proc"),
    system: tuple[Path, ...] = SYSTEM_PLACES,
) -> Search:
    """Look for the webui. What was named, in the argument or the environment, is the only answer then.

    Raises WebuiNotFound where something was named and is no webui; finding nothing otherwise is an
    empty Search.
    """
    environ = os.environ if environ is None else environ
    here = Path.cwd() if cwd is None else cwd
    running = list(running_webuis(proc))
    for named, how in ((asked, "--webui"), (environ.get("BRANCHFIT_WEBUI"), "BRANCHFIT_WEBUI")):
        if named:
            root = webui_in(Path(named).expanduser())
            if root is None:
                missing = "is no folder" if not Path(named).expanduser().is_dir() else "has no server.py with modules/"
                raise WebuiNotFound(f"{how} {named} is no text-generation-webui: it {missing}.", [str(named)])
            return Search((_with_process(Found(root, how), running),), (f"{how} {named}",))
    for folder in (here, *here.parents):
        root = webui_in(folder)
        if root is not None:
            return Search((_with_process(Found(root, f"here, {folder}"), running),), (f"{here} and its parents",))
    tried = [f"{here} and its parents", "running server.py processes"]
    found = {one.root: one for one in running}
    beside = _checkout()
    if beside is not None:
        for root in _any_webuis_in(beside.parent):
            found.setdefault(root, Found(root, f"beside {beside.name}"))
    for folder in _usual_places(environ, here, system):
        tried.append(str(folder))
        for root in _webuis_under(folder):
            found.setdefault(root, Found(root, f"in {folder}"))
    return Search(tuple(found.values()), tuple(tried))


def _with_process(found: Found, running: list[Found]) -> Found:
    for one in running:
        if one.root == found.root:
            return Found(found.root, found.how, one.pid, one.python, one.user_data)
    return found


def _usual_places(environ: Mapping[str, str], here: Path, system: tuple[Path, ...]) -> list[Path]:
    home = environ.get("HOME") or environ.get("USERPROFILE")
    places = [Path(home) / name for name in _USUAL_DEPTH] if home else []
    places += [here, *system]
    checkout = _checkout()
    if checkout is not None:
        places.append(checkout.parent)
    if environ.get("SystemDrive"):
        places.append(Path(environ["SystemDrive"] + "\\"))
    return list(dict.fromkeys(place for place in places if place.is_dir()))


def _checkout() -> Path | None:
    """The folder that BranchFit runs from, where that is a checkout."""
    folder = Path(__file__).resolve().parents[3]
    return folder if (folder / "install.sh").is_file() else None


def _any_webuis_in(folder: Path) -> Iterator[Path]:
    """The webuis directly in a folder, whatever they are called."""
    try:
        entries = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    except OSError:
        return
    for entry in entries[:MOST_SIBLINGS]:
        if is_webui(entry):
            yield entry.resolve()


def _webuis_under(folder: Path) -> Iterator[Path]:
    for pattern in NAMES:
        try:
            entries = sorted(folder.glob(pattern))
        except OSError:
            continue
        for entry in entries:
            root = webui_in(entry)
            if root is not None:
                yield root


def running_webuis(proc: Path = Path("/proc")) -> Iterator[Found]:
    """The webuis that run now. Linux: each process's command line and folder; elsewhere `ps`, which
    tells those started by a full path; Windows: none."""
    if proc.is_dir():
        for entry in proc.iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().decode("utf-8", "surrogateescape").split("\0")[:-1]
                    found = _running(words, (entry / "cwd").readlink(), int(entry.name))
                except OSError:  # another user's process, or one that has just ended
                    continue
                if found is not None:
                    yield found
    elif shutil.which("ps"):
        listed = subprocess.run(["ps", "-axo", "pid=,command="], capture_output=True, text=True, check=False)
        for line in listed.stdout.splitlines():
            pid, _, command = line.strip().partition(" ")
            try:
                words = shlex.split(command)
            except ValueError:
                continue
            found = _running(words, Path("/"), int(pid)) if pid.isdigit() else None
            if found is not None:
                yield found


def _running(words: list[str], folder: Path, pid: int) -> Found | None:
    """A webui's process by its command line `python ... server.py ...` and its folder."""
    if not words or "python" not in Path(words[0]).name.lower():
        return None
    script = next((word for word in words[1:] if Path(word).name == "server.py"), None)
    if script is None or not is_webui((folder / script).parent):
        return None
    program = words[0] if os.sep in words[0] else shutil.which(words[0])
    user_data = None
    for place, word in enumerate(words):
        if word == "--user-data-dir" and place + 1 < len(words):
            user_data = folder / words[place + 1]
        elif word.startswith("--user-data-dir="):
            user_data = folder / word.partition("=")[2]
    python = folder / program if program else None
    return Found((folder / script).parent.resolve(), f"running as process {pid}", pid, python, user_data)


def fetch(source: str, target: Path) -> Path:
    """Clone the webui from `source` into `target`, which must not be there. Raises SetupError."""
    if shutil.which("git") is None:
        raise SetupError("git is needed to fetch the webui and is not on the PATH. Install git, or fetch it yourself.")
    if target.exists():
        raise SetupError(f"{target} is there already and is no webui. Move it away, or name one with --webui DIR.")
    # Nothing half-fetched may look like a webui: it grows under another name.
    growing = target.with_name(f".{target.name}.fetching")
    shutil.rmtree(growing, ignore_errors=True)
    command = ["git", "clone", "--depth", "1", source, str(growing)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not is_webui(growing):
        shutil.rmtree(growing, ignore_errors=True)
        lines = [line for line in done.stderr.splitlines() if line.startswith(("fatal:", "error:"))]
        said = " ".join(lines) if done.returncode != 0 else "what came is no text-generation-webui"
        raise SetupError(f"the webui did not come from {source}: {said}. Name another source with --fetch-from.")
    growing.rename(target)
    return target.resolve()
