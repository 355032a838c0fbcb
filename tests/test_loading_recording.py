"""A load inside the webui is recorded, again as prompts are read through the lock's guard, and nothing of another's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from branchfit.demo.synth import Recipe
from branchfit.gpus import Machine
from branchfit.loaders import Availability, by_name
from branchfit.memory.records import Record, RecordFile
from branchfit.recommend import Recommendation, recommend
from branchfit.running.measured import Meter
from branchfit.variants import Variant, VariantList
from branchfit_webui import heard as heard_module
from branchfit_webui.heard import heard, listen
from branchfit_webui.host import Host
from branchfit_webui.loading import LoadPlan, load, plan_load, unload
from branchfit_webui.loading import acting as acting_module
from branchfit_webui.loading import measuring as measuring_module
from loading_models import GPTQMODEL, NAME, SHAPE, packages, write
from standin.loading import Loading, Model, loading_host
from standin_host import paths, stand_in

MACHINE = Machine((), (), 64 * 2**30, 60 * 2**30)
VARIANT = Variant("main", bits=4, group_size=128, act_order=True, shape=SHAPE)
RUNTIME = "gptqmodel:torch"


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A machine without a GPU, whose /proc says of this process what a load of that model takes."""
    status = tmp_path / "proc/self/status"
    status.parent.mkdir(parents=True)
    grown = iter(range(100, 100_000))

    def look() -> Machine:
        return MACHINE

    def meter(gpus: Any = (), need: Any = None, **more: Any) -> Meter:
        status.write_text("VmHWM:\t10 kB\nVmRSS:\t10 kB\n")
        made = Meter((), need, look=look, root=tmp_path)
        status.write_text(f"VmHWM:\t{600_000 + next(grown)} kB\nVmRSS:\t600000 kB\n")
        return made

    monkeypatch.setattr("branchfit.running.measured.Meter", meter)
    monkeypatch.setattr(acting_module, "detect", look)
    monkeypatch.setattr(acting_module.overlay, "install_overlay", lambda host: None)
    acting_module._before.clear()
    measuring_module._recorded.clear()
    yield
    acting_module._before.clear()
    measuring_module._recorded.clear()


def answer() -> Recommendation:
    available = Availability((by_name(RUNTIME),), False, "")
    return recommend(VariantList("o/r", None, (VARIANT,)), MACHINE, available, context_tokens=512)


def planned(host: Host, standin: Loading) -> LoadPlan:
    if not (standin.models_dir / NAME).exists():
        write(standin.models_dir, Recipe(4, 128, act_order=True))
    return plan_load(
        host, standin.models_dir / NAME, runtime=RUNTIME, context_tokens=512, machine=MACHINE,
        packages=packages(GPTQMODEL),
    )  # fmt: skip


def loaded(host: Host, standin: Loading, **more: Any) -> tuple[Record, ...]:
    given = answer()
    wishes = {"plan": planned(host, standin), "need": given.assessments[0].need, "recommendation": given, **more}
    load(host, wishes.pop("plan"), on_step=lambda step: None, **wishes)
    return RecordFile().read()


def generate(host: Host, prompt: str = "a b c", reply: str = "d e") -> list[str]:
    """One generation through the guard's ear; a token a word."""
    host.encode = lambda text, bos: [0] * len(text.split())  # type: ignore[method-assign]
    return list(heard(host, lambda question, *rest: iter(("d", reply)))(prompt, prompt))


def test_a_load_is_recorded_and_its_prompts_after_it(tmp_path: Path) -> None:
    with loading_host("v4.7", tmp_path) as standin:
        host = Host()
        (record,) = loaded(host, standin)
        assert (record.process, record.runtime, record.kind, record.read_tokens) == ("webui", RUNTIME, "cpu", 0)
        assert record.context_tokens == 512 and record.left_out == ""
        assert generate(host) == ["d", "d e"]
        (again,) = RecordFile().read()
        assert again.load == record.load and (again.prompt_tokens, again.read_tokens) == (3, 5)


