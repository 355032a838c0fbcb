"""What the documents say is what the program does. UPDATE_DOCS=1 writes the generated parts anew."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from branchfit.card import Sister, read_card
from branchfit.cli.app import COMMANDS, app
from branchfit.gpus import Machine, parse_gpus
from branchfit.loaders import available_runtimes
from branchfit.recommend import Recommendation, recommend
from branchfit.variants import from_card
from models import LLAMA_2_70B, seed_card

ROOT = Path(__file__).parent.parent
GIB = 2**30

MACHINES = ("24GiB@8.6x2", "80GiB@8.0", "48GiB@8.6", "40GiB@8.0", "32GiB@8.6", "24GiB@8.9", "none")
WITHOUT_GPU = Machine((), (), 32 * GIB, 28 * GIB)
"""What `none` stands for in the table: it depends on the memory of the machine."""


def generated(path: Path, name: str, text: str) -> None:
    """Compare the part of a document between its markers with what it ought to be; or write it."""
    document = path.read_text(encoding="utf-8")
    begin, end = f"<!-- generated: {name} -->\n", f"<!-- end: {name} -->"
    assert document.count(begin) == 1 and document.count(end) == 1, f"{path.name} has no place for {name}"
    before, rest = document.split(begin)
    found, after = rest.split(end)
    if os.environ.get("UPDATE_DOCS"):
        path.write_text(f"{before}{begin}{text}{end}{after}", encoding="utf-8")
        return
    assert found == text, f"{path.name} is out of date: UPDATE_DOCS=1 python -m pytest tests/test_docs.py"


def answer(gpu: str) -> Recommendation:
    listed = from_card(read_card(seed_card()), LLAMA_2_70B, "TheBloke/WizardMath-70B-V1.0-GPTQ")
    machine = WITHOUT_GPU if gpu == "none" else parse_gpus([gpu])
    gguf = Sister("TheBloke/WizardMath-70B-V1.0-GGUF", "gguf")
    return recommend(listed, machine, available_runtimes(None, True), sisters=[gguf])


def test_the_table_of_recommendations_is_what_is_recommended() -> None:
    lines = ["| GPUs | branch | loader, runtime | needs (give or take) | to spare |", "|---|---|---|---|---|"]
    reasons = []
    for gpu in MACHINES:
        found = answer(gpu)
        if found.choice is None:
            lines.append(f"| `{gpu}` | none fits | | | |")
        else:
            (taken,) = [a for a in found.assessments if a.variant.branch == found.choice.branch]
            assert taken.need is not None and taken.headroom_bytes is not None
            lines.append(
                f"| `{gpu}` | `{found.choice.branch}` | {found.choice.loader}, `{found.choice.runtime}` "
                f"| {taken.need.total_bytes / GIB:.1f} GiB ({taken.need.error_bytes / GIB:.1f}) "
                f"| {taken.headroom_bytes / GIB:.1f} GiB |"
            )
        reasons.append(f"- `{gpu}`: {found.reason}")
    text = "\n".join([*lines, "", *reasons, ""])
    generated(ROOT / "docs" / "recommendations.md", "recommendations", text)


def test_the_answer_in_the_readme_is_what_is_printed(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(seed_card(), encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_2_70B), encoding="utf-8")
    command = re.search(r"^\$ branchfit (recommend .*--card .*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert command is not None
    started = [sys.executable, "-m", "branchfit", *command[1].split()]
    done = subprocess.run(started, cwd=tmp_path, capture_output=True, text=True, check=True)
    text = "\n".join(line.rstrip() for line in done.stdout.splitlines())
    generated(ROOT / "README.md", "recommend", f"```\n{text}\n```\n")


def test_the_readme_lists_every_command_with_its_own_words() -> None:
    import click

    context = click.Context(app)
    rows = []
    for name in COMMANDS:
        command = app.get_command(context, name)
        assert command is not None
        words = re.sub(r"\s+", " ", (command.help or "").split("\n\n")[0]).strip()
        rows.append(f"| `branchfit {name}` | {words} |")
    text = "\n".join(["| command | what it does |", "|---|---|", *rows, ""])
    generated(ROOT / "README.md", "commands", text)


def test_each_commands_own_words_are_documented() -> None:
    import click

    context = click.Context(app)
    parts = []
    for name in COMMANDS:
        command = app.get_command(context, name)
        assert command is not None
        words = [_line(part) + "\n" for part in (command.help or "").split("\n\n")]
        usage = " ".join(filter(None, (_argument(each) for each in command.params)))
        rows = [
            f"| {', '.join(f'`{option}`' for option in (*each.opts, *each.secondary_opts))}{_value(each)} "
            f"| {_line(each.help)} |"
            for each in command.params
            if isinstance(each, click.Option) and not each.hidden
        ]
        table = ["| option | what it does |", "|---|---|", *rows] if rows else []
        parts += [f"## `branchfit {name}{' ' + usage if usage else ''}`", "", *words, *table, ""]
    generated(ROOT / "docs" / "command.md", "commands", "\n".join(parts))


def _line(words: str | None) -> str:
    return re.sub(r"\s+", " ", words or "").replace("\b", "").strip()


def _argument(param: Any) -> str:
    return (param.metavar or str(param.name).upper()) if param.param_type_name == "argument" else ""


def _value(option: Any) -> str:
    """What an option takes, as its metavar or its choices say it."""
    if option.is_flag:
        return ""
    choices = getattr(option.type, "choices", None)
    return f" `{option.metavar or ('|'.join(choices) if choices else 'VALUE')}`".replace("|", "\\|")


@pytest.mark.parametrize("path", [ROOT / "README.md", *(ROOT / "docs").glob("*.md")], ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_architecture_names_every_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for entry in (ROOT / "manager" / "branchfit").iterdir():
        name = entry.name if entry.suffix == ".py" else f"{entry.name}/"
        if not name.startswith("__"):
            assert f"  {name}" in text, f"docs/architecture.md does not name {name}"


def test_every_event_is_documented_with_its_fields() -> None:
    import dataclasses
    import inspect

    from branchfit.download import events

    lines = ["| event | fields | meaning |", "|---|---|---|"]
    for name, kind in vars(events).items():
        if inspect.isclass(kind) and issubclass(kind, events.Event) and kind is not events.Event:
            snake = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
            fields = ", ".join(f"`{field.name}`" for field in dataclasses.fields(kind))
            meaning = re.sub(r"\s+", " ", inspect.getdoc(kind) or "")
            lines.append(f"| `{snake}` | {fields} | {meaning} |")
    generated(ROOT / "docs" / "downloads.md", "events", "\n".join([*lines, ""]))
