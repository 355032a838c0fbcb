"""The runs of one webui: lock on, behind a hijacker, after a restart of the pages, API only, and off."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from .browser import Browser, found
from .client import get
from .compare import Answer, Verdict, judge
from .host import HERE, NotStarted, Running, Source
from .model import NAME
from .page import Page
from .paths_api import ALREADY, HEAD, TAIL, Numbered, both_apis, newer_api
from .paths_legacy import legacy_api
from .paths_pages import Step, after_restart, all_steps

Results = dict[str, dict[str, Verdict]]

ENTERS_S = 10
"""Longest wait for a prompt to enter the model after a click."""

REFUSES_S = 2
"""Waited where nothing should come, before the page is read."""

RUNS = ("on", "hijacked", "restarted", "api only", "off")


def run(source: Source, out: Path, runs: Sequence[str] = RUNS, say: Callable[[str], None] = print) -> Results:
    """run -> path -> verdict. Recordings, logs and screenshots stand in `out`, a folder a run."""
    results: Results = {}
    with tempfile.TemporaryDirectory(prefix="branchfit-hosts-") as work:
        model = Path(work) / "model" / NAME
        subprocess.run([source.python, HERE / "model.py", model], check=True, capture_output=True)
        for name in ("on", "hijacked", "api only", "off"):
            pages = name != "api only"
            wanted = name in runs or (name == "on" and "restarted" in runs)
            if not wanted or not (pages or source.has_flag("--nowebui")):
                continue
            place = Path(work) / name.replace(" ", "-")
            folder = out / source.name / name.replace(" ", "-")
            started = time.monotonic()
            host = Running(
                source, model, place, folder, lock=name != "off", hijacker=name == "hijacked", pages=pages
            )  # fmt: skip
            try:
                with host:
                    results[name] = drive_api(host)
                    if pages and found():
                        drive_pages(host, results, name, "restarted" if name == "on" and "restarted" in runs else "")
            except NotStarted as error:
                results[name] = {"start": Verdict(False, "NO", str(error))}
            say(f"{source.name}, {name}: {len(results[name])} paths in {time.monotonic() - started:.0f} s")
            (folder / "verdicts.json").write_text(json.dumps(as_json(results), indent=1, ensure_ascii=False))
    return results


def drive_api(host: Running) -> dict[str, Verdict]:
    number = Numbered()
    legacy = host.source.is_legacy
    verdicts = {}
    for path in chain(both_apis(host, number), legacy_api(number) if legacy else newer_api(host, number)):
        before = len(host.entered())
        answer = path.send(host)
        seen = host.entered()[before:]
        verdict = judge(path.wanted, seen, answer, HEAD, TAIL)
        if host.lock and not legacy and verdict.word == "yes" and len(seen) == 1:
            verdict = _proved(host, seen[0], verdict)
        verdicts[path.name] = verdict
    return verdicts


def _proved(host: Running, seen: dict[str, Any], verdict: Verdict) -> Verdict:
    """The lock's own account of its newest prompt has to say what was seen to enter."""
    try:
        told = get(f"{host.openai}/v1/internal/branchfit/prompts")
        newest = max(told["prompts"], key=lambda prompt: prompt.get("at", 0))
        same = newest["text"] == seen["text"] and told["active"] is True
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Verdict(False, "NO", f"exact, but the lock's account cannot be read: {error!r}", verdict.seen)
    if not same:
        detail = f"exact, but the lock's account says {newest['text'][-80:]!r}, active {told['active']}"
        return Verdict(False, "NO", detail, verdict.seen)
    return verdict


def drive_pages(host: Running, results: Results, name: str, restarted: str) -> None:
    with ExitStack() as stack:
        browser = stack.enter_context(Browser())
        try:
            page = Page(browser, host.page)
        except (RuntimeError, TimeoutError) as error:
            browser.shot(host.out / "page-broken.png")
            results[name]["pages"] = Verdict(False, "NO", f"the page did not load: {error}")
            return
        for step in all_steps():
            results[name][step.name] = _step(host, page, step)
        if restarted:
            results[restarted] = {}
            page.restart()
            for step in after_restart():
                results[restarted][step.name] = _step(host, page, step)
            results[restarted].update(drive_api(host))


def _step(host: Running, page: Page, step: Step) -> Verdict:
    """One step. A page that got stuck, so that nothing was sent at all, is loaded anew once, and that is told.

    Only for steps that need nothing of the ones before them. Gradio's pages were seen stuck on a busy machine.
    """
    verdict = _once(host, page, step)
    if verdict.exact or verdict.seen or step.prepare is None:
        return verdict
    page.open()
    again = _once(host, page, step)
    return replace(again, word="yes, 2nd try" if again.word == "yes" else again.word, detail=verdict.detail)


def _once(host: Running, page: Page, step: Step) -> Verdict:
    try:
        if step.prepare is not None:
            step.prepare(page)
        before = len(host.entered())
        step.do(page)
        limit = time.monotonic() + (ENTERS_S if step.wanted.sends else REFUSES_S)
        while len(host.entered()) == before and time.monotonic() < limit:
            time.sleep(0.1)
        answer = Answer(200, page.idle())
    except (RuntimeError, TimeoutError) as error:
        page.browser.shot(host.out / f"{_file_name(step.name)}-broken.png")
        return Verdict(False, "NO", f"the page could not be used: {error}")
    verdict = judge(step.wanted, host.entered()[before:], answer)
    page.browser.shot(host.out / f"{_file_name(step.name)}.png")
    return verdict


def _file_name(step: str) -> str:
    return step.lower().replace(",", "").replace(" ", "-")


def as_json(results: Results) -> dict[str, Any]:
    return {name: {path: _as_json(verdict) for path, verdict in each.items()} for name, each in results.items()}


def _as_json(verdict: Verdict) -> dict[str, Any]:
    seen = [{key: value for key, value in record.items() if key != "ids"} for record in verdict.seen]
    return {
        "exact": verdict.exact,
        "word": verdict.word,
        "detail": verdict.detail,
        "answer": verdict.answer[:2000],
        "seen": seen,
    }


def holds(results: Results) -> bool:
    """Every path is exact with the lock on. Without it, only what was sent as a rendering is: the test can fail."""
    for name, verdicts in results.items():
        if name.split()[-1] == "off":
            if any(verdict.word == "yes" and ALREADY not in path for path, verdict in verdicts.items()):
                return False
            if all(verdict.exact for verdict in verdicts.values()):
                return False
        elif not all(verdict.exact for verdict in verdicts.values()):
            return False
    return True
