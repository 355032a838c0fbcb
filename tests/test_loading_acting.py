"""Loading in a stand-in host: what is true afterwards, whatever happened on the way."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from branchfit.demo.synth import Recipe
from branchfit.errors import LoadError, OutOfMemory
from branchfit.gpus import Gpu, Holder, Machine
from branchfit.loaders import Availability, by_name
from branchfit.memory import Need
from branchfit.recommend import recommend
from branchfit.running.measured import Meter
from branchfit.variants import Variant, VariantList
from branchfit_webui.host import Host
from branchfit_webui.loading import (
    LoadPlan,
    forget_settings,
    give_back,
    inspect_loaded,
    keep_settings,
    load,
    plan_load,
    previous,
    unload,
    would_free_bytes,
)
from branchfit_webui.loading import acting as acting_module
from loading_models import AUTOGPTQ, EXLLAMA_V2, GPTQMODEL, NAME, NO_GPU, ONE_GPU, SHAPE, packages, write
from standin.loading import ERAS, Loading, Model, loading_host

FOUR = Recipe(4, 128, act_order=True)
EVERYTHING = packages(EXLLAMA_V2, AUTOGPTQ, GPTQMODEL, {"exllama": "0.0.17", "exllama_ext": "0.0.17"})
SECOND = "owner_Second-GPTQ"


@pytest.fixture(autouse=True)
def nothing_loaded_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # transformers is not here for the overlay; test_loading_real.py has it.
    monkeypatch.setattr(acting_module.overlay, "install_overlay", lambda host: None)
    acting_module._before.clear()
    yield
    acting_module._before.clear()


def plan(host: Host, standin: Loading, name: str = NAME, **more: Any) -> LoadPlan:
    if not (standin.models_dir / name).exists():
        write(standin.models_dir, FOUR, name)
    wishes = {"runtime": "ExLlama", "context_tokens": 512, "machine": ONE_GPU, "packages": EVERYTHING, **more}
    return plan_load(host, standin.models_dir / name, **wishes)


def quietly(step: str) -> None:
    pass


@pytest.mark.parametrize("era", ERAS)
def test_a_load_leaves_model_name_loader_and_context_as_loaded(tmp_path: Path, era: str) -> None:
    with loading_host(era, tmp_path) as standin:
        host, steps = Host(), []
        report = load(host, plan(host, standin), on_step=steps.append)
        shared = standin.shared
        assert isinstance(shared.model, Model) and host.model_name() == NAME
        assert shared.args.loader == report.plan.loader
        assert shared.settings["truncation_length"] == 512
        assert not shared.generation_lock.locked()
        assert steps[0].startswith(f"Loading {NAME}: ") and steps[-1] == report.line
        assert report.line.startswith(f"{NAME} is loaded with {report.plan.loader} ({report.plan.runtime}) in 0 s.")


@pytest.mark.parametrize("era", ERAS)
def test_a_load_that_raises_leaves_no_name_behind(tmp_path: Path, era: str) -> None:
    with loading_host(era, tmp_path) as standin:
        host = Host()
        load(host, plan(host, standin), on_step=quietly)

        def gives(name: str) -> Any:
            raise RuntimeError("CUDA out of memory. Tried to allocate 1.69 GiB. GPU 0 has a total capacity of 24 GiB")

        standin.gives = gives
        with pytest.raises(OutOfMemory, match=f"{SECOND} does not fit into the memory of"):
            load(host, plan(host, standin, SECOND), on_step=quietly)
        shared = standin.shared
        assert shared.model is None and shared.tokenizer is None and shared.model_name == "None"
        assert not shared.generation_lock.locked()
        back = previous(host)
        assert back is not None and back.name == NAME


@pytest.mark.parametrize("era", ERAS)
def test_the_previous_model_is_given_back_as_it_was(tmp_path: Path, era: str) -> None:
    with loading_host(era, tmp_path) as standin:
        host = Host()
        load(host, plan(host, standin), on_step=quietly)
        standin.gives = lambda name: None  # as loaders that only write to the log
        with pytest.raises(LoadError, match=f"loader gave no model for {SECOND}"):
            load(host, plan(host, standin, SECOND, context_tokens=256), on_step=quietly)
        standin.gives = Model
        report = give_back(host, on_step=quietly)
        first, _, again = standin.loads
        assert again == first, "the same model, loader and arguments"
        assert host.model_name() == NAME and standin.shared.settings["truncation_length"] == 512
        assert f"{NAME} is loaded again" in report.line
        assert previous(host) is None


def test_a_forecast_and_what_helps_are_in_the_sentence_of_a_load_that_did_not_fit(tmp_path: Path) -> None:
    need = Need(3 * 2**30, 2**30, 0, 0, (4 * 2**30,), (2**28,), (2,), (4 * 2**30,))
    with loading_host("v3.23", tmp_path) as standin:
        host = Host()

        def gives(name: str) -> Any:
            raise MemoryError

        standin.gives = gives
        with pytest.raises(OutOfMemory) as refusal:
            load(host, plan(host, standin), need=need, on_step=quietly)
        assert "4.0 GiB needed there, give or take 256 MiB" in str(refusal.value)
        assert "What helps, the most first: a context of 256 tokens instead of 512" in str(refusal.value)


def test_the_remedies_are_of_the_cache_and_runtime_that_were_loaded_with(tmp_path: Path) -> None:
    """The recommendation is of another runtime, which has no smaller cache; the plan has q8."""
    variant = Variant("main", bits=4, group_size=128, act_order=True, shape=SHAPE)
    available = Availability((by_name("gptqmodel:torch"),), False, "")
    answer = recommend(VariantList("o/r", None, (variant,)), NO_GPU, available, context_tokens=512)
    with loading_host("v3.23", tmp_path) as standin:
        host = Host()

        def gives(name: str) -> Any:
            raise MemoryError

        standin.gives = gives
        wanted = plan(host, standin, cache_type="q8")
        assert wanted.runtime == "exllamav2"
        with pytest.raises(OutOfMemory) as refusal:
            load(host, wanted, need=answer.assessments[0].need, recommendation=answer, on_step=quietly)
        assert any(" cache instead of q8 (saves " in text for text in refusal.value.remedies)


def test_what_lies_in_system_memory_after_a_load_is_among_its_notes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card of 24 GiB that is full, of whose memory torch says that it has 27 GiB."""
    reserved = [0]
    card = Gpu(0, "a card", 24 * 2**30, 0, "8.6", "nvml")
    cuda = SimpleNamespace(
        is_available=lambda: True, is_initialized=lambda: True, device_count=lambda: 1,
        get_device_name=lambda index: "a card", memory_reserved=lambda index: reserved[0],
        memory_allocated=lambda index: reserved[0], max_memory_reserved=lambda index: reserved[0],
        max_memory_allocated=lambda index: reserved[0], reset_peak_memory_stats=lambda index: None,
    )  # fmt: skip

    def meter(gpus: Any, need: Any, **more: Any) -> Meter:
        look = lambda: Machine((card,), (), 0, 0)  # noqa: E731 (short, and used once)
        return Meter((0,), need, torch=SimpleNamespace(cuda=cuda), look=look, **more)

    monkeypatch.setattr("branchfit.running.measured.Meter", meter)
    with loading_host("v4.7", tmp_path) as standin:
        host = Host()
        assert not any("system memory" in note for note in load(host, plan(host, standin), on_step=quietly).notes)

        def gives(name: str) -> Model:
            reserved[0] = 27 * 2**30
            return Model(name)

        standin.gives = gives
        notes = load(host, plan(host, standin, SECOND), on_step=quietly).notes
        assert notes[-1].startswith("3.0 GiB of what this process has on GPU 0 (a card) lie in system memory.")


