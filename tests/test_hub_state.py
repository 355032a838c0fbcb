"""A repo's state, read from the loopback Hub by the unmodified huggingface_hub's session."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from branchfit.demo.server import LoopbackHub
from branchfit.errors import BranchNotFound, HubUnreachable
from branchfit.hub import BranchState, Hub
from branchfit.hub.branches import FIRST_RANGE_BYTES
from branchfit.hub.http import TRIES
from hub_samples import REPO, SIX, quantised, safetensors

CDN = "cdn"


def one_branch(server: LoopbackHub, files: Mapping[str, Path | bytes], **asked: bool) -> BranchState:
    """The only branch's state."""
    server.add_repo(REPO, {"main": files})
    return Hub(server.endpoint).repo_state(REPO, **asked).branches[0]


def test_every_branch_is_described_by_its_own_files(loopback_hub: LoopbackHub) -> None:
    commits = loopback_hub.add_repo(REPO, SIX)
    state = Hub(loopback_hub.endpoint).repo_state(REPO)
    assert state.as_of is None
    assert state.readme == "# Tiny Llama - GPTQ\n"
    assert state.readme_branch_commit == commits["main"]
    assert {branch.branch: branch.commit for branch in state.branches} == commits
    for branch in state.branches:
        files = SIX[branch.branch]
        assert {file.path: file.size_bytes for file in branch.files} == {
            path: len(text) for path, text in files.items()
        }
        assert branch.config == json.loads(files["config.json"])
        assert branch.quantize_config == json.loads(files["quantize_config.json"])
        assert branch.problems == ()
    by_name = {branch.branch: {entry.name: entry for entry in branch.tensors} for branch in state.branches}
    linear = "model.layers.0.mlp.down_proj."
    # 256 inputs in groups of 32 are 8 rows of scales; 256 columns of 4 bits are 32 words of zeros.
    assert by_name["gptq-4bit-32g-actorder_True"][linear + "scales"].shape == (8, 256)
    assert by_name["gptq-4bit-32g-actorder_True"][linear + "qzeros"].shape == (8, 32)
    assert by_name["gptq-8bit--1g-actorder_True"][linear + "qweight"].size_bytes == 64 * 256 * 4


def test_importing_the_hub_imports_neither_huggingface_hub_nor_torch() -> None:
    code = "import sys, branchfit.hub; print(sorted({'huggingface_hub', 'platformdirs', 'torch'} & set(sys.modules)))"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True).stdout == "[]\n"


def test_six_branches_at_50_ms_a_request_are_waited_for_less_than_600_ms() -> None:
    with LoopbackHub(delay_s=0.05) as hub:
        hub.add_repo(REPO, SIX)
        Hub(hub.endpoint).repo_state(REPO)
        # Refs, then at best list, signed address, header: 4. Sixteen workers share 45 requests: 5 or 6.
        assert hub.sequential_depth() * hub.delay_s < 0.6
        assert len(hub.requests) == 45


def test_a_hundred_branches_do_not_open_a_hundred_connections() -> None:
    with LoopbackHub(delay_s=0.02) as hub:
        branches = {f"b{number}": {"config.json": b'{"a": %d}' % number} for number in range(100)}
        hub.add_repo(REPO, branches)
        state = Hub(hub.endpoint).repo_state(REPO)
        assert [branch.config for branch in state.branches] == [{"a": number} for number in range(100)]
        # Sixteen workers, and the caller with the refs.
        assert 4 < hub.peak_requests <= 17


