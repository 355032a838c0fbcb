"""The models on disk: verified, damaged, repaired, removed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from .journey_get import folder_of
from .journey_tab import DISK

if TYPE_CHECKING:
    from .journey_run import Journey

WEIGHTS = "model.safetensors"
DAMAGED = folder_of("gptq-3bit--1g-actorder_True")
"""The one that the two browser tabs fetched: on disk, and not loaded."""


def models_on_disk(journey: Journey) -> None:
    """Step 8."""
    webui, report, tab = journey.webui, journey.report, journey.tab
    with report.step("8. models on disk"):
        tab.open()
        tab.front(DISK)
        rows = tab.rows("#branchfit-models")
        loaded = next((row[1] for row in rows if "loaded" in row[-1]), "")
        report.check(
            "both downloads are listed, the loaded one marked", len(rows) == 2 and loaded, [row[1:] for row in rows]
        )
        journey.shot("tab-models")
        tab.choose("Model", DAMAGED)
        said = tab.job("Verify")
        report.check("verify: as the Hub published it", "verified:" in said and "the Hub" in said, said)
        file = webui.models / DAMAGED / WEIGHTS
        flip(file)
        said = tab.job("Verify")
        report.check(
            "one bit of a byte flipped on disk: verify names the file",
            "NOT what was published" in said and WEIGHTS in said,
            said,
        )
        asked = len(journey.hub.requests)
        said = tab.job("Repair")
        fetched = [line for line in journey.asked_since(asked) if line.startswith("cdn GET")]
        report.check(
            "repair fetches that file, and no other", len(fetched) == 1, f"{said}; {len(fetched)} from the CDN"
        )
        said = tab.job("Verify")
        report.check("verify: whole again", "verified:" in said and "NOT" not in said.split("\n")[0], said)
        if loaded:
            tab.choose("Model", loaded)
            tab.press("Repair")
            tab.wait(lambda: tab.says("is loaded: unload it first"), "the refusal", 20)
            report.check(
                "the loaded one is not repaired under the webui's feet", True, f"{loaded} is loaded: unload it first."
            )
            tab.choose("Model", DAMAGED)
        _remove(journey)


def _remove(journey: Journey) -> None:
    webui, report, tab = journey.webui, journey.report, journey.tab
    question = tab.asked("#branchfit-question", "Remove")
    report.check(
        "remove asks first, with the folder and its size",
        DAMAGED in question and re.search(r"\d [kMG]?B", question),
        question,
    )
    gone = tab.asked("#branchfit-question", "Keep it")
    report.check(
        "Keep it: the question goes, the model stays",
        gone == "" and DAMAGED in webui.own_names(),
        ", ".join(webui.own_names()),
    )
    tab.asked("#branchfit-question", "Remove")
    tab.press("Yes, delete it")
    tab.wait(lambda: tab.says(f"Removed {DAMAGED}"), "the removal", 20)
    tab.idle()
    said = re.search(rf"Removed {DAMAGED}.*", str(tab.browser.run("return document.body.innerText")))
    report.check(
        "Yes, delete it: gone, and how many bytes that gave back",
        said and re.search(r"\d [kMG]?B freed", said[0]) and DAMAGED not in webui.own_names(),
        f"{said[0] if said else ''} {', '.join(webui.own_names())}",
    )
    report.check(
        "the list follows",
        DAMAGED not in tab.text("#branchfit-models"),
        [row[1] for row in tab.rows("#branchfit-models")],
    )


def flip(file: Path) -> None:
    """One bit of the byte in the middle."""
    with file.open("r+b") as opened:
        middle = file.stat().st_size // 2
        opened.seek(middle)
        byte = opened.read(1)[0]
        opened.seek(middle)
        opened.write(bytes([byte ^ 1]))