def test_a_loader_that_calls_exit_does_not_end_the_webui(tmp_path: Path) -> None:
    with loading_host("v1.5", tmp_path) as standin:
        host = Host()

        def gives(name: str) -> Any:
            raise SystemExit  # modules/GPTQ_loader.py

        standin.gives = gives
        with pytest.raises(LoadError):
            load(host, plan(host, standin), on_step=quietly)
        assert standin.shared.model_name == "None"


def test_a_load_waits_for_the_reply_that_is_being_written(tmp_path: Path) -> None:
    with loading_host("v3.23", tmp_path) as standin:
        host, steps, waits = Host(), [], threading.Event()
        made = plan(host, standin)
        standin.shared.generation_lock.acquire()

        def step(text: str) -> None:
            steps.append(text)
            waits.set()

        thread = threading.Thread(target=lambda: load(host, made, on_step=step))
        thread.start()
        assert waits.wait(10) and not standin.loads
        standin.shared.generation_lock.release()
        thread.join(10)
        assert steps[0] == "Waiting for the reply that is being written." and len(standin.loads) == 1


def test_a_reply_that_does_not_end_stops_the_load_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acting_module, "WAIT_SECONDS", 0.01)
    with loading_host("v3.23", tmp_path) as standin:
        host = Host()
        load(host, plan(host, standin), on_step=quietly)
        with standin.shared.generation_lock, pytest.raises(LoadError, match="still being written"):
            load(host, plan(host, standin, SECOND), on_step=quietly)
        assert host.model_name() == NAME


