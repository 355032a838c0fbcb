"""The JSON documents that others script against. Sizes are integer bytes."""

from __future__ import annotations

import json
from typing import Any

from ..card import CardTemplate, Sister
from ..gpus import Gpu
from ..memory import Need
from ..memory.correcting import Correction
from ..prompts import Template
from ..recommend import Assessment, Cell, Grid, Recommendation, Row
from ..variants import Disagreement, Variant, VariantList


def dump(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)


def variants_document(
    listed: VariantList, template: CardTemplate | None, sisters: tuple[Sister, ...], notes: tuple[str, ...]
) -> dict[str, Any]:
    """What `branchfit variants --json` prints."""
    return {
        "repo": listed.repo,
        "commit": listed.commit,
        "variants": [_variant(variant) for variant in listed.variants],
        "prompt_template": template_document(template),
        "disagreements": [_disagreement(found) for found in listed.disagreements],
        "sisters": [_sister(sister) for sister in sisters],
        "notes": [*notes, *listed.notes],
    }


def recommendation_document(answer: Recommendation, notes: tuple[str, ...] = ()) -> dict[str, Any]:
    """What `branchfit recommend --json` prints; `choice` is null where nothing fits."""
    choice = answer.choice
    gpus = answer.machine.gpus or (answer.machine.cpu,)
    return {
        "repo": answer.repo,
        "commit": answer.commit,
        "context_tokens": answer.context_tokens,
        "gpus": [gpu_document(gpu) for gpu in gpus],
        "choice": None
        if choice is None
        else {
            "branch": choice.branch,
            "loader": choice.loader,
            "runtime": choice.runtime,
            "reason": choice.reason,
            "gpu_split_bytes": list(choice.gpu_split_bytes),
            "max_context_tokens": choice.max_context_tokens,
        },
        "reason": answer.reason,
        "variants": [_assessment(assessment) for assessment in answer.assessments],
        "disagreements": [_disagreement(found) for found in answer.disagreements],
        "sisters": [_sister(sister) for sister in answer.sisters],
        "notes": [*notes, *answer.notes],
    }


def grid_document(grid: Grid, notes: tuple[str, ...] = ()) -> dict[str, Any]:
    """What `branchfit fit --json` prints. Contexts are in tokens; `context_tokens` is --context, null without."""
    gpus = grid.machine.gpus or (grid.machine.cpu,)
    return {
        "repo": grid.repo,
        "commit": grid.commit,
        "context_tokens": grid.context_tokens,
        "gpus": [gpu_document(gpu) for gpu in gpus],
        "fits": grid.fits,
        "rows": [_row(row, grid.context_tokens) for row in grid.rows],
        "notes": [*notes, *grid.notes],
    }


def _row(row: Row, asked: int | None) -> dict[str, Any]:
    return {
        "branch": row.variant.branch,
        "loader": row.loader,
        "runtime": row.runtime,
        "own_context_tokens": row.own_tokens,
        "searched_to_tokens": row.limit_tokens,
        "caches": [_cell(cell, asked) for cell in row.cells],
        "correction": _correction(row.correction),
        "why": row.why,
    }


def _cell(cell: Cell, asked: int | None) -> dict[str, Any]:
    return {
        "cache": cell.cache,
        "max_context_tokens": cell.longest_tokens,
        "limited_by": cell.limited_by,
        "reaches_context": None if asked is None else cell.longest_tokens >= asked,
        "need_at_tokens": cell.need_tokens,
        "need_bytes": _need(cell.need),
        "need_per_gpu_bytes": list(cell.need.per_gpu_bytes),
        "error_bytes": cell.need.error_bytes,
        "headroom_bytes": cell.headroom_bytes,
    }


def template_document(template: CardTemplate | None) -> dict[str, Any] | None:
    if template is None:
        return None
    return {"name": template.name, "text": template.text, "source": template.source}


def known_template_document(template: Template) -> dict[str, Any]:
    """One entry of what `branchfit prompt --list --json` prints."""
    return {
        "name": template.name,
        "text": template.text,
        "source": template.source,
        "size_bytes": len(template.text.encode("utf-8")),
        "sha256": template.sha256,
        "stop_strings": list(template.stop_strings),
        "default_system_message": template.default_system_message if template.takes_system_message else None,
        "keeps_turns": template.can_keep_turns,
    }


def _variant(variant: Variant) -> dict[str, Any]:
    """What is known of a branch without a GPU."""
    return {
        "branch": variant.branch,
        "format": variant.format,
        "bits": variant.bits,
        "group_size": variant.group_size,
        "act_order": variant.act_order,
        "damp_percent": variant.damp_percent,
        "dataset": variant.dataset,
        "sequence_length": variant.sequence_length,
        "size_bytes": variant.size_bytes,
        "size_source": variant.size_source,
        "exllama": variant.exllama,
        "description": variant.description,
    }


def _assessment(assessment: Assessment) -> dict[str, Any]:
    need = assessment.need
    return {
        **_variant(assessment.variant),
        "loader": assessment.loader,
        "runtime": assessment.runtime,
        "fits": assessment.fits,
        "need_bytes": None if need is None else _need(need),
        "need_per_gpu_bytes": None if need is None else list(need.per_gpu_bytes),
        "error_bytes": None if need is None else need.error_bytes,
        "correction": _correction(assessment.correction),
        "headroom_bytes": assessment.headroom_bytes,
        "max_context_tokens": assessment.max_context_tokens,
        "why": assessment.why,
    }


def _correction(learned: Correction | None) -> dict[str, int] | None:
    if learned is None:
        return None
    return {"bytes": learned.bytes, "error_bytes": learned.error_bytes, "loads": learned.loads}


def _need(need: Need) -> dict[str, int]:
    return {
        "weights": need.weights_bytes,
        "kv_cache": need.kv_cache_bytes,
        "scratch": need.scratch_bytes,
        "context": need.context_bytes,
        "total": need.total_bytes,
    }


def gpu_document(gpu: Gpu) -> dict[str, Any]:
    return {
        "index": gpu.index,
        "name": gpu.name,
        "total_bytes": gpu.total_bytes,
        "free_bytes": gpu.free_bytes,
        "compute_capability": gpu.compute_capability,
        "source": gpu.source,
    }


def _disagreement(found: Disagreement) -> dict[str, Any]:
    return {"branch": found.branch, "field": found.field, "card": found.card, "actual": found.actual}


def _sister(sister: Sister) -> dict[str, Any]:
    return {"repo": sister.repo, "kind": sister.kind}
