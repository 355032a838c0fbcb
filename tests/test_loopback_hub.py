"""The loopback Hub: what the unmodified huggingface_hub makes of it, and its own arithmetic."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from branchfit.demo.server import LoopbackHub
from hub_samples import REPO, SIX, quantised

CLIENT = """
import json, sys, tempfile
from pathlib import Path
import huggingface_hub as hub

repo, folder = sys.argv[1], Path(tempfile.mkdtemp(dir=sys.argv[2]))
api = hub.HfApi()
said = {"refs": {item.name: item.target_commit for item in api.list_repo_refs(repo).branches}}
info = api.model_info(repo, revision="feature/slash", files_metadata=True)
sha256 = lambda lfs: None if lfs is None else lfs["sha256"] if isinstance(lfs, dict) else lfs.sha256
said["info"] = [info.sha, {item.rfilename: [item.size, sha256(item.lfs)] for item in info.siblings}]
if hasattr(api, "list_repo_tree"):
    tree = list(api.list_repo_tree(repo, revision="feature/slash", recursive=True))
    said["tree"] = [item.path for item in tree if hasattr(item, "blob_id")]
    said["paths"] = [item.path for item in api.get_paths_info(repo, ["config.json", "nope"])]
else:
    said["tree"] = [item.rfilename for item in api.list_files_info(repo, revision="feature/slash")]
    said["paths"] = [item.rfilename for item in api.list_files_info(repo, ["config.json", "nope"])]
got = Path(hub.snapshot_download(repo, revision="feature/slash", local_dir=folder / "snapshot"))
said["snapshot"] = {
    path.relative_to(got).as_posix(): path.read_bytes().hex()
    for path in got.rglob("*") if path.is_file() and ".cache" not in path.parts
}
one = hub.hf_hub_download(repo, "sub/notes.txt", revision="feature/slash", cache_dir=folder / "cache")
said["one"] = Path(one).read_text()

def name(call):
    try:
        call()
    except Exception as error:
        return type(error).__name__

