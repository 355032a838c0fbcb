"""`branchfit doctor`: what this machine can and cannot do, and why."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..gpus import Gpu, detect, headline, shares
from ..gpus.counters import by_process
from ..loaders import check_host, this_host
from ..memory.records import RecordFile
from ..units import gib
from .as_json import gpu_document
from .doctor_records import forget, records_document, show_records
from .doctor_webui import show_webui, webui_checkup
from .options import FOLDER, json_option

if TYPE_CHECKING:
    from branchfit_webui.installer import Checkup


@click.command()
@click.option("--webui", metavar="DIR", type=FOLDER, help="Look at this webui too. Default: the one you are in.")
@click.option("--python", metavar="PYTHON", type=click.Path(path_type=Path), help="The Python that runs the webui.")
@click.option("--forget-records", is_flag=True, help="Forget what loads on this machine were measured to take.")
@json_option
def doctor(webui: Path | None, python: Path | None, forget_records: bool, json_: bool) -> None:
    """The GPUs found here, who holds their memory, which runtimes can be used, and how a webui stands."""
    if forget_records:
        forget(RecordFile(), json_)
        return
    in_webui = webui_checkup(webui, python)
    machine = by_process(detect())
    verdicts = check_host(this_host())
    if json_:
        click.echo(
            json.dumps(
                {
                    "gpus": [_gpu_document(gpu) for gpu in machine.gpus or (machine.cpu,)],
                    "runtimes": [
                        {"runtime": v.runtime, "loader": v.loader, "can": v.can, "why": v.why} for v in verdicts
                    ],
                    "notes": list(machine.notes),
                    "records": records_document(RecordFile()),
                    "webui": in_webui.document() if in_webui is not None else None,
                },
                indent=2,
                ensure_ascii=False,
            )
        )
        return
    for gpu in machine.gpus:
        capability = f", compute capability {gpu.compute_capability}" if gpu.compute_capability else ""
        click.echo(f"{headline(gpu)}{capability}")
        for line in shares(gpu, _webui_gives_back(in_webui)):
            click.echo(f"  {line}")
    click.echo(f"System memory: {gib(machine.system_free_bytes)} free of {gib(machine.system_total_bytes)}")
    for note in machine.notes:
        click.echo(f"  {note}")
    show_records(RecordFile())
    if in_webui is not None:
        show_webui(in_webui)
        return
    click.echo(f"Runtimes in this Python ({sys.executable}):")
    for verdict in verdicts:
        click.echo(f"  {'yes' if verdict.can else 'no ':3} {verdict.loader:9} {verdict.runtime:22} {verdict.why}")


def _gpu_document(gpu: Gpu) -> dict[str, object]:
    return {
        **gpu_document(gpu),
        "holders": [vars(holder) for holder in gpu.holders],
        "reserved_bytes": gpu.reserved_bytes,
        "held_back_bytes": gpu.held_back_bytes,
        "unnamed_bytes": gpu.unnamed_bytes,
        "ecc": gpu.ecc,
        "display": gpu.display,
    }


def _webui_gives_back(found: Checkup | None) -> dict[int, str]:
    """What of a running webui's share its own Unload frees; how many bytes that is only its own tab can tell."""
    if found is None or found.running is None:
        return {}
    return {found.running: "this webui, which gives all but its CUDA context back when its model is unloaded"}
