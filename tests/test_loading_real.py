"""The overlay with real transformers and gptqmodel on the CPU, around a loader that does what the host's does."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from branchfit.demo.repo import BRANCHES, demo_repo
from branchfit.errors import LoadedWrong, LoadError
from branchfit_webui.host import Host
from branchfit_webui.loading import (
    inspect_loaded,
    install_overlay,
    keep_settings,
    load,
    plan_load,
    remove_overlay,
)
from loading_models import NO_GPU
from standin.loading import Loading, loading_host

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

NEEDS = "loading real GPTQ models needs the `[gptq]` extra"
if os.environ.get("BRANCHFIT_NEEDS_GPTQ"):
    import gptqmodel  # noqa: F401 (only whether it is there)
    import optimum  # noqa: F401 (the same)
torch = pytest.importorskip("torch", reason=NEEDS)
transformers = pytest.importorskip("transformers", reason=NEEDS)
for package in ("optimum", "gptqmodel"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(NEEDS, allow_module_level=True)

# transformers, optimum and gptqmodel warn of one another's deprecations; none of that is ours.
pytestmark = pytest.mark.filterwarnings("ignore")

GROUPED = "gptq-4bit-128g-actorder_True"
PROMPT = "Ann has three boxes of ten pens and gives away seven."


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = demo_repo(tmp_path_factory.mktemp("demo"))
    return {branch: files["config.json"].parent for branch, files in made.branches.items()}


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[Loading]:
    """v4.7.3's Transformers loader without a GPU (modules/transformers_loader.py): the config read first, then the
    model in float32."""
    with loading_host("v4.7", tmp_path) as made:
        host = Host()

        def transformers_loader(model_name: str) -> Any:
            folder = host.model_dir / model_name
            transformers.AutoConfig.from_pretrained(folder)
            made.shared.args.cpu = True
            return transformers.AutoModelForCausalLM.from_pretrained(
                folder, low_cpu_mem_usage=True, dtype=torch.float32
            )

        host.models.transformers_loader = transformers_loader
        install_overlay(host)
        yield made
        remove_overlay(host)


def place(standin: Loading, folder: Path, name: str, change: Callable[[Path], None] = lambda folder: None) -> str:
    target = standin.models_dir / name
    shutil.copytree(folder, target)
    change(target)
    return name


def load_as_the_host_does(standin: Loading, name: str) -> Any:
    """As its Model menu and its API: nothing of ours is called."""
    host = Host()
    host.models.unload_model()
    standin.shared.model, standin.shared.tokenizer = host.models.load_model(name, "Transformers")
    return standin.shared.model


def logits(model: Any, folder: Path) -> Any:
    ids = transformers.AutoTokenizer.from_pretrained(folder)(PROMPT, return_tensors="pt").input_ids
    with torch.no_grad():
        return model(ids).logits


def kernels(model: Any) -> set[str]:
    return {type(module).__name__ for module in model.modules() if hasattr(module, "qweight")}


@pytest.mark.parametrize("branch", BRANCHES)
def test_any_load_of_a_gptq_folder_gets_the_kernel_that_was_worked_out(
    standin: Loading, demo: dict[str, Path], branch: str
) -> None:
    name = place(standin, demo[branch], branch)
    model = load_as_the_host_does(standin, name)
    assert kernels(model) == {"TorchLinear"}, "left to itself gptqmodel takes another on a CPU"
    assert inspect_loaded(Host()) == ""
    ids = transformers.AutoTokenizer.from_pretrained(demo[branch])(PROMPT, return_tensors="pt").input_ids
    assert model.generate(ids, max_new_tokens=3, min_new_tokens=3, do_sample=False).shape[1] == ids.shape[1] + 3


def edit(folder: Path, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def no_quantization(folder: Path) -> None:
    edit(folder, "config.json", lambda config: config.pop("quantization_config"))


def nothing_says_it(folder: Path) -> None:
    no_quantization(folder)
    (folder / "quantize_config.json").unlink()


def other_name(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "gptq_model-4bit-128g.safetensors")


def marlin_flag(folder: Path) -> None:
    edit(folder, "quantize_config.json", lambda config: config.update(is_marlin_format=False))
    edit(folder, "config.json", lambda config: config["quantization_config"].update(is_marlin_format=False))


def kernel_of_somebody(folder: Path) -> None:
    edit(folder, "config.json", lambda config: config["quantization_config"].update(use_exllama=True, backend="auto"))


TRAPS = [no_quantization, nothing_says_it, other_name, marlin_flag, kernel_of_somebody]


@pytest.mark.parametrize("trap", TRAPS)
def test_a_folder_with_a_trap_loads_as_the_same_model_and_stays_as_published(
    standin: Loading, demo: dict[str, Path], trap: Callable[[Path], None]
) -> None:
    expected = logits(load_as_the_host_does(standin, place(standin, demo[GROUPED], "plain")), demo[GROUPED])
    name = place(standin, demo[GROUPED], "trap", trap)
    before = {path.name: hashlib.sha256(path.read_bytes()).digest() for path in (standin.models_dir / name).iterdir()}
    model = load_as_the_host_does(standin, name)
    assert kernels(model) == {"TorchLinear"}
    assert torch.equal(logits(model, demo[GROUPED]), expected)
    after = {path.name: hashlib.sha256(path.read_bytes()).digest() for path in (standin.models_dir / name).iterdir()}
    assert after == before


def test_our_own_load_says_that_autogptqs_zero_biases_are_left_out(standin: Loading, demo: dict[str, Path]) -> None:
    host = Host()
    name = place(standin, demo[GROUPED], "zero-biases")
    plan = plan_load(host, host.model_dir / name, runtime="ExLlama", context_tokens=256, machine=NO_GPU)
    assert plan.kernel == "torch" and plan.reason.startswith(
        "ExLlama was asked for, but nothing of ExLlama here takes it"
    )
    report = load(host, plan, on_step=lambda step: None)
    assert any("biases in the files are zero" in note for note in report.notes)
    assert report.measured_bytes is None or report.measured_bytes > 2**20


def test_without_the_overlay_it_comes_up_random_and_that_is_said(standin: Loading, demo: dict[str, Path]) -> None:
    remove_overlay(Host())
    load_as_the_host_does(standin, place(standin, demo[GROUPED], "trap", no_quantization))
    assert "21 of 21 quantised linears" in inspect_loaded(Host())


def test_a_kernel_left_to_chance_before_we_came_is_said(standin: Loading, demo: dict[str, Path]) -> None:
    remove_overlay(Host())
    model = load_as_the_host_does(standin, place(standin, demo[GROUPED], "plain"))
    assert kernels(model) != {"TorchLinear"}
    assert "its kernel was left to chance" in inspect_loaded(Host())
    assert "Load it again for gptqmodel:torch." in inspect_loaded(Host())


def test_a_load_that_came_up_random_is_an_error_and_leaves_no_name(standin: Loading, demo: dict[str, Path]) -> None:
    host = Host()
    remove_overlay(host)
    config = transformers.AutoConfig.from_pretrained(demo[GROUPED])
    del config.quantization_config
    host.models.transformers_loader = lambda name: transformers.AutoModelForCausalLM.from_config(config)
    install_overlay(host)
    with pytest.raises(LoadedWrong, match="random numbers"):
        load_as_the_host_does(standin, place(standin, demo[GROUPED], "plain"))
    assert standin.shared.model_name == "None"


def test_a_damaged_gptq_folder_is_an_error_before_anything_is_read(standin: Loading, demo: dict[str, Path]) -> None:
    def cut(folder: Path) -> None:
        os.truncate(folder / "model.safetensors", 100_000)

    with pytest.raises(LoadError, match="branchfit repair"):
        load_as_the_host_does(standin, place(standin, demo[GROUPED], "cut", cut))
    assert standin.shared.model_name == "None"


def test_a_kernel_that_was_kept_and_cannot_work_here_is_not_taken(standin: Loading, demo: dict[str, Path]) -> None:
    host = Host()
    name = place(standin, demo[GROUPED], "kept")
    plan = plan_load(host, host.model_dir / name, runtime=None, context_tokens=256, machine=NO_GPU)
    keep_settings(host, plan)
    standin.shared.user_config["^kept$"]["branchfit_runtime"] = "gptqmodel:marlin"
    assert kernels(load_as_the_host_does(standin, name)) == {"TorchLinear"}


def test_what_is_not_gptq_goes_through_untouched(standin: Loading, tmp_path: Path) -> None:
    host, given = Host(), object()
    remove_overlay(host)
    host.models.transformers_loader = lambda name: given
    install_overlay(host)
    for name in ("pickles", "plain", "nothing"):
        (standin.models_dir / name).mkdir()
    (standin.models_dir / "pickles" / "config.json").write_text('{"model_type": "llama"}')
    (standin.models_dir / "pickles" / "pytorch_model.bin").write_bytes(b"")
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=64
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(standin.models_dir / "plain")
    for name in ("pickles", "plain", "nothing"):
        assert host.models.transformers_loader(name) is given


def test_it_is_put_in_once_and_taken_out_whole(standin: Loading) -> None:
    host = Host()
    ours = host.models.transformers_loader
    install_overlay(host)
    assert host.models.transformers_loader is ours
    remove_overlay(host)
    assert host.models.transformers_loader is not ours
    remove_overlay(host)
