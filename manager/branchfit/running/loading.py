"""`load`: a repo's branch, or an installed model -> a transformers model loaded right, or a sentence why not."""

from __future__ import annotations

import contextlib
import importlib
import traceback
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BranchFitError, LoadError
from ..gpus import Machine, detect
from ..hub import parse_repo
from .checks import check_loaded
from .choosing import Plan, choose, device_map, usable_machine, usable_runtimes
from .early import enough_workers, import_gptqmodel
from .failures import explain
from .folder import ModelFolder, read_folder
from .kernels import quantization_config
from .layout import QUANTISED
from .loaded import Loaded, free_memory
from .measured import Meter
from .overlay import overlaid
from .recording import recorder
from .source import Source, ask_hub, fetch, local_listing, local_source

if TYPE_CHECKING:
    from ..hub import Hub

OnStep = Callable[[str], None]


def load(
    name: str | Path,
    branch: str | None = None,
    *,
    runtime: str | None = None,
    models_dir: Path | None = None,
    device: str | None = None,
    context_tokens: int | None = None,
    hub: Hub | None = None,
    check_memory: bool = True,
    on_step: OnStep | None = None,
) -> Loaded:
    """Load a GPTQ model: `load("TheBloke/WizardMath-70B-V1.0-GPTQ", "gptq-4bit-32g-actorder_True")`.

    `name` is a repo (`owner/name` or `owner/name:branch`), an installed model's folder name, or a path. An
    installed copy is taken first (`models_dir`, else where `pull` puts them); else the branch comes from the
    Hub at the commit it stands at now, into huggingface_hub's cache: safetensors and texts only, no code is ever
    run. Without a branch it is the recommended one. `runtime` is chosen among those installed that take the
    model and have room at `context_tokens` (default: the model's own, at most 4096) unless it is named;
    `device` is "cpu", "cuda:0"... if not all of them. On the CPU it is float32, on GPUs float16.

    Settings that the files lack are given in memory; nothing in the folder changes. What comes back was compared
    with the files tensor by tensor. Raises NothingFits (unless `check_memory` is False), LoadError and its
    children OutOfMemory, LoadedWrong and WrongKernel, HubError, NotInstalled, UsageError.
    """
    tell = on_step or (lambda step: None)
    source = local_source(name, branch, models_dir)  # a name that is no model's is said before anything is imported
    available = usable_runtimes(runtime)
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise explain(error, what=str(name)) from error
    machine = usable_machine(detect(), torch, device)
    wider: Plan | None = None
    if source is None:
        ref = parse_repo(str(name))
        hub = hub or _hub()
        found = ask_hub(hub, ref.repo, branch or ref.branch)
        wider = choose(found.listed, branch or ref.branch, machine, available, context_tokens, check_memory)
        source = local_source(ref.repo, wider.variant.branch, models_dir)
        if source is None:
            tell(f"fetching {ref.repo}:{wider.variant.branch} into huggingface_hub's cache")
            source = fetch(hub, found, wider.variant)
    model = read_folder(source.folder)
    if model.quantization is None:
        raise LoadError(
            f"{source.shown} is not quantised by GPTQ: transformers loads it by itself, BranchFit adds nothing."
        )
    listing = local_listing(source, model)
    plan = choose(listing, None, machine, available, context_tokens, check_memory)
    tell(f"loading {source.shown} with {plan.runtime}")
    return _load(source, model, plan, wider or plan, machine, torch, context_tokens)


