"""The tab's third page: what the lock does, what it is held to, and what reached the model."""

from __future__ import annotations

import html
import json
import time
from typing import Any

import branchfit_webui
from branchfit.prompts import PLAIN_FORM

from ..choices import ALL_MODELS, OFF, offered
from ..decoding import DECODING, current_values, for_components
from ..endpoint import to_dict
from ..lock import Lock
from ..proofs import Proof, printable
from .wiring import Board

AUTOMATIC = "automatic"

_SHOWN = 2000
"""Characters of a prompt shown in the tab; the JSON has all of them."""

HELP = """\
The **prompt lock** sends a model exactly its author's template, on every page and address of this webui. One
message is one prompt: system messages, characters and earlier turns are left out, and each prompt below says so.
"""


def build(board: Board | None, page_tab: Any) -> None:
    """The page inside `page_tab`; with a board it follows when a model has come or gone."""
    import gradio as gr

    gr.Markdown(HELP)
    lock = branchfit_webui.running()
    if lock is None:
        gr.Markdown(f"**Prompt lock: not running.** {branchfit_webui.problem()}")
        return
    status = gr.Markdown(lambda: status_text(lock))  # functions are asked again whenever the page is loaded
    on = gr.Checkbox(value=lock.on, label="Prompt lock on, for all models")
    with gr.Row():
        template = gr.Dropdown(choices=_choices(lock), value=_chosen(lock), label="Template for this model")
        turns = gr.Checkbox(
            value=lock.decision().keep_turns, label="Keep earlier turns, as repeated turns of the template"
        )
    advice = gr.Markdown(advice_text(lock))
    with gr.Row():
        save = gr.Button("Keep this choice")
        refresh = gr.Button("Refresh")
        decoding = gr.Button("Use the author's decoding settings")
        undo = gr.Button("Undo the decoding settings")
    said = gr.Markdown("")
    with gr.Accordion("Last prompts, newest first", open=True):
        shown = gr.Markdown(lambda: proofs_text(lock))
        clear = gr.Button("Show as JSON")
        raw = gr.Textbox(value="", label="JSON", lines=8)

    page = [status, template, turns, advice, shown]

    def seen() -> list[Any]:
        decision = lock.decision()
        return [
            status_text(lock),
            gr.update(choices=_choices(lock), value=_chosen(lock)),
            decision.keep_turns,
            advice_text(lock),
            proofs_text(lock),
        ]

    save.click(lambda name, keep: [keep_choice(lock, name, keep), *seen()], [template, turns], [said, *page])
    on.change(lambda wanted: [switch(lock, wanted), *seen()], [on], [said, *page])
    refresh.click(seen, [], page)
    if board is not None:
        board.follow([], page, lambda: dict(zip(page, seen(), strict=True)))
    if hasattr(page_tab, "select"):  # what was sent since the page came up is there whenever somebody turns to it
        page_tab.select(seen, [], page)
    clear.click(lambda: json.dumps(to_dict(lock), indent=2), [], [raw])
    components, names = for_components(lock.host)
    before = gr.State({})
    if names:
        decoding.click(lambda old, *values: old or current_values(names, values), [before, *components], [before]).then(
            lambda: [*(DECODING[name] for name in names), _decoding_text(names)], [], [*components, said]
        )
        undo.click(
            lambda old: [
                {},
                *(old.get(name, gr.update()) for name in names),
                "The decoding settings are as they were."
                if old
                else "There is nothing to undo since this page came up.",
            ],
            [before],
            [before, *components, said],
        )


def status_text(lock: Lock) -> str:
    """The line that says whether the lock is active, and where the proofs are to be had."""
    status = lock.status()
    lines = [f"**Prompt lock {status.sentence}**"]
    if lock.choices.problem:
        lines.append(f"{lock.choices.problem}; choose again.")
    lines.append(f"Prompts as JSON: {branchfit_webui.address()}.")
    return "\n\n".join(lines)


def advice_text(lock: Lock) -> str:
    """The author's advice on the template's plain form, where there is one."""
    decision = lock.decision()
    own = decision.own
    plain = PLAIN_FORM.get(own.name) if own is not None else None
    if own is None or plain is None or decision.template is None:
        return ""
    return (
        f"For *simple* questions the author advises the form without chain of thought: choose **{plain.name}**. "
        f"It ends at `### Response:`, so the model answers at once instead of thinking step by step; "
        f"for anything that needs reasoning, **{own.name}** is better."
    )


def switch(lock: Lock, on: bool) -> str:
    """Switch the lock on or off for all models, and keep that; says in words what holds now."""
    lock.switch(bool(on))
    try:
        lock.choices.keep(ALL_MODELS, None if on else OFF, False)
    except OSError as error:
        return f"Done, but only until the webui is restarted: it cannot be kept ({error})."
    return "The prompt lock is on." if on else "The prompt lock is off, and the webui is as it was without it."


def keep_choice(lock: Lock, name: str | None, keep_turns: bool) -> str:
    """Keep what was chosen for the loaded model; says in words what holds now."""
    model = lock.host.model_name()
    if model is None:
        return "No model is loaded, so there is nothing to choose for."
    wanted = None if name in (None, AUTOMATIC) else name
    try:
        lock.choices.keep(model, wanted, bool(keep_turns))
    except OSError as error:
        return f"Chosen, but only until the webui is restarted: it cannot be kept ({error})."
    return f"Kept for {model}."


def proofs_text(lock: Lock) -> str:
    """The last prompts as Markdown."""
    proofs = lock.proofs.last()
    return "\n\n".join(map(_proof_text, proofs)) if proofs else "No prompt yet."


def _proof_text(proof: Proof) -> str:
    at = time.strftime("%H:%M:%S", time.localtime(proof.at))
    tokens = f", {proof.tokens:,} tokens" if proof.tokens is not None else ""
    size = f"{len(proof.text.encode('utf-8', 'surrogatepass')):,} bytes"
    facts = f"{proof.template}, {size}{tokens}, sha256 {proof.sha256[:16]}..."
    lines = [f"**{at} {html.escape(proof.path)}: {proof.verdict}**" + ("" if proof.reason else f" ({facts})")]
    if proof.reason:
        lines += [html.escape(proof.reason), "What was asked for:"]
    if proof.text:
        lines.append(_fenced(printable(proof.text)))
    lines += [f"- {html.escape(note)}" for note in proof.notes]
    difference = proof.difference()
    if difference is not None:
        lines.append(f"The webui would have sent something else, from byte {difference.offset_bytes} on:")
        lines.append(_fenced(f"sent:   {difference.expected}\nwebui:  {difference.found}"))
    return "\n\n".join(lines)


def _fenced(text: str) -> str:
    """Text as a code block, whatever backticks it holds."""
    cut = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}\n... ({len(text) - _SHOWN:,} more characters)"
    fence = "```"
    while fence in cut:
        fence += "`"
    return f"{fence}text\n{cut}\n{fence}"


def _choices(lock: Lock) -> list[str]:
    return [AUTOMATIC, OFF, *offered(lock.decision())]


def _chosen(lock: Lock) -> str:
    model = lock.host.model_name()
    return (lock.choices.kept(model) if model is not None else None) or AUTOMATIC


def _decoding_text(names: list[str]) -> str:
    values = ", ".join(f"{name} {DECODING[name]}" for name in names)
    return f"Set in Parameters: {values}. The author's scripts decode so: the likeliest token each time."
