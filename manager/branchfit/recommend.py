"""Which branch, which loader, and why: the same facts for every branch, and one choice.

Order of quality: bits, then finer groups, then act order. Published wikitext2 perplexities:
  LLaMA-65B  fp16 3.53, 4-bit 3.84, 3-bit 128g 4.17, 3-bit 5.04       (IST-DASLab/gptq, README)
  LLaMA-30B  fp16 4.10, 4-bit 32g 4.18, 4-bit 128g 4.22 (act order)   (Neko-Institute-of-Science/LLaMA-30B-4bit-128g)
  LLaMA-13B  fp16 5.08, 4-bit 64g 5.18, 4-bit 5.35, 3-bit 64g 5.50    (qwopqwop200/GPTQ-for-LLaMa, README)
  LLaMA-7B   4-bit 7.15, with act order and true-sequential 6.09      (IST-DASLab/gptq, README)
So every 4-bit branch stands before every 3-bit one, any group before none, and act order last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from .card import Sister
from .gpus import Gpu, Machine
from .loaders import Availability, Runtime, Verdict, can_load
from .memory import Need, fits, longest_context, place, terms
from .variants import Disagreement, Variant, VariantList

DEFAULT_CONTEXT_TOKENS = 4096
"""What is planned for unless the user says otherwise or the model's own context is shorter."""

GIB = 2**30

PREFERENCES = ("quality", "speed", "context")


@dataclass(frozen=True)
class Assessment:
    """One branch on this machine. `loader` and `runtime` None: nothing here can load it.

    `need` is worked out for `runtime`, or for the first that could take the files where none can
    run here; None where the size of the branch is unknown. `headroom_bytes` is what the tightest
    card has left with the error counted as taken, negative by how much it is short.
    """

    variant: Variant
    loader: str | None
    runtime: str | None
    fits: bool
    need: Need | None
    headroom_bytes: int | None
    max_context_tokens: int
    why: str


@dataclass(frozen=True)
class Choice:
    """The branch to take, the loader to take it with, and the sentence that says why."""

    branch: str
    loader: str
    runtime: str
    reason: str
    gpu_split_bytes: tuple[int, ...]
    max_context_tokens: int


@dataclass(frozen=True)
class Recommendation:
    """The answer: `choice` None where nothing fits, and then `reason` says what would help."""

    repo: str
    commit: str | None
    context_tokens: int
    machine: Machine
    choice: Choice | None
    reason: str
    assessments: tuple[Assessment, ...]
    disagreements: tuple[Disagreement, ...]
    sisters: tuple[Sister, ...]
    notes: tuple[str, ...]


def recommend(
    listed: VariantList,
    machine: Machine,
    available: Availability,
    *,
    context_tokens: int | None = None,
    prefer: str | None = None,
    branch: str | None = None,
    sisters: Sequence[Sister] = (),
) -> Recommendation:
    """The best branch for this machine among those that a loader here can load and that fit.

    `context_tokens` None is the smaller of the model's own and 4096. `prefer` None is the best
    quality that ExLlama runs, then the best that AutoGPTQ runs; `quality` is the best of either,
    `speed` the fewest bytes to read for each token, ExLlama first, `context` the longest context.
    `branch` asks about that one only.
    """
    gpus = machine.gpus or (machine.cpu,)
    own = next((v.shape.max_context_tokens for v in listed.variants if v.shape and v.shape.max_context_tokens), None)
    context = context_tokens or min(own or DEFAULT_CONTEXT_TOKENS, DEFAULT_CONTEXT_TOKENS)
    assessed = [_assess(variant, gpus, available, context) for variant in listed.variants]
    notes = [*listed.notes, *machine.notes]
    if available.note:
        notes.append(available.note)
    if any(variant.shape is None and variant.holds_weights for variant in listed.variants):
        notes.append(
            "no config.json was read: memory is worked out for a Llama of that size without grouped-query attention, "
            "which may be several GiB too much; with its config.json the figures are exact"
        )
    if own and context > own:
        notes.append(f"{context} tokens are more than the model's own {own}: it was not trained to read that far")
    candidates = [a for a in assessed if a.fits and (branch is None or a.variant.branch == branch)]
    chosen = max(candidates, key=lambda a: _rank(a, prefer), default=None)
    choice = None
    if chosen is not None and chosen.need is not None:
        reason = _why_chosen(chosen, assessed, gpus, context, prefer)
        choice = Choice(
            chosen.variant.branch,
            chosen.loader or "",
            chosen.runtime or "",
            reason,
            chosen.need.split_bytes,
            chosen.max_context_tokens,
        )
        assessed = [_say_relation(a, chosen, prefer) for a in assessed]
    else:
        reason = _why_nothing(assessed, gpus, context, sisters, branch)
    commit = chosen.variant.commit if chosen is not None else listed.commit
    return Recommendation(
        listed.repo,
        commit or listed.commit,
        context,
        machine,
        choice,
        reason,
        tuple(assessed),
        listed.disagreements,
        tuple(sisters),
        tuple(dict.fromkeys(notes)),
    )


