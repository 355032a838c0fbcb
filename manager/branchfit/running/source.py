"""Where a model comes from: an installed copy, else a branch on the Hub, at one commit, without its code."""

from __future__ import annotations

import glob
import importlib
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..card import CardTemplate, read_card
from ..download.lockfile import has_lock, read_lock
from ..download.names import left_out
from ..errors import BranchNotFound, CardError, HubUnreachable, NotInstalled
from ..gather import Gathered
from ..hub import BranchState, RepoFile, TensorEntry, parse_repo
from ..installed import find, models_folder, recorded_template
from ..prompts import Template, guess_by_model, named
from ..variants import Variant, VariantList, from_hub
from .folder import ModelFolder

if TYPE_CHECKING:
    from ..hub import Hub

CARD_NAME = "README.md"


@dataclass(frozen=True)
class Source:
    """A model on this disk: `shown` is what it is called, `template` None where nothing tells it."""

    folder: Path
    shown: Path | str
    branch: str | None
    commit: str | None
    template: Template | None


def local_source(name: str | Path, branch: str | None, models_dir: Path | None) -> Source | None:
    """The installed copy of that name, or the folder at that path; None for a repo that is not installed.

    Raises NotInstalled for a name without a slash that is none.
    """
    text = str(name)
    path = Path(name).expanduser()
    if isinstance(name, Path) or text.startswith((".", "~")) or path.is_absolute():
        lock = read_lock(path) if has_lock(path) else None
        own = recorded_template(lock) if lock else None
        return Source(
            path,
            path,
            lock.branch if lock else branch,
            lock.commit if lock else None,
            own or _card_template(path),
        )
    wanted = text
    if "/" in text:
        ref = parse_repo(text)
        branch = branch or ref.branch
        wanted = f"{ref.repo}:{branch}" if branch else ref.repo
    try:
        model = find(models_folder(models_dir), wanted)
    except NotInstalled:
        if "/" in text:
            return None
        raise
    template = recorded_template(model) or _card_template(model.folder) or guess_by_model(model.repo)
    return Source(model.folder, model.folder, model.branch, model.commit, template)


def ask_hub(hub: Hub, repo: str, branch: str | None) -> Gathered:
    """Every branch of a repo, as `gather` does, from this Hub. Raises HubError."""
    state = hub.repo_state(repo)
    names = [one.branch for one in state.branches]
    if branch is not None and branch not in names:
        raise BranchNotFound(repo, branch, names)
    card, problems = None, state.problems
    try:
        card = read_card(state.readme, repo) if state.readme else None
    except CardError as error:
        problems = (*problems, f"{repo}: {error.reason}; its card is left out")
    listed = from_hub(repo, card, state.branches)
    return Gathered(listed, card, branch, state.as_of, state.as_of_reason, problems)


def fetch(hub: Hub, found: Gathered, variant: Variant) -> Source:
    """A branch in huggingface_hub's own cache, at the commit that was asked for once; pickles and code left out.

    Raises HubUnreachable where it does not come.
    """
    repo, commit = found.listed.repo, variant.commit or ""
    files = [file.path for file in hub.branch_files(repo, commit).files if left_out(file.path) is None]
    download: Any = importlib.import_module("huggingface_hub").snapshot_download
    # Not in 0.16: there HF_ENDPOINT alone decides, as it does for Hub().
    extra = {"endpoint": hub.endpoint} if "endpoint" in inspect.signature(download).parameters else {}
    try:
        folder = download(repo, revision=commit, allow_patterns=[glob.escape(path) for path in files], **extra)
    except Exception as error:  # huggingface_hub's own, and those of whichever HTTP library it uses
        raise HubUnreachable(f"{hub.endpoint}/{repo}", f"its files did not come: {error}") from error
    return Source(Path(folder), f"{repo}:{variant.branch}", variant.branch, commit, template_of(found))


def template_of(found: Gathered) -> Template | None:
    """The template of a repo: its card's, else the one its name calls for."""
    told: CardTemplate | None = found.template
    return named(told.name or found.listed.repo, told.text, told.source) if told else None


def local_listing(source: Source, model: ModelFolder) -> VariantList:
    """The folder as a list of one variant, for whoever judges variants: what it needs, which runtime takes it."""
    files = tuple(RepoFile(name, (model.folder / name).stat().st_size) for name in model.weight_files)
    tensors = tuple(TensorEntry(one.name, one.dtype, one.shape, one.size_bytes) for one in model.tensors.values())
    state = BranchState(
        branch=source.branch or "main",
        commit=source.commit or "",
        files=files,
        config=model.effective_config,
        tensors=tensors,
    )
    return from_hub(str(source.shown), None, [state])


def _card_template(folder: Path) -> Template | None:
    """The template of the card in a folder."""
    try:
        found = read_card((folder / CARD_NAME).read_bytes()).prompt_template
    except (OSError, CardError):
        return None
    return named(found.name or folder.name, found.text, str(folder / CARD_NAME)) if found else None
