"""Open the tab, paste, read the recommendation, download with a slow Hub, stop, go on, load."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from branchfit.demo.repo import BRANCHES, REPO

from .client import get
from .journey_tab import NAME, Amount, Tab

if TYPE_CHECKING:
    from .journey_run import Journey

SLOW = 60_000.0
"""Bytes a second: the demo's branches of a megabyte or so take some 20 s, long enough to look at and to stop."""

CDN = "cdn GET"


def start(journey: Journey) -> None:
    """Step 3."""
    webui, report = journey.webui, journey.report
    with report.step("3. start"):
        page = journey.up()
        report.check("the webui is up, started without --extensions", True, " ".join(["server.py", *webui._flags()]))
        report.check("the page has the tab", page.has_tab(NAME))
        line = next((line for line in webui.log_text().splitlines() if "BranchFit prompt lock" in line), "")
        report.check(
            "the console has the lock's own line; with no model there is nothing to hold yet",
            "no model is loaded" in line,
            line,
        )
        report.check("no traceback in the console", "Traceback" not in webui.log_text(), webui.log_tail(3))


def recommends(journey: Journey) -> bool:
    """Step 4. Whether anything of the quantised repo can be loaded here."""
    from .journey_run import ADDRESS

    report, tab, hub = journey.report, journey.tab, journey.hub
    chosen = ""
    with report.step("4. paste and recommend"):
        tab.look(ADDRESS)
        rows = tab.rows("#branchfit-advice")
        listed = [row[2] for row in rows]
        report.check(
            f"{ADDRESS}: the table shows the six branches", sorted(listed) == sorted(BRANCHES), ", ".join(listed)
        )
        marked = [row for row in rows if "chosen" in row[0]]
        reason = tab.text("#branchfit-reason")
        if marked:
            chosen = marked[0][2]
            report.check(
                "the recommended branch is marked, and the reason above names it",
                len(marked) == 1 and reason.startswith(f"→ {chosen}"),
                reason,
            )
            report.check("the Branch field holds it", tab.field("Branch") == chosen, tab.field("Branch"))
        else:
            report.check("nothing can be loaded here, and the page says why", "load" in reason, reason)
            whys = {row[2]: row[8] for row in rows}
            report.check("every branch is refused", not any("yes" in why for why in whys.values()), whys)
        journey.shot("tab-recommend")
        if marked:
            _wishes(journey, tab, len(hub.requests))
        else:
            report.add("other wishes make another table", "not here", "nothing can be loaded, whatever one wishes")
    return bool(chosen)


def _wishes(journey: Journey, tab: Tab, asked: int) -> None:
    """Other wishes: the answer is another, and the Hub was not asked."""
    report, before = journey.report, (tab.text("#branchfit-reason"), tab.rows("#branchfit-advice"))
    tab.choose("Context (tokens)", "8192")
    longer = tab.text("#branchfit-reason"), tab.rows("#branchfit-advice")
    report.check("context 8192: reason or table follow", longer != before, longer[0])
    tab.choose("Context (tokens)", "2048")
    tab.prefer("context")
    other = tab.text("#branchfit-reason"), tab.rows("#branchfit-advice")
    report.check("preference context: reason or table follow", other != longer, other[0])
    tab.prefer("balanced")
    tab.choose("Context (tokens)", "automatic")
    same = tab.text("#branchfit-reason"), tab.rows("#branchfit-advice")
    report.check(
        "back to the first wishes: the first answer, but for what is free by now",
        _but_for_memory(same[0]) == _but_for_memory(before[0]),
        same[0],
    )
    report.check("the Hub was asked nothing for that", len(journey.hub.requests) == asked, journey.asked_since(asked))


def _but_for_memory(reason: str) -> str:
    return re.sub(r"[\d.]+ GiB (to spare|free)", r"\1", reason)