def quality(variant: Variant) -> tuple[float, int, bool]:
    """Sorts by quality, the best last: bits, then finer groups, then act order (see the module)."""
    group = variant.group_size
    return (float(variant.bits or 0), -group if group else -(2**31), bool(variant.act_order))


def _rank(assessment: Assessment, prefer: str | None) -> tuple[object, ...]:
    """Sorts candidates, the one to choose last. Ties fall to the smaller branch."""
    variant, exllama = assessment.variant, assessment.loader == "ExLlama"
    smaller = -(variant.size_bytes or 0)
    if prefer == "quality":
        return (quality(variant), exllama, smaller)
    if prefer == "speed":
        return (exllama, smaller, quality(variant))
    if prefer == "context":
        return (assessment.max_context_tokens, exllama, quality(variant), smaller)
    return (exllama, quality(variant), smaller)


def _assess(variant: Variant, gpus: Sequence[Gpu], available: Availability, context: int) -> Assessment:
    """The first runtime of the preference order that loads and fits; else the first that loads."""
    if not variant.holds_weights:
        return Assessment(variant, None, None, False, None, None, 0, f"not taken: {variant.problem}")
    cpu = gpus[0].kind == "cpu"
    verdicts: list[Verdict] = []
    best: Assessment | None = None
    for runtime in available.runtimes:
        each = [_verdict(runtime, variant, gpu) for gpu in gpus]
        verdicts.append(next((verdict for verdict in each if verdict.can), each[0]))
        if not verdicts[-1].can:
            continue
        # A card this runtime cannot use counts as full: nothing is placed on it.
        free = tuple(gpu.free_bytes if verdict.can else 0 for gpu, verdict in zip(gpus, each, strict=True))
        found = _measure(variant, runtime.name, runtime.loader, free, context, cpu)
        if found.fits:
            return found
        if best is None or _room(found) > _room(best):
            best = found
    if best is not None:
        return best
    why = "; ".join(dict.fromkeys(verdict.why for verdict in verdicts)) or "no runtime is available"
    return Assessment(variant, None, None, False, None, None, 0, f"not taken: {why}")


def _verdict(runtime: Runtime, variant: Variant, gpu: Gpu) -> Verdict:
    rows = {linear.in_features for linear in variant.shape.linears} if variant.shape else ()
    return can_load(
        runtime,
        format=variant.format,
        bits=variant.bits,
        group_size=variant.group_size,
        act_order=variant.act_order,
        symmetric=variant.symmetric,
        model_type=variant.model_type,
        gpu=gpu,
        in_features=rows,
        branch=variant.branch,
    )


def _measure(variant: Variant, runtime: str, loader: str, free: tuple[int, ...], context: int, cpu: bool) -> Assessment:
    need, room, longest = _layout(variant, runtime, free, context, cpu)
    if need is None:
        why = "its size is unknown: neither its files, a config.json nor the card tell"
        return Assessment(variant, loader, runtime, False, None, None, 0, f"not taken: {why}")
    if fits(need, free):
        why = f"fits with {runtime}: {_need_words(need, context)}, {_gib(room)} to spare"
    else:
        short = f"{_gib(sum(free))} free, short by {_gib(-room)}"
        why = f"does not fit with {runtime}: {_need_words(need, context)}, {short}"
        if longest:
            why += f"; fits up to {longest} tokens"
    return Assessment(variant, loader, runtime, fits(need, free), need, room, longest, why)


