"""The changes a setup is made of. Each can say what it will do, do it, and be undone from its recorded facts."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from . import flags_file, settings_file
from .errors import CannotEdit, SetupError
from .files import read, sha256, write
from .host_python import HostPython, ask, run
from .layout import EXTENSION
from .packages import PackagePlan, added_since, install, uninstall
from .record import Entry

__all__ = ["Change", "CopyPackages", "EnableIn", "InstallPackages", "WriteFile", "undo"]


class Change(Protocol):
    """One change. `kind` and `target` name it in the record."""

    @property
    def kind(self) -> str: ...
    @property
    def target(self) -> str: ...
    def say(self) -> str:
        """What it will do, in one line."""

    def facts(self, former: Entry | None) -> dict[str, Any]:
        """What undoing it will need, known before it is made; `former` is an earlier entry for the same thing."""

    def apply(self) -> dict[str, Any]:
        """Make it; returns what to add to the facts. Raises OSError and SetupError."""


@dataclass(frozen=True)
class WriteFile:
    """A file of ours, written whole."""

    path: Path
    content: bytes
    what: str
    kind: str = "file"

    @property
    def target(self) -> str:
        return str(self.path)

    def say(self) -> str:
        return f"{'replace' if self.path.exists() else 'write'} {self.path} ({self.what})"

    def facts(self, former: Entry | None) -> dict[str, Any]:
        return _file_facts(self.path, self.content, former)

    def apply(self) -> dict[str, Any]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write(self.path, self.content)
        return {}


@dataclass(frozen=True)
class EnableIn:
    """BranchFit's name in one of the webui's own files. `form` is "settings" or "flags"; `former` is what the
    file held when the change was planned, None where it was not there."""

    path: Path
    form: str
    former: bytes | None
    content: bytes
    what: str
    keys: tuple[str, ...] = ()

    kind: str = "enable"

    @property
    def target(self) -> str:
        return str(self.path)

    def say(self) -> str:
        return f"{self.path}: {self.what}{'' if self.former is not None else ' (the file is made)'}"

    def facts(self, former: Entry | None) -> dict[str, Any]:
        return {**_file_facts(self.path, self.content, former), "form": self.form, "keys": list(self.keys)}

    def apply(self) -> dict[str, Any]:
        if read(self.path) != self.former:
            raise SetupError(f"{self.path} was changed by someone while this ran. Run the same command again.")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write(self.path, self.content)
        return {}


@dataclass(frozen=True)
class InstallPackages:
    """Packages into the host's Python. `purpose` tells BranchFit's own from those of the GPTQ loaders."""

    host: HostPython
    plan: PackagePlan
    purpose: str
    kind: str = "packages"

    @property
    def target(self) -> str:
        return f"{self.host.executable} ({self.purpose})"

    def say(self) -> str:
        parts = [f"install {self.plan.listed()}"] if self.plan.added else []
        if self.plan.replaces is not None:
            parts.append("bring branchfit up to date")
        stays = len(self.host.packages)
        where = "from an index" if self.plan.online else "from what is here, no network"
        return (
            f"{' and '.join(parts)} into {self.host.executable} ({where}); the {stays} packages there stay as they are"
        )

    def facts(self, former: Entry | None) -> dict[str, Any]:
        earlier = former.facts if former is not None else {}
        added = {**dict(earlier.get("added", ())), **dict(self.plan.added)}
        return {
            "python": str(self.host.executable),
            "install": self.host.kind,
            "added": sorted(added.items()),
            "replaced": earlier.get("replaced", self.plan.replaces if EXTENSION not in added else None),
        }

    def apply(self) -> dict[str, Any]:
        after = install(self.host, self.plan)
        missing = [name for name, _ in self.plan.added if name not in after.packages]
        if missing:
            raise SetupError(f"pip says it installed {', '.join(missing)}, and they are not there. Run the same again.")
        if self.purpose == "GPTQ":
            self._insist_on_gptq(after)
        unplanned = added_since({**self.host.packages, **dict(self.plan.added)}, after.packages)
        return {"unplanned": unplanned} if unplanned else {}

    def _insist_on_gptq(self, after: HostPython) -> None:
        """The webui imports transformers at its start: with these packages beside it, it still has to."""
        check = "import transformers, optimum.gptq, gptqmodel"
        done = run([str(after.executable), "-B", "-c", check], after.kind)
        if done.returncode != 0:
            uninstall(after, self.plan.added)
            said = (done.stderr.strip().splitlines() or ["no word"])[-1]
            raise SetupError(f"{self.plan.listed()} do not work here ({said}); they were removed again.")


@dataclass(frozen=True)
class CopyPackages:
    """Packages into a folder of the extension's, for a webui whose Python takes none."""

    folder: Path
    files: Mapping[str, bytes] = field(repr=False)
    names: tuple[str, ...] = ()
    kind: str = "folder"

    @property
    def target(self) -> str:
        return str(self.folder)

    def say(self) -> str:
        return f"copy {', '.join(self.names)} into {self.folder} ({len(self.files)} files); this Python gets nothing"

    def facts(self, former: Entry | None) -> dict[str, Any]:
        return {}

    def apply(self) -> dict[str, Any]:
        growing, old = (self.folder.with_name(f".{self.folder.name}.{state}") for state in ("new", "old"))
        for left in (growing, old):
            shutil.rmtree(left, ignore_errors=True)
        for name, content in self.files.items():
            path = growing / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if self.folder.exists():
            self.folder.replace(old)
        growing.replace(self.folder)
        shutil.rmtree(old, ignore_errors=True)
        return {}


