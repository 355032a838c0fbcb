"""The Hub moves while a download is under way: another commit, a lost one, a branch or a repo that is gone."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from branchfit.download import Pinned, pin, plan, read_lock
from branchfit.download.commits import begun_commit
from branchfit.download.events import BranchMoved, Event, FileVerified, Finished, Note
from branchfit.errors import AccessDenied, BranchNotFound, DownloadError, RepoNotFound, TransferBroken
from downloads import BRANCH, FILES, MIB, REPO, World, a_world, contents, noise, pull_killed

NEXT = {**FILES, "config.json": b'{"model_type": "mistral"}', "added.txt": b"added"}
LATER = {**NEXT, "added.txt": b"changed"}
WEIGHTS = len(FILES["model.safetensors"])


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path) as one:
        yield one


def interrupt(world: World, **options: object) -> None:
    """A pull whose line breaks 1 MiB into the weights."""
    world.server.cut_after(MIB, matching="cdn GET")
    with pytest.raises(TransferBroken):
        world.pull(retry_waits_s=(), **options)
    assert 0 < world.fetched_bytes("cdn") < WEIGHTS
    world.server.requests.clear()
    world.events.clear()


@pytest.fixture
def begun(world: World) -> tuple[World, str, str]:
    """A download was begun for one commit, and the branch is at another now."""
    old = world.serve(FILES)
    interrupt(world)
    return world, old, world.serve(NEXT)


def bring_small(world: World) -> None:
    """Stop a pull as soon as all but the weights is there; those are slow."""
    left = set(FILES) - {"model.safetensors"}

    def stop(event: Event) -> None:
        if isinstance(event, FileVerified):
            left.discard(event.path)
        if not left:
            raise KeyboardInterrupt

    world.server.slow_down(MIB, matching="cdn GET")
    with pytest.raises(KeyboardInterrupt):
        world.pull(on_event=stop)
    world.server.clear_faults()
    world.server.requests.clear()


def midway(world: World, then: Callable[[], object]) -> None:
    """When half a MiB of the weights is out, `then`; the line breaks soon after, and the signed address has expired."""
    world.server.when_sent(MIB // 2, then)
    world.server.cut_after(MIB, matching="cdn GET")
    world.server.fail_next(403, matching="cdn GET", skip=1)


def pinned(world: World, **options: object) -> Pinned:
    return pin(world.hub, REPO, BRANCH, world.models_dir, **options)  # type: ignore[arg-type]


def names(world: World) -> set[str]:
    return {Path(one.path.partition("?")[0]).name for one in world.fetches() if one.origin == "hub"}


# ---- another commit ----------------------------------------------------------------------------


def test_what_was_begun_is_finished_and_that_is_said(begun: tuple[World, str, str]) -> None:
    world, old, new = begun
    made = world.pull()
    assert (made.commit, read_lock(world.target).commit) == (old, old)
    assert contents(world.target) == FILES
    (note,) = world.of(Note)
    assert note.message == (
        f"the branch moved from {old[:12]} to {new[:12]} since this download began; {old[:12]} is finished, as begun; "
        f"--latest takes {new[:12]}"
    )
    assert world.events[-2:] == [
        BranchMoved(world.target, old, new),
        Finished(world.target, "fetched", made.size_bytes, world.fetched_bytes()),
    ]
    assert world.fetched_bytes() < WEIGHTS
    assert not world.staging.exists()


def test_after_it_is_whole_the_branch_is_the_next_thing(begun: tuple[World, str, str]) -> None:
    world, old, new = begun
    world.pull()
    world.events.clear()
    size_bytes = world.pull().size_bytes
    assert world.events == [BranchMoved(world.target, old, new), Finished(world.target, "kept", size_bytes, 0)]
    assert world.pull(latest=True).commit == new
    assert contents(world.target) == NEXT


def test_latest_starts_over_and_keeps_what_did_not_change(begun: tuple[World, str, str]) -> None:
    world, old, new = begun
    assert world.pull(latest=True).commit == new
    assert contents(world.target) == NEXT
    assert world.fetched_bytes("cdn") < WEIGHTS
    (note,) = world.of(Note)
    assert f"moved from {old[:12]} to {new[:12]}" in note.message
    assert world.of(BranchMoved) == []


def test_a_plan_says_the_commit_that_the_pull_takes(begun: tuple[World, str, str]) -> None:
    world, old, new = begun
    before = sorted(world.models_dir.parent.rglob("*"))
    said: list[str] = []
    found = pinned(world, note=said.append)
    planned = plan(found.state, REPO, world.models_dir)
    assert (planned.commit, planned.branch, found.moved_to) == (old, BRANCH, new)
    assert 0 < planned.fetch_bytes < WEIGHTS
    assert "as begun" in said[0]
    assert sorted(world.models_dir.parent.rglob("*")) == before
    later = pinned(world, latest=True)
    assert (later.state.commit, later.moved_to) == (new, None)
    assert pinned(world, commit=new).state.commit == new


def test_a_branch_that_moves_twice_does_not_change_what_was_begun(begun: tuple[World, str, str]) -> None:
    world, old, _ = begun
    interrupt(world)
    newest = world.serve(LATER)
    world.pull()
    assert contents(world.target) == FILES
    assert world.of(BranchMoved) == [BranchMoved(world.target, old, newest)]


def test_a_latest_that_breaks_off_is_the_one_that_is_finished(begun: tuple[World, str, str]) -> None:
    world, _, new = begun
    interrupt(world, latest=True)
    world.serve(LATER)
    assert world.pull().commit == new
    assert contents(world.target) == NEXT


def test_the_commit_that_is_asked_for_comes_before_the_one_that_was_begun(begun: tuple[World, str, str]) -> None:
    world, _, new = begun
    assert world.pull(commit=new).commit == new


@pytest.mark.parametrize("harm", ["torn", "empty", "gone", "binary"])
def test_a_torn_journal_tells_no_commit_and_nothing_breaks(begun: tuple[World, str, str], harm: str) -> None:
    world, _, new = begun
    journal = world.staging / "journal.jsonl"
    text = journal.read_bytes()
    journal.write_bytes({"torn": text[:40], "empty": b"", "binary": b"\xff\0" * 99}.get(harm, b""))
    if harm == "gone":
        journal.unlink()
    assert world.pull().commit == new
    assert contents(world.target) == NEXT
    assert world.fetched_bytes("cdn") < WEIGHTS


def test_a_journal_of_another_repo_tells_no_commit(begun: tuple[World, str, str]) -> None:
    world, old, new = begun
    journal = world.staging / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().replace(REPO.encode(), b"Someone/Elses"))
    assert begun_commit(world.target, REPO, BRANCH) is None
    assert begun_commit(world.target, "Someone/Elses", BRANCH) == old
    assert world.pull().commit == new


def test_half_a_commit_in_the_journal_is_not_asked_for(begun: tuple[World, str, str]) -> None:
    world, old, new = begun
    journal = world.staging / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().replace(old.encode(), b"main"))
    assert world.pull().commit == new


# ---- beside an installed model -----------------------------------------------------------------


def test_an_update_that_broke_off_leaves_the_installed_commit_to_a_plain_pull(world: World) -> None:
    old = world.pull()
    world.serve({**NEXT, "model.safetensors": noise(WEIGHTS, seed=3)})
    world.server.requests.clear()
    interrupt(world, latest=True)
    newest = world.serve(LATER)
    assert world.pull() == old
    assert world.of(BranchMoved) == [BranchMoved(world.target, old.commit, newest)]
    assert world.of(Finished)[-1].outcome == "kept"
    assert world.pull(latest=True).commit == newest
    assert contents(world.target) == LATER


@pytest.mark.parametrize("where", ["after the renames", "before clearing"])
def test_what_a_killed_pull_did_not_clear_is_nothing_begun(world: World, where: str) -> None:
    world.pull()
    landed = world.serve(NEXT)
    pull_killed(world, where)
    newest = world.serve(LATER)
    world.events.clear()
    assert world.pull().commit == landed
    assert world.events[0] == BranchMoved(world.target, landed, newest)
    assert world.of(Finished)[-1].outcome == "kept"


def test_a_swap_that_was_killed_is_undone_and_nothing_begun(world: World) -> None:
    old = world.pull()
    world.serve(NEXT)
    pull_killed(world, "between the renames")
    newest = world.serve(LATER)
    world.events.clear()
    assert world.pull() == old
    assert contents(world.target) == FILES
    assert world.of(BranchMoved) == [BranchMoved(world.target, old.commit, newest)]


def test_a_damaged_model_whose_mending_broke_off_is_mended_at_its_commit(world: World) -> None:
    old = world.pull()
    (world.target / "model.safetensors").unlink()
    world.server.requests.clear()
    interrupt(world)
    new = world.serve(NEXT)
    assert world.pull().commit == old.commit
    assert contents(world.target) == FILES
    assert world.of(BranchMoved) == [BranchMoved(world.target, old.commit, new)]


# ---- a commit that is lost ---------------------------------------------------------------------


@pytest.mark.parametrize("remembered", [True, False])
def test_a_commit_that_the_hub_lost_is_said_with_the_remedy(begun: tuple[World, str, str], remembered: bool) -> None:
    """Remembered or not: the listing of a commit is answered from BranchFit's own cache."""
    world, old, new = begun
    del world.server.protocol.repos[REPO].commits[old]
    if not remembered:
        shutil.rmtree(world.hub.cache_dir)
    before = contents(world.staging)
    with pytest.raises(DownloadError, match=f"no commit {old} of {REPO}.*rewritten.*--latest") as caught:
        world.pull()
    assert not isinstance(caught.value, TransferBroken)
    assert set(contents(world.staging)) >= {path for path in before if path.startswith("files/")}
    assert not world.target.exists()
    world.server.requests.clear()
    assert world.pull(latest=True).commit == new
    assert contents(world.target) == NEXT
    assert world.fetched_bytes("cdn") < WEIGHTS


