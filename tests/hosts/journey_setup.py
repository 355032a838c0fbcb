"""Install, and uninstall: what changes on disk and in the host's Python, and that nothing else does."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .host import Source
from .journey_host import Webui, setup
from .journey_listing import Difference, as_text, difference, hashed, packages, stamped, without
from .journey_report import YES
from .journey_tab import NAME

if TYPE_CHECKING:
    from .journey_run import Journey

OURS = frozenset({"branchfit", "nvidia-ml-py", "click", "rich", "filelock", "platformdirs", "markdown-it-py", "mdurl"})
"""BranchFit, and what of its dependencies a host may lack; nothing here is a package that hosts pin."""


GRADIOS = tuple(f"lib/python3.{minor}/site-packages/gradio/launches.json" for minor in range(10, 15))
"""gradio counts its starts in a file of its own package."""


@dataclass(frozen=True)
class Before:
    files: dict[str, str]
    packages: dict[str, str]
    python: dict[str, str]


def seen(webui: Webui) -> Before:
    python = webui.source.python
    return Before(hashed(webui.copy), packages(python), stamped(python.parents[1]))


def install(journey: Journey) -> Before:
    """Steps 1 and 2. Returns what there was before."""
    webui, report, out = journey.webui, journey.report, journey.webui.out
    before = seen(webui)
    with report.step("1. copy"):
        report.check(
            "the webui and its Python copied; path with a blank and a letter beyond ASCII",
            True,
            webui.source.folder.name,
        )
        (out / "packages-before.txt").write_text(as_text(before.packages), encoding="utf-8")
        (out / "files-before.txt").write_text(as_text(before.files), encoding="utf-8")
        report.check(
            "package list and file hashes taken",
            before.packages and before.files,
            f"{len(before.packages)} packages, {len(before.files)} files",
        )
    with report.step("2. install"):
        dry = setup(webui, "--yes", "--dry-run")
        report.check("the dry run ends well", dry.returncode == 0, (dry.stderr or dry.stdout).splitlines()[-1:])
        after = seen(webui)
        changed = difference(before.files, after.files), difference(before.python, after.python)
        report.check(
            "the dry run changes nothing, in the folder or in the Python",
            not any(changed),
            "; ".join(map(str, changed)),
        )
        done = setup(webui, "--yes")
        (out / "setup.txt").write_text(f"{dry.stdout}{dry.stderr}\n\n{done.stdout}{done.stderr}", encoding="utf-8")
        report.check("setup ends well", done.returncode == 0, (done.stdout + done.stderr).splitlines()[-2:-1])
        after = seen(webui)
        files = difference(before.files, after.files)
        unsaid = [name for name in files.names if not _said(name, webui, dry.stdout)]
        report.check("every file that changed was named by the dry run", not unsaid, f"{files}; unsaid: {unsaid}")
        (out / "packages-after.txt").write_text(as_text(after.packages), encoding="utf-8")
        new = difference(before.packages, after.packages)
        report.check(
            "packages: only BranchFit's own came, none moved, none went",
            set(new.added) <= OURS and not new.changed and not new.gone,
            new,
        )
        again = setup(webui, "--yes")
        twice = difference(after.files, hashed(webui.copy))
        report.check(
            "setup once more changes nothing",
            again.returncode == 0 and not twice,
            f"{(again.stdout + again.stderr).splitlines()[-2:-1]} {twice}",
        )
    return before


def _said(name: str, webui: Webui, said: str) -> bool:
    """A changed file is named by its path in the webui, or stands in the folder of the extension, which is ours."""
    ours = webui.extension.relative_to(webui.copy).as_posix()
    return name in said or (name.startswith(f"{ours}/") and ours in said)


def without_the_package(journey: Journey) -> None:
    """Step 10: somebody took our package out of the host's Python, and there is no network."""
    webui, report = journey.webui, journey.report
    with report.step("10. never breaks the webui"):
        webui.stop()
        python = webui.source.python
        subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", "branchfit"], check=True, capture_output=True)
        report.check(
            "branchfit is out of the host's Python, script.py is still there",
            "branchfit" not in packages(python) and (webui.extension / "script.py").is_file(),
        )
        journey.hub.stop()
        webui.recorded, told = False, len(webui.log_text())
        page = journey.up()
        page.tab(NAME)
        page.idle()
        said = "BranchFit is off, and NO model is locked"
        line = next((line for line in webui.log_text()[told:].splitlines() if said in line), "")
        report.check("the webui starts without network and without our package, and its page comes up", True)
        report.check("the tab says that BranchFit is off, and how to get it back", page.says(said, "setup"), line)
        journey.shot("off")
        report.check("the console says it too", line, line)
        webui.stop()
        journey.hub.start()
        done = setup(webui, "--yes")
        back = "branchfit" in packages(python)
        report.check("setup once more puts it back", done.returncode == 0 and back, done.stdout.splitlines()[-2:-1])


