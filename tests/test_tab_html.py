"""The tab as HTML: every text that comes from elsewhere is text, and the numbers are those of the answer."""

from __future__ import annotations

from datetime import datetime, timezone
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from branchfit.card import read_card
from branchfit.download import Installed, LockedFile
from branchfit.download.unfinished import Unfinished
from branchfit.gather import Gathered
from branchfit.gpus import Gpu, Holder, Machine
from branchfit.loaders import available_runtimes
from branchfit.recommend import recommend
from branchfit.units import GIB
from branchfit.variants import from_card
from branchfit_webui.advice import Advice, counting
from branchfit_webui.jobs import Seen
from branchfit_webui.panel.installed import models_html
from branchfit_webui.panel.models import advice_html, machine_lines, reason_html
from branchfit_webui.panel.pieces import problem_html, table, text
from branchfit_webui.panel.progress import WORKING, amount, board_html, duration
from models import LLAMA_2_70B, seed_card


class Reader(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs), attrs

    def handle_data(self, data: str) -> None:
        self.words += data


def advice(machine: Machine, context: int | None = None) -> Advice:
    card = read_card(seed_card())
    repo = "TheBloke/WizardMath-70B-V1.0-GPTQ"
    listed = from_card(card, LLAMA_2_70B, repo, "config.json")
    answer = recommend(
        listed, machine, available_runtimes(None, simulated=True), context_tokens=context, sisters=card.sisters
    )
    return Advice(Gathered(listed, card), answer, machine, {}, False, None)


TWO_CARDS = Machine(
    tuple(Gpu(i, "RTX 3090", 24 * GIB, 24 * GIB, "8.6", "nvml") for i in range(2)), (), 64 * GIB, 60 * GIB
)
ONE_SMALL = Machine(
    (Gpu(0, "RTX 3060", 12 * GIB, 9 * GIB, "8.6", "nvml", (Holder(4121, "Xorg", GIB), Holder(7, "game", None))),),
    (), 64 * GIB, 60 * GIB,
)  # fmt: skip


def test_the_table_has_a_row_a_branch_and_marks_the_chosen_one() -> None:
    page = Reader(advice_html(advice(TWO_CARDS), ""))
    assert page.tags.count("tr") == 7
    html = advice_html(advice(TWO_CARDS), "")
    chosen = html[html.index('<tr class="chosen">') :].split("</tr>")[0]
    # The README's figures for two cards of 24 GiB.
    for cell in ("gptq-4bit-32g-actorder_True", "40.66 GB", "42.7 GiB ± 300 MiB", "yes, 2.3 GiB to spare"):
        assert cell in chosen
    assert "ExLlama (exllamav2)" in chosen and ">4096<" in chosen and html.count('class="chosen"') == 1


def test_where_nothing_fits_the_reason_is_a_problem_and_each_row_says_by_how_much() -> None:
    found = advice(ONE_SMALL)
    assert 'class="problem"' in reason_html(found) and "Nothing fits" in reason_html(found)
    assert "GGUF" in reason_html(found)
    page = advice_html(found, "")
    assert page.count("no, short by") == 6 and 'class="chosen"' not in page


def test_a_gpu_is_told_with_what_is_free_and_who_holds_the_rest() -> None:
    assert machine_lines(advice(ONE_SMALL)) == [
        "GPU 0: RTX 3060, 9.0 GiB free of 12.0 GiB (2.0 GiB held by the processes of unknown amounts; 1.0 GiB held by "
        "pid 4121, Xorg; an unknown amount held by pid 7, game)"
    ]
    assert machine_lines(advice(Machine((), (), 16 * GIB, 8 * GIB))) == [
        "No GPU: system memory, 8.0 GiB free of 16.0 GiB"
    ]


def test_what_unloading_gives_back_is_never_more_than_a_program_can_have() -> None:
    """24 GiB, of which the driver keeps 1 for itself, and 2 that are free are left to the desktop."""
    gpu = Gpu(0, "RTX 3090", 24 * GIB, 5 * GIB, "8.6", "nvml", reserved_bytes=GIB, held_back_bytes=2 * GIB)
    machine = Machine((gpu,), (), 64 * GIB, 60 * GIB)
    for gives_back, free in ((10 * GIB, 15 * GIB), (16 * GIB, 21 * GIB), (19 * GIB, 21 * GIB)):
        assert counting(machine, {0: gives_back}).gpus[0].free_bytes == free
    assert counting(machine, {}).gpus == (gpu,)


HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u202e\x07"


def test_what_others_wrote_is_never_markup() -> None:
    model = Installed(
        Path(HOSTILE), HOSTILE, HOSTILE, "0" * 40, 10, (LockedFile("a.safetensors", 10, None, None),),
        datetime(2026, 1, 1, tzinfo=timezone.utc), {"name": HOSTILE}, HOSTILE, HOSTILE,
    )  # fmt: skip
    job = Seen("k", HOSTILE, "running", HOSTILE, 5, 10, 1.0, (HOSTILE,), HOSTILE, False)
    partly = Unfinished(HOSTILE, HOSTILE, HOSTILE, "0" * 40, 1)
    pages = [
        models_html([model], [partly], HOSTILE, HOSTILE),
        board_html([job]),
        board_html([Seen("k", HOSTILE, "failed", "", 0, 0, None, (), HOSTILE, False)]),
        problem_html(HOSTILE),
        table([(HOSTILE, "")], [("", [(text(HOSTILE), "")])]),
    ]
    for page in pages:
        read = Reader(page)
        assert not {"script", "img"} & set(read.tags), page
        assert "alert(1)" in read.words and "\u202e" not in page and "\x07" not in page


@given(st.text())
def test_any_text_survives_as_text(words: str) -> None:
    read = Reader(f"<div>{text(words)}</div>")
    assert set(read.tags) <= {"div", "br"}


def job(**changed: object) -> Seen:
    facts: dict[str, object] = {
        "key": "k", "what": "owner/repo:main", "state": "running", "phase": "downloading", "done_bytes": 10_000_000_000,
        "total_bytes": 40_000_000_000, "bytes_per_s": 50_000_000.0, "lines": (), "result": "", "stopping": False,
    }  # fmt: skip
    return Seen(**{**facts, **changed})  # type: ignore[arg-type]


def test_progress_is_told_in_bytes_share_speed_and_time_left() -> None:
    # 30 GB at 50 MB/s are 600 seconds.
    assert amount(job()) == "10.00 GB of 40.00 GB (25 %), 50.00 MB/s, 10 min 0 s left"
    assert amount(job(bytes_per_s=None)) == "10.00 GB of 40.00 GB (25 %)"
    assert 'style="width: 25.0%"' in board_html([job()])


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3661, "1 h 1 min")])
def test_a_duration_is_told_in_its_two_largest_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_only_a_board_with_something_going_on_asks_to_be_refreshed() -> None:
    assert WORKING in board_html([job()]) and WORKING in board_html([job(state="waiting")])
    assert WORKING not in board_html([job(state="done"), job(state="failed")])
    assert WORKING not in board_html([])


def test_a_job_that_failed_is_shown_as_a_problem_and_one_that_was_stopped_is_not() -> None:
    assert 'class="problem"' in board_html([job(state="failed", result="no space")])
    assert 'class="problem"' not in board_html([job(state="cancelled", result="Stopped.")])
    assert "(stopping)" in board_html([job(stopping=True)])


def test_a_loaded_model_that_branchfit_did_not_download_is_named() -> None:
    assert "Loaded now: mine" in models_html([], [], "mine", "/models")
    assert "No models of BranchFit" in models_html([], [], None, "/models")
