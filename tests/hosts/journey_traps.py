"""What goes wrong, and what the page says then: in words, with numbers and what to do."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING

from branchfit.demo.repo import REPO

from .client import get, post
from .journey_get import folder_of
from .journey_tab import GET

if TYPE_CHECKING:
    from .journey_run import Journey

UNKNOWN = "BranchFit/NoSuch-GPTQ"
UNASKED = "BranchFit/NeverAsked-GPTQ"
TOO_LONG = "10000000"
BARE = "OldCard-TinyMath-GPTQ"
"""As repos of mid 2023 are: quantize_config.json, and nothing of it in config.json."""

SUM = "How much is 2 + 2?"


def traps(journey: Journey) -> None:
    """Step 9, where something can be loaded."""
    hub_traps(journey)
    with journey.report.step("9. traps"):
        _too_long(journey)
        _bare_config(journey)


def hub_traps(journey: Journey) -> None:
    report, tab, hub = journey.report, journey.tab, journey.hub
    with report.step("9. traps"):
        tab.open()
        said = tab.look(UNKNOWN, "#branchfit-said")
        report.check("a repo that is not there", UNKNOWN in said, said)
        hub.stop()
        try:
            said = tab.look(UNASKED, "#branchfit-said")
            report.check(
                "the Hub down, a repo never asked about: in words, with what to do",
                hub.endpoint.partition("//")[2] in said or "reach" in said,
                said,
            )
            tab.look(REPO)
            notes = tab.browser.run("return document.querySelector('#branchfit-advice').textContent")
            note = re.search(r"[^.]*(as of|from \d{4}|answer)[^.]*\.", notes.partition("Notes")[2])
            report.check(
                "the Hub down, a repo asked about before: answered, and the page says from when",
                len(tab.rows("#branchfit-advice")) == 6 and re.search(r"20\d\d-\d\d-\d\d", notes),
                note[0] if note else notes[-200:],
            )
        finally:
            hub.start()
        said = ""
        tab.write("Context (tokens)", "a few")
        tab.wait(lambda: tab.text("#branchfit-said") != said, "a word on the context", 20)
        said = tab.text("#branchfit-said")
        report.check("a context that is no number", "a few" in said, said)
        tab.write("Context (tokens)", "automatic")


def _too_long(journey: Journey) -> None:
    report, tab, hub = journey.report, journey.tab, journey.hub
    tab.open()
    tab.front(GET)
    tab.look(REPO)
    tab.write("Context (tokens)", TOO_LONG)
    rows = tab.rows("#branchfit-advice")
    report.check(
        "context of 10 million: no branch fits, each with by how much it is short",
        rows and all(re.search(r"short by [\d.]+ GiB", row[8]) for row in rows),
        [row[8] for row in rows][:2],
    )
    tab.choose("Branch", "main")
    asked = len(hub.requests)
    said = tab.asked("#branchfit-said", "Download and load")
    report.check(
        "download and load of it is refused, with the numbers and what to do",
        len(re.findall(r"[\d.]+ GiB", said)) >= 2 and "choose another branch" in said,
        said,
    )
    report.check("and nothing was fetched", len(hub.requests) == asked and not tab.working, journey.asked_since(asked))
    journey.shot("refused")
    tab.write("Context (tokens)", "automatic")


def _bare_config(journey: Journey) -> None:
    """A plain loader finds no weights there that it knows, fills in random ones, and says so in passing."""
    webui, report, tab = journey.webui, journey.report, journey.tab
    whole = next(name for name in webui.own_names() if name.startswith(folder_of("main")))
    shutil.copytree(webui.models / whole, webui.models / BARE, ignore=shutil.ignore_patterns("*branchfit*"))
    file = webui.models / BARE / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    had = config.pop("quantization_config", None)
    file.write_text(json.dumps(config), encoding="utf-8")
    report.check(
        "a folder as repos of mid 2023 are: no quantization_config in its config.json",
        had is not None and (webui.models / BARE / "quantize_config.json").is_file(),
        BARE,
    )
    right = reply(journey)
    tab.open()
    tab.tab("Model")
    tab.idle()
    tab.browser.run("[...document.querySelectorAll('.refresh-button')].find(e => e.offsetParent).click()")
    tab.idle()  # the menu's own button, which reads the folder again
    tab.choose("Model", BARE)
    logged = len(webui.log_text())
    tab.press("Load")
    tab.wait(
        lambda: re.search("Successfully loaded|Error|Traceback", tab.idle() + webui.log_text()[logged:]),
        "the load",
        120,
    )
    tab.idle()
    log = webui.log_text()[logged:]
    journey.browser.shot(webui.out / "model-tab.png")
    now = reply(journey)
    loaded = get(f"{webui.openai}/v1/internal/model/info").get("model_name") == BARE
    caught = not loaded and bool(_sentence(log))
    report.check(
        "loaded from the webui's own Model tab, it answers as the model it is, or is refused in words",
        now == right or caught,
        f"right: {right[:60]!r}; now: {now[:60]!r}; {_sentence(log)}",
    )


def reply(journey: Journey) -> str:
    """What the loaded model says to a sum, the likeliest token each time; its status where it says nothing."""
    body = {"messages": [{"role": "user", "content": SUM}], "max_tokens": 6, "temperature": 0, "do_sample": False}
    answer = post(f"{journey.webui.openai}/v1/chat/completions", body)
    return answer.text if answer.status == 200 else f"{answer.status} {answer.text}"


def _sentence(log: str) -> str:
    lines = [
        line.strip() for line in log.splitlines() if re.search("LoadError|Error:|Successfully|MISSING|newly init", line)
    ]
    return " / ".join(lines[-3:])[:200]
