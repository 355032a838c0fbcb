"""The tab's second page: the models on disk, what is recorded of them, and what can be done with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from branchfit.download import Installed
from branchfit.download.unfinished import Unfinished
from branchfit.installed import disk_use_bytes
from branchfit.units import gb

from .models import read_wishes
from .pieces import block, cell, good_html, problem, quiet, table
from .wiring import BUTTON, Answer, Board, on

_TITLES = (
    ("model", ""),
    ("size", "number"),
    ("repo and branch", ""),
    ("template", ""),
    ("loader", ""),
    ("verified", ""),
    ("", ""),
)


def build(board: Board) -> None:
    import gradio as gr

    office = board.office
    closed = office.closed()
    if closed:
        gr.HTML(block(problem(closed)))
    shown = gr.HTML(lambda: _models_html(board), elem_id="branchfit-models")
    said = gr.HTML("")
    with gr.Row():
        name = gr.Dropdown(choices=_names(board), value=_first(_names(board)), label="Model", elem_id="branchfit-model")
        anyway = gr.Checkbox(value=False, label="Load even where the numbers say that it does not fit")
    with gr.Row():
        load = gr.Button("Load", elem_classes=BUTTON, variant="primary", interactive=not closed)
        unload = gr.Button("Unload", elem_classes=BUTTON, interactive=not closed)
        verify = gr.Button("Verify", elem_classes=BUTTON)
        repair = gr.Button("Repair", elem_classes=BUTTON, interactive=not closed)
        remove = gr.Button("Remove", elem_classes=BUTTON, interactive=not closed)
        refresh = gr.Button("Refresh", elem_classes=BUTTON)
    doomed = gr.State("")
    with gr.Row():
        question = gr.HTML("", elem_id="branchfit-question")
        sure = gr.Button("Yes, delete it", elem_classes=BUTTON, variant="stop", visible=False)
        keep = gr.Button("Keep it", elem_classes=BUTTON, visible=False)
    there = bool(_partly(board))
    with gr.Row():
        partly = gr.Dropdown(choices=_partly(board), label="Unfinished download", visible=there)
        resume = gr.Button("Go on with it", elem_classes=BUTTON, interactive=not closed, visible=there)
        discard = gr.Button("Delete what is there of it", elem_classes=BUTTON, interactive=not closed, visible=there)

    def listed(chosen: str | None = None) -> Answer:
        names, begun = _names(board), _partly(board)
        return {
            shown: _models_html(board),
            name: gr.update(choices=names, value=chosen if chosen in names else _first(names)),
            partly: gr.update(choices=begun, value=_first(begun), visible=bool(begun)),
            resume: gr.update(visible=bool(begun)),
            discard: gr.update(visible=bool(begun)),
        }

    def started(words: str) -> Answer:
        return {said: good_html(words) if words else "", board.view: board.html()}

    def asked(chosen: str | None) -> Answer:
        model = office.model(chosen)
        words = f"Delete {model.folder}, {gb(disk_use_bytes(model))}? It cannot be undone, only downloaded again."
        return {
            doomed: model.name,
            question: block(problem(words)),
            sure: gr.update(visible=True),
            keep: gr.update(visible=True),
        }

    def unasked() -> Answer:
        return {doomed: "", question: "", sure: gr.update(visible=False), keep: gr.update(visible=False)}

    def removed(chosen: str | None) -> Answer:
        try:
            words = office.remove(chosen)
        except Exception:
            unasked()
            raise
        return {said: good_html(words), **unasked(), **listed()}

    def discarded(chosen: str | None) -> Answer:
        return {said: good_html(office.discard(chosen)), **listed()}

    view, asking, wishes = [shown, name, partly, resume, discard], [doomed, question, sure, keep], board.wishes
    on(refresh.click, listed, [name], view, said)
    on(
        load.click,
        lambda chosen, same, *rest: started(office.load(chosen, read_wishes(*rest), bool(same))),
        [name, anyway, *wishes],
        [board.view],
        said,
    )
    on(unload.click, lambda: started(office.unload()), [], [board.view], said)
    on(verify.click, lambda chosen: started(office.verify(chosen)), [name], [board.view], said)
    on(repair.click, lambda chosen: started(office.repair(chosen)), [name], [board.view], said)
    on(remove.click, asked, [name], asking, said)
    on(keep.click, unasked, [], asking, said)
    on(sure.click, removed, [doomed], [*asking, *view], said)
    on(
        resume.click,
        lambda chosen, *rest: started(office.resume(chosen, read_wishes(*rest))),
        [partly, *wishes],
        [board.view],
        said,
    )
    on(discard.click, discarded, [partly], view, said)
    board.follow([name], view, listed)


def _first(names: Sequence[str]) -> str | None:
    return names[0] if names else None


def _names(board: Board) -> list[str]:
    try:
        return [model.name for model in board.office.models()]
    except Exception:  # noqa: BLE001 - said by the table; the page has to come up
        return []


def _partly(board: Board) -> list[str]:
    try:
        return [one.name for one in board.office.unfinished()]
    except Exception:  # noqa: BLE001 - as above
        return []


def _models_html(board: Board) -> str:
    office = board.office
    try:
        return models_html(office.models(), office.unfinished(), office.host.model_name(), str(office.models_dir))
    except Exception as error:  # noqa: BLE001 - asked again at every page: it has to come up
        return block(problem(f"{office.models_dir} could not be read: {error}"))


def models_html(models: Sequence[Installed], partly: Sequence[Unfinished], loaded: str | None, folder: str) -> str:
    """The models BranchFit downloaded, and the downloads that did not end."""
    rows = [("chosen" if model.name == loaded else "", _row(model, loaded)) for model in models]
    parts = [table(_TITLES, rows) if rows else quiet(f"No models of BranchFit's in {folder} yet.")]
    parts += [
        quiet(f"Unfinished: {one.repo}:{one.branch}, {gb(one.size_bytes)} here; go on with it below.") for one in partly
    ]
    if loaded is not None and loaded not in {model.name for model in models}:
        gone = "whose folder is no longer there" if not (Path(folder) / loaded).exists() else "not one of BranchFit's"
        parts.append(quiet(f"Loaded now: {loaded}, {gone}."))
    return block(*parts)


def _row(model: Installed, loaded: str | None) -> list[tuple[str, str]]:
    verified: Any = getattr(model, "verified_at", None) or model.pulled_at
    by = f"{model.loader} ({model.runtime})" if model.loader else "-"
    return [
        cell(model.name, "name"),
        cell(gb(model.size_bytes), "number"),
        cell(f"{model.repo}:{model.branch}"),
        cell((model.template or {}).get("name") or "-"),
        cell(by),
        cell(f"{verified.astimezone():%Y-%m-%d %H:%M}"),
        cell("loaded" if model.name == loaded else ""),
    ]
