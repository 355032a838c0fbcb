"""How long one prediction takes, and the whole grid of a repo of ten branches; nothing remembered from before.

    python benchmarks/memory_speed.py [ROUNDS]

One prediction is `terms` and `place` for one branch at one context. The grid is what `branchfit fit` works out: the
longest context for each branch and each cache type of its runtime, on one card or several, the best runtime of each
branch or all that load it. Branches are named anew in each round, so that no cache has seen them.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count

from branchfit.checkpoint import checkpoint_bytes
from branchfit.gpus import parse_gpus
from branchfit.loaders import RUNTIMES, Availability, available_runtimes
from branchfit.memory import Need, place, terms
from branchfit.recommend import context_grid
from branchfit.shape import ModelShape
from branchfit.variants import Variant, VariantList

LLAMA_2_70B = ModelShape("llama", 8192, 28672, 80, 64, 8, 128, 32000, 4096)
MISTRAL_7B = ModelShape("mistral", 4096, 14336, 32, 32, 8, 128, 32000, 32768)
MIXTRAL_8X7B = ModelShape("mixtral", 4096, 14336, 32, 32, 8, 128, 32000, 32768, experts=8)

BRANCHES = ((4, None), (4, 32), (4, 64), (4, 128), (4, 1024), (3, None), (3, 32), (3, 64), (8, None), (8, 128))
"""Bits and group of ten branches: the most that a quantiser's cards of 2023 list is nine."""

_NAMES = count()

GRIDS = (
    ("Mistral-7B", MISTRAL_7B, "8GiB@8.6"),
    ("Llama-2-70B", LLAMA_2_70B, "24GiB@8.6"),
    ("Llama-2-70B", LLAMA_2_70B, "48GiB@8.6"),
    ("Llama-2-70B", LLAMA_2_70B, "24GiB@8.6x2"),
    ("Mixtral-8x7B", MIXTRAL_8X7B, "24GiB@8.6x2"),
    ("Llama-2-70B", LLAMA_2_70B, "12GiB@8.6x4"),
    ("Llama-2-70B", LLAMA_2_70B, "8GiB@8.6x8"),
)


def branches(shape: ModelShape, name: str) -> VariantList:
    """A repo of ten branches that nothing has seen before."""
    made = tuple(
        Variant(
            f"{name}-{bits}-{group}",
            bits=bits,
            group_size=group,
            act_order=True,
            size_bytes=checkpoint_bytes(shape, bits, group),
            model_type=shape.model_type,
            shape=shape,
        )
        for bits, group in BRANCHES
    )
    return VariantList("o/r", None, made)


def timed(rounds: int, prepare: Callable[[str], Callable[[], object]]) -> list[float]:
    """Seconds of each round; what `prepare` does with the round's name is not counted."""
    found = []
    for _ in range(rounds):
        work = prepare(f"{next(_NAMES)}")
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return found


def line(what: str, taken_s: list[float]) -> None:
    """The least is what the work takes; what others do on this machine at the same time adds to the rest."""
    least, median, worst = min(taken_s), statistics.median(taken_s), max(taken_s)
    print(f"{what:<50} least {least * 1e3:7.2f} ms, median {median * 1e3:7.2f} ms, worst {worst * 1e3:7.2f} ms")


def one_prediction(shape: ModelShape, runtime: str, free: Sequence[int], name: str) -> Callable[[], object]:
    fresh = branches(shape, name).variants[1]

    def predict() -> Need | None:
        made = terms(fresh, runtime, 4096)
        return None if made is None else place(made, free)

    return predict


def whole_grid(shape: ModelShape, gpu: str, runtimes: Availability, every: bool, name: str) -> Callable[[], object]:
    return partial(context_grid, branches(shape, name), parse_gpus([gpu]), runtimes, all_runtimes=every)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    print(f"one prediction for one branch, {rounds} rounds:")
    for title, shape, gpu in GRIDS:
        free = [device.free_bytes for device in parse_gpus([gpu]).gpus]
        for runtime in ("exllamav2", "gptqmodel:triton"):
            line(f"  {title}, {gpu}, {runtime}", timed(rounds, partial(one_prediction, shape, runtime, free)))
    print(f"the grid of {len(BRANCHES)} branches, {rounds} rounds:")
    assumed = available_runtimes(None, True)
    named = available_runtimes([runtime.name for runtime in RUNTIMES], True)
    for title, shape, gpu in GRIDS:
        line(f"  {title}, {gpu}, best runtime", timed(rounds, partial(whole_grid, shape, gpu, assumed, False)))
        line(f"  {title}, {gpu}, all eight runtimes", timed(rounds, partial(whole_grid, shape, gpu, named, True)))


if __name__ == "__main__":
    main()
