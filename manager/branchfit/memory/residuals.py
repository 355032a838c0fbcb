"""How far off a runtime's figures are, from what was measured; the wide default where nothing was.

The residuals come from benchmarks/memory/*.jsonl (docs/memory-measured.md): fitted on Llama-2-7B and 70B, judged on
13B, 34B, Mistral, Mixtral, Qwen2.5 and Qwen3.
"""

from __future__ import annotations

from dataclasses import dataclass

from .parts import MIB


@dataclass(frozen=True)
class Residual:
    """`bytes` is what need may be off on each card; `versions` the package versions it was measured with, () for
    a runtime that nobody has measured."""

    bytes: int
    versions: tuple[str, ...] = ()


UNMEASURED = Residual(512 * MIB)
"""ExLlama v1, AutoGPTQ and GPTQ-for-LLaMa cannot be built for a card of today; before anything was measured, the
formulas of the measured runtimes were off by up to 515 MiB at contexts of 4096."""

MEASURED: dict[str, Residual] = {
    "exllamav2": Residual(150 * MIB, ("0.3.2",)),
    "gptqmodel:exllama_v2": Residual(150 * MIB, ("7.6.0",)),
    "gptqmodel:marlin": Residual(150 * MIB, ("7.6.0",)),
    "gptqmodel:triton": Residual(150 * MIB, ("7.6.0",)),
    "gptqmodel:torch": Residual(150 * MIB, ("7.6.0",)),
}


def error_of(runtime: str, version: str | None = None) -> Residual:
    """What is known of a runtime; of a version that was not measured, twice that."""
    known = MEASURED.get(runtime, UNMEASURED)
    if version is not None and known.versions and _minor(version) not in map(_minor, known.versions):
        return Residual(2 * known.bytes)
    return known


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
