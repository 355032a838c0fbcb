"""`branchfit.load` for real, on the CPU: the six branches, every trap, and controls that have to fail.

Agreement is with the untouched folder of the same branch, which test_gptq_load.py holds against a reference
that never sees a packed word, and here once more for each branch.
"""

from __future__ import annotations

import importlib.util
import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import branchfit
from branchfit.demo.repo import BRANCHES, REPO, demo_repo
from branchfit.demo.server import LoopbackHub
from branchfit.demo.synth import Recipe, write_model
from branchfit.errors import LoadedWrong, LoadError, PromptError, UsageError, WrongKernel
from branchfit.prompts import ALPACA_COT
from branchfit.running.checks import check_loaded
from branchfit.running.folder import read_folder
from branchfit.running.kernels import quantization_config
from branchfit.running.loaded import Loaded, encode
from branchfit.running.overlay import overlaid
from branchfit.shape import ModelShape
from running_models import WEIGHTS, copied, edit, read_all, split, write_tensors

# Before torch is imported: where transformers loads by itself, gptqmodel compiles, which needs a compiler.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

NEEDS = "loading real GPTQ models needs the `[gptq]` or the `[autogptq]` extra"
torch = pytest.importorskip("torch", reason=NEEDS)
transformers = pytest.importorskip("transformers", reason=NEEDS)
if all(importlib.util.find_spec(package) is None for package in ("gptqmodel", "auto_gptq")):
    pytest.skip(NEEDS, allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")

RUNTIME = "auto_gptq" if importlib.util.find_spec("gptqmodel") is None else "gptqmodel:torch"
BRANCH = "gptq-4bit-128g-actorder_True"
OTHER = "gptq-4bit-32g-actorder_True"
INSTRUCTION = "Ann has three boxes of ten pens and gives away seven. How many pens are left?"

SAME = 1e-6
"""The same tensors in the same kernel: no more than the order of additions may differ, and on one machine not that."""

DIFFERS = 0.1
"""What any real mistake moves some logit by, at the least (test_gptq_load.py)."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    demo = demo_repo(tmp_path_factory.mktemp("demo"))
    return {branch: files["config.json"].parent for branch, files in demo.branches.items()}


@pytest.fixture(scope="module")
def expected(folders: dict[str, Path]) -> Any:
    """The untouched folder's logits."""
    return logits(load(folders[BRANCH]))


@pytest.fixture
def folder(folders: dict[str, Path], tmp_path: Path) -> Path:
    return copied(folders[BRANCH], tmp_path / "model")


def load(folder: Path, **given: Any) -> Loaded:
    return branchfit.load(folder, device="cpu", **given)


def ids_of(tokenizer: Any) -> Any:
    return torch.tensor([encode(tokenizer, ALPACA_COT.render(INSTRUCTION))])


def logits(loaded: Loaded) -> Any:
    with torch.no_grad():
        return loaded.model(ids_of(loaded.tokenizer)).logits.float()


def furthest(one: Any, other: Any) -> float:
    assert one.shape == other.shape
    return float((one - other).abs().max())


# ---- the six branches --------------------------------------------------------------------------


@pytest.mark.parametrize("branch", BRANCHES)
def test_a_branch_loads_from_its_folder_and_is_checked(branch: str, folders: dict[str, Path]) -> None:
    loaded = load(folders[branch])
    assert loaded.runtime == RUNTIME
    assert loaded.model.dtype == torch.float32
    assert loaded.notes == ("21 biases in the files are zero, as AutoGPTQ writes them, and are left out: harmless.",)
    assert loaded.template is not None
    assert loaded.template.text == ALPACA_COT.text
    assert loaded.measured.line().startswith("memory of this process: predicted ")
    if importlib.util.find_spec("optimum") is not None and RUNTIME == "gptqmodel:torch":
        import test_gptq_load as reference

        wanted = reference.dequantised_logits(folders[branch], BRANCHES[branch].bits)
        assert furthest(reference.logits_of(loaded.model, folders[branch]), wanted) < reference.AGREES


def test_all_six_load_by_revision_from_the_hub_into_huggingface_hubs_cache(tmp_path: Path) -> None:
    demo = demo_repo(tmp_path / "demo")
    code = (
        "import json, sys, torch, branchfit\n"
        "from branchfit.running.loaded import encode\n"
        "found = {}\n"
        f"for branch in {list(BRANCHES)!r}:\n"
        f"    one = branchfit.load({REPO!r}, branch, device='cpu', models_dir=__import__('pathlib').Path('none'))\n"
        f"    ids = torch.tensor([encode(one.tokenizer, one.prompt({INSTRUCTION!r}))])\n"
        "    with torch.no_grad():\n"
        "        last = one.model(ids).logits[0, -1].tolist()\n"
        "    found[branch] = [last, one.commit, str(one.folder_or_repo), one.template.name, one.runtime]\n"
        f"found['recommended'] = branchfit.load({REPO!r}, device='cpu').branch\n"
        "json.dump(found, open(sys.argv[1], 'w'))\n"
    )
    with LoopbackHub() as hub:
        commits = hub.add_repo(REPO, demo.branches)
        # Libraries that were imported here have put their own idea of a cache into the environment.
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        environ |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf")}
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "found.json")],
            env=environ,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert not hub.mistakes
        # The card was read by us, and no pickle or code was asked for.
        assert not [one.path for one in hub.requests if one.path.endswith((".bin", ".py", ".pt"))]
    found = json.loads((tmp_path / "found.json").read_text())
    snapshots = tmp_path / "hf" / "hub" / f"models--{REPO.replace('/', '--')}" / "snapshots"
    assert {path.name for path in snapshots.iterdir()} == set(commits.values())
    assert found["recommended"] == OTHER  # 4 bits in groups of 32: the best of the six, and all of them fit
    for branch, files in demo.branches.items():
        last, commit, shown, template, runtime = found[branch]
        assert (commit, shown, template, runtime) == (commits[branch], f"{REPO}:{branch}", "Alpaca-CoT", RUNTIME)
        own = logits(load(files["config.json"].parent))[0, -1]
        assert furthest(torch.tensor(last), own) < SAME


