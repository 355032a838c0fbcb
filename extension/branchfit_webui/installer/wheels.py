"""Wheels made from what is installed here: our own, and the pure-Python packages that it needs.

So a setup needs neither network nor a build tool: what runs now is what gets installed. The format is
PEP 427's: the files, a .dist-info, and a RECORD with each file's hash.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path, PurePosixPath

import branchfit

from .errors import SetupError
from .host_python import canonical, requirement_name

__all__ = ["files_of", "host_script", "needs", "own_files", "own_record", "own_wheel", "pure_wheel", "version"]

Files = dict[str, bytes]
"""Path inside site-packages -> content."""

_LEFT = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
"""What an installer writes into .dist-info itself."""

_WHEEL = "Wheel-Version: 1.0\nGenerator: branchfit\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def version() -> str:
    """The version of what runs now."""
    return branchfit.__version__


def host_script() -> bytes:
    """The file that the webui imports: from the wheel, or from the checkout that runs. Raises SetupError."""
    package = Path(__file__).resolve().parent.parent
    for place in (package / "host_files" / "script.py", package.parent / "script.py"):
        if place.is_file():
            return place.read_bytes()
    raise SetupError(f"this BranchFit has no host_files/script.py in {package}: it is incomplete. Install it again.")


def own_files() -> Files:
    """Both packages as they run now, with the metadata of this installation. Raises SetupError."""
    found: Files = {}
    for top in (Path(branchfit.__file__).parent, Path(__file__).resolve().parent.parent):
        for path in sorted(top.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and not path.name.endswith((".pyc", "~")):
                found[f"{top.name}/{path.relative_to(top).as_posix()}"] = path.read_bytes()
    found["branchfit_webui/host_files/script.py"] = host_script()
    try:
        dist = metadata.distribution("branchfit")
    except metadata.PackageNotFoundError:
        dist = None
    if dist is None or dist.version != branchfit.__version__:
        there = "none" if dist is None else dist.version
        raise SetupError(
            f"the metadata of branchfit {branchfit.__version__} is needed, found: {there}. "
            f"Run ./install.sh in the checkout, or install the wheel."
        )
    info = f"branchfit-{dist.version}.dist-info"
    found[f"{info}/METADATA"] = (dist.read_text("METADATA") or "").encode()
    found[f"{info}/entry_points.txt"] = (dist.read_text("entry_points.txt") or "").encode()
    found[f"{info}/WHEEL"] = _WHEEL.encode()
    return found


def own_wheel(into: Path) -> Path:
    """Our own wheel, written into a folder. Raises SetupError."""
    return _write(into, "branchfit", version(), own_files())


def own_record() -> dict[str, str]:
    """File -> hash of both packages as they run now, to compare with a RECORD elsewhere."""
    return {name: _hash(content) for name, content in own_files().items() if ".dist-info/" not in name}


def read_record(text: str) -> dict[str, str]:
    """File -> hash of our two packages in a RECORD's text."""
    rows = (line.rsplit(",", 2) for line in text.splitlines())
    hashed = {row[0].strip('"'): row[1] for row in rows if len(row) == 3 and row[1]}
    return {name: of for name, of in hashed.items() if name.startswith(("branchfit/", "branchfit_webui/"))}


def files_of(name: str) -> Files | None:
    """The files of an installed pure-Python package, its .dist-info with them. None where it is not here,
    or is built for one platform."""
    try:
        dist = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    wheel = dist.read_text("WHEEL") or ""
    tags = [line.partition(":")[2].strip() for line in wheel.splitlines() if line.startswith("Tag:")]
    if not tags or not all(tag.endswith("-none-any") for tag in tags) or dist.files is None:
        return None
    found: Files = {}
    for entry in dist.files:
        parts = PurePosixPath(entry.as_posix()).parts
        if ".." in parts or "__pycache__" in parts or (".dist-info" in parts[0] and parts[-1] in _LEFT):
            continue
        path = Path(str(dist.locate_file(entry)))
        if path.is_file():
            found["/".join(parts)] = path.read_bytes()
    return found or None


def pure_wheel(name: str, into: Path) -> Path | None:
    """A wheel of an installed pure-Python package; None where `files_of` is."""
    found = files_of(name)
    return None if found is None else _write(into, name, metadata.version(name), found)


def needs(names: Iterable[str] = ("branchfit",), stop_at: Iterable[str] = ()) -> list[str]:
    """What the packages need and is installed here, whatever that needs in turn included, names as PEP 503
    compares them. Those of `stop_at` are left out with all that only they need."""
    there, found = set(stop_at), []
    waiting = list(_required(names))
    while waiting:
        name = waiting.pop(0)
        if name in found or name in there or not _is_here(name):
            continue
        found.append(name)
        waiting += _required([name])
    return found


def too_old(packages: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(name, version there, what is needed) of BranchFit's own needs that `packages` have out of their range."""
    from packaging.requirements import InvalidRequirement, Requirement  # huggingface_hub needs it, too

    found = []
    for line in metadata.requires("branchfit") or []:
        try:
            wanted = Requirement(line)
        except InvalidRequirement:
            continue
        there = packages.get(canonical(wanted.name))
        applies = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        if there is not None and applies and not wanted.specifier.contains(there, prereleases=True):
            found.append((wanted.name, there, str(wanted.specifier)))
    return found


def _required(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            lines = []
        yield from (requirement_name(line) for line in lines if "extra ==" not in line)


def _is_here(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


def _hash(content: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _write(into: Path, name: str, number: str, files: Files) -> Path:
    plain = canonical(name).replace("-", "_")
    info = next(path.split("/")[0] for path in files if path.split("/")[0].endswith(".dist-info"))
    rows = [f"{path},{_hash(content)},{len(content)}" for path, content in files.items()]
    record = "\n".join([*rows, f"{info}/RECORD,,", ""])
    target = into / f"{plain}-{number}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, content in {**files, f"{info}/RECORD": record.encode()}.items():
            entry = zipfile.ZipInfo(path)  # of 1980, so that equal files make equal wheels
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            wheel.writestr(entry, content)
    return target