def test_a_load_that_waits_can_be_given_up_and_the_present_model_stays(tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop() -> None:
        raise Stopped

    with loading_host("v4.7", tmp_path) as standin:
        host = Host()
        load(host, plan(host, standin), on_step=quietly)
        second = plan(host, standin, SECOND)
        with standin.shared.generation_lock, pytest.raises(Stopped):
            load(host, second, on_step=quietly, check=stop)
        # No reply to wait for: asked once more before anything is unloaded.
        with pytest.raises(Stopped):
            load(host, second, on_step=quietly, check=stop)
        assert host.model_name() == NAME and len(standin.loads) == 1
        assert not standin.shared.generation_lock.locked()


def test_a_model_whose_folder_is_gone_is_not_offered_back_and_nothing_is_unloaded_for_it(tmp_path: Path) -> None:
    with loading_host("v4.7", tmp_path) as standin:
        host = Host()
        load(host, plan(host, standin), on_step=quietly)
        load(host, plan(host, standin, SECOND), on_step=quietly)
        assert previous(host) is not None
        shutil.rmtree(standin.models_dir / NAME)
        assert previous(host) is None
        with pytest.raises(LoadError, match="no longer there"):
            give_back(host, on_step=quietly)
        assert host.model_name() == SECOND


def test_llama_servers_replies_that_take_no_lock_are_not_cut_off(tmp_path: Path) -> None:
    with loading_host("v4.7", tmp_path) as standin:
        host = Host()
        host.models.active_generation_count = 1
        with pytest.raises(LoadError, match="a reply is being written"):
            load(host, plan(host, standin, machine=NO_GPU), on_step=quietly)
        assert not standin.shared.generation_lock.locked() and not standin.loads


def test_arguments_of_the_model_before_do_not_stay_and_the_command_lines_do(tmp_path: Path) -> None:
    with loading_host("v3.23", tmp_path) as standin:
        host = Host()
        standin.args(compress_pos_emb=4, load_in_4bit=True, no_use_fast=True, cfg_cache=True, cpu=True)
        standin.shared.provided_arguments = ["no_use_fast"]
        load(host, plan(host, standin), on_step=quietly)
        [(_, _, args)] = standin.loads
        assert (args["compress_pos_emb"], args["cfg_cache"], args["no_use_fast"]) == (1, False, True)


def test_switches_that_would_undo_the_plan_are_off_even_where_the_command_line_says_on(tmp_path: Path) -> None:
    with loading_host("v3.23", tmp_path) as standin:
        host, switches = Host(), ("autosplit", "enable_tp", "cfg_cache")
        standin.args(**dict.fromkeys(switches, True))
        standin.shared.provided_arguments = list(switches)
        load(host, plan(host, standin), on_step=quietly)
        [(_, _, args)] = standin.loads
        assert [args[name] for name in switches] == [False, False, False]


@pytest.mark.parametrize("era", ERAS)
def test_unloading_leaves_no_name_behind(tmp_path: Path, era: str) -> None:
    with loading_host(era, tmp_path) as standin:
        host = Host()
        load(host, plan(host, standin), on_step=quietly)
        unload(host)
        assert standin.shared.model is None and standin.shared.model_name == "None"
        back = previous(host)
        assert back is not None and back.name == NAME


def test_nothing_to_give_back_is_said() -> None:
    with pytest.raises(LoadError, match="nothing was loaded before"):
        give_back(SimpleNamespace())  # type: ignore[arg-type]


def test_no_file_of_the_model_is_touched(tmp_path: Path) -> None:
    with loading_host("v3.23", tmp_path) as standin:
        host = Host()
        made = plan(host, standin)
        before = hashes(standin.models_dir)
        load(host, made, on_step=quietly)
        assert hashes(standin.models_dir) == before


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


# Kept settings


@pytest.mark.parametrize("era", ERAS)
def test_kept_settings_hold_at_once_and_name_only_what_the_host_has(tmp_path: Path, era: str) -> None:
    with loading_host(era, tmp_path) as standin:
        host = Host()
        made = plan(host, standin)
        keep_settings(host, made)
        on_disk = yaml.safe_load((standin.models_dir / "config-user.yaml").read_bytes())
        read = standin.shared.model_config if era == "v1.5" else standin.shared.user_config
        assert on_disk == read and list(on_disk) == [r"owner_Tiny\-GPTQ$"]
        settings = on_disk[r"owner_Tiny\-GPTQ$"]
        assert settings["loader"] == made.loader and settings["loader"] in ERAS[era]
        assert settings["branchfit_runtime"] == made.runtime
        sliders = {name for name in settings if name.startswith("gpu_memory_")}
        assert set(settings) - sliders <= {"loader", "truncation_length", "branchfit_runtime"} | set(
            ERAS[era][made.loader].split()
        )
        forget_settings(host, NAME)
        assert (standin.models_dir / "config-user.yaml").read_bytes() == b"" and not read


def test_kept_settings_come_after_what_the_host_saved(tmp_path: Path) -> None:
    with loading_host("v3.23", tmp_path) as standin:
        host = Host()
        file = standin.models_dir / "config-user.yaml"
        file.write_text("owner_Tiny-GPTQ$:\n  loader: llama.cpp\n")
        standin.shared.user_config.update(yaml.safe_load(file.read_text()))
        keep_settings(host, plan(host, standin))
        assert list(standin.shared.user_config) == ["owner_Tiny-GPTQ$", r"owner_Tiny\-GPTQ$"]
        assert file.read_text().startswith("owner_Tiny-GPTQ$:\n  loader: llama.cpp\n")


def test_kept_again_they_go_to_the_end_on_disk_and_in_what_the_host_has_read(tmp_path: Path) -> None:
    with loading_host("v3.23", tmp_path) as standin:
        host, file = Host(), standin.models_dir / "config-user.yaml"
        keep_settings(host, plan(host, standin))
        # The host's "Save settings" writes all it has read, and adds its own key.
        standin.shared.user_config["owner_Tiny-GPTQ$"] = {"loader": "llama.cpp"}
        file.write_text(yaml.dump(standin.shared.user_config, sort_keys=False))
        keep_settings(host, plan(host, standin))
        for read in (standin.shared.user_config, yaml.safe_load(file.read_text())):
            assert list(read) == ["owner_Tiny-GPTQ$", r"owner_Tiny\-GPTQ$"]


def test_a_loader_the_host_does_not_have_is_not_written(tmp_path: Path) -> None:
    with loading_host("v4.7", tmp_path) as standin:
        made = LoadPlan(NAME, "ExLlamav2_HF", "exllamav2", {}, None, "", ())
        with pytest.raises(LoadError, match="is not a loader of this webui"):
            keep_settings(Host(), made)
        assert not (standin.models_dir / "config-user.yaml").exists()


@pytest.mark.parametrize("content", [b"a: [", b"- a\n", b"\xff"])
def test_a_malformed_file_is_left_alone_with_a_sentence(tmp_path: Path, content: bytes) -> None:
    with loading_host("v3.23", tmp_path) as standin:
        host, file = Host(), standin.models_dir / "config-user.yaml"
        file.write_bytes(content)
        with pytest.raises(LoadError, match="left as it is"):
            keep_settings(host, plan(host, standin))
        assert file.read_bytes() == content and not standin.shared.user_config


def test_a_linked_file_stays_a_link_and_keeps_its_mode(tmp_path: Path) -> None:
    with loading_host("v3.23", tmp_path) as standin:
        real, host = tmp_path / "elsewhere.yaml", Host()
        real.write_text("a$:\n  loader: x\n")
        real.chmod(0o600)
        link = standin.models_dir / "config-user.yaml"
        link.symlink_to(real)
        keep_settings(host, plan(host, standin))
        assert link.is_symlink() and "branchfit_runtime" in real.read_text() and real.stat().st_mode & 0o777 == 0o600
        assert not list(tmp_path.rglob(".branchfit-*"))


# What would be freed, and what is wrong


class Tensor(SimpleNamespace):
    def data_ptr(self) -> int:
        return id(self)

    def numel(self) -> int:
        return int(self.size)

    def element_size(self) -> int:
        return 2


def cuda(reserved: int, allocated: int) -> SimpleNamespace:
    return SimpleNamespace(
        cuda=SimpleNamespace(
            is_available=lambda: True,
            device_count=lambda: 1,
            memory_reserved=lambda index: reserved,
            memory_allocated=lambda index: allocated,
        )
    )


@contextlib.contextmanager
def loaded(tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch, torch: Any) -> Iterator[Host]:
    with loading_host("v4.7", tmp_path) as standin:
        standin.shared.model, standin.shared.model_name = model, NAME
        monkeypatch.setitem(__import__("sys").modules, "torch", torch)
        yield Host()


def test_a_models_own_tensors_and_the_free_blocks_would_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = Tensor(size=3000, device=SimpleNamespace(type="cuda", index=0))
    model = SimpleNamespace(parameters=lambda: [weights, weights], buffers=lambda: [])
    with loaded(tmp_path, model, monkeypatch, cuda(reserved=10_000, allocated=9_000)) as host:
        # 6,000 bytes of its own, once, though the tensor is tied; 3,000 are another's; 1,000 nobody's.
        assert would_free_bytes(host, ONE_GPU) == {0: 7_000}
        assert would_free_bytes(host, NO_GPU) == {}


def test_all_of_exllamas_memory_would_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with loaded(tmp_path, SimpleNamespace(), monkeypatch, cuda(10_000, 9_000)) as host:
        assert would_free_bytes(host, ONE_GPU) == {0: 10_000}


def test_a_llama_servers_memory_is_what_the_driver_says_of_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu(0, "a card", 2**34, 2**33, "8.6", "nvml", (Holder(7, "llama-server", 2**32), Holder(8, "Xorg", 99)))
    server = SimpleNamespace(process=SimpleNamespace(pid=7))
    with loaded(tmp_path, server, monkeypatch, cuda(10_000, 9_000)) as host:
        assert would_free_bytes(host, Machine((gpu,), (), 2**35, 2**34)) == {0: 2**32}


def test_a_name_without_a_model_is_said_unless_it_was_unloaded_for_being_idle(tmp_path: Path) -> None:
    with loading_host("v4.7", tmp_path) as standin:
        host = Host()
        assert inspect_loaded(host) == ""
        standin.shared.model_name = NAME
        assert "no model is loaded: its load failed" in inspect_loaded(host)
        standin.args(idle_timeout=5)
        assert inspect_loaded(host) == ""
