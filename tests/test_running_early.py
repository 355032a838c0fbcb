"""gptqmodel comes before CUDA, and leaves the environment as it was but for the one setting that it is wanted for."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from branchfit.errors import LoadError
from branchfit.loaders import Host, ask_late, expandable_now, expandable_segments
from branchfit.running import loading as loading_module
from branchfit.running.early import import_gptqmodel
from branchfit_webui.loading import LoadPlan
from branchfit_webui.loading import measuring as measuring_module
from loading_models import ONE_GPU
from running_models import small_model

GPTQMODEL = """
import os, stages
stages.SEEN.append("gptqmodel")
stages.WORKERS.append(os.environ.get("GPTQMODEL_CPU_WORKERS"))
os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True,max_split_size_mb:256")
os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
os.environ["HF_HOME"] = os.environ["HF_HUB_CACHE"] = "/tmp/elsewhere"
os.environ.pop("ROCR_VISIBLE_DEVICES", None)
"""
TRANSFORMERS = """
import stages
stages.SEEN.append("transformers")
__version__ = "5.6.2"
def __getattr__(name):
    if name != "CONFIG_MAPPING":
        raise AttributeError(name)
    import gptqmodel
    raise RuntimeError("far enough")
"""
VERSIONS = {"torch": "2.11.0", "transformers": "5.6.2", "optimum": "2.3.0", "gptqmodel": "7.6.0"}


class Cuda(SimpleNamespace):
    """torch.cuda, which notes when it is first used."""

    def __init__(self, seen: list[str]) -> None:
        super().__init__(is_available=lambda: True, is_initialized=lambda: "CUDA" in seen, seen=seen)
        self.init = lambda: seen.append("CUDA")
        self.memory_reserved = self.memory_allocated = lambda index: 0
        self.empty_cache = lambda: None
        self.reset_peak_memory_stats = lambda index: seen.append("CUDA")


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Packages of these names, that say in which order they were imported; and what they said."""
    stages = SimpleNamespace(SEEN=[], WORKERS=[])
    sources = {"gptqmodel": GPTQMODEL, "transformers": TRANSFORMERS, "optimum": ""}
    for name, version in VERSIONS.items():
        (tmp_path / f"{name}-{version}.dist-info").mkdir()
        (tmp_path / f"{name}-{version}.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
        if name in sources:
            (tmp_path / f"{name}.py").write_text(sources[name])
        for loaded in [each for each in sys.modules if each.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, loaded)
    torch = SimpleNamespace(cuda=Cuda(stages.SEEN), float16="float16", float32="float32", __spec__=SimpleNamespace())
    monkeypatch.setitem(sys.modules, "stages", stages)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "CUDA_DEVICE_ORDER", "GPTQMODEL_CPU_WORKERS"):
        monkeypatch.setenv(name, "")  # so that it is put back after the test
        monkeypatch.delenv(name)
    yield stages.SEEN
    for name in ("gptqmodel", "transformers", "optimum"):
        sys.modules.pop(name, None)


def test_its_import_leaves_nothing_but_the_allocators_setting(seen: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "1")
    before = dict(os.environ)
    import_gptqmodel("gptqmodel:triton")
    assert seen == ["transformers", "gptqmodel"]
    set_for = os.environ["PYTORCH_ALLOC_CONF"]
    assert dict(os.environ) == {**before, "PYTORCH_ALLOC_CONF": set_for}
    assert set_for.startswith("expandable_segments:True")


def test_it_is_imported_once_and_for_its_own_runtimes_alone(seen: list[str]) -> None:
    for runtime in ("exllamav2", "auto_gptq", "transformers"):
        import_gptqmodel(runtime)
    assert seen == []
    import_gptqmodel("gptqmodel:torch")
    os.environ["HF_HOME"] = "mine"
    import_gptqmodel("gptqmodel:torch")
    assert seen == ["transformers", "gptqmodel"] and os.environ["HF_HOME"] == "mine"