def test_an_installed_copy_comes_before_the_hub(folders: dict[str, Path], tmp_path: Path) -> None:
    from branchfit.download import pull
    from branchfit.hub import Hub

    demo = {BRANCH: {path.name: path for path in folders[BRANCH].iterdir()}}
    with LoopbackHub() as server:
        commit = server.add_repo(REPO, demo)[BRANCH]
        made = pull(Hub(server.endpoint), REPO, BRANCH, tmp_path, template={"name": "mine", "text": "{instruction}!"})
        asked = len(server.requests)
        loaded = branchfit.load(REPO, BRANCH, models_dir=tmp_path, device="cpu", hub=Hub(server.endpoint))
        assert len(server.requests) == asked
    assert (loaded.folder_or_repo, loaded.commit, loaded.branch) == (made.folder, commit, BRANCH)
    assert loaded.prompt("2+2") == "2+2!"
    assert branchfit.load(made.name, models_dir=tmp_path, device="cpu").commit == commit


# ---- the traps ---------------------------------------------------------------------------------


def no_settings_in_config(folder: Path) -> None:
    edit(folder / "config.json", drop=("quantization_config",))


def no_settings_at_all(folder: Path) -> None:
    no_settings_in_config(folder)
    (folder / "quantize_config.json").unlink()


def marlin_flag(folder: Path) -> None:
    no_settings_in_config(folder)
    edit(folder / "quantize_config.json", is_marlin_format=False)


def another_name(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "gptq_model-4bit-128g.safetensors")


def beside_plain_weights(folder: Path) -> None:
    another_name(folder)
    write_tensors(folder / WEIGHTS, {"model.norm.weight": ("F16", [256], bytes(512))})


def shards_of_another_name(folder: Path) -> None:
    split(folder, "gptq_model-4bit-128g")