def test_of_the_weights_only_the_headers_are_fetched(loopback_hub: LoopbackHub, tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(safetensors({"a": ("I32", (1024, 1024))}))
    branch = one_branch(loopback_hub, {"model.safetensors": weights, "other.bin": b"x" * 9})
    assert [entry.size_bytes for entry in branch.tensors] == [4 * 1024 * 1024]
    sent = [request for request in loopback_hub.requests if request.origin == CDN]
    assert [request.headers["range"] for request in sent] == [f"bytes=0-{FIRST_RANGE_BYTES - 1}"]
    for _ in range(500):  # the server's thread counts what it has sent after we have read it
        if sent[0].sent_bytes:
            break
        time.sleep(0.01)
    assert [request.sent_bytes for request in sent] == [FIRST_RANGE_BYTES]


def test_a_header_longer_than_the_first_range_is_read_on_from_there(loopback_hub: LoopbackHub) -> None:
    many = {f"model.layers.{number}.some.rather.long.name.weight": ("F16", (1,)) for number in range(8000)}
    branch = one_branch(loopback_hub, {"model.safetensors": safetensors(many)})
    assert {entry.name for entry in branch.tensors} == set(many)
    ranges = [request.headers["range"] for request in loopback_hub.requests if request.origin == CDN]
    assert len(ranges) == 2 and ranges[1].startswith(f"bytes={FIRST_RANGE_BYTES}-")


def test_a_server_that_ignores_ranges_is_not_made_to_send_the_weights(
    loopback_hub: LoopbackHub, tmp_path: Path
) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(safetensors({"a": ("I32", (4096, 4096))}))
    loopback_hub.ignore_range(matching="cdn", times=None)
    branch = one_branch(loopback_hub, {"model.safetensors": weights})
    assert [entry.shape for entry in branch.tensors] == [(4096, 4096)]
    # What was under way in the sockets' buffers when the client hung up, and no more.
    sent = [request.sent_bytes for request in loopback_hub.requests if request.origin == CDN]
    assert len(sent) == 1 and sent[0] < 32 * 1024 * 1024


def test_all_shards_of_a_sharded_checkpoint_are_read(loopback_hub: LoopbackHub) -> None:
    files = {
        "model-00001-of-00002.safetensors": safetensors({"a": ("F16", (4,))}),
        "model-00002-of-00002.safetensors": safetensors({"b": ("F32", (4,))}),
        "model.safetensors.index.json": b'{"weight_map": {}}',
    }
    branch = one_branch(loopback_hub, files)
    assert {entry.name: entry.size_bytes for entry in branch.tensors} == {"a": 8, "b": 16}


def test_branches_of_pickles_or_of_nothing_are_listed_without_tensors(loopback_hub: LoopbackHub) -> None:
    loopback_hub.add_repo(REPO, {"main": {"README.md": b"x"}, "old": {"q.pt": b"PK", "pytorch_model.bin": b"PK"}})
    main, old = Hub(loopback_hub.endpoint).repo_state(REPO).branches
    assert (main.tensors, main.config, main.problems) == (None, None, ())
    assert ([file.path for file in old.files], old.tensors) == (["pytorch_model.bin", "q.pt"], None)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "config.json is not JSON (line 1)"),
        (b"[1]", "config.json holds no JSON object"),
        (b'{"a": "\xe9"}', "config.json is not UTF-8"),
        (b"[" * 200_000, "config.json is not JSON"),
        (b" " * (8 * 1024 * 1024 + 1), "config.json is larger than 8,388,608 bytes"),
    ],
)
def test_a_config_that_is_none_is_noted_and_stops_nothing(loopback_hub: LoopbackHub, content: bytes, said: str) -> None:
    branch = one_branch(loopback_hub, {**quantised(4, 32), "config.json": content})
    assert (branch.config, branch.problems) == (None, (said,))
    assert branch.quantize_config is not None and branch.tensors is not None


def test_a_config_with_a_byte_order_mark_is_read(loopback_hub: LoopbackHub) -> None:
    assert one_branch(loopback_hub, {"config.json": b'\xef\xbb\xbf{"a": 1}'}).config == {"a": 1}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "fewer than a header's length"),
        (struct.pack("<Q", 2**63) + b"x" * 50, "at most 100,000,000"),
        (struct.pack("<Q", 60) + b"x" * 50, "the file has 58"),
        (struct.pack("<Q", 2) + b"{}" + b"x", "the file holds 1"),
    ],
)
def test_a_header_that_lies_is_noted_and_the_files_stay_listed(
    loopback_hub: LoopbackHub, content: bytes, said: str
) -> None:
    branch = one_branch(loopback_hub, {**quantised(4, 32), "model.safetensors": content})
    assert branch.tensors is None
    assert len(branch.problems) == 1 and said in branch.problems[0]
    assert len(branch.files) == 5


