"""max_memory and device_map, read by accelerate's and transformers' own code on models without memory."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
from typing import Any

import pytest

from branchfit.checkpoint import checkpoint_bytes
from branchfit.gpus import parse_gpus
from branchfit.gpus.system import Memory
from branchfit.memory import place, terms
from branchfit.memory.splits import LoaderSplit, accelerate_split, modules_of
from branchfit.recommend import Recommendation
from branchfit.running.choosing import Plan, device_map
from branchfit.shape import linear_tensors, read_shape
from branchfit.variants import Variant
from models import LLAMA_2_13B, LLAMA_2_70B, MISTRAL_7B, MIXTRAL_8X7B, QWEN2_05B

HERE = all(importlib.util.find_spec(name) for name in ("torch", "transformers", "accelerate"))
pytestmark = [
    pytest.mark.skipif(not HERE, reason="torch, transformers and accelerate are not installed"),
    pytest.mark.filterwarnings("ignore"),  # theirs, at import
]

GIB = 2**30
LLAMA_1B = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
"""Llama-3.2-1B's: a tied embedding as large as nine layers."""
QWEN3 = {**QWEN2_05B, "model_type": "qwen3", "tie_word_embeddings": False, "head_dim": 64}


def branch(config: dict[str, Any], group: int | None) -> Variant:
    shape = read_shape(config)
    size = checkpoint_bytes(shape, 4, group)
    return Variant("b", bits=4, group_size=group, act_order=True, shape=shape, size_bytes=size)


def empty_model(config: dict[str, Any]) -> Any:
    """The model as transformers builds it, all of it on the meta device."""
    torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    whole = {"num_key_value_heads": config["num_attention_heads"], **config}
    accelerate = importlib.import_module("accelerate")
    with accelerate.init_empty_weights(include_buffers=True):
        model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**whole))
    model.tie_weights()
    return model.to(torch.float16)


def packed(model: Any, config: dict[str, Any], group: int | None) -> Any:
    """`model` with each layer's linears as a GPTQ loader replaces them, by their tensors' shapes: no kernel needed."""
    torch = importlib.import_module("torch")
    dtypes = {"I32": torch.int32, "F16": torch.float16}
    for index, layer in enumerate(model.model.layers):
        for linear in read_shape(config).linears:
            holder = torch.nn.Module()
            for tensor in linear_tensors(linear, "", 4, group, zero_bias=False):
                empty = torch.empty(tensor.shape, dtype=dtypes[tensor.dtype], device="meta")
                holder.register_buffer(tensor.name.rsplit(".", 1)[-1], empty)
            parent = layer.get_submodule(linear.name.rsplit(".", 1)[0])
            assert hasattr(parent, linear.name.rsplit(".", 1)[-1]), f"layer {index} has no {linear.name}"
            setattr(parent, linear.name.rsplit(".", 1)[-1], holder)
    return model


class _Torch:
    """torch, where an ordinal is a CUDA device though there is none: accelerate up to 1.13 asks for each one's type."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module("torch"), name)

    def device(self, which: Any) -> Any:
        torch = importlib.import_module("torch")
        return torch.device("cuda", which) if isinstance(which, int) else torch.device(which)


def _own(name: str) -> Any:
    """transformers' own `name`, wherever this version has it; None where it leaves that to accelerate."""
    for module in ("transformers.integrations.accelerate", "transformers.modeling_utils"):
        with contextlib.suppress(ModuleNotFoundError):
            if vars(importlib.import_module(module)).get(name) is not None:
                return vars(importlib.import_module(module))[name]
    return None


