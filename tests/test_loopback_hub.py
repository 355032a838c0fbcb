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


# ---- misbehaviour ------------------------------------------------------------------------------


def test_of_the_requests_that_match_the_first_are_spared_as_told(loopback_hub: LoopbackHub) -> None:
    address = lfs_address(loopback_hub)
    loopback_hub.fail_next(500, matching="cdn GET", times=2, skip=1)
    assert [get(address)[0] for _ in range(4)] == [200, 500, 500, 200]


def test_a_flipped_byte_waits_for_a_request_that_asks_for_it(loopback_hub: LoopbackHub) -> None:
    address = lfs_address(loopback_hub)
    loopback_hub.corrupt("cdn", offset=8)
    assert get(address, Range="bytes=0-4")[2] == b"01234"
    assert get(address, Range="bytes=5-")[2] == b"567" + bytes([ord("8") ^ 0xFF]) + b"9"
    assert get(address)[2] == b"0123456789"


def test_a_body_that_stops_coming_holds_the_line_until_the_client_hangs_up(loopback_hub: LoopbackHub) -> None:
    split = urlsplit(lfs_address(loopback_hub))
    loopback_hub.stall(4, 60.0, "cdn GET")
    connection = http.client.HTTPConnection(split.netloc, timeout=0.2)
    connection.request("GET", f"{split.path}?{split.query}")
    answer = connection.getresponse()
    assert answer.read(4) == b"0123"
    with pytest.raises(TimeoutError):
        answer.read(1)
    assert not loopback_hub.wait_idle(0.0)
    answer.close()
    connection.close()
    assert loopback_hub.wait_idle(30.0)
    assert loopback_hub.requests[-1].sent_bytes == 4


def test_a_copy_of_another_length_is_honest_about_it(loopback_hub: LoopbackHub) -> None:
    address = lfs_address(loopback_hub)
    loopback_hub.resize(-3, times=3)
    assert get(address)[2] == b"0123456"
    assert get(address, Range="bytes=5-")[1]["content-range"] == "bytes 5-6/7"
    assert get(address, Range="bytes=8-")[0] == 416
    loopback_hub.resize(2)
    status, headers, body = get(address)
    assert (status, headers["content-length"], body) == (200, "12", b"0123456789\0\0")
    assert get(address, Range="bytes=9-10")[1:] == (
        {**headers, "content-range": "bytes 9-10/12", "content-length": "2", "date": get(address)[1]["date"]},
        b"9\0",
    )


def test_a_chunked_body_tells_no_length_and_may_go_on(loopback_hub: LoopbackHub) -> None:
    address = lfs_address(loopback_hub)
    loopback_hub.chunk_up(3, "cdn")
    _, headers, body = get(address)
    assert "content-length" not in headers
    assert body == b"0123456789\0\0\0"
    loopback_hub.chunk_up(matching="cdn")
    loopback_hub.cut_after(4, "cdn")
    with pytest.raises(http.client.IncompleteRead) as broken:
        get(address)
    assert broken.value.partial == b"0123"


def test_what_is_said_of_a_range_may_be_untrue_or_less_than_was_asked(loopback_hub: LoopbackHub) -> None:
    address = lfs_address(loopback_hub)
    loopback_hub.say_range(lambda first, last, size: f"bytes {first + 1}-{last + 1}/{size}", "cdn")
    assert get(address)[1].get("content-range") is None, "it waits for a request with a range"
    answer = get(address, Range="bytes=2-4")
    assert (answer[1]["content-range"], answer[2]) == ("bytes 3-5/10", b"234")
    loopback_hub.shorten_range(2, "cdn")
    answer = get(address, Range="bytes=2-8")
    assert (answer[0], answer[1]["content-range"], answer[2]) == (206, "bytes 2-3/10", b"23")


def test_a_file_by_another_etag_is_sent_whole_to_who_knew_the_former_one(loopback_hub: LoopbackHub) -> None:
    address = lfs_address(loopback_hub)
    etag = get(address)[1]["etag"]
    assert get(address, Range="bytes=2-4", If_Range=etag)[0] == 206
    loopback_hub.change_etag()
    assert get(address, Range="bytes=2-4", If_Range=etag)[::2] == (200, b"0123456789")
    assert get(address, Range="bytes=2-4", If_Range=get(address)[1]["etag"])[0] == 206


def test_a_signed_address_may_be_good_for_one_use(loopback_hub: LoopbackHub) -> None:
    loopback_hub.protocol.address_uses = 1
    address = lfs_address(loopback_hub)
    assert [get(address)[0], get(address)[0], get(lfs_address(loopback_hub))[0]] == [200, 403, 200]


def test_it_redirects_in_a_circle_or_to_a_host_that_has_the_same_files(loopback_hub: LoopbackHub) -> None:
    address = lfs_address(loopback_hub)
    loopback_hub.redirect(matching="cdn")
    assert urlsplit(address).path in get(address)[1]["location"]
    loopback_hub.redirect(loopback_hub.other_endpoint + "{path}", "hub|cdn", times=None)
    at_cdn = get(get(address)[1]["location"], Authorization="Bearer x")
    assert at_cdn[::2] == (200, b"0123456789")
    info = get(get(f"{loopback_hub.endpoint}/api/models/{REPO}/revision/main")[1]["location"])
    assert json.loads(info[2])["id"] == REPO
    other = [request for request in loopback_hub.requests if request.origin == "other"]
    assert [(request.status, request.authorization) for request in other] == [(200, "Bearer x"), (200, "")]


def test_a_file_in_xet_storage_is_announced_as_the_hub_does(loopback_hub: LoopbackHub) -> None:
    loopback_hub.protocol.xet = True
    loopback_hub.add_repo(REPO, {"main": {"w.safetensors": b"0123456789", "a.txt": b"a"}})
    status, headers, _ = get(f"{loopback_hub.endpoint}/{REPO}/resolve/main/w.safetensors")
    assert (status, len(headers["x-xet-hash"]), headers["x-linked-size"]) == (302, 64, "10")
    assert 'rel="xet-auth"' in headers["link"]
    assert get(headers["location"], Range="bytes=8-")[2] == b"89"
    assert "x-xet-hash" not in get(f"{loopback_hub.endpoint}/{REPO}/resolve/main/a.txt")[1]


def test_somebody_is_called_when_so_many_bytes_are_out(loopback_hub: LoopbackHub, tmp_path: Path) -> None:
    on_disk = tmp_path / "weights"
    on_disk.write_bytes(bytes(1_000_000))
    loopback_hub.add_repo(REPO, {"main": {"w.safetensors": on_disk}})
    sent: list[int] = []
    loopback_hub.when_sent(
        1_300_000, lambda: sent.append(sum(one.sent_bytes for one in loopback_hub.requests if one.origin == "cdn"))
    )
    for _ in range(3):
        get(get(f"{loopback_hub.endpoint}/{REPO}/resolve/main/w.safetensors")[1]["location"])
    # Once, and within one piece of where it was asked for.
    assert len(sent) == 1 and 1_300_000 <= sent[0] < 1_300_000 + 65_536