def uninstall(journey: Journey, before: Before) -> None:
    """Step 11."""
    webui, report, out = journey.webui, journey.report, journey.webui.out
    webui.stop()
    with report.step("11. uninstall"):
        models = [path.name for path in webui.models.iterdir() if path.is_dir()]
        done = setup(webui, "--uninstall", "--yes")
        (out / "uninstall.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
        report.check("uninstall ends well", done.returncode == 0, (done.stdout + done.stderr).splitlines()[-1:])
        after = seen(webui)
        (out / "files-after.txt").write_text(as_text(after.files), encoding="utf-8")
        left = difference(before.files, after.files)
        hosts, others = sorted_out(left, webui)
        report.check("no file of BranchFit's is left, and no other is changed", not others, others)
        report.add("what the webui itself wrote meanwhile", YES, ", ".join(sorted(hosts)) or "nothing")
        report.check("models stay", set(models) <= set(webui.own_names()), ", ".join(sorted(models)))
        report.check("branchfit is in none of the webui's own files", not named(webui), ", ".join(named(webui)))
        outside = sorted({path.relative_to(webui.home).parts[:2] for path in webui.home.rglob("*") if path.is_file()})
        report.add("what stands in the user's home", YES, ", ".join("/".join(parts) for parts in outside) or "nothing")
        report.check(
            "package list as before", after.packages == before.packages, difference(before.packages, after.packages)
        )
        python = without(difference(before.python, after.python), *GRADIOS)
        report.check("the Python's folder is as before, file by file", not python, python)


def sorted_out(left: Difference, webui: Webui) -> tuple[set[str], Difference]:
    """Of what lies between before and after: what the webui writes on its own, and the rest; models' folders aside.

    v3.5 and newer write settings.yaml anew whenever something is chosen on their pages.
    """
    data = "" if webui.source.user_data == "." else f"{webui.source.user_data}/"
    own = [f"{data}{name}/" for name in ("cache", "logs")] + ["cache/", "logs/"]
    if "branchfit" not in (webui.data / "settings.yaml").read_text(encoding="utf-8"):
        own.append(f"{data}settings.yaml")
    folders = [f"{data}models/{path.name}/" for path in webui.models.iterdir() if path.is_dir()]
    found = without(left, *folders) if folders else left
    return {name for name in found.names if name.startswith(tuple(own))}, without(found, *own)


def named(webui: Webui) -> list[str]:
    """The webui's settings, flags and lists that have our name in them, those of the models folder included.

    In small letters, as the extension and its keys are; the demo's repo is written otherwise.
    """
    places = (webui.copy, webui.data, webui.models)
    texts = {path for place in places for ending in ("yaml", "json", "txt") for path in place.glob(f"*.{ending}")}
    return sorted(path.name for path in texts if "branchfit" in path.read_text(encoding="utf-8", errors="replace"))


def untouched(journey: Journey, before: tuple[dict[str, str], dict[str, str]]) -> None:
    with journey.report.step("1. copy"):
        original: Source = journey.original
        found = (
            difference(before[0], stamped(original.folder)),
            without(difference(before[1], stamped(original.python.parents[1])), *GRADIOS),  # its owner may start it
        )
        journey.report.check(
            "the originals are untouched at the end: every file's size and time as before",
            not any(found),
            "; ".join(map(str, found)),
        )
