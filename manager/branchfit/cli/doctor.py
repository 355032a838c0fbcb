"""`branchfit doctor`: what this machine can and cannot do, and why."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from ..gpus import detect
from ..loaders import check_host, this_host
from ..units import gib
from .as_json import gpu_document
from .doctor_webui import show_webui, webui_checkup
from .options import FOLDER, json_option


@click.command()
@click.option("--webui", metavar="DIR", type=FOLDER, help="Look at this webui too. Default: the one you are in.")
@click.option("--python", metavar="PYTHON", type=click.Path(path_type=Path), help="The Python that runs the webui.")
@json_option
def doctor(webui: Path | None, python: Path | None, json_: bool) -> None:
    """The GPUs found here, who holds their memory, which runtimes can be used, and how a webui stands."""
    in_webui = webui_checkup(webui, python)
    machine = detect()
    verdicts = check_host(this_host())
    if json_:
        click.echo(
            json.dumps(
                {
                    "gpus": [
                        {**gpu_document(gpu), "holders": [vars(holder) for holder in gpu.holders]}
                        for gpu in machine.gpus or (machine.cpu,)
                    ],
                    "runtimes": [
                        {"runtime": v.runtime, "loader": v.loader, "can": v.can, "why": v.why} for v in verdicts
                    ],
                    "notes": list(machine.notes),
                    "webui": in_webui.document() if in_webui is not None else None,
                },
                indent=2,
                ensure_ascii=False,
            )
        )
        return
    for gpu in machine.gpus:
        capability = f", compute capability {gpu.compute_capability}" if gpu.compute_capability else ""
        click.echo(f"GPU {gpu.index}: {gpu.name}, {gib(gpu.free_bytes)} free of {gib(gpu.total_bytes)}{capability}")
        for holder in gpu.holders:
            used = gib(holder.used_bytes) if holder.used_bytes is not None else "an unknown amount"
            click.echo(f"  {used} held by pid {holder.pid}, {holder.name}")
    click.echo(f"System memory: {gib(machine.system_free_bytes)} free of {gib(machine.system_total_bytes)}")
    for note in machine.notes:
        click.echo(f"  {note}")
    if in_webui is not None:
        show_webui(in_webui)
        return
    click.echo(f"Runtimes in this Python ({sys.executable}):")
    for verdict in verdicts:
        click.echo(f"  {'yes' if verdict.can else 'no ':3} {verdict.loader:9} {verdict.runtime:22} {verdict.why}")
