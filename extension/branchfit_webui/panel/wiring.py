"""How the tab's buttons reach their functions, in gradio 3.33 as in 4.37, and how progress reaches the page.

Left out, since one or the other lacks it: `every=`, `gr.Timer`, `_js=` and `js=`, `.style()`, `gr.Box`. No
function here is a generator: in hosts of mid 2023 one that runs for an hour would keep every other event
waiting (their queue has one place), so all events go round the queue, and progress is asked for by a
hidden button that a script of ours presses each second while the board says that something is going on.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from branchfit.errors import BranchFitError

from ..downloads import Downloads
from .pieces import good_html, problem_html
from .progress import WORKING, board_html

if TYPE_CHECKING:
    from ..office import Office

FRESH = -1
"""What a page that has just come up knows of ended jobs: nothing."""

POLL_ID = "branchfit-poll"

BUTTON = "branchfit-button"
"""The class of our buttons, which a row beside a taller part would stretch otherwise."""

IDLE_S = 10
"""A page on which nothing goes on asks so seldom, to hear of what another one has started."""

JAVASCRIPT = (
    "if (!window.branchfitPoll) { let asked = false, second = 0; "
    "window.branchfitPoll = setInterval(() => { second += 1; "
    f"const button = document.querySelector('button#{POLL_ID}, #{POLL_ID} button'); "
    f"const idle = second % {IDLE_S} === 0 && !document.hidden; "
    f"if (button && (!asked || idle || document.querySelector('.{WORKING}'))) {{ asked = true; button.click(); }} "
    "}, 1000); }"
)
"""Runs in the page through the hook `custom_js`, in every version, once; the host may run it again. A page that has
just come up asks once in any case: the choices of its dropdowns are those of the webui's start."""

Answer = dict[Any, Any]


def on(
    trigger: Callable[..., Any],
    function: Callable[..., Answer],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    said: Any,
    failed: Answer | None = None,
) -> None:
    """Call `function` at an event; it gives {component: value} for those of `outputs` that change.

    An error becomes a sentence in `said`, and `failed` what else changes then. Nothing is put into the
    webui's own API.
    """

    def safely(*values: Any) -> Answer:
        try:
            return {said: "", **function(*values)}
        except BranchFitError as error:
            return {**(failed or {}), said: problem_html(str(error))}
        except Exception as error:  # noqa: BLE001 - whatever comes, the page has to say it
            traceback.print_exc()
            return {
                **(failed or {}),
                said: problem_html(f"Something unexpected: {type(error).__name__}: {error}. See the console."),
            }

    listed = list(dict.fromkeys([said, *outputs]))
    trigger(safely, list(inputs), listed, queue=False, show_progress=False, **_unlisted())


def _unlisted() -> dict[str, Any]:
    """The argument that keeps an event out of the page's API. gradio 3.33 takes False for a name, and warns."""
    import gradio

    return {} if str(gradio.__version__).startswith("3.") else {"api_name": False}


class Board:
    """What is going on, at the top of the page, and what has to follow when something has ended."""

    def __init__(self, office: Office) -> None:
        import gradio as gr

        self.office = office
        self.view = gr.HTML(lambda: board_html(office.jobs.seen()), elem_id="branchfit-board")
        with gr.Row():
            self._pause = gr.Button("Pause downloads", elem_classes=BUTTON, visible=False)
            self._unpause = gr.Button("Go on with downloads", elem_classes=BUTTON, visible=False)
            self._first = gr.Button("Last one first", elem_classes=BUTTON, visible=False)
        self._poll = gr.Button("Refresh progress", elem_id=POLL_ID)
        self._ended = gr.State(FRESH)
        self.wishes: list[Any] = []
        self._followers: list[tuple[list[Any], list[Any], Callable[..., Answer], bool]] = []
        self._said = gr.HTML("", elem_id="branchfit-board-said")

    def html(self) -> str:
        """The board after something was started from this page."""
        return board_html(self.office.jobs.seen(), started=True)

    def follow(
        self, inputs: Sequence[Any], outputs: Sequence[Any], function: Callable[..., Answer], fresh: bool = True
    ) -> None:
        """Call `function` for a page when a job has ended, whoever started it; with `fresh`, also when it came up."""
        self._followers.append((list(inputs), list(outputs), function, fresh))

    def wire(self) -> None:
        host = self.office.host
        menu, autoload = host.component("model_menu"), host.component("autoload_model")
        if menu is not None:
            self.follow(
                [autoload] if autoload is not None else [],
                [menu],
                lambda *ticked: {menu: host.menu_update(any(ticked))},
                fresh=False,  # the host has filled its own parts of a page that has just come up
            )
        cut = host.component("truncation_length")
        if cut is not None:
            # What the page sends along with every prompt: the host's own page renews it after a load, too.
            self.follow([], [cut], lambda: {cut: host.settings.get("truncation_length")}, fresh=False)
        buttons = [self._pause, self._unpause, self._first]
        for button, act in zip(buttons, (Downloads.pause, Downloads.unpause, Downloads.put_first), strict=True):
            on(button.click, partial(self._acted, act), [], [self.view, *buttons], self._said)
        inputs = [self._ended, *(each for wanted, *_ in self._followers for each in wanted)]
        outputs = [self.view, self._ended, *buttons, *(each for _, given, *_ in self._followers for each in given)]
        on(self._poll.click, self._polled, inputs, outputs, self._said)

    def _acted(self, act: Callable[[Downloads], str]) -> Answer:
        words = self.office.queued(act)
        return {self._said: good_html(words) if words else "", self.view: self.html(), **self._buttons()}

    def _buttons(self) -> Answer:
        import gradio as gr

        shown = zip((self._pause, self._unpause, self._first), self.office.can(), strict=True)
        return {button: gr.update(visible=visible) for button, visible in shown}

    def _polled(self, known: int, *values: Any) -> Answer:
        # The board first: what ends in between is then still seen as going on, and asked about again.
        board, ended = board_html(self.office.jobs.seen()), self.office.jobs.ended
        answer: Answer = {self.view: board, self._ended: ended}
        if known != ended or self.office.jobs.alive():
            answer |= self._buttons()
        if known != ended:
            for inputs, _, function, fresh in self._followers:
                own, values = values[: len(inputs)], values[len(inputs) :]
                if fresh or known != FRESH:
                    answer |= function(*own)
        return answer
