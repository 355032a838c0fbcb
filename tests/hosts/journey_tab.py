"""BranchFit's tab in the browser: what a person reads, presses and chooses there, in gradio 3 and 4."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from .page import FIND, SETTLED_S, Page

NAME = "BranchFit"
GET, DISK, LOCK = "Get and load a model", "Models on disk", "Prompt lock"
MOVING_S = 3.0
"""Longest wait for a page to settle on which a job moves; what the button did is looked at by itself."""

WORKING = "#branchfit-board .branchfit-working"

TEXT = """const e = document.querySelector(arguments[0]); if (!e) return '';
if (!e.id.startsWith('branchfit')) return e.innerText;
const ours = e.querySelector('.branchfit'); return ours ? ours.innerText : '';"""
"""gradio writes the seconds that an event takes beside our words, unseen."""

ROWS = """return [...document.querySelectorAll(arguments[0] + ' tbody tr')].map(row =>
    [row.className, ...[...row.querySelectorAll('td')].map(cell => cell.innerText.trim())])"""

FIELD = """
const shown = e => e && e.offsetParent !== null;
const label = [...document.querySelectorAll('label, .block')].filter(shown).find(e =>
    [...e.querySelectorAll('span')].some(s => s.innerText.trim() === arguments[0]) && e.querySelector('input'));
const field = label && [...label.querySelectorAll('input')].find(shown);
"""

OPEN = (
    FIELD
    + """if (!field) return false; field.blur();
let seen = false; field.addEventListener('focus', () => { seen = true; }, {once: true});
field.focus(); if (!seen) field.dispatchEvent(new Event('focus')); return true;"""
)
"""Once only: in gradio 3 a second one closes the list again."""

OPTIONS = "return [...document.querySelectorAll('ul.options li')].map(e => e.innerText.replace('✓', '').trim())"

TAKE = """const item = [...document.querySelectorAll('ul.options li')].find(
    e => e.innerText.replace('✓', '').trim() === arguments[0]);
if (!item) return false;
item.dispatchEvent(new MouseEvent('mousedown', {bubbles: true, cancelable: true})); return true;"""

WRITE = (
    FIELD
    + """if (!field) return false; field.focus();
Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(field, arguments[1]);
field.dispatchEvent(new Event('input', {bubbles: true}));
const kind = String((window.gradio_config || {}).version).startsWith('3') ? 'keyup' : 'keydown';
field.dispatchEvent(new KeyboardEvent(kind, {key: 'Enter', bubbles: true}));
field.blur(); return true;"""
)
"""gradio 4 takes what was typed at Enter; 3 at any key that goes up, and takes its own choice at Enter."""

MARK = """const shown = e => e && e.offsetParent !== null;
const tab = [...document.querySelectorAll('.tabitem, [role=tabpanel]')].filter(shown)
    .find(e => e.querySelector('#branchfit-board'));
document.querySelectorAll('#journey-shot').forEach(e => e.removeAttribute('id'));
if (tab) tab.id = 'journey-shot'; return !!tab;"""

RADIO = """const find = [...document.querySelectorAll('label')].find(e => e.offsetParent !== null &&
    e.querySelector('input[type=radio]') && e.innerText.trim() === arguments[0]);
