"""The loading half of the webui, era by era: its loaders, their parameters, and what becomes of them.

The names were read in modules/loaders.py, models.py, models_settings.py and shared.py of each version;
what the functions do inside is written for these tests. A load function keeps what `shared.args` said
when it was called, and gives a model, or does what the test asks for.
"""

from __future__ import annotations

import copy
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OLD_TRANSFORMERS = "cpu_memory gpu_memory load_in_8bit bf16 cpu disk auto_devices load_in_4bit use_double_quant"
AUTOGPTQ = "triton no_inject_fused_mlp no_use_cuda_fp16 wbits groupsize desc_act gpu_memory cpu_memory cpu disk"
V2_8 = "max_seq_len cache_type gpu_split alpha_value compress_pos_emb autosplit enable_tp cfg_cache no_sdpa no_use_fast"

# fmt: off
ERAS: dict[str, dict[str, str]] = {
    "v1.5": {
        "AutoGPTQ": AUTOGPTQ + " no_inject_fused_attention",
        "GPTQ-for-LLaMa": "wbits groupsize model_type pre_layer",
        "Transformers": OLD_TRANSFORMERS,
        "ExLlama": "gpu_split max_seq_len compress_pos_emb alpha_value",
        "ExLlama_HF": "gpu_split max_seq_len compress_pos_emb alpha_value",
    },
    "v1.7": {
        "Transformers": OLD_TRANSFORMERS + " use_fast alpha_value compress_pos_emb disable_exllama",
        "ExLlama_HF": "gpu_split max_seq_len alpha_value compress_pos_emb cfg_cache use_fast",
        "ExLlamav2_HF": "gpu_split max_seq_len cfg_cache alpha_value compress_pos_emb use_fast",
        "ExLlama": "gpu_split max_seq_len alpha_value compress_pos_emb",
        "ExLlamav2": "gpu_split max_seq_len alpha_value compress_pos_emb",
        "AutoGPTQ": AUTOGPTQ + " no_inject_fused_attention disable_exllama use_fast",
        "GPTQ-for-LLaMa": "wbits groupsize model_type pre_layer use_fast",
    },
    "v1.8": {
        "Transformers": OLD_TRANSFORMERS + " alpha_value compress_pos_emb disable_exllama disable_exllamav2",
        "ExLlamav2_HF": "gpu_split max_seq_len cfg_cache cache_8bit cache_4bit autosplit alpha_value compress_pos_emb",
        "ExLlamav2": "gpu_split max_seq_len cache_8bit cache_4bit autosplit alpha_value compress_pos_emb",
        "AutoGPTQ": AUTOGPTQ + " disable_exllama disable_exllamav2",
    },
    "v2.8": {
        "Transformers": OLD_TRANSFORMERS + " alpha_value compress_pos_emb torch_compile",
        "ExLlamav3_HF": "max_seq_len gpu_split",
        "ExLlamav2_HF": V2_8,
        "ExLlamav2": V2_8,
    },
    "v3.23": {
        "Transformers": "gpu_split cpu_memory alpha_value compress_pos_emb load_in_8bit load_in_4bit cpu disk bf16",
        "ExLlamav3_HF": "ctx_size gpu_split",
        "ExLlamav2_HF": V2_8.replace("max_seq_len", "ctx_size"),
        "ExLlamav2": V2_8.replace("max_seq_len", "ctx_size"),
    },
    "v4.7": {
        "Transformers": "gpu_split cpu_memory compute_dtype load_in_8bit load_in_4bit cpu disk bf16",
        "ExLlamav3_HF": "ctx_size cache_type gpu_split cfg_cache",
        "ExLlamav3": "ctx_size cache_type gpu_split",
    },
}
# fmt: on

FUNCTIONS = {
    "Transformers": "huggingface_loader",
    "AutoGPTQ": "AutoGPTQ_loader",
    "GPTQ-for-LLaMa": "GPTQ_loader",
}
DEFAULTS: dict[str, Any] = {
    "gpu_memory": None, "cpu_memory": None, "wbits": 0, "groupsize": -1, "pre_layer": None, "model_type": None,
    "gpu_split": None, "max_seq_len": 2048, "ctx_size": 8192, "compress_pos_emb": 1, "alpha_value": 1,
    "cache_type": "fp16", "no_sdpa": False, "compute_dtype": "float16", "attn_implementation": "sdpa",
}  # fmt: skip

_FROM_CONFIG = {"truncation_length": 4096, "max_seq_len": 4096, "ctx_size": 4096, "bf16": True, "alpha_value": 1}
"""What the host makes of a config.json of a model trained in bfloat16 (get_model_metadata)."""

_LOAD_MODEL = """
def load_model(model_name, loader=None):
    if names_first:
        shared.model_name = model_name
    load_func_map = {map}
    loader = loader or shared.args.loader
    shared.args.loader = loader
    output = load_func_map[loader](model_name)
    if type(output) is tuple:
        return output
    return (None, None) if output is None else (output, "tokenizer")
"""


class Model:
    """What a load gives; its class and name are all there is to it."""

    def __init__(self, name: str) -> None:
        self.name = name


