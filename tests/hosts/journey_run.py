"""One host's journey: what all its steps share, and their order."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from branchfit.demo.repo import REPO, DemoRepo, demo_repo
from branchfit.demo.server import LoopbackHub

from . import journey_ask, journey_disk, journey_get, journey_old, journey_setup, journey_traps
from .browser import Browser
from .host import HERE, Source
from .journey_host import Webui, copied
from .journey_listing import stamped
from .journey_report import Report
from .journey_tab import NAME, Tab

OTHER = "BranchFit/OtherMath-GPTQ"
OTHER_BRANCHES = ("main", "gptq-4bit-64g-actorder_True")
UNQUANTISED = "BranchFit/WizardMath-tiny"
ADDRESS = f"https://huggingface.co/{REPO}"
"""What a person copies from the browser's address line."""


@dataclass
class Journey:
    """One host. `tab` and `browser` are there once the first page is up."""

    webui: Webui
    hub: LoopbackHub
    repo: DemoRepo
    report: Report
    original: Source
    browser: Browser
    tokenizer: Path
    """The tokenizer.json of the model that is asked."""
    tab_made: Tab | None = None
    shots: list[str] = field(default_factory=list)

    @property
    def tab(self) -> Tab:
        if self.tab_made is None:
            self.tab_made = Tab(self.browser, self.webui.page)
        return self.tab_made

    def up(self) -> Tab:
        """Start the webui and open its page. On a busy machine gradio's first request to itself may time out and
        end the page, with nothing of ours in the way; then once more."""
        self.webui.start()
        try:
            self.browser.open(self.webui.page)
            self.tab.wait(lambda: self.tab.has_tab(NAME), "the page to come up", 60)
        except (RuntimeError, TimeoutError):
            if "ReadTimeout" not in self.webui.log_tail(40):
                raise
            self.webui.stop()
            self.webui.start()
            self.tab_made = None
        return self.tab

    def shot(self, name: str) -> None:
        self.tab.shot(self.webui.out / f"{name}.png")
        self.shots.append(f"{name}.png")

    def asked_since(self, before: int) -> list[str]:
        """The requests that the Hub got after its first `before`."""
        return [f"{one.origin} {one.method} {one.path}" for one in self.hub.requests[before:]]


def travel(source: Source, out: Path) -> Report:
    """The whole journey of one host. Everything stands in a folder of its own that goes at the end."""
    report = Report(source.name)
    folder = out / source.name
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="branchfit-journey-")))
        report.work = str(work)
        repo = demo_repo(work / "hub")
        hub = stack.enter_context(LoopbackHub())
        hub.add_repo(REPO, repo.branches)
        hub.add_repo(OTHER, {branch: repo.branches[branch] for branch in OTHER_BRANCHES})
        tiny = work / "tiny"
        subprocess.run([source.python, HERE / "model.py", tiny], check=True, capture_output=True)
        hub.add_repo(UNQUANTISED, {"main": {path.name: path for path in tiny.iterdir()}})
        untouched = stamped(source.folder), stamped(source.python.parents[1])
        mine = copied(source, work)
        webui = Webui(mine, tiny, work, folder, hub.endpoint)
        browser = stack.enter_context(Browser())
        journey = Journey(webui, hub, repo, report, source, browser, repo.branches["main"]["tokenizer.json"])
        report.at_failure = lambda name: _broken(journey, name)
        stack.callback(webui.stop)
        before = journey_setup.install(journey)
        journey_get.start(journey)
        if journey_get.recommends(journey):
            journey_get.download_and_load(journey)
            journey_ask.ask(journey)
            journey_ask.two_tabs(journey)
            journey_disk.models_on_disk(journey)
            journey_traps.traps(journey)
        else:
            journey_old.download_only(journey)
            journey_old.load_unquantised(journey, tiny)
            journey_old.settings(journey)
            journey_traps.hub_traps(journey)
        journey_setup.without_the_package(journey)
        journey_setup.uninstall(journey, before)
        webui.stop()
        journey_setup.untouched(journey, untouched)
        report.facts |= {"shots": journey.shots, "pages_loaded_again": Tab.loaded_again}
    return report


def _broken(journey: Journey, name: str) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        journey.browser.shot(journey.webui.out / f"broken-{name.split('.')[0].strip()}.png")