def _load(
    source: Source,
    model: ModelFolder,
    plan: Plan,
    wider: Plan,
    machine: Machine,
    torch: Any,
    context_tokens: int | None,
) -> Loaded:
    config = quantization_config(model, plan.runtime)
    placement = device_map(plan, machine, str(model.effective_config.get("model_type")))
    on_cpu = not machine.gpus
    used = () if on_cpu or machine.gpus[0].kind == "mps" else _used(placement, machine)
    import_gptqmodel(plan.runtime)  # the meter uses CUDA
    meter = Meter(used, plan.need, runtime=plan.runtime)
    loaded = None
    try:
        with enough_workers():
            transformers = importlib.import_module("transformers")
            _check_no_code(transformers, model)
            with overlaid(model.folder, {**model.changes, "quantization_config": config}):
                loaded, info = transformers.AutoModelForCausalLM.from_pretrained(
                    str(model.folder),
                    **_dtype(torch.float32 if on_cpu else torch.float16),
                    device_map=placement,
                    use_safetensors=True,
                    trust_remote_code=False,
                    local_files_only=True,
                    output_loading_info=True,
                )
                # It reads config.json too.
                tokenizer = transformers.AutoTokenizer.from_pretrained(
                    str(model.folder), trust_remote_code=False, local_files_only=True
                )
            notes = check_loaded(loaded, model, info, plan.runtime)
    except BaseException as error:
        # The frames hold whatever was loaded so far.
        traceback.clear_frames(error.__traceback__)
        del loaded
        free_memory()
        if isinstance(error, BranchFitError) or not isinstance(error, Exception):
            raise
        raise explain(
            error,
            what=str(source.shown),
            need=plan.need,
            machine=machine,
            recommendation=wider.answer,
            branch=plan.variant.branch,
            context_tokens=context_tokens,
            runtime=plan.runtime,
        ) from error
    loaded.eval()
    if on_cpu:
        uncompiled(loaded, model)
    return Loaded(
        model=loaded,
        tokenizer=tokenizer,
        template=source.template,
        folder_or_repo=source.shown,
        commit=source.commit,
        runtime=plan.runtime,
        notes=(*model.notes, *notes, *_spilled(meter)),
        context_tokens=plan.answer.context_tokens,
        branch=source.branch,
        meter=meter,
        recorder=recorder(
            meter,
            variant=plan.variant,
            runtime=plan.runtime,
            need=plan.need,
            machine=machine,
            context_tokens=plan.answer.context_tokens,
        ),
    )


def _spilled(meter: Meter) -> tuple[str, ...]:
    """What of the load lies in system memory, in a sentence."""
    with contextlib.suppress(Exception):  # a driver that fails now: the model is loaded all the same
        said = meter.read().spill
        return (said,) if said else ()
    return ()


def _used(placement: Any, machine: Machine) -> tuple[int, ...]:
    if isinstance(placement, Mapping):
        return tuple(sorted({index for index in placement.values() if isinstance(index, int)}))
    return tuple(gpu.index for gpu in machine.gpus)


def _dtype(dtype: Any) -> dict[str, Any]:
    """The argument's name: torch_dtype was renamed in transformers 4.56."""
    version = metadata.version("transformers").split(".")
    newer = tuple(int(part) for part in version[:2] if part.isdigit()) >= (4, 56)
    return {"dtype" if newer else "torch_dtype": dtype}


def _check_no_code(transformers: Any, model: ModelFolder) -> None:
    """Raises LoadError for a model that transformers only knows by the repo's own code."""
    kind = str(model.effective_config.get("model_type"))
    known = getattr(transformers, "CONFIG_MAPPING", None)
    if known is not None and kind not in known:
        own = " It brings Python code of its own, which is never run here." if model.config.get("auto_map") else ""
        raise LoadError(
            f"transformers {transformers.__version__} does not know model_type {kind} of {model.folder.name}.{own} "
            f"A newer transformers may: pip install -U transformers."
        )


def uncompiled(loaded: Any, model: ModelFolder) -> None:
    """On the CPU gptqmodel's torch kernel without torch.compile, which would need a C++ compiler and some seconds for
    each shape (nn_modules/qlinear/torch.py: `optimize` puts the compiled function on each module)."""
    names = {name.removesuffix(QUANTISED) for name in model.tensors if name.endswith(QUANTISED)}
    for name, module in loaded.named_modules():
        if name in names:
            vars(module).pop("dequantize_weight", None)


def _hub() -> Hub:
    from ..hub import Hub as Made

    return Made()