def auto_map(model: Any, limits: dict[int, int], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What device_map="auto" becomes with this max_memory: transformers' own code, or the calls of AutoGPTQ's."""
    torch = importlib.import_module("torch")
    utils = importlib.import_module("accelerate.utils.modeling")
    monkeypatch.setattr(utils, "torch", _Torch())
    if not torch.cuda.is_available():  # else transformers 4 asks the device for its cache
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
        monkeypatch.setattr(utils, "is_cuda_available", lambda: True, raising=False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = _own("_get_device_map")
    if found is not None:
        more = [torch.float16, None] if len(inspect.signature(found).parameters) > 4 else []
        return dict(found(model, "auto", dict(limits), None, *more))
    classes = list(model._no_split_modules)
    balanced = utils.get_balanced_memory(model, dict(limits), no_split_module_classes=classes)
    return dict(utils.infer_auto_device_map(model, balanced, no_split_module_classes=classes))


def by_leaf() -> bool:
    """Whether this transformers is one whose buffer is as large as the largest leaf (5.18)."""
    version = importlib.import_module("transformers").__version__
    return tuple(int(part) for part in version.split(".")[:2]) >= (5, 18)


def laid(mapped: dict[str, Any], layers: int, cards: int) -> tuple[int, ...]:
    def device(name: str) -> Any:
        while name not in mapped:
            name = name.rpartition(".")[0]
        return mapped[name]

    on = [device(f"model.layers.{layer}") for layer in range(layers)]
    assert all(isinstance(card, int) for card in on), f"some layers are put into system memory: {mapped}"
    return tuple(on.count(card) for card in range(cards))


def told(variant: Variant, free: list[float], context: int = 4096) -> tuple[tuple[int, ...], LoaderSplit]:
    """The forecast's layers, and what max_memory is told for them."""
    made = terms(variant, "gptqmodel:triton", context)
    modules = modules_of(variant, zero_bias=False)
    assert made is not None and modules is not None
    need = place(made, [int(size * GIB) for size in free])
    return need.layers_per_gpu, accelerate_split(modules, need, balanced=True, by_leaf=by_leaf())


CASES: list[tuple[dict[str, Any], int | None, list[float]]] = [
    (LLAMA_2_70B, None, [24, 24]),
    (LLAMA_2_70B, 32, [16, 16, 16, 16]),
    (LLAMA_2_70B, 128, [24, 14, 16]),  # the largest first: accelerate balances against it
    (LLAMA_2_70B, 128, [14, 16, 24]),
    (LLAMA_2_13B, 128, [8, 8]),
    (LLAMA_2_13B, 128, [5, 9, 5]),
    (MISTRAL_7B, 128, [4, 5]),
    (LLAMA_1B, 128, [2.2, 2.2]),
    (QWEN3, 128, [1.9, 1.9]),
]


@pytest.mark.parametrize(("config", "group", "free"), CASES)
def test_accelerate_lays_the_layers_as_it_was_said_it_would(
    config: dict[str, Any], group: int | None, free: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec(f"transformers.models.{config['model_type']}") is None:
        pytest.skip(f"this transformers has no {config['model_type']}")
    variant = branch(config, group)
    _, split = told(variant, free)
    model = packed(empty_model(config), config, group)
    if any(name.endswith("cos_cached") for name, _ in model.named_buffers()) and config["model_type"] == "mistral":
        pytest.skip("this transformers has a table of sines for 32768 tokens in each layer, and counts it")
    mapped = auto_map(model, dict(enumerate(split.per_gpu_bytes)), monkeypatch)
    assert laid(mapped, config["num_hidden_layers"], len(free)) == split.layers_per_gpu


def test_on_cards_alike_and_with_the_largest_last_it_is_what_was_forecast() -> None:
    if not by_leaf():
        pytest.skip("before transformers 5.18 the buffer is too small for that")
    for config, group, free in (CASES[0], CASES[1], CASES[3], CASES[4]):
        layers, split = told(branch(config, group), free)
        assert split.layers_per_gpu == layers


@pytest.mark.parametrize("group", [None, 32, 128])
def test_the_modules_are_as_large_as_gptqmodels_own(group: int | None) -> None:
    if importlib.util.find_spec("gptqmodel") is None or importlib.util.find_spec("optimum") is None:
        pytest.skip("gptqmodel and optimum are not installed")
    transformers = importlib.import_module("transformers")
    quantizers = importlib.import_module("transformers.quantizers.quantizer_gptq")
    integration = importlib.import_module("transformers.integrations.accelerate")
    few = {**LLAMA_2_13B, "num_hidden_layers": 2}
    model, settings = empty_model(few), {"bits": 4, "group_size": group or -1, "desc_act": True, "sym": True}
    quantizer = quantizers.GptqHfQuantizer(transformers.GPTQConfig(backend="torch", **settings), pre_quantized=True)
    quantizer._process_model_before_weight_loading(model, device_map={"": "cpu"})
    sizes, _ = integration.compute_module_sizes(model, quantizer)
    modules = modules_of(branch(few, group), zero_bias=False)
    assert modules is not None
    assert (sizes["model.layers.1"],) == modules.layers[1:]
    assert (sizes["model.embed_tokens"], sizes["lm_head"], sizes["model.norm"]) == (
        modules.embedding,
        modules.head,
        modules.norm,
    )


MAPPED = [LLAMA_2_13B, MISTRAL_7B, MIXTRAL_8X7B, QWEN2_05B, LLAMA_1B, QWEN3]


@pytest.mark.parametrize("config", MAPPED, ids=[f"{one['model_type']}-{one['hidden_size']}" for one in MAPPED])
def test_our_own_device_map_covers_every_tensor_and_keeps_tied_ones_together(config: dict[str, Any]) -> None:
    if importlib.util.find_spec(f"transformers.models.{config['model_type']}") is None:
        pytest.skip(f"this transformers has no {config['model_type']}")
    variant = branch(config, 128)
    made = terms(variant, "gptqmodel:triton", 1024)
    assert made is not None
    whole = place(made, [400 * GIB])
    each = int(whole.scratch_bytes + whole.context_bytes + whole.error_bytes + whole.weights_bytes * 0.7)
    machine = parse_gpus([f"{each / GIB:.2f}GiB"] * 3, Memory(64 * GIB, 60 * GIB))
    need = place(made, [gpu.free_bytes for gpu in machine.gpus])
    answer = Recommendation("r", None, 1024, machine, None, "", (), (), (), ())
    mapped = device_map(Plan(variant, "gptqmodel:triton", need, answer), machine, config["model_type"])
    assert len(set(mapped.values())) > 1
    model = empty_model(config)
    utils = importlib.import_module("accelerate.utils.modeling")
    utils.check_device_map(model, mapped)  # raises for a tensor without a device
    assert laid(mapped, config["num_hidden_layers"], 3) == need.layers_per_gpu
    for names in utils.find_tied_parameters(model):
        assert len({mapped[name.removesuffix(".weight")] for name in names}) == 1
