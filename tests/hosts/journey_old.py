"""The journey where nothing quantised can be loaded: v1.7 on a machine without a GPU, or a webui without the packages.

Download, list, refuse in words; a tiny unquantised model is loaded instead, asked and proved, and what the
webui's loader would be given for the quantised one on another machine is written down.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from .host import HERE
from .journey_ask import ask
from .journey_get import folder_of, stop_and_go_on
from .journey_settings import MARK
from .journey_tab import DISK, GET

if TYPE_CHECKING:
    from .journey_run import Journey

BRANCH = "gptq-4bit-32g-actorder_True"


def download_only(journey: Journey) -> None:
    report, tab = journey.report, journey.tab
    with report.step("5. download and load"):
        tab.choose("Branch", BRANCH)
        asked = len(journey.hub.requests)
        said = tab.asked("#branchfit-said", "Download and load")
        report.check(
            "download and load is refused before a byte is fetched, and says why",
            "would not load" in said and len(journey.hub.requests) == asked,
            said,
        )
        stop_and_go_on(journey, "Download only", BRANCH)
        tab.open()
        tab.front(DISK)
        name = folder_of(BRANCH)
        rows = [row[1] for row in tab.rows("#branchfit-models")]
        report.check("the model is listed under Models on disk", rows == [name], rows)
        tab.choose("Model", name)
        said = tab.job("Load")
        report.check("loading it there is refused, and says why", "load" in said and "not" in said.lower(), said)
        journey.shot("tab-models")


def load_unquantised(journey: Journey, tiny: Path) -> None:
    """In place of the quantised one. The label says so."""
    from .journey_run import UNQUANTISED

    webui, report, tab = journey.webui, journey.report, journey.tab
    with report.step("5. download and load"):
        report.add("IN PLACE OF THE QUANTISED MODEL, which nothing here can load: a tiny unquantised one", "not here")
        tab.front(GET)
        tab.look(UNQUANTISED)
        reason = tab.text("#branchfit-reason")
        report.add("what the page says of an unquantised repo", "yes" if reason else "NO", reason)
        tab.choose("Branch", "main")
        said = tab.job("Download only")
        report.check("it downloads", "downloaded and verified" in said, said)
        tab.front(DISK)
        name = folder_of("main", UNQUANTISED)
        tab.choose("Model", name)
        tab.tick("Load even where the numbers say that it does not fit", True)
        said = tab.job("Load")
        if not report.check("it loads from Models on disk", "is loaded" in said, said):
            tab.shot(webui.out / "unquantised.png")
        report.check(
            "the webui's console has the load",
            f"Loading {name}" in webui.log_text().replace("\n", " ") or f'"{name}"' in webui.log_text(),
        )
        journey.shot("tab-loaded")
    journey.tokenizer = tiny / "tokenizer.json"
    ask(journey)


def settings(journey: Journey) -> None:
    """The exact settings that the webui's loader would be given for the quantised branch. No GPU: simulated."""
    webui, report = journey.webui, journey.report
    with report.step("5b. settings for the quantised one, SIMULATED"):
        folder = webui.models / folder_of(BRANCH)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        done = subprocess.run(
            [webui.source.python, "-B", HERE / "journey_settings.py", folder],
            cwd=webui.copy,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**kept, "PYTHONPATH": str(HERE.parent), "HOME": str(webui.home), "HF_HUB_OFFLINE": "1"},
        )
        line = next((line for line in done.stdout.splitlines() if line.startswith(MARK)), "")
        report.check(
            "the webui's own code was run up to its loader", line, (done.stderr or "")[-300:] if not line else ""
        )
        if not line:
            return
        told = json.loads(line.removeprefix(MARK))
        report.facts["settings"] = told
        for found in told["found"]:
            what = f"one GPU {told['gpu']} said to be there, {found['asked']} asked for"
            if "args" in found:
                report.add(
                    f"{what}: {found['function']} of this webui is given",
                    "yes",
                    f"{found['arguments']}, shared.args {json.dumps(found['args'])}",
                )
            else:
                report.add(what, "not here", found.get("refused") or found.get("ended") or found.get("reason"))