def standard_shards(folder: Path) -> None:
    split(folder)


def null_settings(folder: Path) -> None:
    edit(folder / "config.json", quantization_config=None)


def settings_as_text(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", quantization_config=json.dumps(config["quantization_config"]))


def wrong_group_size(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", quantization_config={**config["quantization_config"], "group_size": 32})


def damp_percent_of_one(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", quantization_config={**config["quantization_config"], "damp_percent": 1})


def no_dtype(folder: Path) -> None:
    edit(folder / "config.json", drop=("torch_dtype",))


def early_llama(folder: Path) -> None:
    edit(
        folder / "config.json",
        drop=("model_type", "num_key_value_heads", "max_position_embeddings", "rope_theta", "use_cache", "mlp_bias"),
        architectures=["LLaMAForCausalLM"],
        max_sequence_length=4096,
        pad_token_id=-1,
    )


TRAPS: list[Callable[[Path], None]] = [
    no_settings_in_config,
    no_settings_at_all,
    marlin_flag,
    another_name,
    beside_plain_weights,
    shards_of_another_name,
    standard_shards,
    null_settings,
    settings_as_text,
    wrong_group_size,
    damp_percent_of_one,
    no_dtype,
    early_llama,
]


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.__name__)
def test_a_folder_with_a_trap_loads_right_and_stays_as_it_is(
    trap: Callable[[Path], None], folder: Path, expected: Any
) -> None:
    trap(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    loaded = load(folder)
    assert furthest(logits(loaded), expected) < SAME
    assert bool(read_folder(folder).changes) == (trap is not standard_shards)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_same_folder_without_the_overlay_is_wrong_and_that_is_seen(folder: Path, expected: Any) -> None:
    no_settings_in_config(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32)
    with pytest.raises(LoadedWrong, match="21 of 21 quantised linears"):
        check_loaded(model, read_folder(folder))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        assert furthest(model(ids_of(tokenizer)).logits.float(), expected) > DIFFERS


def test_a_weight_file_of_another_name_is_not_found_without_the_overlay(folder: Path) -> None:
    another_name(folder)
    with pytest.raises(OSError, match=r"model\.safetensors|no file named"):
        transformers.AutoModelForCausalLM.from_pretrained(folder)


def test_a_head_that_the_files_lack_is_missed(folder: Path) -> None:
    every = read_all(folder / WEIGHTS)
    write_tensors(folder / WEIGHTS, {name: one for name, one in every.items() if name != "lm_head.weight"})
    with pytest.raises(LoadedWrong) as caught:
        load(folder)
    assert caught.value.missing == ("lm_head.weight",)
    edit(folder / "config.json", tie_word_embeddings=True)
    assert load(folder).model is not None


def test_a_bias_that_would_be_dropped_is_an_error(folder: Path) -> None:
    name = "model.layers.2.mlp.down_proj.bias"
    every = read_all(folder / WEIGHTS)
    dtype, shape, data = every[name]
    write_tensors(folder / WEIGHTS, {**every, name: (dtype, shape, struct.pack("<e", 0.5) + data[2:])})
    with pytest.raises(LoadedWrong, match="are not zero") as caught:
        load(folder)
    assert caught.value.missing == (name,)


@pytest.mark.parametrize(
    "shape",
    [
        ModelShape("mistral", 128, 256, 2, 4, 2, 32, 320, 512),
        ModelShape("qwen2", 128, 256, 2, 4, 2, 32, 320, 512, attention_bias=True),
        ModelShape("llama", 128, 256, 2, 4, 4, 32, 320, 512, tied=True),
    ],
    ids=lambda shape: shape.model_type,
)
def test_other_families_asymmetric_and_tied_pass_the_checks(shape: ModelShape, tmp_path: Path) -> None:
    write_model(tmp_path, shape, Recipe(4, 32, act_order=True, symmetric=False))
    loaded = load(tmp_path)
    assert 0.3 < logits(loaded).std() < 10


def test_tensors_changed_behind_its_back_are_seen(folders: dict[str, Path]) -> None:
    loaded = load(folders[BRANCH])
    read = read_folder(folders[BRANCH])
    assert check_loaded(loaded.model, read)
    with torch.no_grad():
        loaded.model.model.norm.weight[0] += 1
    with pytest.raises(LoadedWrong, match="do not hold the numbers"):
        check_loaded(loaded.model, read)


def test_another_kernel_than_was_asked_for_is_named(folders: dict[str, Path]) -> None:
    loaded = load(folders[BRANCH])
    other = "gptqmodel:marlin"
    with pytest.raises(WrongKernel, match=f"{other} was asked for"):
        check_loaded(loaded.model, read_folder(folders[BRANCH]), runtime=other)


# ---- the overlay -------------------------------------------------------------------------------


def read_config(folder: Path) -> Any:
    return transformers.AutoConfig.from_pretrained(folder)


def test_the_overlay_holds_for_one_folder_in_one_thread_and_nests(folders: dict[str, Path], tmp_path: Path) -> None:
    one, other = folders[BRANCH], folders[OTHER]
    link = tmp_path / "link"
    link.symlink_to(one, target_is_directory=True)
    plain = read_config(one).vocab_size
    with overlaid(one, {"vocab_size": 7, "rope_theta": 3.0}):
        assert read_config(one).vocab_size == 7
        assert read_config(link).vocab_size == 7
        assert read_config(one / "config.json").vocab_size == 7
        assert transformers.PretrainedConfig.from_pretrained(str(one)).vocab_size == 7
        assert transformers.LlamaConfig.from_pretrained(one).vocab_size == 7
        assert read_config(other).vocab_size == plain
        seen: list[int] = []
        thread = threading.Thread(target=lambda: seen.append(read_config(one).vocab_size))
        thread.start()
        thread.join()
        assert seen == [plain]
        with overlaid(one, {"vocab_size": 8}), overlaid(other, {"vocab_size": 9}):
            assert (read_config(one).vocab_size, read_config(other).vocab_size) == (8, 9)
        assert read_config(one).vocab_size == 7
    assert read_config(one).vocab_size == plain
    before = transformers.PretrainedConfig.__dict__["_get_config_dict"]
    with pytest.raises(RuntimeError, match="inside"), overlaid(one, {"vocab_size": 7}):
        assert transformers.PretrainedConfig.__dict__["_get_config_dict"] is not before
        raise RuntimeError("inside")
    assert transformers.PretrainedConfig.__dict__["_get_config_dict"] is before


def test_a_config_read_first_and_handed_over_loads_right_too(folder: Path, expected: Any) -> None:
    # As text-generation-webui does: AutoConfig.from_pretrained, then from_pretrained(..., config=config).
    another_name(folder)
    no_settings_in_config(folder)
    read = read_folder(folder)
    with overlaid(folder, {**read.changes, "quantization_config": quantization_config(read, RUNTIME)}):
        config = read_config(folder)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, config=config, torch_dtype=torch.float32)
    assert check_loaded(model, read, runtime=RUNTIME)
    with torch.no_grad():
        found = model.eval()(ids_of(transformers.AutoTokenizer.from_pretrained(folder))).logits.float()
    assert furthest(found, expected) < SAME


# ---- asking ------------------------------------------------------------------------------------


def test_the_model_is_asked_under_its_template_with_one_bos(folders: dict[str, Path]) -> None:
    loaded = load(folders[BRANCH])
    reply = loaded.ask(INSTRUCTION, max_new_tokens=12)
    assert loaded.last is not None
    assert (loaded.last.prompt, loaded.last.text) == (ALPACA_COT.render(INSTRUCTION), reply)
    assert (loaded.last.tokens, loaded.last.ended) == (12, "length")
    ids = ids_of(loaded.tokenizer)
    assert ids[0].tolist().count(loaded.tokenizer.bos_token_id) == 1
    with torch.no_grad():
        direct = loaded.model.generate(input_ids=ids, max_new_tokens=12, do_sample=False)
    assert loaded.tokenizer.decode(direct[0][ids.shape[1] :], skip_special_tokens=True) == reply
    assert loaded.last.prompt_tokens == ids.shape[1]


def test_a_stream_gives_the_same_text_in_pieces_and_stops_when_it_is_closed(folders: dict[str, Path]) -> None:
    loaded = load(folders[BRANCH])
    whole = loaded.ask(INSTRUCTION, max_new_tokens=16)
    pieces = list(loaded.stream(INSTRUCTION, max_new_tokens=16))
    assert len(pieces) > 1
    assert "".join(pieces) == whole
    steps: list[int] = []
    loaded.model.register_forward_pre_hook(lambda *_: steps.append(1))
    stream = loaded.stream(INSTRUCTION, max_new_tokens=300)
    first = next(stream)
    stream.close()
    assert len(steps) < 100
    assert loaded.last is not None
    assert (loaded.last.ended, whole.startswith(first)) == ("closed", True)


def test_a_reply_ends_before_a_stop_string(folders: dict[str, Path]) -> None:
    loaded = load(folders[BRANCH])
    whole = loaded.ask(INSTRUCTION, max_new_tokens=16)
    at = len(whole) // 2
    stop = whole[at : at + 3]
    loaded.template = branchfit.Template("t", ALPACA_COT.text, "test", stop_strings=("never", stop))
    pieces = list(loaded.stream(INSTRUCTION, max_new_tokens=16))
    assert "".join(pieces) == whole[: whole.find(stop)]
    assert loaded.last is not None
    assert loaded.last.ended == "stop string"


def test_what_cannot_be_asked_says_why(folders: dict[str, Path]) -> None:
    loaded = load(folders[BRANCH], context_tokens=64)
    with pytest.raises(PromptError, match="the context is planned for 64"):
        loaded.ask(INSTRUCTION)
    loaded.template = None
    with pytest.raises(PromptError, match="no prompt template is known"):
        loaded.ask(INSTRUCTION)
    loaded.unload()
    with pytest.raises(LoadError, match="unloaded"):
        list(loaded.complete("x"))


def test_what_cannot_be_loaded_says_why(folders: dict[str, Path]) -> None:
    with pytest.raises(LoadError, match="gives a transformers model"):
        load(folders[BRANCH], runtime="exllamav2")
    # The CUDA compiler may be here; a GPU is not.
    with pytest.raises(LoadError, match=r"pip install '\.\[gptq\]'|runs on NVIDIA GPUs"):
        load(folders[BRANCH], runtime="gptqmodel:exllama_v2")
    with pytest.raises(UsageError, match="There are: cpu"):
        branchfit.load(folders[BRANCH], device="cuda:17")


def test_too_little_memory_is_said_before_anything_is_loaded(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from branchfit.errors import NothingFits
    from branchfit.gpus import Machine
    from branchfit.running import loading

    monkeypatch.setattr(loading, "detect", lambda: Machine((), (), 2**30, 2**28))
    with pytest.raises(NothingFits, match=r"does not fit|Nothing fits"):
        load(folders[BRANCH])
    assert load(folders[BRANCH], check_memory=False).model is not None


def test_on_the_cpu_nothing_is_left_to_compile_and_the_environment_is_as_before(folders: dict[str, Path]) -> None:
    before = dict(os.environ)
    loaded = load(folders[BRANCH])
    assert dict(os.environ) == before or "GPTQMODEL_CPU_WORKERS" in before
    linear = loaded.model.model.layers[0].mlp.up_proj
    assert "dequantize_weight" not in vars(linear)
    assert not loaded.model.training


def test_an_unquantised_model_whose_experts_transformers_fuses_is_not_called_random(tmp_path: Path) -> None:
    config = transformers.MixtralConfig(
        vocab_size=320, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, max_position_embeddings=256,
    )  # fmt: skip
    transformers.MixtralForCausalLM(config).save_pretrained(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert check_loaded(model, read_folder(tmp_path)) == ()
