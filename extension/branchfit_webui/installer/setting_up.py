"""Plan a setup, run it, undo it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from . import flags_file, settings_file, wheels
from .changes import Change, CopyPackages, EnableIn, InstallPackages, WriteFile, undo
from .errors import CannotEdit, HostPythonError, SetupError
from .files import read, unfinished
from .finding import Found
from .gptq import Offer, offer, plan_gptq
from .host_python import HostPython, ask, run
from .kept import forget_models
from .layout import EXTENSION, Layout, python_candidates, read_layout
from .packages import plan_packages
from .record import Record

__all__ = [
    "PACKAGES",
    "Plan",
    "Wishes",
    "carry_out",
    "find_python",
    "import_problem",
    "plan_setup",
    "unset",
    "with_gptq",
]

PACKAGES = "packages"
"""The folder beside script.py that holds packages where the host's Python takes none. script.py knows it too."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Wishes:
    """What was asked for besides the webui itself. `gptq` is None where nobody said."""

    python: Path | None = None
    user_data: Path | None = None
    own_folder: bool = False
    gptq: bool | None = None


@dataclass(frozen=True)
class Plan:
    """Everything a setup would do: `changes` in their order, and what there is to know, in sentences."""

    layout: Layout
    host: HostPython
    changes: tuple[Change, ...]
    notes: tuple[str, ...]
    gptq: Offer
    own_folder: bool

    @property
    def record(self) -> Record:
        return Record.load(self.layout.folder)


def plan_setup(found: Found, wishes: Wishes) -> Plan:
    """Look at the webui and its Python, and say what has to change. Changes nothing.

    Raises SetupError and its kinds.
    """
    layout = read_layout(found.root, wishes.user_data or found.user_data)
    host = ask(find_python(layout, wishes.python, found.python), layout.kind)
    # Where the packages went once is where they are brought up to date.
    before = Record.load(layout.folder).find("folder", str(layout.folder / PACKAGES))
    own_folder = wishes.own_folder or layout.kind == "portable" or before is not None
    notes = []
    if found.pid is not None:
        notes.append(f"the webui is running (process {found.pid}): what is set up here takes effect at its next start")
    if layout.kind == "manual" and layout.flags_reader == "start script":
        notes.append(
            f"only the start script reads {layout.flags}; where you start server.py yourself with --api and --nowebui, "
            f"add {flags_file.FLAG} {EXTENSION}"
        )
    changes: list[Change] = []
    if not own_folder and not host.has_pip:
        own_folder = True
        notes.append(f"{host.executable} has no usable pip, so BranchFit's packages go into the extension's folder")
    changes += _copies(layout, host, notes) if own_folder else _installs(host, notes)
    changes += _script(layout)
    changes += _enabling(layout, notes)
    plan = Plan(layout, host, tuple(changes), tuple(notes), offer(host, layout), own_folder)
    return with_gptq(plan) if wishes.gptq and plan.gptq.pairing is not None else plan


def find_python(
    layout: Layout, asked: Path | None, running: Path | None = None, environ: Mapping[str, str] | None = None
) -> Path:
    """The Python this webui runs with: what was named, its own, that of the running one, the one that an earlier
    setup was told, an active environment, the PATH's; the last two only if gradio is there. Raises HostPythonError
    where none is found."""
    environ = os.environ if environ is None else environ
    named = asked or (Path(environ["BRANCHFIT_WEBUI_PYTHON"]) if environ.get("BRANCHFIT_WEBUI_PYTHON") else None)
    if named is not None:
        program = shutil.which(str(named.expanduser()))
        if program is None:
            raise HostPythonError(f"--python {named} is no program. Name the Python that runs the webui.")
        return Path(os.path.abspath(program))  # noqa: PTH100 - resolve() would leave the virtual environment
    tried = [path for path in python_candidates(layout.root) if path.is_file()]
    if tried:
        return tried[0]
    if running is not None and running.is_file():
        return running
    told = [Path(entry.facts["python"]) for entry in Record.load(layout.folder).entries if "python" in entry.facts]
    if told and told[0].is_file():
        return told[0]
    folder, name = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
    prefixes = [environ[key] for key in ("VIRTUAL_ENV", "CONDA_PREFIX") if environ.get(key)]
    maybe = [Path(prefix) / folder / name for prefix in prefixes]
    maybe += [Path(found) for word in ("python3", "python") if (found := shutil.which(word, path=environ.get("PATH")))]
    for path in maybe:
        if path.is_file() and Path(sys.prefix) not in path.parents:
            try:
                if "gradio" in ask(path, layout.kind).packages:
                    return path
            except HostPythonError:
                continue
    raise HostPythonError(
        f"the Python of the webui in {layout.root} was not found: no portable_env, no installer_files/env, no venv in "
        f"it, and no Python with gradio on the PATH. If the webui was never started, start it once "
        f"({_first_start(layout)}), then run this again; otherwise name its Python with --python PYTHON."
    )