def test_with_one_or_two_cores_it_is_told_to_take_two_workers(seen: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    import_gptqmodel("gptqmodel:torch")
    assert sys.modules["stages"].WORKERS == ["2"] and "GPTQMODEL_CPU_WORKERS" not in os.environ


def test_an_import_that_fails_is_left_to_the_load_to_explain(
    seen: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gptqmodel.py").write_text(f"{GPTQMODEL}\nimport a_package_that_is_not_here")
    home = os.environ["HF_HOME"]
    import_gptqmodel("gptqmodel:torch")
    assert "gptqmodel" in seen and os.environ["HF_HOME"] == home
    monkeypatch.setattr(loading_module, "detect", lambda: ONE_GPU)
    with pytest.raises(LoadError, match=r"a package is missing.*pip install a_package_that_is_not_here"):
        loading_module.load(small_model(tmp_path / "model"), runtime="gptqmodel:torch", check_memory=False)


def test_a_load_imports_it_before_its_meter_uses_cuda(
    seen: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading_module, "detect", lambda: ONE_GPU)
    with pytest.raises(LoadError, match="far enough"):
        loading_module.load(small_model(tmp_path / "model"), runtime="gptqmodel:torch", check_memory=False)
    assert seen.index("gptqmodel") < seen.index("CUDA")


@pytest.mark.parametrize("runtime", ["gptqmodel:triton", "exllamav2"])
def test_the_webuis_meter_uses_cuda_after_it(seen: list[str], runtime: str) -> None:
    plan = LoadPlan("m", "Transformers", runtime, {}, None, "", ())
    assert measuring_module.meter(plan, ONE_GPU, None) is not None
    first = ["transformers", "gptqmodel"] if runtime.startswith("gptqmodel:") else []
    assert seen[: len(first) + 1] == [*first, "CUDA"]


# ---- whether torch's allocator has them ----------------------------------------------------------


def host(platform: str = "linux", torch: str | None = "2.11.0+cu130") -> Host:
    return Host(lambda name: True, lambda name: torch, None, platform, (3, 11))


def torch_of(said: Any, ready: bool = True, **more: Any) -> Any:
    memory = SimpleNamespace(_snapshot=lambda: {"allocator_settings": {"expandable_segments": said}})
    return SimpleNamespace(cuda=SimpleNamespace(is_initialized=lambda: ready, memory=memory), **more)


class Told:
    """torch, in use if not said otherwise, whose allocator takes what it is told: through torch._C, before through
    torch.cuda. `refuses` is "loudly", with an error, or "quietly"; `said` what it was told before, by the `name`
    that 2.11's snapshot has for it."""

    def __init__(
        self,
        newer: bool = True,
        *,
        hip: str | None = None,
        refuses: str = "",
        said: str | None = "",
        name: str = "PYTORCH_CUDA_ALLOC_CONF",
        ready: bool = True,
    ) -> None:
        self.heard: list[str] = []
        self.expandable = False
        self.refuses = refuses
        last = {} if said is None else {name: said}
        settings = SimpleNamespace(
            _snapshot=lambda: {"allocator_settings": {**last, "expandable_segments": self.expandable}}
        )
        if not newer:
            settings._set_allocator_settings = self.tell
        self.cuda = SimpleNamespace(is_initialized=lambda: ready, memory=settings)
        self._C = SimpleNamespace(**({"_accelerator_setAllocatorSettings": self.tell} if newer else {}))
        self.version = SimpleNamespace(hip=hip)

    def tell(self, settings: str) -> None:
        self.heard.append(settings)
        if self.refuses == "loudly":
            raise ValueError("Unrecognized CachingAllocator option")
        self.expandable = not self.refuses


NO, YES = "max_split_size_mb:64", "max_split_size_mb:64, expandable_segments: True"


@pytest.mark.parametrize(
    ("environ", "version", "expected"),
    [
        ({}, "2.11.0+cu130", True),
        ({}, None, True),
        ({}, "2.9.1", False),
        ({"PYTORCH_ALLOC_CONF": YES}, "2.9.1", False),
        ({"PYTORCH_CUDA_ALLOC_CONF": YES}, "2.9.1", True),
        ({"PYTORCH_CUDA_ALLOC_CONF": NO}, "2.11.0", False),
        ({"PYTORCH_ALLOC_CONF": NO}, "2.11.0", False),
        ({"PYTORCH_CUDA_ALLOC_CONF": YES, "PYTORCH_ALLOC_CONF": NO}, "2.11.0", False),
    ],
)
def test_before_cuda_is_used_it_is_what_the_environment_and_gptqmodel_say(
    environ: dict[str, str], version: str | None, expected: bool
) -> None:
    assert expandable_segments(host(torch=version), environ, torch_of(None, ready=False)) is expected


@pytest.mark.parametrize("said", [True, False])
def test_once_cuda_is_used_it_is_what_torch_says(said: bool) -> None:
    assert expandable_segments(host(), {"PYTORCH_ALLOC_CONF": YES}, torch_of(said)) is said


def test_windows_has_none() -> None:
    assert not expandable_segments(host("win32"), {"PYTORCH_ALLOC_CONF": YES}, torch_of(True))
    assert not expandable_now(host("win32"), torch_of(True)) and expandable_now(host(), torch_of(True))
    assert not expandable_now(host(), torch_of(False))


def test_a_torch_that_does_not_tell_is_no_trouble() -> None:
    assert expandable_segments(host(), {}, SimpleNamespace(cuda=SimpleNamespace(is_initialized=lambda: True)))


# ---- where somebody used CUDA before gptqmodel was imported --------------------------------------


@pytest.mark.parametrize("newer", [True, False])
@pytest.mark.parametrize("environ", [{}, {"PYTORCH_ALLOC_CONF": YES}, {"PYTORCH_CUDA_ALLOC_CONF": YES}])
def test_an_allocator_in_use_is_told_once(newer: bool, environ: dict[str, str]) -> None:
    torch = Told(newer)
    assert expandable_segments(host(), environ, torch)  # a forecast before the load: it will be told
    assert ask_late(host(), environ, torch) and torch.heard == ["expandable_segments:True"]
    assert not ask_late(host(), environ, torch) and len(torch.heard) == 1
    assert expandable_segments(host(), environ, torch) and expandable_now(host(), torch)


@pytest.mark.parametrize(
    ("platform", "environ", "torch"),
    [
        ("win32", {}, Told()),
        ("linux", {"PYTORCH_ALLOC_CONF": NO}, Told()),
        ("linux", {"PYTORCH_CUDA_ALLOC_CONF": NO}, Told(newer=False)),
        ("linux", {}, Told(said=NO)),  # at run time, by somebody else in this process
        ("linux", {}, Told(newer=False, said="expandable_segments:False")),
        ("linux", {}, Told(said=NO, name="PYTORCH_ALLOC_CONF")),
        ("linux", {}, Told(said=None)),
        ("linux", {}, Told(hip="6.4")),
        ("linux", {}, torch_of(False)),  # an old torch, that cannot be told
        ("linux", {}, Told(ready=False)),
        ("linux", {}, None),
    ],
)
def test_nobody_is_told_who_has_none_or_wishes_otherwise(platform: str, environ: dict[str, str], torch: Any) -> None:
    assert not ask_late(host(platform), environ, torch)
    assert not getattr(torch, "heard", [])
    if torch is not None and torch.cuda.is_initialized():
        assert not expandable_segments(host(platform), environ, torch)


@pytest.mark.parametrize("how", ["loudly", "quietly"])
def test_what_is_told_in_vain_is_no_trouble_and_promised_no_more(how: str) -> None:
    torch = Told(refuses=how)
    assert expandable_segments(host(), {}, torch)
    assert not ask_late(host(), {}, torch) and len(torch.heard) == 1
    assert not expandable_segments(host(), {}, torch) and not expandable_now(host(), torch)
    assert not ask_late(host(), {}, torch) and len(torch.heard) == 1


def test_an_older_torch_is_told_and_promised_nothing_before() -> None:
    torch = Told(newer=False)
    assert not expandable_segments(host(torch="2.9.1"), {}, torch)  # nobody has measured whether it hears
    assert ask_late(host(torch="2.9.1"), {}, torch)
    assert expandable_segments(host(torch="2.9.1"), {}, torch)


def test_where_torch_does_not_say_what_it_has_the_meter_takes_what_the_forecast_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    silent = SimpleNamespace(cuda=SimpleNamespace(is_initialized=lambda: True))
    assert expandable_now(host(), silent) and expandable_segments(host(), {}, silent)
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", NO)
    assert not expandable_now(host(), silent) and not expandable_now(host("win32"), silent)


def test_a_torch_that_is_not_all_there_is_no_trouble() -> None:
    class Lazy:
        @property
        def hip(self) -> str:
            raise ImportError("lazy")

    torch = Told()
    torch.version = Lazy()  # type: ignore[assignment]
    assert not expandable_segments(host(), {}, torch) and not ask_late(host(), {}, torch)


def test_a_load_tells_it_where_cuda_was_in_use_before(seen: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    torch = Told()
    monkeypatch.setitem(sys.modules, "torch", torch)
    import_gptqmodel("exllamav2")
    assert not torch.heard
    import_gptqmodel("gptqmodel:triton")
    assert seen == ["transformers", "gptqmodel"] and torch.heard == ["expandable_segments:True"]
    torch.expandable = False  # somebody changed it meanwhile: the next load says it again
    import_gptqmodel("gptqmodel:triton")
    assert seen == ["transformers", "gptqmodel"] and len(torch.heard) == 2


def test_a_load_heeds_what_the_user_asks_for(seen: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    torch = Told()
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", NO)
    import_gptqmodel("gptqmodel:triton")
    assert "gptqmodel" in seen and not torch.heard


@pytest.mark.parametrize("version", ["2.9.1", "2.11.0"])
def test_forecast_meter_and_load_agree_from_the_first_load_on(
    seen: list[str], monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """The webui imports gptqmodel before its meter uses CUDA, and again when its own loader comes to it."""
    settings = Told()
    torch = sys.modules["torch"]
    for name, part in (("_C", settings._C), ("version", settings.version)):
        monkeypatch.setattr(torch, name, part, raising=False)
    monkeypatch.setattr(torch.cuda, "memory", settings.cuda.memory, raising=False)
    plan = LoadPlan("m", "Transformers", "gptqmodel:triton", {}, None, "", ())
    meter = measuring_module.meter(plan, ONE_GPU, None)
    import_gptqmodel("gptqmodel:triton")
    assert meter is not None and meter.expandable
    assert settings.heard == ["expandable_segments:True"]
    assert expandable_segments(host(torch=version), None, torch)
