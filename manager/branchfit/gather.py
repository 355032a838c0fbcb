"""A repo on the Hub, or a card on disk -> Gathered: its variants, its card, and how old the answer is."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from .card import CardTemplate, ModelCard, Sister, read_card
from .errors import BranchNotFound, CardError, ConfigError, UsageError
from .hub import BranchState, RepoRef, RepoState, parse_repo
from .prompts import guess_by_model
from .units import gb
from .variants import VariantList, from_card, from_hub


@dataclass(frozen=True)
class Gathered:
    """A repo's variants and card. `as_of` is the date of an answer that is not fresh, `as_of_reason` why it is not."""

    listed: VariantList
    card: ModelCard | None
    branch: str | None = None
    as_of: datetime | None = None
    as_of_reason: str | None = None
    problems: tuple[str, ...] = ()
    states: tuple[BranchState, ...] = ()

    def listing(self, branch: str) -> BranchState | None:
        """What the Hub itself said just now of the branch's commit and files; None where it did not."""
        if self.as_of is not None:
            return None
        return next((state for state in self.states if state.branch == branch and state.files), None)

    @property
    def sisters(self) -> tuple[Sister, ...]:
        return self.card.sisters if self.card else ()

    @property
    def template(self) -> CardTemplate | None:
        """The card's prompt template; failing that, the one the model's name calls for."""
        if self.card and self.card.prompt_template:
            return self.card.prompt_template
        known = guess_by_model(self.listed.repo)
        return CardTemplate(known.name, known.text, "registry") if known else None

    @property
    def template_record(self) -> dict[str, Any] | None:
        """The template as a lock records it, and `--json` prints it."""
        found = self.template
        return None if found is None else {"name": found.name, "text": found.text, "source": found.source}

    @property
    def notes(self) -> tuple[str, ...]:
        """What has to be said beside the answer: how old it is, and what of the repo could not be read."""
        if self.as_of is None:
            return self.problems
        why = self.as_of_reason or "the Hub gave no answer"
        return (f"{why}: this is the Hub's answer of {self.as_of:%Y-%m-%d %H:%M} UTC", *self.problems)


def gather(repo: str | None, card: Path | None, config: Path | None) -> Gathered:
    """Variants from a card file (`config` gives the sizes), else from the Hub.

    Raises UsageError where neither or a contradiction is given, CardError, ConfigError, HubError.
    """
    ref = parse_repo(repo) if repo else None
    if card is None:
        if config is not None:
            raise UsageError("--config goes with --card: on the Hub every branch has its own config.json.")
        if ref is None:
            raise UsageError("name a repo (owner/name, owner/name:branch or its address), or give --card FILE.")
        return _from_hub(ref)
    text = read_file(card)
    # The user says whose card this is, so that a mirror's or a renamed repo's rows are not dropped.
    parsed = read_card(text)
    settings = _config(config) if config is not None else None
    linked = next((row.repo for row in parsed.rows if row.repo), None)
    named = ref.repo if ref else linked or ""
    listed = from_card(parsed, settings, named, str(config) if config else "config.json")
    if linked and linked.casefold() != named.casefold():
        listed = replace(listed, notes=(*listed.notes, f"the card's branches are those of {linked}, not of {named}"))
    if settings is not None:
        _check_config(listed, parsed, config)
    branch = ref.branch if ref else None
    if branch is not None and listed.get(branch) is None:
        raise BranchNotFound(listed.repo, branch, [variant.branch for variant in listed.variants])
    return Gathered(listed, parsed, branch)


def _check_config(listed: VariantList, card: ModelCard, config: Path | None) -> None:
    """Raises UsageError where the config gives every branch a size far from what the card prints.

    A fifth: the largest slip of a real card is larger (8-bit rows listed at 5 bits' size), but never in
    every row; the largest difference by vocabulary and layout of the same model is far smaller.
    """
    printed = {row.branch: row.size_bytes for row in card.rows if row.size_bytes}
    pairs = [
        (v.branch, printed[v.branch], v.size_bytes) for v in listed.variants if v.size_bytes and v.branch in printed
    ]
    if pairs and all(abs(size - told) > told // 5 for _, told, size in pairs):
        branch, told, size = pairs[0]
        raise UsageError(
            f"{config} is another model's: with it {branch} would be {gb(size)}, and the card says {gb(told)}."
        )


def _from_hub(ref: RepoRef) -> Gathered:
    from .hub import Hub

    state = Hub().repo_state(ref.repo)
    if ref.branch is not None and ref.branch not in {s.branch for s in state.branches}:
        raise BranchNotFound(ref.repo, ref.branch, [s.branch for s in state.branches])
    return _gathered(ref, state)


def _gathered(ref: RepoRef, state: RepoState) -> Gathered:
    """What the Hub said of a repo, with its card read."""
    card, notes = _card(state)
    listed = from_hub(ref.repo, card, state.branches)
    problems = (*state.problems, *notes)
    return Gathered(listed, card, ref.branch, state.as_of, state.as_of_reason, problems, state.branches)


def _card(state: RepoState) -> tuple[ModelCard | None, tuple[str, ...]]:
    """A repo's card, and what was wrong with it: the branches' own files answer without one."""
    if not state.readme:
        return None, ()
    try:
        return read_card(state.readme, state.repo), ()
    except CardError as error:
        return None, (f"{state.repo}: {error.reason}; its README.md is left out of the answer",)


def read_file(path: Path) -> bytes:
    """A file the user named. Raises UsageError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.") from error


def _config(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_file(path))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not JSON ({error})", (), str(path)) from error
    if not isinstance(found, dict):
        raise ConfigError("not a JSON object", (), str(path))
    return found


def gather_branch(ref: RepoRef) -> Gathered:
    """What one branch of a repo needs: its card and that branch alone. Raises HubError."""
    from .hub import Hub

    return _gathered(ref, Hub().repo_state(ref.repo, ref.branch or "main", headers=False))
