"""`branchfit demo`: the main job, start to end, with nothing but this machine."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import click

from ..errors import BranchFitError
from .options import FOLDER

DEMO_GPU = "8GiB@8.6"
"""The simulated GPU: the smallest card that people run such models on ."""


@click.command()
@click.option("--keep", metavar="DIR", type=FOLDER, help="Put the pulled model there and leave it.")
def demo(keep: Path | None) -> None:
    """The main job on an embedded Hub with a tiny real GPTQ model. No network, no GPU, nothing left behind."""
    from ..demo.repo import demo_repo
    from ..demo.server import LoopbackHub

    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="branchfit-demo-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        click.echo("Quantising a tiny Llama into six branches, laid out like TheBloke/WizardMath-70B-V1.0-GPTQ ...")
        made = demo_repo(folder / "repo")
        with LoopbackHub() as server:
            server.add_repo(made.repo, made.branches)
            # The unmodified huggingface_hub reads these when it is imported, which is after this line.
            os.environ["HF_ENDPOINT"] = server.endpoint
            os.environ["HF_HOME"] = str(folder / "hf")
            os.environ["BRANCHFIT_CACHE"] = str(folder / "cache")
            os.environ.pop("HF_HUB_OFFLINE", None)
            _walk(made.repo, keep or folder / "models")
    # The command as the user can type it: from a checkout's .venv it is not on the PATH.
    command = "branchfit" if shutil.which("branchfit") else sys.argv[0]
    click.echo(f"\nThat was the whole job, in {time.monotonic() - started:.1f} s. Now on a real repo:")
    click.echo(f"  {command} recommend TheBloke/WizardMath-70B-V1.0-GPTQ")


def _walk(repo: str, models: Path) -> None:
    from ..download import pull
    from ..gather import gather
    from ..hub import Hub
    from ..installed import verify
    from ..prompts import Template
    from . import advise, render
    from .progress import PullProgress

    found = gather(repo, None, None)
    _step("branchfit variants " + repo, "every branch, from the card, the refs and the files' own headers")
    render.variants_table(found.listed)

    _step(f"branchfit recommend {repo} --gpu {DEMO_GPU}", "for a simulated GPU")
    simulated = advise.advise(found, [DEMO_GPU])
    render.recommendation(simulated)

    _step(f"branchfit recommend {repo}", "for this machine")
    here = advise.advise(found)
    render.recommendation(here)
    render.notes(here.notes)

    choice = here.choice or simulated.choice
    if choice is None or found.template is None:
        raise BranchFitError(f"the demo model fits nowhere: {here.reason}")
    _step(f"branchfit pull {repo}:{choice.branch}", "each file verified against the Hub's hash")
    with PullProgress() as progress:
        model = pull(
            Hub(),
            repo,
            choice.branch,
            models,
            on_event=progress.tell,
            template=found.template_record,
            loader=choice.loader,
            runtime=choice.runtime,
        )
    click.echo(f"{progress.outcome}: {model.folder.name}")

    _step(f"branchfit verify {model.folder.name}", "hashed again, from disk")
    report = verify(model)
    if not report.ok:
        raise BranchFitError(f"the pulled model does not verify: {report}")
    click.echo(f"{model.folder.name}: ok, {len(model.files)} files")

    question = "What is 7 * 8?"
    _step(f'branchfit prompt {repo} "{question}"', "the exact bytes the model was trained on")
    template = Template(found.template.name or "", found.template.text, found.template.source)
    prompt = template.render(question)
    click.echo(prompt)
    click.echo(f"[{len(prompt.encode())} bytes, no newline at the end]")


def _step(command: str, what: str) -> None:
    click.echo(f"\n$ {command}    # {what}")