def test_a_config_that_came_damaged_is_not_taken_for_the_author_s(loopback_hub: LoopbackHub) -> None:
    loopback_hub.corrupt(matching="resolve-cache.*/config.json", offset=0)
    branch = one_branch(loopback_hub, quantised(4, 32))
    assert (branch.config, branch.problems) == (None, ("config.json came other than the Hub lists it",))
    # And it is not remembered: the next answer is right.
    assert Hub(loopback_hub.endpoint).repo_state(REPO).branches[0].config is not None


def test_only_the_branch_asked_for_is_read_and_its_slash_is_no_folder(loopback_hub: LoopbackHub) -> None:
    commits = loopback_hub.add_repo(REPO, {**SIX, "feature/slash": quantised(3, 32)})
    state = Hub(loopback_hub.endpoint).repo_state(REPO, "feature/slash")
    assert [branch.branch for branch in state.branches] == ["feature/slash"]
    assert state.readme_branch_commit == commits["main"]
    read = [
        request.path for request in loopback_hub.requests if "config.json" in request.path or "blobs" in request.path
    ]
    assert read and all(commits["feature/slash"] in path or "feature%2Fslash" in path for path in read)


def test_a_branch_asked_for_by_name_is_waited_for_twice_in_turn_and_then_only_the_refs() -> None:
    with LoopbackHub(delay_s=0.05) as server:
        server.add_repo(REPO, SIX)
        hub = Hub(server.endpoint)
        server.requests.clear()
        hub.repo_state(REPO, "main", headers=False)
        assert server.sequential_depth() == 2  # where a file lies, and the file; all else at the same time
        server.requests.clear()
        hub.repo_state(REPO, "main", headers=False)
        assert [request.path for request in server.requests] == [f"/api/models/{REPO}/refs"]


def test_what_was_said_of_another_commit_before_the_branch_s_was_known_is_asked_again(
    loopback_hub: LoopbackHub,
) -> None:
    commits = loopback_hub.add_repo(REPO, {"main": quantised(4, 128), "other": quantised(3, 32)})
    elsewhere = {"Location": f"/api/models/{REPO}/revision/other?blobs=true"}
    loopback_hub.fail_next(307, elsewhere, matching="revision/main")
    for name in ("config.json", "quantize_config.json"):
        loopback_hub.fail_next(307, {"Location": f"/{REPO}/resolve/other/{name}"}, matching=f"resolve/main/{name}")
    (branch,) = Hub(loopback_hub.endpoint).repo_state(REPO, "main", headers=False).branches
    assert (branch.commit, branch.problems) == (commits["main"], ())
    assert branch.quantize_config is not None and branch.quantize_config["bits"] == 4


@pytest.mark.parametrize("listed", [True, False])
def test_a_config_of_another_commit_than_the_list_s_is_not_taken_nor_kept(
    loopback_hub: LoopbackHub, listed: bool
) -> None:
    """The branch moves between two answers, or a proxy keeps one for longer than the other."""
    here = quantised(4, 128)
    mine = here if listed else {name: content for name, content in here.items() if name != "quantize_config.json"}
    loopback_hub.add_repo(REPO, {"main": mine, "other": quantised(3, 32)})
    elsewhere = {"Location": f"/{REPO}/resolve/other/quantize_config.json"}
    loopback_hub.fail_next(307, elsewhere, matching="resolve/main/quantize_config.json", times=None)
    for _ in range(2):  # asked, and remembered
        (branch,) = Hub(loopback_hub.endpoint).repo_state(REPO, "main", headers=False).branches
        assert branch.problems == ()
        assert (branch.quantize_config or {}).get("bits") == (4 if listed else None)