def download_and_load(journey: Journey) -> None:
    """Step 5."""
    webui, report, tab = journey.webui, journey.report, journey.tab
    with report.step("5. download and load"):
        branch = tab.field("Branch")
        stop_and_go_on(journey, "Download and load", branch)
        said = tab.board()
        name = folder_of(branch)
        report.check("the board says that it is loaded, and with what", f"{name} is loaded with" in said, said)
        info = get(f"{webui.openai}/v1/internal/model/info")
        report.check("the API says so too", info.get("model_name") == name, info.get("model_name"))
        row = next(row for row in tab.rows("#branchfit-advice") if row[2] == branch)
        kernel = row[9].partition(":")[2].rstrip(")")
        _kernel(journey, kernel)
        report.check("the prompt lock is active for it", "Prompt lock active" in said, said[-200:])
        measured = next((line for line in said.splitlines() if "measured" in line), "")
        report.check("the line of what was predicted and what was measured", "predicted" in measured, measured)
        journey.shot("tab-loaded")


def _kernel(journey: Journey, kernel: str) -> None:
    """What gptqmodel prints as it takes one: `Kernel: selected: TorchLinear`, in older ones `TorchQuantLinear`."""
    lines = [line for line in journey.webui.log_text().splitlines() if "Kernel: selected" in line]
    names = {found[1].lower() for line in lines if (found := re.search(r"(\w+?)(?:Quant)?Linear\b", line))}
    journey.report.check(
        "the console names the kernel that was chosen, and no other",
        names == {kernel.replace("_", "")},
        f"chosen: {kernel}; console: {' / '.join(lines[-2:])}",
    )


def stop_and_go_on(journey: Journey, button: str, branch: str) -> None:
    """A slow download: seen moving, seen after a reload, stopped, and gone on with."""
    webui, report, tab, hub = journey.webui, journey.report, journey.tab, journey.hub
    name = folder_of(branch)
    hub.slow_down(SLOW, CDN)
    tab.press(button)
    seen: list[Amount] = []

    def moving() -> bool:
        now = tab.amount()
        if now is not None and (not seen or now.done_bytes > seen[-1].done_bytes):
            seen.append(now)
        return len(seen) >= 3 and bool(seen[-1].speed and seen[-1].left)

    tab.wait(moving, "the progress to move", 40)
    report.check("progress moves: bytes, speed, time left", True, f"{seen[0].as_dict()} then {seen[-1].as_dict()}")
    journey.shot("tab-progress")
    tab.open()
    after = tab.amount()
    report.check("after a reload of the page it is still there", tab.working and after is not None, tab.board())
    later = [after.done_bytes if after else 0]
    tab.wait(lambda: (now := tab.amount()) and now.done_bytes > later[0], "the progress to go on", 20)
    report.check("and still moves", True, tab.board())
    tab.press("Cancel")
    said = tab.ended(30)
    report.check("Cancel: it stops, and says that what came is kept", "Stopped" in said, said)
    staged = sorted((webui.data / ".branchfit-staging").rglob("*"))
    kept = max((path.stat().st_size for path in staged if path.is_file()), default=0)
    report.check("what came is beside the models folder", kept > 0, f"{kept:,} bytes in .branchfit-staging")
    report.check("the models folder has no half model", name not in webui.own_names(), ", ".join(webui.own_names()))
    listed = get(f"{webui.openai}/v1/internal/model/list")["model_names"] if not webui.source.is_legacy else []
    report.check("nor does the webui list one", not [each for each in listed if "TinyMath" in each], listed)
    hub.clear_faults()
    asked = len(hub.requests)
    tab.look(REPO)
    if tab.field("Branch") != branch:
        tab.choose("Branch", branch)
    tab.job(button)
    ranges = [one.headers["range"] for one in hub.requests[asked:] if "range" in one.headers and one.origin == "cdn"]
    report.check(
        "going on asks for the rest alone",
        ranges and any(_from(one) == kept for one in ranges),
        f"kept {kept}, asked {ranges}",
    )
    there = webui.models / name
    report.check(
        "now the model's folder is there, whole",
        (there / "config.json").is_file(),
        f"{name}: {sum(path.stat().st_size for path in there.iterdir()):,} bytes",
    )


def _from(value: str) -> int:
    return int(value.partition("=")[2].split("-")[0] or 0)


def folder_of(branch: str, repo: str = REPO) -> str:
    """The folder's name as the webui's own downloader gives it: the branch left out where it is main."""
    return repo.replace("/", "_") + ("" if branch == "main" else f"_{branch}")
