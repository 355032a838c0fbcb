"""Which runtimes an answer may choose between: those named, those installed, or those assumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UsageError
from .host import Host, as_installed, check_host, this_host
from .runtimes import ASSUMED, LOADERS, RUNTIMES, Runtime, Verdict, by_name
from .segments import expandable_segments

__all__ = ["Availability", "available_runtimes", "host_facts", "of_loader"]


@dataclass(frozen=True)
class Availability:
    """Which runtimes the answer may choose between.

    `assumed` is True where nobody said and nothing was found; `note` is the sentence that says so, or
    where they come from. `missing` holds, for a real host, why each of the others is not there.
    `triton` is whether the triton package is there, through which gptqmodel's torch kernel dequantises; `flash` whether
    flash-attn or xformers is, without which exllamav2's attention takes more; `expandable` whether torch's allocator
    has the expandable segments that gptqmodel asks for.
    """

    runtimes: tuple[Runtime, ...]
    assumed: bool
    note: str
    missing: tuple[Verdict, ...] = ()
    triton: bool = True
    flash: bool = True
    expandable: bool = True


def of_loader(runtimes: Sequence[Runtime], loader: str | None) -> tuple[Runtime, ...]:
    """Those of `runtimes` that play `loader` (capitals do not matter), all of them for None.

    Raises UsageError, naming the loaders there are, for another name.
    """
    if loader is None:
        return tuple(runtimes)
    wanted = next((name for name in LOADERS if name.lower() == loader.strip().lower()), None)
    if wanted is None:
        raise UsageError(f"--loader {loader}: no such loader. There are: {', '.join(LOADERS)}.")
    return tuple(runtime for runtime in runtimes if runtime.loader == wanted)


def available_runtimes(names: Sequence[str] | None, simulated: bool, host: Host | None = None) -> Availability:
    """The runtimes to choose between, in order of preference.

    `names` are those of --runtime, and rule if there are any; `simulated` is True for --gpu, which
    describes another machine, so that this one's packages say nothing. Otherwise `host` (this
    Python, if not given) is looked at; where it has none, the usual three are assumed.
    Raises UsageError, naming the runtimes there are, for an unknown name.
    """
    if names:
        wanted = {by_name(name).name for name in names}
        chosen = tuple(runtime for runtime in RUNTIMES if runtime.name in wanted)
        note = f"runtimes as --runtime says: {_listed(chosen)}."
        if simulated:
            return Availability(chosen, False, note)
        host = this_host() if host is None else host
        there = any(verdict.can for verdict in check_host(host) if verdict.runtime in wanted)
        return Availability(chosen, False, note, (), **(host_facts(host) if there else _facts_to_be(host)))
    assumed = tuple(runtime for runtime in RUNTIMES if runtime.name in ASSUMED)
    if simulated:
        note = f"--gpu describes another machine, so {_listed(assumed)} are assumed there; --runtime says otherwise."
        return Availability(assumed, True, note)
    host = this_host() if host is None else host
    verdicts = check_host(host)
    here = {verdict.runtime for verdict in verdicts if verdict.can}
    missing = tuple(verdict for verdict in verdicts if not verdict.can)
    # A file from before August 2023 is nothing the table can tell from another, so GPTQ-for-LLaMa
    # is chosen only where it is asked for by name.
    found = tuple(
        as_installed(runtime, host) for runtime in RUNTIMES if runtime.name in here and runtime.name != "gptq_for_llama"
    )
    if found:
        return Availability(found, False, f"installed here: {_listed(found)}.", missing, **host_facts(host))
    note = (
        f"no GPTQ runtime is installed here, so {_listed(assumed)} are assumed; "
        "`branchfit doctor` says what each one lacks, --runtime names others."
    )
    return Availability(assumed, True, note, missing, **_facts_to_be(host))


def _facts_to_be(host: Host) -> dict[str, bool]:
    """What a runtime that is not installed yet would find: torch's Linux builds bring triton, others do not."""
    return {"triton": host.platform.startswith("linux"), "expandable": expandable_segments(host)}


def host_facts(host: Host) -> dict[str, bool]:
    """`triton`, `flash` and `expandable` of an Availability, as `host` has them."""
    return {
        "triton": host.has("triton"),
        "flash": host.has("flash_attn") or host.has("xformers"),
        "expandable": expandable_segments(host),
    }


def _listed(runtimes: Sequence[Runtime]) -> str:
    names = [runtime.name for runtime in runtimes]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
