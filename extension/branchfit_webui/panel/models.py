"""The tab's first page: paste a repo, see what fits and why, get it and load it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from branchfit.gpus import headline, shares
from branchfit.recommend import PREFERENCES, Assessment
from branchfit.units import error_text, gb, gib

from ..advice import BALANCED, Advice, Wishes, context_tokens
from .pieces import block, cell, details, good_html, problem, quiet, table, text
from .wiring import BUTTON, Answer, Board, on

if TYPE_CHECKING:
    from ..office import Office

CONTEXTS = ("automatic", "2048", "4096", "8192", "16384", "32768")

_TITLES = (
    ("", ""),
    ("branch", ""),
    ("bits", "number"),
    ("group", "number"),
    ("act order", ""),
    ("download", "number"),
    ("needs", "number"),
    ("fits", ""),
    ("loader", ""),
    ("longest context", "number"),
)


def build(board: Board) -> None:
    import gradio as gr

    office = board.office
    closed = office.closed()
    if closed:
        gr.HTML(block(problem(closed)))
    warning = gr.HTML(lambda: _warning(office), elem_id="branchfit-warning")
    with gr.Row():
        repo = gr.Textbox(
            label="Repo",
            placeholder="owner/name, owner/name:branch, or the page's address",
            elem_id="branchfit-repo",
        )
        look = gr.Button("Look", elem_classes=BUTTON, variant="primary", elem_id="branchfit-look")
    with gr.Row():
        with gr.Column(scale=1, min_width=200):
            context = gr.Dropdown(
                choices=list(CONTEXTS), value=CONTEXTS[0], label="Context (tokens)", allow_custom_value=True
            )
        with gr.Column(scale=2, min_width=440):
            prefer = gr.Radio(choices=[BALANCED, *PREFERENCES], value=BALANCED, label="Prefer")
        with gr.Column(scale=1, min_width=260):
            count_loaded = gr.Checkbox(value=True, label="Count what unloading the present model gives back as free")
    said = gr.HTML("", elem_id="branchfit-said")
    reason = gr.HTML("", elem_id="branchfit-reason")
    asked = gr.State("")
    with gr.Row():
        branch = gr.Dropdown(choices=[], label="Branch", elem_id="branchfit-branch")
        anyway = gr.Checkbox(value=False, label="Load even where the numbers say that it does not fit")
    with gr.Row():
        get = gr.Button("Download and load", elem_classes=BUTTON, variant="primary", interactive=not closed)
        only = gr.Button("Download only", elem_classes=BUTTON, interactive=not closed)
        cancel = gr.Button("Cancel", elem_classes=BUTTON, interactive=not closed)
        before = gr.Button("Load the previous model again", elem_classes=BUTTON, interactive=not closed, visible=False)
    shown = gr.HTML("", elem_id="branchfit-advice")
    board.wishes = [context, prefer, count_loaded]

    def looked(name: str, *wishes: Any) -> Answer:
        found = office.desk.ask(name or "")
        key = found.listed.repo + (f":{found.branch}" if found.branch else "")
        return {asked: key, **_shown(office.desk.answer(found, read_wishes(*wishes)), None)}

    def changed(key: str, chosen: str | None, *wishes: Any) -> Answer:
        """The table for other wishes, from what the Hub said before."""
        if not key:
            return {}
        return _shown(office.desk.answer(office.desk.known(key), read_wishes(*wishes)), None)

    def ended(key: str, chosen: str | None, *wishes: Any) -> Answer:
        """Memory has changed: the table follows, what was chosen stays."""
        earlier = office.previous_name()
        follows: Answer = {
            before: gr.update(visible=bool(earlier), value=f"Load {earlier} again"),
            warning: _warning(office),
        }
        if key:
            follows |= _shown(office.desk.answer(office.desk.known(key), read_wishes(*wishes)), chosen)
        return follows

    def _shown(advice: Advice, chosen: str | None) -> Answer:
        value = chosen if chosen in advice.branches else advice.branch
        return {
            reason: reason_html(advice),
            shown: advice_html(advice, office.loaded_line(advice)),
            branch: gr.update(choices=advice.branches, value=value),
        }

    def fetched(key: str, chosen: str | None, load: bool, all_the_same: bool, *wishes: Any) -> Answer:
        if not key:
            return {said: block(problem("Paste a repo and press Look first."))}
        read = read_wishes(*wishes)
        words = office.get(office.desk.answer(office.desk.known(key), read), chosen, read, load, bool(all_the_same))
        return {said: _said(words), board.view: board.html()}

    wishes = [context, prefer, count_loaded]
    view = [reason, shown, branch]
    nothing = {asked: "", reason: "", shown: "", branch: gr.update(choices=[], value=None)}
    for ask in (look.click, repo.submit):
        on(ask, looked, [repo, *wishes], [asked, *view], said, nothing)
    for each in wishes:
        on(each.change, changed, [asked, branch, *wishes], view, said)
    on(
        get.click,
        lambda key, chosen, same, *rest: fetched(key, chosen, True, same, *rest),
        [asked, branch, anyway, *wishes],
        [board.view],
        said,
    )
    on(
        only.click,
        lambda key, chosen, same, *rest: fetched(key, chosen, False, same, *rest),
        [asked, branch, anyway, *wishes],
        [board.view],
        said,
    )
    on(cancel.click, lambda: {said: _said(office.cancel(None)), board.view: board.html()}, [], [board.view], said)
    on(before.click, lambda: {said: _said(office.give_back()), board.view: board.html()}, [], [board.view], said)
    board.follow([asked, branch, *wishes], [*view, before, warning], ended)


def _said(words: str) -> str:
    return good_html(words) if words else ""


def _warning(office: Office) -> str:
    """What is wrong with the model loaded now, such as one that came up at the start with a kernel left to chance."""
    return block(problem(office.warning()))


def read_wishes(context: Any, prefer: Any, count_loaded: Any) -> Wishes:
    """What stands in the page's boxes. Raises UsageError for a context that is no number."""
    known = prefer if prefer in PREFERENCES else BALANCED
    return Wishes(context_tokens(context), known, bool(count_loaded))