said["errors"] = [
    name(lambda: api.model_info("nobody/nothing")),
    name(lambda: api.model_info(repo, revision="nowhere")),
    name(lambda: hub.hf_hub_download(repo, "nope", cache_dir=folder / "cache")),
    name(lambda: hub.hf_hub_download("o/gated", "a", cache_dir=folder / "cache")),
]
print(json.dumps(said))
"""


def client(hub: LoopbackHub, folder: Path, **environment: str) -> dict[str, object]:
    """What huggingface_hub says, in a process of its own: it reads HF_ENDPOINT when it is imported."""
    env = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder / "hf"), **environment}
    env["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    ran = subprocess.run([sys.executable, "-c", CLIENT, REPO, str(folder)], env=env, capture_output=True, timeout=120)
    assert ran.returncode == 0, ran.stderr.decode()
    answer: dict[str, object] = json.loads(ran.stdout)
    return answer


def test_the_unmodified_client_lists_reads_and_downloads(loopback_hub: LoopbackHub, tmp_path: Path) -> None:
    on_disk = tmp_path / "weights"
    on_disk.write_bytes(os.urandom(300_000))
    files = {**quantised(4, 32), "sub/notes.txt": b"kept apart\n", "big.safetensors": on_disk}
    commits = loopback_hub.add_repo(REPO, {"main": quantised(4, -1), "feature/slash": files})
    loopback_hub.add_repo("o/gated", {"main": {"a": b"1"}}, gated=True)
    loopback_hub.protocol.tree_page_entries = 3

    said = client(loopback_hub, tmp_path)

    assert said["refs"] == commits
    assert said["info"][0] == commits["feature/slash"]
    contents = {
        path: content if isinstance(content, bytes) else content.read_bytes() for path, content in files.items()
    }
    listed = {
        path: [len(content), hashlib.sha256(content).hexdigest() if path.endswith(".safetensors") else None]
        for path, content in contents.items()
    }
    assert said["info"][1] == listed
    assert sorted(said["tree"]) == sorted(contents)
    assert said["paths"] == ["config.json"]
    assert said["snapshot"] == {path: content.hex() for path, content in contents.items()}
    assert said["one"] == "kept apart\n"
    missing = said["errors"].pop(2)
    assert said["errors"] == ["RepositoryNotFoundError", "RevisionNotFoundError", "GatedRepoError"]
    assert missing in ("EntryNotFoundError", "RemoteEntryNotFoundError")


def test_the_token_reaches_the_hub_and_never_the_file_server(tmp_path: Path) -> None:
    with LoopbackHub(token="hf_secret") as hub:
        hub.add_repo(REPO, {"main": {}, "feature/slash": {**quantised(4, 32), "sub/notes.txt": b"x"}}, private=True)
        hub.add_repo("o/gated", {"main": {"a": b"1"}}, gated=True)
        # HF_TOKEN is read by today's huggingface_hub, the other name by that of 2023.
        client(hub, tmp_path, HF_TOKEN="hf_secret", HUGGING_FACE_HUB_TOKEN="hf_secret")

    at_hub = [request for request in hub.requests if request.origin == "hub"]
    at_cdn = [request for request in hub.requests if request.origin == "cdn"]
    assert all(request.headers.get("authorization") == "Bearer hf_secret" for request in at_hub)
    assert at_cdn and not any("authorization" in request.headers for request in at_cdn)


def get(url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """GET without following redirects."""
    split = urlsplit(url)
    connection = http.client.HTTPConnection(split.netloc, timeout=10)
    try:
        connection.request(
            "GET", f"{split.path}?{split.query}", headers={k.replace("_", "-"): v for k, v in headers.items()}
        )
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def test_blob_ids_are_git_s_and_an_lfs_file_s_is_that_of_its_pointer(loopback_hub: LoopbackHub) -> None:
    loopback_hub.add_repo(REPO, {"main": {"hello.txt": b"hello\n", "empty.txt": b"", "w.safetensors": b"hello\n"}})
    _, _, body = get(f"{loopback_hub.endpoint}/api/models/{REPO}/revision/main?blobs=true")
    files = {item["rfilename"]: item for item in json.loads(body)["siblings"]}
    # Printed by `git hash-object` for these bytes.
    assert files["hello.txt"]["blobId"] == "ce013625030ba8dba906f756967f9e9ca394464a"
    assert files["empty.txt"]["blobId"] == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize 6\n".encode()
    assert files["w.safetensors"]["lfs"] == {"sha256": sha256, "size": 6, "pointerSize": len(pointer)}
    git = hashlib.sha1(f"blob {len(pointer)}\0".encode() + pointer).hexdigest()
    assert files["w.safetensors"]["blobId"] == git


def test_a_commit_follows_from_the_content_and_the_old_one_stays_readable(loopback_hub: LoopbackHub) -> None:
    first = loopback_hub.add_repo(REPO, {"main": {"a": b"1"}})["main"]
    assert len(first) == 40
    assert loopback_hub.add_repo(REPO, {"main": {"a": b"2"}})["main"] != first
    assert loopback_hub.add_repo(REPO, {"same": {"a": b"1"}})["same"] == first
    assert get(f"{loopback_hub.endpoint}/api/resolve-cache/models/{REPO}/{first}/a")[2] == b"1"


def lfs_address(hub: LoopbackHub) -> str:
    hub.add_repo(REPO, {"main": {"w.safetensors": b"0123456789"}})
    status, headers, _ = get(f"{hub.endpoint}/{REPO}/resolve/main/w.safetensors")
    assert (status, headers["x-linked-size"]) == (302, "10")
    return headers["location"]


@pytest.mark.parametrize(
    ("asked", "status", "body", "said"),
    [
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
        ("lines=1-2", 200, b"0123456789", None),
    ],
)
def test_ranges_are_served_as_http_says(
    loopback_hub: LoopbackHub, asked: str, status: int, body: bytes, said: str | None
) -> None:
    answer = get(lfs_address(loopback_hub), Range=asked)
    assert (answer[0], answer[2], answer[1].get("content-range")) == (status, body, said)


def test_a_range_of_another_version_gets_the_whole_file(loopback_hub: LoopbackHub) -> None:
    assert get(lfs_address(loopback_hub), Range="bytes=2-4", If_Range='"other"')[::2] == (200, b"0123456789")


def test_a_signed_address_expires_and_cannot_be_made_up(loopback_hub: LoopbackHub) -> None:
    address = lfs_address(loopback_hub)
    assert get(address)[0] == 200
    assert get(address.replace("Expires=", "Expires=9"))[0] == 403
    loopback_hub.protocol.address_lifetime_s = -1.0
    assert get(lfs_address(loopback_hub))[0] == 403


def test_it_misbehaves_on_command_and_only_as_often_as_told(loopback_hub: LoopbackHub) -> None:
    address = lfs_address(loopback_hub)
    loopback_hub.fail_next(503, {"Retry-After": "7"}, matching="cdn GET", times=1)
    assert get(address)[1]["retry-after"] == "7"
    loopback_hub.corrupt(matching="cdn", offset=3)
    assert get(address, Range="bytes=2-4")[2] == bytes([ord("2"), ord("3") ^ 0xFF, ord("4")])
    loopback_hub.ignore_range(matching="cdn")
    assert get(address, Range="bytes=2-4")[0] == 200
    for reset in (False, True):
        loopback_hub.cut_after(4, matching="cdn", reset=reset)
        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            get(address)
    assert get(address)[2] == b"0123456789"


def test_after_stop_connections_are_refused_and_start_uses_the_same_ports(loopback_hub: LoopbackHub) -> None:
    address = lfs_address(loopback_hub)
    loopback_hub.stop()
    with pytest.raises(ConnectionError):
        get(address)
    loopback_hub.start()
    assert get(address)[0] == 200


def test_it_serves_a_folder_from_the_command_line(tmp_path: Path) -> None:
    for branch, files in SIX.items():
        for path, content in files.items():
            file = tmp_path / "o" / "r" / branch / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "branchfit.demo.server", str(tmp_path)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            endpoint = process.stdout.readline().strip().removeprefix("HF_ENDPOINT=")
            refs = json.loads(get(f"{endpoint}/api/models/o/r/refs")[2])
        finally:
            process.terminate()
    assert {item["name"] for item in refs["branches"]} == set(SIX)
