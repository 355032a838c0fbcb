"""What a folder holds, in the terms that runtimes are judged by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from branchfit.errors import BranchFitError
from branchfit.gpus import Gpu
from branchfit.loaders import Runtime, Verdict, can_load
from branchfit.shape import read_shape

if TYPE_CHECKING:
    from branchfit.running.folder import ModelFolder

NOT_QUANTISED = ""
"""`format` of a folder whose weights are as they were trained."""


@dataclass(frozen=True)
class Facts:
    """One folder. `format` is "gptq", "exl2"... or NOT_QUANTISED; `branch` None where nobody recorded it."""

    format: str
    bits: float | None
    group_size: int | None
    act_order: bool | None
    symmetric: bool | None
    model_type: str | None
    in_features: frozenset[int]
    trained_tokens: int | None
    branch: str | None

    def taken_by(self, runtime: Runtime, gpus: tuple[Gpu, ...]) -> Verdict:
        """Whether `runtime` takes it on every one of `gpus`: the first refusal, else the last yes."""
        verdicts = [
            can_load(
                runtime,
                format=self.format,
                bits=self.bits,
                group_size=self.group_size,
                act_order=self.act_order,
                symmetric=self.symmetric,
                model_type=self.model_type,
                gpu=gpu,
                in_features=self.in_features,
                branch=self.branch,
            )
            for gpu in gpus
        ]
        return next((verdict for verdict in verdicts if not verdict.can), verdicts[-1])

    @property
    def words(self) -> str:
        if self.format == NOT_QUANTISED:
            return "an unquantised model"
        bits = f"{self.bits:g}-bit " if self.bits is not None else ""
        grouped = f", group size {self.group_size}" if self.group_size is not None else ", no grouping"
        return f"{bits}{self.format.upper()}" + (
            f"{grouped}{', act order' if self.act_order else ''}" if self.format == "gptq" else ""
        )


def facts_of(model: ModelFolder) -> Facts:
    """Raises nothing: what a config does not say is None, which rules nothing out."""
    config = model.config
    said = _mapping(config.get("quantization_config"))
    quantization = _mapping(model.quantization) or said
    try:
        shape = read_shape(config)
        rows = frozenset(linear.in_features for linear in shape.linears)
    except (BranchFitError, ValueError, TypeError):
        rows = frozenset()
    group, bits = quantization.get("group_size"), quantization.get("bits")
    return Facts(
        format="gptq" if model.quantization is not None else str(said.get("quant_method") or NOT_QUANTISED).lower(),
        bits=float(bits) if isinstance(bits, (int, float)) and not isinstance(bits, bool) else None,
        group_size=group if isinstance(group, int) and group > 0 else None,
        act_order=_flag(quantization.get("desc_act")),
        symmetric=_flag(quantization.get("sym")),
        model_type=config.get("model_type") if isinstance(config.get("model_type"), str) else None,
        in_features=rows,
        trained_tokens=_positive(config.get("max_position_embeddings")),
        branch=_recorded_branch(model.folder),
    )


def _mapping(quantization: Any) -> Mapping[str, Any]:
    return quantization if isinstance(quantization, Mapping) else {}


def _recorded_branch(folder: Path) -> str | None:
    from branchfit.download.lockfile import read_lock

    try:
        return read_lock(folder).branch
    except (BranchFitError, OSError, ValueError):
        return None


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _positive(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
