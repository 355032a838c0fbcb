"""The webui's Python, asked by running it: its version, what is installed in it, and how to call its pip."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from .errors import HostPythonError
from .layout import Kind

__all__ = ["HostPython", "ask", "canonical", "run"]

OLDEST = (3, 10)
"""requires-python of pyproject.toml."""

_PIP_WITH_REPORT = (22, 2)
"""pip's NEWS: `--dry-run` and `--report` of 22.2."""

_PIP_FOR_OTHERS = (22, 3)
"""pip's NEWS: `--python` of 22.3."""

_MISLEADING = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "__PYVENV_LAUNCHER__", "PIP_USER", "PIP_TARGET")
_MISLEADING_PIP = (
    "PIP_PREFIX",
    "PIP_ROOT",
    "PIP_PYTHON",
    "PIP_NO_DEPS",
    "PIP_UPGRADE",
    "PIP_FORCE_REINSTALL",
    "PIP_DRY_RUN",
    "PIP_REQUIRE_HASHES",
    "PIP_PYTHON_VERSION",
)
"""What would make the host's Python or pip look or install elsewhere. An index, a proxy stay as they are set."""

_QUESTION = """
import json, sys
answer = {"version": list(sys.version_info[:3]), "prefix": sys.prefix}
if sys.version_info >= (3, 10):
    from importlib import metadata
    found, requires, own = {}, {}, {}
    for dist in metadata.distributions():
        name = dist.metadata["Name"]
        # `~` is how pip renames what it is about to remove; pip itself passes over what a kill left of it.
        if not name or name in found or getattr(getattr(dist, "_path", None), "name", "").startswith("~"):
            continue
        found[name] = dist.version
        requires[name] = dist.requires or []
        if name.lower() == "branchfit":
            own = {"record": dist.read_text("RECORD") or "", "direct_url": dist.read_text("direct_url.json") or ""}
    answer.update(packages=found, requires=requires, own=own)
print(json.dumps(answer))
"""


def canonical(name: str) -> str:
    """A package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@dataclass(frozen=True)
class HostPython:
    """The host's Python and what is installed in it, names as PEP 503 compares them."""

    executable: Path
    kind: Kind
    version: tuple[int, ...]
    packages: dict[str, str]
    requires: dict[str, list[str]]
    own: dict[str, str] = field(default_factory=dict)

    @property
    def has_pip(self) -> bool:
        return self.pip() is not None

    def pip(self) -> list[str] | None:
        """The command that installs into this Python: its own pip, else the pip that runs this one. None
        where neither can (2022 and older, or no pip at all)."""
        quiet = ["--disable-pip-version-check", "--no-input", "--no-color"]
        if _at_least(self.packages.get("pip"), _PIP_WITH_REPORT):
            return [str(self.executable), "-m", "pip", *quiet]
        if _at_least(_own_pip(), _PIP_FOR_OTHERS):
            return [sys.executable, "-m", "pip", "--python", str(self.executable), *quiet]
        return None

    @property
    def is_editable(self) -> bool:
        """Whether branchfit is there as a link to a checkout, which nobody but its developer replaces."""
        try:
            return bool(json.loads(self.own.get("direct_url") or "{}").get("dir_info", {}).get("editable"))
        except ValueError:
            return False

    def needed_by(self, name: str) -> list[str]:
        """The packages there that require `name`, extras aside."""
        return [
            other
            for other, wanted in self.requires.items()
            if any(requirement_name(line) == name and "extra ==" not in line for line in wanted)
        ]


def requirement_name(line: str) -> str:
    """The package that a Requires-Dist line names."""
    match = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", line)
    return canonical(match[1]) if match else ""


def ask(executable: Path, kind: Kind) -> HostPython:
    """Run `executable` and ask it. Raises HostPythonError where it does not run or is too old."""
    done = run([str(executable), "-c", _QUESTION], kind)
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        said = (done.stderr or done.stdout).strip()[-400:] or f"it ended with {done.returncode}"
        raise HostPythonError(
            f"{executable} does not run as a Python ({said}). Name the webui's Python with --python PYTHON."
        ) from None
    version = tuple(answer["version"])
    if version < OLDEST:
        shown, wanted = ".".join(map(str, version)), ".".join(map(str, OLDEST))
        raise HostPythonError(
            f"{executable} is Python {shown}, and BranchFit needs {wanted} or newer. Update the webui (its update "
            f"script makes a newer environment where it needs one), or name another Python with --python."
        )
    packages = {canonical(name): number for name, number in answer["packages"].items()}
    requires = {canonical(name): lines for name, lines in answer["requires"].items()}
    return HostPython(executable, kind, version, packages, requires, answer["own"])


def environment(kind: Kind, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables for a process of the host's Python: as its start script has them (PYTHONNOUSERSITE set,
    PYTHONPATH and PYTHONHOME unset: start_linux.sh), and nothing that sends pip elsewhere."""
    kept = {name: value for name, value in os.environ.items() if name not in (*_MISLEADING, *_MISLEADING_PIP)}
    if kind != "manual":
        kept["PYTHONNOUSERSITE"] = "1"
    return {**kept, "PYTHONIOENCODING": "utf-8", "PYTHONUTF8": "1", **(extra or {})}


def run(command: Sequence[str], kind: Kind, extra: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the host's Python from an empty folder, so that nothing there is imported by mistake.

    Raises HostPythonError where it cannot be started.
    """
    with tempfile.TemporaryDirectory(prefix="branchfit-") as empty:
        try:
            return subprocess.run(
                list(command),
                cwd=empty,
                env=environment(kind, extra),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                encoding="utf-8",
                errors="replace",
                check=False,
            )
        except OSError as error:
            raise HostPythonError(
                f"{command[0]} cannot be run ({error}). Name the webui's Python with --python PYTHON."
            ) from None


@lru_cache(maxsize=1)
def _own_pip() -> str | None:
    from importlib import metadata

    try:  # not find_spec: setuptools hooks into that one for pip, and warns
        return metadata.version("pip")
    except metadata.PackageNotFoundError:
        return None


def _at_least(version: str | None, wanted: tuple[int, ...]) -> bool:
    if version is None:
        return False
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[: len(wanted)])
    return numbers >= wanted