def _first_start(layout: Layout) -> str:
    starts = {"nt": "start_windows.bat", "posix": "start_macos.sh" if sys.platform == "darwin" else "start_linux.sh"}
    script = layout.root / starts.get(os.name, "")
    return str(script) if script.is_file() else "python server.py"


def _installs(host: HostPython, notes: list[str]) -> list[Change]:
    plan = plan_packages(host)
    if host.is_editable:
        notes.append(f"branchfit is linked to a checkout in {host.executable}; that is left as it is")
    return [] if plan.is_empty else [InstallPackages(host, plan, "BranchFit")]


def _copies(layout: Layout, host: HostPython, notes: list[str]) -> list[Change]:
    old = wheels.too_old(host.packages)
    if old:
        listed = "; ".join(f"{name} {there} is there, BranchFit needs {wanted}" for name, there, wanted in old)
        raise SetupError(
            f"{listed}. What stands in the webui's Python wins over a folder of BranchFit's, so --own-folder does not "
            f"help here: update the webui."
        )
    names = ["branchfit"]
    files = dict(wheels.own_files())
    for name in wheels.needs(stop_at=host.packages):
        found = wheels.files_of(name)
        if found is None:
            notes.append(f"{name} is not in {host.executable} and is built for one platform, so it cannot be brought")
        else:
            files.update(found)
            names.append(name)
    folder = layout.folder / PACKAGES
    there = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    return [] if there == files else [CopyPackages(folder, files, tuple(names))]


def _script(layout: Layout) -> list[Change]:
    path, content = layout.folder / "script.py", wheels.host_script()
    return [] if read(path) == content else [WriteFile(path, content, "what the webui imports")]


def _enabling(layout: Layout, notes: list[str]) -> list[Change]:
    changes: list[Change] = []
    places: list[tuple[Path | None, str]] = [(layout.settings, "settings"), (layout.flags, "flags")]
    for path, form in places:
        if path is None:
            continue
        former = read(path)
        try:
            text = "" if former is None else former.decode("utf-8")
        except UnicodeDecodeError:
            raise CannotEdit(path, "it is no UTF-8", _by_hand(form)) from None
        if form == "settings":
            made = settings_file.add_name(text, _lists(layout), EXTENSION, path)
            what = f"{' and '.join(layout.settings_keys)} get {EXTENSION}"
        else:
            made = flags_file.add_name(text, EXTENSION, path)
            what = f"{flags_file.FLAG} gets {EXTENSION} (read by the {layout.flags_reader})"
            if "--settings" in text:
                notes.append(f"{path} names another settings file with --settings; enabling goes by {flags_file.FLAG}")
        if made != text:
            changes.append(EnableIn(path, form, former, made.encode("utf-8"), what, layout.settings_keys))
    return changes


def _lists(layout: Layout) -> dict[str, tuple[str, ...]]:
    return {key: layout.defaults[key] for key in layout.settings_keys}


def _by_hand(form: str) -> str:
    return f"default_extensions: [{EXTENSION}]" if form == "settings" else f"{flags_file.FLAG} {EXTENSION}"