def test_the_longest_prompt_is_written_when_the_model_goes(tmp_path: Path) -> None:
    with loading_host("v4.7", tmp_path) as standin:
        host = Host()
        loaded(host, standin)
        generate(host, "w " * 100)
        generate(host, "w " * 110)
        assert RecordFile().read()[0].prompt_tokens == 100
        unload(host)
        assert RecordFile().read()[0].prompt_tokens == 110
        generate(host, "w " * 400)
        assert RecordFile().read()[0].prompt_tokens == 110


def test_a_model_that_the_host_loaded_by_itself_is_not_taken_for_ours(tmp_path: Path) -> None:
    with loading_host("v4.7", tmp_path) as standin:
        host = Host()
        loaded(host, standin)
        standin.shared.model = Model("another")
        generate(host)
        assert RecordFile().read()[0].read_tokens == 0


@pytest.mark.parametrize("other", ["runtime", "cache", "no answer", "no need"])
def test_what_was_not_forecast_is_not_recorded(other: str, tmp_path: Path) -> None:
    with loading_host("v4.7", tmp_path) as standin:
        host = Host()
        plan = planned(host, standin)
        more: dict[str, Any] = {
            "runtime": {"plan": replace(plan, runtime="gptqmodel:triton")},
            "cache": {"plan": replace(plan, settings={**plan.settings, "cache_type": "fp8"})},
            "no answer": {"recommendation": None},
            "no need": {"need": None, "recommendation": None},
        }[other]
        assert loaded(host, standin, **more) == ()


def test_a_record_that_fails_is_no_failure_of_the_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRANCHFIT_CACHE", str(tmp_path / "models" / "file"))
    with loading_host("v4.7", tmp_path) as standin:
        (tmp_path / "models" / "file").write_text("")
        host = Host()
        assert loaded(host, standin) == ()
        assert host.model_name() == NAME
        assert generate(host) == ["d", "d e"]


class Ear:
    def __init__(self) -> None:
        self.said: list[tuple[int, ...]] = []

    def begin(self) -> None:
        self.said.append(())

    def read(self, prompt_tokens: int, read_tokens: int) -> None:
        self.said.append((prompt_tokens, read_tokens))
        raise RuntimeError("a listener's own trouble")


@pytest.mark.parametrize("loader", ["hf", "own"])
@pytest.mark.parametrize("template", ["locked", "off"])
def test_the_guard_lets_every_generation_be_heard_with_what_the_model_read(
    loader: str, template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stand_in("v4", loader=loader, tmp_path=tmp_path) as host:
        module, ear = host.module("branchfit_webui.heard"), Ear()
        monkeypatch.setattr(module, "_asked", [lambda _: ear])
        if template == "off":
            host.module("branchfit_webui").running().choices.keep(host.shared.model_name, "off", False)
        reply = paths(host)["send[instruct]"]("What is 2 + 2?")
        assert reply and ear.said and ear.said[0] == ()
        prompt, read = ear.said[1]
        assert (
            prompt == len(host.module("branchfit_webui").running().host.encode(host.seen[-1], True)) and read > prompt
        )


def test_a_reply_that_is_given_up_is_heard_and_its_generator_closed() -> None:
    closed, ear = [], Ear()

    def inner(question: str) -> Iterator[str]:
        try:
            yield "one"
            yield "one two"
        finally:
            closed.append(question)

    host: Any = SimpleNamespace(encode=lambda text, bos: text.split())
    before = list(heard_module._asked)
    listen(to := lambda _: ear)
    listen(to)
    try:
        assert len(heard_module._asked) == len(before) + 1
        held = inner("a b")  # as a host may hold it: what nobody holds closes by itself
        reply = heard(host, lambda question: held)("a b")
        next(reply)
        reply.close()
        assert closed == ["a b"] and ear.said == [(), (2, 3)]
        assert list(heard(host, lambda question: iter("x"))(None)) == ["x"], "no text: passed through"
        assert len(ear.said) == 2
    finally:
        heard_module._asked[:] = before