def _file_facts(path: Path, content: bytes, former: Entry | None) -> dict[str, Any]:
    """The former content, and the hash of the new. Where an earlier entry's content still stands, what was
    before *that* is what undoing brings back."""
    there = read(path)
    if former is not None and there is not None and sha256(there) in (former.facts["wrote"], former.facts["was"]):
        before, created = former.facts["former"], former.facts["created"]
    else:
        before = None if there is None else base64.b64encode(there).decode()
        created = there is None or (former is not None and bool(former.facts["created"]))
    was = "" if there is None else sha256(there)
    return {"former": before, "created": created, "wrote": sha256(content), "was": was}


def undo(entry: Entry) -> list[str]:
    """Undo a recorded change, done or only begun. Returns what was done, and what was left and why, in lines.

    Raises OSError and SetupError.
    """
    if entry.kind == "packages":
        return _undo_packages(entry)
    if entry.kind == "folder":
        folder = Path(entry.target)
        for name in (folder.name, f".{folder.name}.new", f".{folder.name}.old"):
            shutil.rmtree(folder.with_name(name), ignore_errors=True)
        return [f"removed {folder}"]
    return _undo_file(entry)


def _undo_packages(entry: Entry) -> list[str]:
    facts = entry.facts
    python = Path(facts["python"])
    if not python.exists():
        return [f"{python} is gone, and what was installed into it with it"]
    host = ask(python, facts["install"])
    added = [(str(name), str(number)) for name, number in [*facts["added"], *facts.get("unplanned", ())]]
    if EXTENSION in dict(added) and host.is_editable:
        added = [(name, number) for name, number in added if name != EXTENSION]
    going, staying = uninstall(host, added)
    if facts.get("replaced") and EXTENSION in host.packages:
        staying.append(f"branchfit stays in {python}: version {facts['replaced']} was there before the setup")
    return ([f"uninstalled {', '.join(going)} from {python}"] if going else []) + staying


def _undo_file(entry: Entry) -> list[str]:
    path, facts = Path(entry.target), entry.facts
    there = read(path)
    former = None if facts["former"] is None else base64.b64decode(facts["former"])
    if there is None or there == former:
        return []
    # "was" is what stood there when the last change began, which may not have come about.
    if sha256(there) in (facts["wrote"], facts["was"]):
        if former is None:
            path.unlink()
            return [f"removed {path}"]
        write(path, former)
        return [f"{path} is as it was, to the byte"]
    if entry.kind != "enable":
        return [f"{path} stays: it was changed since the setup wrote it"]
    return _take_out(path, there, facts)


def _take_out(path: Path, there: bytes, facts: Mapping[str, Any]) -> list[str]:
    """The file was changed since: only our name goes."""
    try:
        text = there.decode("utf-8")
    except UnicodeDecodeError:
        raise CannotEdit(path, "it is no UTF-8", f"(without {EXTENSION})") from None
    if facts["form"] == "flags":
        left = flags_file.take_name(text, EXTENSION, path)
    else:
        left = settings_file.take_name(text, facts["keys"], EXTENSION, path)
    if left == text:
        return [f"{path}: {EXTENSION} was gone from it already"]
    if facts["created"] and not left.strip():
        path.unlink()
        return [f"removed {path}"]
    write(path, left.encode("utf-8"))
    return [f"{path}: {EXTENSION} taken out; it was changed since the setup, and the changes stay"]
