"""Ask the model, in the Chat tab and through the API; and two browser tabs at the same time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from branchfit.demo.repo import BRANCHES, REPO
from branchfit.prompts import ALPACA_COT

from .client import get, post
from .journey_get import CDN, SLOW, folder_of
from .journey_tab import LOCK, Tab
from .page import CHAT

if TYPE_CHECKING:
    from .journey_run import Journey

QUESTION = "How much is 23 + 19? Say it in one word: naïve, 中, 😀."
BY_API = "How many legs have 7 spiders?"
ENTERS_S = 60


def ask(journey: Journey) -> None:
    """Step 6."""
    webui, report, tab = journey.webui, journey.report, journey.tab
    with report.step("6. ask, and the proof"):
        tab.new_chat("instruct")
        tab.type("id", CHAT, QUESTION)
        entered = len(webui.entered())
        tab.click("id", "#Generate")
        tab.wait(lambda: len(webui.entered()) > entered, "the prompt to enter the model", ENTERS_S)
        tab.idle()
        seen = texts(journey)[entered:]
        wanted = ALPACA_COT.render(QUESTION)
        report.check("Chat tab: what entered the model is the template, to the byte", seen == [wanted], repr(seen))
        bos = [ids[:2].count(1) for ids in (line["ids"] for line in webui.entered()[entered:])]
        report.check("with one BOS in front", bos == [1], bos)
        journey.browser.shot(webui.out / "chat.png")
        tab.front(LOCK)
        tab.press("Refresh")
        tab.idle()
        report.check(
            "the Prompt lock page shows that prompt, and that it is exact",
            tab.says("### Instruction:", QUESTION, "Let's think step by step."),
            _verdict(tab),
        )
        journey.shot("tab-proof")
        _by_api(journey)


def _by_api(journey: Journey) -> None:
    webui, report = journey.webui, journey.report
    entered = len(webui.entered())
    if webui.source.is_legacy:
        answer = post(f"{webui.api}/api/v1/generate", {"prompt": BY_API, "max_new_tokens": 4})
    else:
        body = {"messages": [{"role": "user", "content": BY_API}], "max_tokens": 4}
        answer = post(f"{webui.openai}/v1/chat/completions", body)
    seen = texts(journey)[entered:]
    report.check(
        "through the API: the same template",
        answer.status == 200 and seen == [ALPACA_COT.render(BY_API)],
        f"{answer.status} {seen!r}",
    )
    if webui.source.is_legacy:
        return
    told = get(f"{webui.openai}/v1/internal/branchfit/prompts")
    newest = max(told["prompts"], key=lambda prompt: prompt.get("at", 0))
    report.check(
        "the API's own account of it says so",
        told["active"] and newest["text"] == ALPACA_COT.render(BY_API),
        json.dumps({key: newest[key] for key in ("path", "verdict", "sha256") if key in newest}),
    )


def _verdict(tab: Tab) -> str:
    text = str(tab.browser.run("return document.body.innerText"))
    return next((line for line in text.splitlines() if "sha256" in line), "no line with sha256")


def texts(journey: Journey) -> list[str]:
    """What entered the model, read back from its tokens with the tokenizer of whatever model it is."""
    return [text_of(line, journey.tokenizer) for line in journey.webui.entered()]


def text_of(line: dict[str, Any], tokenizer_file: Path) -> str:
    """The recorder reads Llama's tokens; those of the demo's model are bytes spelt as letters (GPT-2's)."""
    tokenizer = json.loads(tokenizer_file.read_text(encoding="utf-8"))
    if (tokenizer["decoder"] or {}).get("type") != "ByteLevel":
        return str(line["text"])
    from branchfit.demo.synth.tokenizer import _byte_letters

    byte_of = {letter: byte for byte, letter in enumerate(_byte_letters())}
    pieces = {number: piece for piece, number in tokenizer["model"]["vocab"].items()}
    special = {each["id"] for each in tokenizer["added_tokens"]}
    kept = [number for number in line["ids"] if number not in special]
    return bytes(byte_of[letter] for number in kept for letter in pieces[number]).decode("utf-8", "backslashreplace")


def two_tabs(journey: Journey) -> None:
    """Step 7."""
    from .journey_run import OTHER, OTHER_BRANCHES

    webui, report, hub, browser = journey.webui, journey.report, journey.hub, journey.browser
    with report.step("7. two browser tabs"):
        first, one = journey.tab, browser.this_tab()
        first.open()
        first.look(REPO)
        branch = "gptq-3bit--1g-actorder_True"
        first.choose("Branch", branch)
        two = browser.new_tab()
        browser.switch(two)
        second = Tab(browser, webui.page)
        second.look(OTHER)
        listed = [row[2] for row in second.rows("#branchfit-advice")]
        report.check(
            "the second tab looks at another repo", sorted(listed) == sorted(OTHER_BRANCHES), ", ".join(listed)
        )
        hub.slow_down(SLOW / 20, CDN)
        browser.switch(one)
        first.press("Download only")
        first.wait(lambda: first.amount(), "the progress in the first tab", 40)
        browser.switch(two)
        second.open()
        report.check("both tabs see the same job", branch in second.board() and second.working, second.board())
        second.look(REPO)
        second.choose("Branch", branch)
        said = second.asked("#branchfit-said", "Download only")
        report.check("asked for a second time, it is still one job", "already under way" in said, said)
        second.look(OTHER)
        second.press("Cancel")
        browser.switch(one)
        said = first.ended()
        report.check("stopped from the second tab, the first sees it", f"{branch}: Stopped" in said, said)
        hub.clear_faults()
        said = first.job("Download only")
        report.check("gone on with from the first", f"{branch}: downloaded and verified" in said, said)
        browser.switch(two)
        second.choose("Context (tokens)", "2048")
        listed = [row[2] for row in second.rows("#branchfit-advice")]
        report.check(
            "the second tab still shows its own repo", sorted(listed) == sorted(OTHER_BRANCHES), ", ".join(listed)
        )
        browser.switch(one)
        report.check(
            "the branch chosen in the first is still chosen, whatever the second did",
            first.field("Branch") == branch,
            first.field("Branch"),
        )
        first.choose("Context (tokens)", "4096")
        listed = [row[2] for row in first.rows("#branchfit-advice")]
        report.check("and the first its own", sorted(listed) == sorted(BRANCHES), ", ".join(listed))
        report.check("one folder came of it", folder_of(branch) in webui.own_names(), ", ".join(webui.own_names()))
        browser.close_tab(two, one)
        first.choose("Context (tokens)", "automatic")
