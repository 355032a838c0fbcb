"""One webui page in a browser: its buttons and boxes by what a person reads on them, in every version's markup."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from .browser import Browser

QUIET_S = 1.0
"""Nothing on the page changed for so long: the webui's own chains of events take less than half of it."""

SETTLED_S = 60

STATE = """return [document.querySelectorAll('.generating, .pending').length, document.body.innerText,
    ...[...document.querySelectorAll('textarea')].filter(box => box.offsetParent !== null).map(box => box.value)
    ].join('\\u0001')"""

FIND = """
const shown = e => e && e.offsetParent !== null;
const said = e => e.innerText.trim() || e.textContent.trim();
const find = {
    id: name => document.querySelector(name),
    button: name => [...document.querySelectorAll('button')].find(e => shown(e) && said(e) === name),
    menu: name => [...document.querySelectorAll('button')].find(e => said(e) === name),
    tab: name => [...document.querySelectorAll('button[role=tab], .tab-nav > button')]
        .find(e => shown(e) && said(e) === name),
    mode: name => [...document.querySelectorAll('#chat-mode label')].find(e => said(e) === name),
    box: name => [...document.querySelectorAll('label')].filter(e => [...e.querySelectorAll('span')]
        .some(s => said(s) === name)).map(e => e.querySelector('textarea, input')).find(e => e),
}[arguments[0]](arguments[1]);
"""

CLICK = FIND + "if (!find) return false; find.click(); return true;"

TYPE = (
    FIND
    + """if (!find) return false;
Object.getOwnPropertyDescriptor(Object.getPrototypeOf(find), 'value').set.call(find, arguments[2]);
find.dispatchEvent(new Event('input', {bubbles: true})); return true;"""
)

VALUE = FIND + "return find ? find.value : null;"
CHECKED = FIND + "return find ? find.checked : null;"

CHAT = "#chat-input textarea"
NOTEBOOK = "#textbox-notebook textarea"
DEFAULT = ".textbox_default textarea"
DEFAULT_OUT = "#textbox-default textarea"
TWO_COLUMNS = "Show two columns in the Notebook tab"
RESTART = "Apply flags/extensions and restart"


class Page:
    def __init__(self, browser: Browser, url: str) -> None:
        self.browser, self.url = browser, url
        self.open()

    def open(self) -> None:
        self.browser.open(self.url)
        self.wait_until_loaded()

    def wait_until_loaded(self) -> None:
        """The load events have run: before, they write over what one types."""
        ready = "return !!document.querySelector('#chat-input textarea') && "
        ready += "!!document.querySelector('#chat-mode input:checked')"
        self.wait(lambda: self.browser.run(ready), "the page to load")
        self.idle()

    def wait(self, come: Callable[[], Any], what: str, limit_s: float = SETTLED_S) -> None:
        end = time.monotonic() + limit_s
        while not come():
            if time.monotonic() > end:
                raise TimeoutError(f"waited {limit_s:g} s for {what}")
            time.sleep(0.1)

    def idle(self, limit_s: float = SETTLED_S) -> str:
        """Wait until nothing changes; gives all text on the page, the boxes' included."""
        end, last, since = time.monotonic() + limit_s, "", time.monotonic()
        while time.monotonic() < end:
            state = str(self.browser.run(STATE))
            if state != last or not state.startswith("0"):
                last, since = state, time.monotonic()
            elif time.monotonic() - since >= QUIET_S:
                return state
            time.sleep(0.1)
        return last

    def click(self, kind: str, name: str) -> None:
        self.wait(lambda: self.browser.run(CLICK, kind, name), f"{kind} {name}", 10)

    def type(self, kind: str, name: str, text: str) -> None:
        self.wait(lambda: self.browser.run(TYPE, kind, name, text), f"{kind} {name}", 10)
        time.sleep(0.3)  # the page tells the server of it

    def value(self, name: str) -> str:
        return str(self.browser.run(VALUE, "id", name))

    def tab(self, name: str) -> None:
        self.click("tab", name)
        time.sleep(0.3)

    def has(self, kind: str, name: str) -> bool:
        return bool(self.browser.run(FIND + "return !!find", kind, name))

    # What a person does

    def new_chat(self, mode: str) -> None:
        self.tab("Chat")
        self.click("mode", mode)
        self.idle()
        self.click("menu", "New chat" if self.has("menu", "New chat") else "Start new chat")
        self.idle()

    def two_columns(self, wanted: bool) -> None:
        """Show the Default page: a tab of its own at first, later the Notebook tab in two columns."""
        if self.has("tab", "Default"):
            self.tab("Default" if wanted else "Notebook")
            return
        self.tab("Session")
        if self.browser.run(CHECKED, "box", TWO_COLUMNS) is not wanted:
            self.click("box", TWO_COLUMNS)
            self.idle()
        self.tab("Notebook")

    def restart(self) -> None:
        """The Session tab's restart of the pages; the models stay. The page reloads itself after it."""
        self.tab("Session")
        self.browser.run("window.beforeRestart = true")
        self.click("button", RESTART)
        self.wait(lambda: not self.browser.run("return window.beforeRestart === true"), "the page to reload")
        time.sleep(3)  # the old server may still answer the first reload
        for _ in range(20):
            try:
                self.open()
                return
            except (RuntimeError, TimeoutError):
                time.sleep(1)
        raise TimeoutError("the page did not come back after the restart")