@lru_cache(maxsize=4096)
def _layout(
    variant: Variant, runtime: str, free: tuple[int, ...], context: int, cpu: bool
) -> tuple[Need | None, int, int]:
    """Need, headroom and longest context: asked again at every change of preference, so kept."""
    made = terms(variant, runtime, context, cpu)
    if made is None:
        return None, 0, 0
    need = place(made, free)
    own = variant.shape.max_context_tokens if variant.shape else None
    return need, need.headroom_bytes(free), longest_context(variant, runtime, free, own, cpu)


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / GIB:.1f} GiB" if abs(size_bytes) >= GIB // 10 else f"{size_bytes // 2**20} MiB"


def _need_words(need: Need | None, context: int) -> str:
    if need is None:
        return f"needs an unknown amount at {context} tokens"
    per_gpu = [size for size in need.per_gpu_bytes if size]
    cards = f" ({' + '.join(_gib(size) for size in per_gpu)})" if len(per_gpu) > 1 else ""
    return f"needs {_gib(need.total_bytes)}{cards} at {context} tokens, give or take {_gib(need.error_bytes)}"


def _why_chosen(
    chosen: Assessment, assessed: Sequence[Assessment], gpus: Sequence[Gpu], context: int, prefer: str | None
) -> str:
    """One sentence with the numbers."""
    need = chosen.need
    if need is None or chosen.headroom_bytes is None:
        return chosen.why
    used = [gpu.free_bytes for gpu, size in zip(gpus, need.per_gpu_bytes, strict=True) if size]
    tightest = " on the tightest" if len(used) > 1 else ""
    if gpus[0].kind == "cpu":
        where = "of system memory (no GPU: this will be slow)"
    else:
        where = f"of the {_gib(sum(used))} free on {f'{len(used)} GPUs' if len(used) > 1 else 'one GPU'}"
    superlative = {
        "quality": "the best quality",
        "speed": "the fewest bytes to read for each token",
        "context": f"the longest context ({chosen.max_context_tokens} tokens)",
    }.get(prefer or "", "the best quality")
    by = chosen.loader if prefer is None else "any loader here"
    instead = ""
    if prefer is None and chosen.loader != "ExLlama":
        exllama = max((a for a in assessed if a.loader == "ExLlama" and not a.fits), key=_room, default=None)
        if exllama is not None:
            instead = f" (of ExLlama's, {exllama.variant.branch} is nearest and short by {_gib(-_room(exllama))})"
    return (
        f"{chosen.variant.branch} is {superlative} that {by} can run here: with {chosen.runtime} it "
        f"{_need_words(need, context)}, {where}, {_gib(chosen.headroom_bytes)} to spare{tightest}{instead}."
    )


def _say_relation(assessment: Assessment, chosen: Assessment, prefer: str | None) -> Assessment:
    """Every branch says why it was or was not taken."""
    if not assessment.fits:
        return assessment
    if assessment is chosen:
        return _with_why(assessment, f"taken: {assessment.why}")
    if prefer is None and assessment.loader != chosen.loader:
        why = f"not taken: it needs {assessment.loader}, and {chosen.variant.branch} runs on {chosen.loader}"
    elif prefer == "context":
        why = f"not taken: {chosen.variant.branch} leaves room for {chosen.max_context_tokens} tokens"
    elif prefer == "speed":
        why = f"not taken: {chosen.variant.branch} is faster to read"
    else:
        why = f"not taken: {chosen.variant.branch} is of better quality"
    return _with_why(assessment, f"{why}; {assessment.why}")


def _with_why(assessment: Assessment, why: str) -> Assessment:
    return replace(assessment, why=why)


def _why_nothing(
    assessed: Sequence[Assessment], gpus: Sequence[Gpu], context: int, sisters: Sequence[Sister], branch: str | None
) -> str:
    """What was wanted, what there is, and what would help, the cheapest remedy first."""
    asked = [a for a in assessed if branch is None or a.variant.branch == branch]
    if not asked:
        return "No branch to choose from: neither the card nor the Hub lists one." + _sister_words(sisters)
    loadable = [a for a in asked if a.need is not None]
    if not loadable:
        return f"No branch can be loaded here: {asked[0].why.removeprefix('not taken: ')}.{_sister_words(sisters)}"
    nearest = max(loadable, key=_room)
    room = _room(nearest)
    cpu = gpus[0].kind == "cpu"
    free = _gib(sum(gpu.free_bytes for gpu in gpus))
    where = "system memory" if cpu else f"{len(gpus)} GPU{'s' if len(gpus) > 1 else ''}"
    holders = [holder for gpu in gpus for holder in gpu.holders if holder.used_bytes]
    held = ", ".join(f"{_gib(each.used_bytes or 0)} held by pid {each.pid}, {each.name}" for each in holders[:3])
    words = [
        f"Nothing fits: the nearest, {nearest.variant.branch}, {_need_words(nearest.need, context)}; "
        f"{free} free {'in' if cpu else 'on'} {where}{f' ({held})' if held else ''}, short by {_gib(-room)}."
    ]
    longest = max(loadable, key=lambda a: (a.max_context_tokens, quality(a.variant)))
    if longest.max_context_tokens:
        words.append(f"{longest.variant.branch} fits with --context {longest.max_context_tokens}.")
    further = None if cpu else _further_gpu_gib(nearest, gpus, context)
    if further is not None:
        words.append(f"One more GPU with {further} GiB free would take it.")
    return " ".join(words) + _sister_words(sisters)


def _room(assessment: Assessment) -> int:
    return assessment.headroom_bytes if assessment.headroom_bytes is not None else -(2**62)


def _further_gpu_gib(assessment: Assessment, gpus: Sequence[Gpu], context: int) -> int | None:
    """The smallest whole number of GiB that one more card needs to have free, tried out, at most 96."""
    made = terms(assessment.variant, assessment.runtime or "", context)
    free = tuple(gpu.free_bytes for gpu in gpus)
    if made is None:
        return None
    for size_gib in range(1, 97):  # 96 GiB: the largest workstation card there is
        cards = (*free, size_gib * GIB)
        if fits(place(made, cards), cards):
            return size_gib
    return None


def _sister_words(sisters: Sequence[Sister]) -> str:
    gguf = next((s for s in sisters if s.kind == "gguf"), None) or next((s for s in sisters if s.kind == "ggml"), None)
    if gguf is None:
        return ""
    return f" {gguf.repo} has the model as {gguf.kind.upper()}, which llama.cpp splits between GPU and system memory."
