"""The tab in real pages: every gradio that is given, a real browser, a real loopback Hub."""

from __future__ import annotations

import os
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from branchfit.demo.repo import BRANCHES, REPO, demo_repo
from branchfit.demo.server import LoopbackHub
from branchfit.download import folder_name
from hosts import browser as browsers
from hosts.browser import Browser
from hosts.host import free_port
from hosts.page import CLICK, FIND

PYTHONS = [Path(python) for python in os.environ.get("BRANCHFIT_GRADIO_PYTHONS", "").split(os.pathsep) if python]
SERVE = Path(__file__).parent / "pages" / "serve.py"
BEST = "gptq-4bit-32g-actorder_True"
SOON_S = 60.0

pytestmark = pytest.mark.skipif(
    not PYTHONS or browsers.found() is None,
    reason="needs BRANCHFIT_GRADIO_PYTHONS (Pythons with a gradio each, as tests/pages/*.txt pin them), Chromium and "
    "chromedriver",
)


class Tab:
    """One browser window on the tab."""

    def __init__(self, window: Browser, address: str) -> None:
        self.window, self.address = window, address
        self.open()

    def open(self) -> None:
        self.window.open(self.address)
        self.until(lambda: self.window.run("return !!document.querySelector('#branchfit-repo textarea')"), "the tab")

    def until(self, holds: Callable[[], Any], what: str) -> Any:
        end = time.monotonic() + SOON_S
        while not (found := holds()):
            assert time.monotonic() < end, f"waited for {what}; the page says:\n{self.text()}"
            time.sleep(0.1)
        return found

    def text(self) -> str:
        return str(self.window.run("return document.body.innerText"))

    def board(self) -> str:
        return str(self.window.run("return document.querySelector('#branchfit-board')?.innerText || ''"))

    def click(self, name: str, kind: str = "button") -> None:
        self.until(lambda: self.window.run(CLICK, kind, name), f"{kind} {name}")

    def has(self, name: str) -> bool:
        return bool(self.window.run(FIND + "return !!find", "button", name))

    def type(self, selector: str, value: str) -> None:
        script = """const box = document.querySelector(arguments[0]);
Object.getOwnPropertyDescriptor(Object.getPrototypeOf(box), 'value').set.call(box, arguments[1]);
box.dispatchEvent(new Event('input', {bubbles: true}));"""
        self.window.run(script, selector, value)
        # The page sends what was typed with the next event; both see the box as it is now.
        self.until(
            lambda: self.window.run("return document.querySelector(arguments[0]).value", selector) == value, value
        )

    def look(self, repo: str) -> None:
        self.type("#branchfit-repo textarea", repo)
        self.click("Look")

    def chosen(self) -> str:
        script = "return document.querySelector('#branchfit-advice tr.chosen td.name')?.innerText || ''"
        return str(self.window.run(script))

    def prefer(self, name: str) -> None:
        script = """const found = [...document.querySelectorAll('input[type=radio]')]
.find(each => each.value === arguments[0] || each.closest('label').innerText.trim() === arguments[0]);
found.click();"""
        self.window.run(script, name)

    def says(self, words: str) -> None:
        self.until(lambda: words in self.text(), repr(words))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    return {branch: dict(found) for branch, found in demo_repo(tmp_path_factory.mktemp("demo")).branches.items()}


@pytest.fixture(scope="module", params=PYTHONS or [None], ids=lambda python: python and python.parents[1].name)
def gradio_python(request: pytest.FixtureRequest) -> Path:
    python: Path = request.param
    return python


@pytest.fixture
def hub(loopback_hub: LoopbackHub, files: dict[str, dict[str, Path]]) -> LoopbackHub:
    loopback_hub.add_repo(REPO, files)
    return loopback_hub