def reason_html(advice: Advice) -> str:
    """What to take and why, or why nothing."""
    answer = advice.answer
    words = f'<div class="reason">{text(("→ " if answer.choice else "") + answer.reason)}</div>'
    old = advice.found.notes[0] if advice.found.as_of is not None else ""
    return block(problem(old), words if answer.choice else f'<div class="problem">{words}</div>')


def advice_html(advice: Advice, loaded_line: str) -> str:
    """The machine, the table, and, to be opened, a line on every branch."""
    answer = advice.answer
    chosen = answer.choice.branch if answer.choice else None
    rows = [
        ("chosen" if each.variant.branch == chosen else "", _row(each, each.variant.branch == chosen))
        for each in answer.assessments
    ]
    machine = "".join(f"<div>{text(line)}</div>" for line in (*machine_lines(advice), loaded_line) if line)
    why = [quiet(f"{each.variant.branch}: {each.verdict if each.need else each.why}") for each in answer.assessments]
    differ = [
        quiet(f"The card says {found.card} of {found.branch or 'the repo'} ({found.field}); it is {found.actual}.")
        for found in answer.disagreements
    ]
    notes = [quiet(note) for note in (*advice.found.notes, *answer.notes)]
    return block(
        machine,
        table(_TITLES, rows) if rows else "",
        details("Why each branch was taken or not", *why),
        details("What the card says differently", *differ),
        details("Notes", *notes),
    )


def machine_lines(advice: Advice) -> list[str]:
    """Each GPU: what is free of it, and where the rest is."""
    lines = []
    for gpu in advice.machine.gpus or (advice.machine.cpu,):
        held = "; ".join(shares(gpu)) if gpu.kind != "cpu" else ""
        lines.append(headline(gpu) + (f" ({held})" if held else ""))
    return lines


def _row(found: Assessment, chosen: bool) -> list[tuple[str, str]]:
    variant, need = found.variant, found.need
    act = {True: "yes", False: "no", None: "?"}[variant.act_order]
    return [
        cell("→" if chosen else ""),
        cell(variant.branch, "name"),
        cell("?" if variant.bits is None else f"{variant.bits:g}", "number"),
        cell("-" if variant.group_size is None else variant.group_size, "number"),
        cell(act),
        cell(gb(variant.size_bytes), "number"),
        cell(f"{gib(need.total_bytes)} ± {error_text(need.error_bytes)}" if need else "-", "number"),
        _fits(found),
        cell(f"{found.loader} ({found.runtime})" if found.loader else "-"),
        cell(found.max_context_tokens or "-", "number"),
    ]


def _fits(found: Assessment) -> tuple[str, str]:
    if found.need is None or found.headroom_bytes is None:
        return cell("no" if found.loader is None else "unknown", "not")
    if found.fits:
        return cell(f"yes, {gib(found.headroom_bytes)} to spare", "fits")
    return cell(f"no, short by {gib(-found.headroom_bytes)}", "not")