def test_a_commit_that_is_lost_while_it_comes_is_said_too(world: World) -> None:
    commit = world.serve(FILES)

    def squash() -> None:
        world.serve(NEXT)
        world.server.protocol.repos[REPO].commits.pop(commit, None)

    midway(world, squash)
    with pytest.raises(DownloadError, match=f"no commit {commit}"):
        world.pull(retry_waits_s=(0.0,) * 3)
    assert not world.target.exists()
    assert world.pull(latest=True).commit != commit
    assert contents(world.target) == NEXT


# ---- a branch or a repo that is gone -----------------------------------------------------------


def test_a_branch_that_was_deleted_midway_is_finished_from_its_commit(world: World) -> None:
    commit = world.serve(FILES)
    world.serve(NEXT, "main")
    interrupt(world)
    world.server.remove_branch(REPO, BRANCH)
    with pytest.raises(BranchNotFound):
        world.pull(latest=True)
    assert world.pull().commit == commit
    assert contents(world.target) == FILES
    (note,) = world.of(Note)
    assert "is gone" in note.message
    assert world.of(BranchMoved) == []


@pytest.mark.parametrize("when", ["between two runs", "while it comes"])
@pytest.mark.parametrize(
    ("how", "error"), [("deleted", RepoNotFound), ("gated", AccessDenied), ("private", RepoNotFound)]
)
def test_a_repo_that_goes_midway_is_told_apart_and_all_is_kept(
    world: World, when: str, how: str, error: type[Exception]
) -> None:
    """Private, without a token, the Hub says as of a repo that is not there; the error says so."""
    served = world.server.protocol.repos[REPO]

    def close() -> None:
        served.gated, served.private = how == "gated", how == "private"
        if how == "deleted":
            world.server.protocol.repos.pop(REPO, None)

    bring_small(world)
    interrupt(world)
    if when == "between two runs":
        close()
    else:
        midway(world, close)
    with pytest.raises(error):
        world.pull(retry_waits_s=(0.0,) * 3)
    assert not world.target.exists()
    assert contents(world.staging / "files") == {path: FILES[path] for path in FILES if path != "model.safetensors"}
    world.server.protocol.repos[REPO] = served
    served.gated = served.private = False
    world.server.clear_faults()
    world.server.requests.clear()
    world.pull()
    assert contents(world.target) == FILES
    assert names(world) == {"model.safetensors"}
    assert world.fetched_bytes("cdn") < WEIGHTS