if (!find) return false; find.querySelector('input').click(); return true;"""

TICK = FIELD + "if (!field) return false; if (field.checked !== arguments[1]) field.click(); return true;"

_AMOUNT = re.compile(r"([\d.]+) (B|kB|MB|GB) of ([\d.]+) (B|kB|MB|GB) \((\d+) %\)(?:, ([\d.]+ \w+)/s)?(?:, (.+) left)?")
_FACTOR = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}


class Tab(Page):
    """The page with BranchFit's tab in front."""

    loaded_again = 0
    """gradio's pages were seen stuck on a busy machine, lock or not; then a person loads them again."""

    def open(self) -> None:
        try:
            super().open()
        except TimeoutError:
            Tab.loaded_again += 1
            super().open()

    def wait_until_loaded(self) -> None:
        """Not by the Chat tab's mode: v4.7.3 saves what a page shows before its values have come, and that is none."""
        ready = "return !!document.querySelector('#chat-input textarea')"
        self.wait(lambda: self.browser.run(ready), "the page to load")
        self.idle()
        if self.has_tab(NAME):
            self.tab(NAME)
            if self.has_tab(GET):
                self.tab(GET)

    def front(self, inner: str = GET) -> None:
        self.tab(NAME)
        self.tab(inner)

    def idle(self, limit_s: float = SETTLED_S) -> str:
        """Progress changes the page each second: while there is some, nothing else is waited for longer than that."""
        return super().idle(MOVING_S if self.working else limit_s)

    def text(self, selector: str) -> str:
        return str(self.browser.run(TEXT, selector)).strip()

    def rows(self, selector: str) -> list[list[str]]:
        """Each row's class, then its cells."""
        return [[str(cell) for cell in row] for row in self.browser.run(ROWS, selector)]

    def press(self, button: str) -> None:
        self.click("button", button)

    def asked(self, selector: str, press: str, limit_s: float = 30) -> str:
        """Press a button, and wait until the text of `selector` is another than before, and stands still."""
        before = self.text(selector)
        self.press(press)
        self.wait(lambda: self.text(selector) != before, f"{selector} to change after {press}", limit_s)
        self.idle()
        return self.text(selector)

    def look(self, repo: str, selector: str = "#branchfit-advice") -> str:
        self.type("id", "#branchfit-repo textarea, #branchfit-repo input", repo)
        return self.asked(selector, "Look", 60)

    def options(self, label: str) -> list[str]:
        """What a dropdown offers."""
        self.wait(lambda: self.browser.run(OPEN, label), f"the field {label}", 10)
        time.sleep(0.3)
        found = [str(each) for each in self.browser.run(OPTIONS)]
        self.browser.run(FIELD + "field && field.blur()", label)
        return found

    def choose(self, label: str, option: str) -> None:
        def taken() -> bool:
            if not self.browser.run(OPEN, label):
                return False
            time.sleep(0.5)
            return bool(self.browser.run(TAKE, option))

        self.wait(taken, f"{option} among {label}", 20)
        self.browser.run(FIELD + "field && field.blur()", label)
        self.idle()

    def write(self, label: str, text: str) -> None:
        self.wait(lambda: self.browser.run(WRITE, label, text), f"the field {label}", 10)
        self.idle()

    def prefer(self, name: str) -> None:
        self.wait(lambda: self.browser.run(RADIO, name), f"the choice {name}", 10)
        self.idle()

    def tick(self, label: str, wanted: bool) -> None:
        self.wait(lambda: self.browser.run(TICK, label, wanted), f"the box {label}", 10)
        self.idle()

    def field(self, label: str) -> str:
        return str(self.browser.run(FIELD + "return field ? field.value : ''", label))

    # The board

    def board(self) -> str:
        return self.text("#branchfit-board")

    def amount(self) -> Amount | None:
        return amount(self.board())

    @property
    def working(self) -> bool:
        return bool(self.browser.run("return !!document.querySelector(arguments[0])", WORKING))

    def ended(self, limit_s: float = 120) -> str:
        """Wait until nothing is going on; what the board says then."""
        self.wait(lambda: not self.working, "the board to say that all has ended", limit_s)
        self.idle()
        return self.board()

    def job(self, button: str, limit_s: float = 120) -> str:
        """Press a button that starts a job; what the board says once that has ended."""
        before = self.board()
        self.press(button)
        self.wait(lambda: self.board() != before and not self.working, f"what {button} started to end", limit_s)
        self.idle()
        return self.board()

    def shot(self, file: Path) -> None:
        """The tab alone."""
        if self.browser.run(MARK):
            self.browser.shot_of(file, "#journey-shot")
        else:
            self.browser.shot(file)

    # The rest of the page

    def says(self, *words: str) -> bool:
        page = str(self.browser.run("return document.body.innerText"))
        return all(word in page for word in words)

    def has_tab(self, name: str) -> bool:
        return bool(self.browser.run(FIND + "return !!find", "tab", name))


class Amount:
    """What the board says of a download: bytes done and in all, per cent, speed and time left as written."""

    def __init__(self, found: re.Match[str]) -> None:
        done, of, total, unit, per_cent, speed, left = found.groups()
        self.done_bytes, self.total_bytes = float(done) * _FACTOR[of], float(total) * _FACTOR[unit]
        self.per_cent, self.speed, self.left = int(per_cent), speed, left

    def __repr__(self) -> str:
        return json.dumps(self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        return {"per_cent": self.per_cent, "speed": self.speed, "left": self.left}


def amount(board: str) -> Amount | None:
    """The first amount on the board, None where there is none."""
    found = _AMOUNT.search(board)
    return Amount(found) if found else None