def carry_out(plan: Plan, tell: Tell) -> None:
    """Make the changes, each recorded before. Run again after an interruption, it goes on where it was.

    Raises SetupError; the record holds what was done by then.
    """
    record = plan.record
    try:
        for change in plan.changes:
            entry = record.begin(change.kind, change.target, change.facts(record.find(change.kind, change.target)))
            tell(change.say())
            entry.facts.update(change.apply())
            record.end(entry)
            if isinstance(change, (InstallPackages, CopyPackages)):
                # Nothing may be enabled that the webui could not import.
                _insist_on_import(plan)
        for entry in record.entries:
            # Begun in a run that was interrupted, and found in place by this plan. GPTQ's are planned only when asked.
            if not entry.done and not entry.target.endswith("(GPTQ)"):
                record.end(entry)
    except OSError as error:
        raise SetupError(
            f"{error.filename or plan.layout.folder} cannot be written ({error.strerror or error}). What was done is "
            f"recorded: run the same command again when it can, or --uninstall to undo it. No root is needed; the "
            f"webui's folder and its Python have to be yours."
        ) from None


def _insist_on_import(plan: Plan) -> None:
    folder = plan.layout.folder / PACKAGES if plan.own_folder else None
    problem = import_problem(plan.host, folder)
    if problem:
        raise SetupError(
            f"what was installed cannot be imported by {plan.host.executable}: {problem}. Nothing is enabled. "
            f"--uninstall takes it away again."
        )


def import_problem(host: HostPython, folder: Path | None) -> str:
    """Why the host's Python cannot import what the webui will, '' where it can."""
    where = f"sys.path.append({str(folder)!r}); " if folder is not None else ""
    wanted = "import sys; " + where + "import branchfit_webui.lock, branchfit_webui.endpoint, branchfit.download"
    done = run([str(host.executable), "-B", "-c", wanted], host.kind)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]


def unset(root: Path, user_data: Path | None, tell: Tell, dry_run: bool = False) -> list[str]:
    """Undo what the record of this webui says, the last first. Returns what stays, in sentences.

    Raises SetupError where there is no record, or something cannot be undone; what was undone by then
    is no longer in the record, so it can be run again.
    """
    layout = read_layout(root, user_data)
    record = Record.load(layout.folder)
    if not record.is_there:
        raise SetupError(
            f"there is nothing to undo: {layout.folder} holds no record of a setup. Whatever of BranchFit was copied "
            f"there or enabled by hand is yours to take out."
        )
    if dry_run:
        for entry in reversed(record.entries):
            tell(f"undo {entry.kind}: {entry.target}")
        return forget_models(layout, tell, dry_run)
    try:
        kept = forget_models(layout, tell, dry_run)
        stopped = []
        for entry in list(reversed(record.entries)):
            try:
                for line in undo(entry):
                    tell(line)
            except CannotEdit as error:
                stopped.append(str(error))
                continue
            record.drop(entry)
        if stopped:
            raise SetupError(f"all else is undone. {' '.join(stopped)} Then run the same again.")
        for path in (layout.settings, layout.flags, layout.folder / "script.py", record.path):
            if path is not None:
                unfinished(path).unlink(missing_ok=True)
        shutil.rmtree(layout.folder / "__pycache__", ignore_errors=True)
        left = record.remove()
    except OSError as error:
        raise SetupError(
            f"{error.filename or layout.folder} cannot be changed ({error.strerror or error}). Run the same again when "
            f"it can; what is undone already stays undone."
        ) from None
    return [*kept, *(f"{folder} stays: {_inside(folder)} in it" for folder in left if folder == layout.folder)]


def _inside(folder: Path) -> str:
    return ", ".join(sorted(path.name for path in folder.iterdir())) or "something"


def with_gptq(plan: Plan) -> Plan:
    """The plan with the packages of its GPTQ offer, before anything is enabled. Raises what `plan_gptq` does."""
    added = plan_gptq(plan.host, plan.gptq)
    if not added.added:
        return plan
    at = next((place for place, change in enumerate(plan.changes) if isinstance(change, WriteFile)), len(plan.changes))
    change: Change = InstallPackages(plan.host, added, "GPTQ")
    return replace(plan, changes=(*plan.changes[:at], change, *plan.changes[at:]))