class Loading:
    """What a test does with the stand-in: `loads` are (model, loader, arguments at that moment), oldest first."""

    def __init__(self, era: str, root: Path) -> None:
        self.era = era
        self.models_dir = root / "models"
        self.models_dir.mkdir(parents=True, exist_ok=True)
        self.loads: list[tuple[str, str, dict[str, Any]]] = []
        self.gives: Callable[[str], Any] = Model
        self.shared: Any = None

    def args(self, **values: Any) -> None:
        vars(self.shared.args).update(values)


@contextmanager
def loading_host(era: str, root: Path, gpus: int = 1) -> Iterator[Loading]:
    """The era's modules in sys.modules, and taken out again."""
    host = Loading(era, root)
    made = _modules(host, gpus)
    before = {name: sys.modules.get(name) for name in made}
    sys.modules.update(made)
    try:
        yield host
    finally:
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module


def _modules(host: Loading, gpus: int) -> dict[str, types.ModuleType]:
    loaders = {name: params.split() for name, params in ERAS[host.era].items()}
    old, newest = host.era in ("v1.5", "v1.7"), host.era in ("v3.23", "v4.7")
    shared: Any = types.ModuleType("modules.shared")
    defaults = {name: False for params in loaders.values() for name in params}
    defaults |= {name: value for name, value in DEFAULTS.items() if name in defaults or name == "gpu_memory"}
    if newest:
        defaults["cpu_memory"] = 0
    shared.args = types.SimpleNamespace(**defaults, loader=None, model_dir=str(host.models_dir), idle_timeout=0)
    shared.args_defaults = copy.deepcopy(shared.args)
    shared.settings = {"truncation_length": 2048} | ({} if old else {"instruction_template_str": ""})
    shared.model = shared.tokenizer = None
    shared.model_name, shared.lora_names = "None", []
    shared.generation_lock = threading.Lock()
    shared.model_config = {}
    if host.era != "v1.5":
        shared.user_config = {}
        shared.provided_arguments = []
    host.shared = shared

    models: Any = types.ModuleType("modules.models")
    models.shared, models.names_first = shared, not old
    functions = {name: FUNCTIONS.get(name, f"{name}_loader") for name in loaders}
    if newest:
        functions["Transformers"] = "transformers_loader"
    for loader, function in functions.items():
        setattr(models, function, _load_function(host, loader))
    pairs = ", ".join(f"{name!r}: {function}" for name, function in functions.items())
    exec(_LOAD_MODEL.replace("{map}", f"{{{pairs}}}"), vars(models))

    def unload_model(keep_model_name: bool = False) -> None:
        if newest and shared.model is None:
            return
        shared.model = shared.tokenizer = None
        shared.lora_names = []
        if not old and not keep_model_name:
            shared.model_name = "None"

    models.unload_model = unload_model
    if not old:
        models.last_generation_time = 0.0

    listed: Any = types.ModuleType("modules.loaders")
    listed.loaders_and_params = loaders
    settings: Any = types.ModuleType("modules.models_settings")
    settings.update_model_parameters = _update(shared, loaders, gpus, old=host.era not in ("v3.23", "v4.7"))
    found = "get_model_settings_from_yamls" if host.era == "v1.5" else "get_model_metadata"
    setattr(settings, found, lambda model: {} if host.era == "v1.5" else dict(_FROM_CONFIG))
    package: Any = types.ModuleType("modules")
    rest = {name: types.ModuleType(f"modules.{name}") for name in ("extensions", "text_generation")}
    parts = {"shared": shared, "models": models, "loaders": listed, "models_settings": settings, **rest}
    for name, module in parts.items():
        setattr(package, name, module)
    return {"modules": package} | {f"modules.{name}": module for name, module in parts.items()}


def _load_function(host: Loading, loader: str) -> Callable[[str], Any]:
    def load(model_name: str) -> Any:
        host.loads.append((model_name, loader, dict(vars(host.shared.args))))
        return host.gives(model_name)

    return load


def _update(shared: Any, loaders: dict[str, list[str]], gpus: int, old: bool) -> Callable[..., None]:
    """What the host makes of its page's values: up to v2.8 with sliders in MiB a GPU and numbers as text."""
    elements = {"loader", *(name for params in loaders.values() for name in params if name != "gpu_memory")}

    def update_model_parameters(state: dict[str, Any], initial: bool = False) -> None:
        for name in sorted(elements & set(state)):
            value = state[name]
            if name in ("wbits", "groupsize", "model_type") and value == "None":
                value = getattr(shared.args_defaults, name)
            elif name == "cpu_memory" and value == 0:
                value = shared.args_defaults.cpu_memory
            elif old and name == "cpu_memory" and value is not None:
                value = f"{value}MiB"
            if name in ("wbits", "groupsize", "pre_layer"):
                value = int(value)
            if name == "pre_layer":
                value = [value] if value > 0 else None
            setattr(shared.args, name, value)
        if old:
            sliders = [state[f"gpu_memory_{index}"] for index in range(gpus) if f"gpu_memory_{index}" in state]
            shared.args.gpu_memory = [f"{size}MiB" for size in sliders] if any(sliders) else None

    return update_model_parameters
