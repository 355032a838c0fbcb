"""A host for the tab's tests: a card of 8 GiB, and a loader that only remembers what it was told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from branchfit.errors import BranchFitError
from branchfit.gpus import Gpu, Holder, Machine
from branchfit.loaders import available_runtimes
from branchfit.units import GIB
from branchfit_webui import advice, office
from branchfit_webui.loading import LoadPlan, LoadReport
from branchfit_webui.office import Office

CARD = Gpu(0, "a card", 8 * GIB, 6 * GIB, "8.6", "given", (Holder(4121, "Xorg", 2 * GIB),))
MACHINE = Machine((CARD,), (), 32 * GIB, 24 * GIB)


class Loading:
    """Stands where `branchfit_webui.loading` does: a host that loads at once, or fails as it is told."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.plans: list[LoadPlan] = []
        self.asked: list[dict[str, Any]] = []
        self.kept: list[str] = []
        self.forgotten: list[str] = []
        self.gives_back: dict[int, int] = {}
        self.fails: BranchFitError | None = None
        self.before: SimpleNamespace | None = None

    LoadPlan = LoadPlan

    def host_availability(self, host: Any, machine: Machine) -> Any:
        return available_runtimes(["exllamav2", "gptqmodel:torch"], simulated=False)

    def would_free_bytes(self, host: Any, machine: Machine) -> Mapping[int, int]:
        return self.gives_back if self.name else {}

    def plan_load(
        self, host: Any, folder: Path, *, runtime: str | None, context_tokens: int | None,
        gpu_split_bytes: Sequence[int] = (), machine: Machine, need: Any = None,
    ) -> LoadPlan:  # fmt: skip
        self.asked.append({"runtime": runtime, "context": context_tokens, "split": tuple(gpu_split_bytes)})
        return LoadPlan(folder.name, "ExLlamav2_HF", runtime or "", {}, None, "it becomes ExLlamav2_HF.", ())

    def load(
        self, host: Any, plan: LoadPlan, *, need: Any, recommendation: Any, on_step: Any, check: Any
    ) -> LoadReport:
        self.plans.append(plan)
        if self.fails is not None:
            raise self.fails
        on_step("loading")
        self.name = plan.model
        return LoadReport(plan, 1.0, None, None, None, "VRAM: predicted 5.0 GiB, measured 4.9 GiB", ())

    def keep_settings(self, host: Any, plan: LoadPlan) -> None:
        self.kept.append(plan.model)

    def forget_settings(self, host: Any, name: str) -> None:
        self.forgotten.append(name)

    def unload(self, host: Any) -> None:
        self.name = None

    def previous(self, host: Any) -> Any:
        return self.before

    def inspect_loaded(self, host: Any) -> str:
        return ""

    def give_back(self, host: Any) -> LoadReport:
        plan = LoadPlan(self.before.name if self.before else "", "ExLlamav2_HF", "", {}, None, "", ())
        self.name, self.before = plan.model, None
        return LoadReport(plan, 1.0, None, None, None, "", ())


def stand_in(models: Path, loading: Loading, put: Callable[[Any, str, Any], None] = setattr) -> Office:
    """An office whose host keeps its models in `models`; `put` is how it is put in place of the real parts."""
    for room in (advice, office):
        put(room, "loading", loading)
        put(room, "detect", lambda: MACHINE)
    host = SimpleNamespace(
        args=SimpleNamespace(multi_user=False),
        model_folder=lambda name: models / name,
        model_name=lambda: loading.name,
        component=lambda name: None,
    )
    lock = SimpleNamespace(status=lambda: SimpleNamespace(sentence="active: it gets Alpaca-CoT"))
    return Office(host, lambda: lock)  # type: ignore[arg-type, return-value]
