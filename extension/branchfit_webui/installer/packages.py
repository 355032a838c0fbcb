"""Packages put into the host's Python without moving one that is there.

Everything installed is given to pip as a constraint at its present version, so that its resolver can
only add. What it would add is known before anything changes (`pip install --dry-run --report`), is
installed at exactly those versions without dependencies, and the list is compared afterwards.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import wheels
from .errors import HostPythonError, SetupError, WouldMove
from .host_python import HostPython, ask, canonical, run

__all__ = ["PackagePlan", "added_since", "install", "plan_packages", "uninstall"]

OURS = "branchfit"

_VERSION = re.compile(r"(\d+!)?\d+(\.\d+)*([._-]?(a|b|c|rc|alpha|beta|pre|post|dev|rev|r)[._-]?\d*)*(\+[\w.]+)?", re.I)
_CONSTRAINT = re.compile(r"The user requested \(constraint\) ([\w.-]+)==(\S+)")
_DEPENDS = re.compile(r"^\s*(\S+) (\S+) depends on ([\w.-]+)(?:\[[^\]]*\])?\s*([^;\n]*)", re.M)
_DIRECT = re.compile(r"The user requested ([\w.-]+)(?:\[[^\]]*\])?\s*([<>=!~][^;\n]*)")


@dataclass(frozen=True)
class PackagePlan:
    """What would be added, (name, version) each; whether our own is to be replaced; whether an index is needed."""

    added: tuple[tuple[str, str], ...]
    ours: bool = True
    replaces: str | None = None
    online: bool = False
    variables: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not self.added and self.replaces is None

    def listed(self) -> str:
        return ", ".join(f"{name} {number}" for name, number in self.added)


def plan_packages(
    host: HostPython,
    wanted: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
) -> PackagePlan:
    """What `wanted` (requirements; none: BranchFit itself) would add to the host. Changes nothing.

    Raises WouldMove with the packages that stand against it, HostPythonError with pip's words where it
    cannot resolve for another reason.
    """
    ours = not wanted
    replaces = None
    if ours and OURS in host.packages:
        same = wheels.read_record(host.own.get("record", "")) == wheels.own_record()
        replaces = None if same or host.is_editable else host.packages[OURS]
    with tempfile.TemporaryDirectory(prefix="branchfit-") as name:
        folder = Path(name)
        asked = [str(wheels.own_wheel(folder))] if ours else list(wanted)
        report, online = _resolve(host, asked, folder, ours, variables, options)
    added = [_named(entry) for entry in report]
    if ours and OURS in host.packages:
        added = [(name, number) for name, number in added if name != OURS]
    moves = [(name, host.packages[name], number) for name, number in added if name in host.packages]
    if moves:
        raise WouldMove(" and ".join(wanted) or f"branchfit {wheels.version()}", moves)
    return PackagePlan(tuple(sorted(added)), ours, replaces, online, dict(variables or {}), tuple(options))


def _named(entry: Mapping[str, Mapping[str, str]]) -> tuple[str, str]:
    return canonical(entry["metadata"]["name"]), entry["metadata"]["version"]


def _resolve(
    host: HostPython,
    asked: list[str],
    folder: Path,
    offline_first: bool,
    variables: Mapping[str, str] | None,
    options: Sequence[str],
) -> tuple[list[Mapping[str, Mapping[str, str]]], bool]:
    """pip's report, and whether it took an index. What is installed here is tried first."""
    report = folder / "report.json"
    base = ["install", "--dry-run", "--report", str(report), *_constraints(host, folder), *options]
    if offline_first:
        done = _pip(host, [*base, *_links(host, folder, index=False), *asked], variables)
        if done.returncode == 0:
            return _read_report(report), False
    done = _pip(host, [*base, *_links(host, folder, index=True), *asked], variables)
    if done.returncode == 0:
        return _read_report(report), True
    said = done.stdout + done.stderr
    if "ResolutionImpossible" in said or "conflicting dependencies" in said:
        raise WouldMove(_what(asked), _moves(said, host), _last_words(said))
    raise HostPythonError(_refused(host, _what(asked), said))


def _what(asked: Sequence[str]) -> str:
    return " and ".join(f"branchfit {wheels.version()}" if item.endswith(".whl") else item for item in asked)


def _read_report(path: Path) -> list[Mapping[str, Mapping[str, str]]]:
    installs: list[Mapping[str, Mapping[str, str]]] = json.loads(path.read_text(encoding="utf-8"))["install"]
    return installs


def _constraints(host: HostPython, folder: Path) -> list[str]:
    file = folder / "constraints.txt"
    pins = [
        f"{name}=={number}\n"
        for name, number in sorted(host.packages.items())
        # A version that is no version of PEP 440's (some old packages have one) would stop pip; the report is
        # searched for such a package all the same.
        if name != OURS and _VERSION.fullmatch(number)
    ]
    file.write_text("".join(pins), encoding="utf-8")
    return ["-c", str(file)]


def _links(host: HostPython, folder: Path, index: bool) -> list[str]:
    """Wheels of what is installed here, as a place for pip to find packages in."""
    links = folder / "links"
    if not links.is_dir():
        links.mkdir()
        for name in wheels.needs(stop_at=host.packages):
            wheels.pure_wheel(name, links)
    return ["--find-links", str(links), *(["--retries", "1"] if index else ["--no-index"])]