@contextmanager
def served(python: Path, models: Path, endpoint: str, home: Path) -> Iterator[str]:
    port = free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        "HF_ENDPOINT": endpoint, "HOME": str(home), "HF_HOME": str(home / "hf"), "BRANCHFIT_CACHE": str(home / "cache"),
        "GRADIO_ANALYTICS_ENABLED": "False", "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    with (home / "page.log").open("wb") as log:
        process = subprocess.Popen(
            [str(python), str(SERVE), str(port), str(models)], env=environment, stdout=log, stderr=log,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    address, end = f"http://127.0.0.1:{port}/", time.monotonic() + 2 * SOON_S
    try:
        while True:
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except OSError:
                said = (home / "page.log").read_text(errors="replace")
                assert process.poll() is None and time.monotonic() < end, said
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def tab(gradio_python: Path, hub: LoopbackHub, tmp_path: Path) -> Iterator[Tab]:
    home = tmp_path / "home"
    home.mkdir()
    with served(gradio_python, tmp_path / "models", hub.endpoint, home) as address, Browser() as window:
        yield Tab(window, address)


def test_from_a_pasted_address_to_a_loaded_model(tab: Tab, hub: LoopbackHub, tmp_path: Path) -> None:
    tab.look(f"https://huggingface.co/{REPO}")
    tab.until(lambda: tab.chosen() == BEST, "the recommended branch")
    said = tab.text()
    assert all(branch in said for branch in BRANCHES)
    assert "GPU 0: a card, 6.0 GiB free of 8.0 GiB (2.0 GiB held by pid 4121, Xorg)" in said
    assert f"→ {BEST} is the best quality that ExLlama can run here" in said

    asked = len(hub.requests)
    tab.prefer("speed")
    tab.until(lambda: tab.chosen() == "main", "another branch for another preference")
    tab.prefer("balanced")
    tab.until(lambda: tab.chosen() == BEST, "the first one again")
    assert len(hub.requests) == asked

    hub.slow_down(150_000, "cdn GET")
    tab.click("Download and load")
    tab.until(lambda: "/s, " in tab.board() and " left" in tab.board(), "bytes, speed and time left")
    tab.open()  # a reload: the download is the webui's, not the page's
    tab.until(lambda: "downloading" in tab.board(), "the download after a reload")
    first = tab.board()
    tab.until(lambda: "downloading" in tab.board() and tab.board() != first, "progress after a reload")
    tab.click("Cancel")
    tab.until(lambda: "Stopped. What was fetched is kept" in tab.board(), "the end of it")
    assert not list((tmp_path / "models").glob("*"))

    hub.clear_faults()
    tab.look(REPO)
    tab.until(lambda: tab.chosen() == BEST, "the recommended branch")
    tab.click("Download and load")
    tab.until(lambda: "predicted 5.0 GiB, measured 4.9 GiB" in tab.board(), "what was measured")
    assert "Prompt lock active" in tab.board()
    assert (tmp_path / "models" / folder_name(REPO, BEST) / "model.safetensors").is_file()


def test_models_on_disk_are_listed_verified_and_removed_after_a_question(tab: Tab, tmp_path: Path) -> None:
    name = folder_name(REPO, "main")
    tab.look(f"{REPO}:main")
    tab.until(lambda: tab.chosen() == "main", "the branch")
    tab.click("Download only")
    tab.says("downloaded and verified")
    tab.click("Models on disk", "tab")
    tab.says(name)
    tab.click("Verify")
    tab.until(lambda: "files are what the Hub says" in tab.board(), "the verification")
    tab.click("Remove")
    tab.says("It cannot be undone, only downloaded again.")
    tab.click("Keep it")
    tab.until(lambda: not tab.has("Yes, delete it"), "the question gone")
    assert (tmp_path / "models" / name).is_dir()
    tab.click("Remove")
    tab.click("Yes, delete it")
    tab.says("freed")
    assert not (tmp_path / "models" / name).exists()


def test_errors_are_sentences_in_the_page(tab: Tab, hub: LoopbackHub) -> None:
    tab.look("BranchFit/Nope")
    tab.says("no repo BranchFit/Nope on the Hub")
    tab.look("what is this")
    tab.says("owner/name")
    tab.click("Download and load")
    tab.says("Paste a repo and press Look first.")
    hub.stop()
    tab.look("BranchFit/Other")
    tab.says("the connection was refused")
    hub.start()


def test_two_pages_see_one_download_and_keep_their_own_repos(
    tab: Tab, hub: LoopbackHub, files: dict[str, dict[str, Path]]
) -> None:
    hub.add_repo("Another/Model-GPTQ", {"main": files["main"]})
    with Browser() as window:
        other = Tab(window, tab.address)
        tab.look(REPO)
        other.look("Another/Model-GPTQ")
        tab.until(lambda: tab.chosen() == BEST, "the first page's own")
        other.until(lambda: other.chosen() == "main", "the second page's own")
        hub.slow_down(150_000, "cdn GET")
        tab.click("Download only")
        tab.until(lambda: "downloading" in tab.board(), "the download")
        other.click("Download only")
        other.until(lambda: REPO in other.board() and "waiting for" in other.board(), "both downloads, in turn")
        other.click("Last one first")
        other.until(lambda: "Another/Model-GPTQ:main: downloading" in other.board(), "the other one's turn")
        tab.click("Pause downloads")
        other.until(lambda: other.board().count(": paused") == 2, "a pause that both pages see")
        assert not other.has("Pause downloads")
        other.click("Go on with downloads")
        other.until(lambda: "Another/Model-GPTQ:main: downloading" in other.board(), "it goes on")
        hub.clear_faults()
        for page in (tab, other):
            page.click("Refresh progress", "menu")
        other.until(lambda: "Another/Model-GPTQ:main: downloaded and verified" in other.board(), "its end")
        assert tab.chosen() == BEST and other.chosen() == "main"