def test_a_name_that_the_hub_does_not_know_yet_is_asked_for_by_its_commit(loopback_hub: LoopbackHub) -> None:
    loopback_hub.add_repo(REPO, {"main": quantised(4, 128)})
    unknown = {"X-Error-Code": "RevisionNotFound"}
    loopback_hub.fail_next(404, unknown, matching="revision/main", times=None)
    (branch,) = Hub(loopback_hub.endpoint).repo_state(REPO, "main", headers=False).branches
    assert branch.files and branch.quantize_config and not branch.problems


def test_what_failed_by_its_name_is_not_tried_all_over_by_its_commit(loopback_hub: LoopbackHub) -> None:
    loopback_hub.add_repo(REPO, {"main": quantised(4, 128)})
    loopback_hub.fail_next(500, matching="api/models/.*/revision/", times=None)
    with pytest.raises(HubUnreachable):
        Hub(loopback_hub.endpoint).repo_state(REPO, "main", headers=False)
    assert sum("/revision/" in request.path for request in loopback_hub.requests) == TRIES


def test_branches_at_the_same_commit_are_read_once(loopback_hub: LoopbackHub) -> None:
    loopback_hub.add_repo(REPO, {"main": quantised(4, 32), "copy": quantised(4, 32)})
    state = Hub(loopback_hub.endpoint).repo_state(REPO)
    assert state.branches[0].tensors == state.branches[1].tensors
    assert sum("blobs=true" in request.path for request in loopback_hub.requests) == 1


def test_a_file_list_of_another_commit_is_not_taken_for_this_one_s(loopback_hub: LoopbackHub) -> None:
    commits = loopback_hub.add_repo(REPO, {"main": quantised(4, 32), "other": quantised(8, 32)})
    elsewhere = {"Location": f"/api/models/{REPO}/revision/other?blobs=true"}
    loopback_hub.fail_next(307, elsewhere, matching=f"revision/{commits['main']}")
    main, other = Hub(loopback_hub.endpoint).repo_state(REPO).branches
    assert main.files == () and "another commit" in main.problems[0]
    assert (len(other.files), other.problems) == (5, ())
    # And it is not remembered.
    assert len(Hub(loopback_hub.endpoint).repo_state(REPO).branches[0].files) == 5


def test_without_headers_no_weight_file_is_touched(loopback_hub: LoopbackHub) -> None:
    branch = one_branch(loopback_hub, quantised(4, 32), headers=False)
    assert branch.tensors is None and branch.config is not None
    assert not [request for request in loopback_hub.requests if request.origin == CDN]


def test_a_repo_without_a_card_or_without_main_has_a_state(loopback_hub: LoopbackHub) -> None:
    assert one_branch(loopback_hub, {"config.json": b"{}"}).config == {}
    loopback_hub.add_repo("o/other", {"gptq": {"README.md": b"caf\xe9"}})
    state = Hub(loopback_hub.endpoint).repo_state("o/other")
    assert state.readme == "caf\N{REPLACEMENT CHARACTER}"


def test_a_branch_s_files_carry_what_a_download_checks(loopback_hub: LoopbackHub) -> None:
    commits = loopback_hub.add_repo(REPO, {"feature/slash": {"w.safetensors": b"hello\n", "hello.txt": b"hello\n"}})
    hub = Hub(loopback_hub.endpoint)
    for revision in ("feature/slash", commits["feature/slash"]):
        state = hub.branch_files(REPO, revision)
        text, weights = state.files
        assert state.commit == commits["feature/slash"]
        assert (text.path, text.blob_id, text.sha256) == ("hello.txt", "ce013625030ba8dba906f756967f9e9ca394464a", None)
        assert weights.sha256 == "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
    with pytest.raises(BranchNotFound) as caught:
        hub.branch_files(REPO, "feature-slash")
    assert caught.value.nearest == ("feature/slash",)