def install(host: HostPython, plan: PackagePlan) -> HostPython:
    """Install what the plan says, and look again. Returns the host as it is then.

    Raises SetupError where pip could not, or something moved; what was added is gone again then.
    """
    with tempfile.TemporaryDirectory(prefix="branchfit-") as name:
        folder = Path(name)
        base = ["install", "--no-deps", *plan.options, *_constraints(host, folder)]
        pins = [f"{name}=={number}" for name, number in plan.added if name != OURS]
        said, failed = "", False
        if pins:
            done = _pip(host, [*base, *_links(host, folder, plan.online), *pins], plan.variables)
            said, failed = done.stdout + done.stderr, done.returncode != 0
        if not failed and (plan.replaces is not None or OURS in dict(plan.added)):
            own = folder / "own"
            own.mkdir()
            wheels.own_wheel(own)
            # By its name: a file's would be kept as a direct URL, and `pip freeze` would name a folder long gone.
            by_name = ["--force-reinstall", "--no-index", "--find-links", str(own), f"{OURS}=={wheels.version()}"]
            done = _pip(host, ["install", "--no-deps", *by_name], plan.variables)
            said, failed = done.stdout + done.stderr, done.returncode != 0
    after = ask(host.executable, host.kind)
    moved = _moved(host.packages, after.packages)
    if failed or moved:
        _roll_back(host, after, moved)
        what = plan.listed() or f"branchfit {wheels.version()}"
        if moved:
            named = "; ".join(f"{name} went from {there} to {now or 'nothing'}" for name, there, now in moved)
            raise SetupError(f"{what}: pip moved what was there ({named}); it was put back. Nothing is installed.")
        raise HostPythonError(_refused(host, what, said))
    return after


def _moved(before: Mapping[str, str], after: Mapping[str, str]) -> list[tuple[str, str, str]]:
    return [
        (name, number, after.get(name, ""))
        for name, number in before.items()
        if name != OURS and after.get(name) != number
    ]


def _roll_back(host: HostPython, after: HostPython, moved: Sequence[tuple[str, str, str]]) -> None:
    new = added_since(host.packages, after.packages)
    if new:
        _pip(host, ["uninstall", "-y", *(name for name, _ in new)])
    for name, number, _ in moved:
        _pip(host, ["install", "--no-deps", "--force-reinstall", f"{name}=={number}"])


def added_since(before: Mapping[str, str], after: Mapping[str, str]) -> list[tuple[str, str]]:
    """What is there after and was not before."""
    return sorted((name, number) for name, number in after.items() if name not in before)


def uninstall(host: HostPython, added: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """Remove what an install added. Returns what went and what stays, the latter in sentences.

    A package stays if it has another version by now, or if something that was not added here needs it.
    Raises HostPythonError where pip cannot.
    """
    ours = {name for name, _ in added}
    going, staying = [], []
    for name, number in added:
        there = host.packages.get(name)
        others = [other for other in host.needed_by(name) if other not in ours]
        if there is None:
            continue
        if name != OURS and there != number:
            staying.append(f"{name} stays: it was {number} when BranchFit brought it and is {there} now")
        elif others:
            staying.append(f"{name} stays: {', '.join(others)} needs it")
        else:
            going.append(name)
    if going:
        done = _pip(host, ["uninstall", "-y", *going])
        if done.returncode != 0:
            raise HostPythonError(_refused(host, f"the removal of {', '.join(going)}", done.stdout + done.stderr))
    return going, staying


def _pip(
    host: HostPython, arguments: list[str], variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = host.pip()
    if command is None:
        raise HostPythonError(
            f"{host.executable} has no pip of 22.2 or newer, and the Python that runs this has none to lend. "
            f"Install one ({host.executable} -m ensurepip), or use --own-folder."
        )
    return run([*command, *arguments], host.kind, variables)


def _moves(said: str, host: HostPython) -> list[tuple[str, str, str]]:
    """The packages that pip says it may not move, with the versions that were wanted of them."""
    held = {canonical(match[1]): match[2] for match in _CONSTRAINT.finditer(said)}
    moves = []
    for match in _DEPENDS.finditer(said):
        name = canonical(match[3])
        if name in held:
            moves.append((name, held[name], f"{name}{match[4].strip()} (by {match[1]} {match[2]})"))
    for match in _DIRECT.finditer(said):
        name = canonical(match[1])
        if name in held and name in host.packages:
            moves.append((name, held[name], f"{name}{match[2].strip()}"))
    return list(dict.fromkeys(moves))


def _last_words(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("ERROR:", "error:"))] or lines[-3:]
    return " ".join(told)[-800:]


def _refused(host: HostPython, what: str, said: str) -> str:
    if "externally-managed-environment" in said:
        return (
            f"{host.executable} belongs to the operating system and takes no packages. Give the webui a virtual "
            f"environment of its own and name its Python with --python, or use --own-folder."
        )
    return (
        f"pip of {host.executable} could not install {what}: {_last_words(said)} Nothing was changed. "
        f"Check the network, or use --own-folder, which needs none."
    )
