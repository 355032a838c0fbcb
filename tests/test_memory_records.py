"""The file of what loads took: nothing lost between processes, nothing believed that does not read, never an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from branchfit.memory import records as module
from branchfit.memory.records import MOST_LINES, Card, Record, RecordFile, from_line, stripped, to_line
from branchfit.shape import read_shape
from branchfit.variants import Variant
from models import LLAMA_2_7B, MIXTRAL_8X7B

GIB = 2**30
SEVEN = Variant("main", "c" * 40, bits=4, group_size=128, act_order=True, shape=read_shape(LLAMA_2_7B))
CARD = Card("NVIDIA GeForce RTX 3090", 24 * GIB, 32, 6 * GIB, 5 * GIB, 600 * 2**20, GIB, GIB)
RECORD = Record(
    at="2026-01-02T03:04:05+00:00", load="a", process="webui", runtime="exllamav2", version="0.3.2", torch="2.8.0",
    driver="580.1", kind="cuda", source="nvml", variant=stripped(SEVEN), context_tokens=4096, cards=(CARD,),
    prompt_tokens=500, read_tokens=700,
)  # fmt: skip

LINE = to_line(replace(RECORD, load="c"))


@pytest.fixture
def file(tmp_path: Path) -> RecordFile:
    return RecordFile(tmp_path / "memory")


def test_it_lies_in_branchfits_cache_folder(own_folders: Path) -> None:
    assert RecordFile().path == own_folders / "branchfit-cache" / "memory" / "records.jsonl"


@pytest.mark.parametrize("config", [LLAMA_2_7B, MIXTRAL_8X7B])
def test_a_record_comes_back_as_it_was_written(config: dict[str, object], file: RecordFile) -> None:
    record = replace(RECORD, variant=replace(RECORD.variant, shape=read_shape(config), size_bytes=3_900_000_000))
    assert file.append(record)
    assert file.read() == (record,)
    assert "main" not in file.path.read_text(), "what it was called is nobody's business"


def test_what_was_told_of_the_host_comes_back_too(file: RecordFile) -> None:
    record = replace(RECORD, triton=False, expandable=False, plain_attention=True)
    assert file.append(record) and file.read() == (record,)
    assert from_line(LINE.replace(b'"expandable":true,', b"")).expandable


def test_a_loads_last_line_counts_and_has_the_last_place(file: RecordFile) -> None:
    for record in (RECORD, replace(RECORD, load="b"), replace(RECORD, read_tokens=900)):
        assert file.append(record)
    assert [(one.load, one.read_tokens) for one in file.read()] == [("b", 700), ("a", 900)]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"format": 1}',
        LINE[:200],
        LINE.replace(b'"format":1', b'"format":2'),
        LINE.replace(b'"layers":32', b'"layers":true'),
        LINE.replace(b'"read_tokens":700', b'"read_tokens":-700'),
        LINE.replace(b'"read_tokens":700', b'"read_tokens":7'),
        LINE.replace(b'"load":"c"', b'"load":1'),
        LINE.replace(b'"bits":4', b'"bits":NaN'),
        LINE.replace(b'"experts":0', b'"experts":1000000000000'),
        LINE.replace(b'"hidden":4096', b'"hidden":"4096"'),
        LINE.replace(b'"torch":', b'"tensor":'),
        LINE.replace(b'"group_size":128', b'"group_size":0'),
        LINE.replace(b'"bits":4', b'"bits":0'),
        LINE.replace(b'"layers":32,"heads"', b'"layers":0,"heads"'),
        LINE.replace(b'"cache":"fp16"', b'"cache":"q1"'),
        LINE.replace(b'"cards":[', b'"cards":[' + (LINE.split(b'"cards":[')[1].split(b"]")[0] + b",") * 100),
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_a_broken_line_is_skipped_and_the_others_count(line: bytes, file: RecordFile) -> None:
    file.append(RECORD)
    with file.path.open("ab") as stream:
        stream.write(line + b"\n")
    file.append(replace(RECORD, load="b"))
    assert file.read() == (RECORD, replace(RECORD, load="b"))


def test_of_a_file_with_too_many_lines_the_last_are_read(file: RecordFile) -> None:
    file.append(RECORD)
    with file.path.open("ab") as stream:
        stream.write(to_line(replace(RECORD, load="first")) + b"{}\n" * MOST_LINES + to_line(replace(RECORD, load="b")))
    assert [one.load for one in file.read()] == ["b"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="it needs named pipes, which this system has not")
def test_a_pipe_in_its_place_is_not_waited_for(file: RecordFile) -> None:
    file.folder.mkdir(parents=True)
    os.mkfifo(file.path)
    assert file.read() == ()


def test_a_line_that_was_cut_off_takes_nobody_with_it(file: RecordFile) -> None:
    file.append(RECORD)
    with file.path.open("ab") as stream:
        stream.write(to_line(replace(RECORD, load="killed"))[:300])
    file.append(replace(RECORD, load="b"))
    assert [one.load for one in file.read()] == ["a", "b"]


def test_some_hundred_lines_stay_the_newest_of_each_load(file: RecordFile) -> None:
    file.folder.mkdir(parents=True)
    lines = [to_line(replace(RECORD, load=str(number // 2))) for number in range(MOST_LINES)]
    file.path.write_bytes(b"".join(lines))
    file.append(replace(RECORD, load="newest"))
    kept = [one.load for one in file.read()]
    assert len(kept) == module.KEPT_LOADS and kept[-2:] == [str(MOST_LINES // 2 - 1), "newest"]
    assert len(file.path.read_bytes().splitlines()) == module.KEPT_LOADS
    assert sorted(path.name for path in file.folder.iterdir()) == ["records.jsonl", "records.lock"]


def test_a_file_of_any_size_is_not_read_and_begun_anew(file: RecordFile) -> None:
    file.folder.mkdir(parents=True)
    file.path.write_bytes(to_line(RECORD) * (module.MAX_BYTES // len(to_line(RECORD)) + 1))
    assert file.read() == ()
    assert file.append(replace(RECORD, load="b"))
    assert [one.load for one in file.read()] == ["b"]


def test_two_processes_at_once_lose_nothing(file: RecordFile) -> None:
    code = (
        "import sys\n"
        "from dataclasses import replace\n"
        "from pathlib import Path\n"
        "from branchfit.memory.records import RecordFile, from_line\n"
        "record = from_line(sys.stdin.buffer.read())\n"
        "for number in range(40):\n"
        "    assert RecordFile(Path(sys.argv[1])).append(replace(record, load=f'{sys.argv[2]}-{number}'))\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(file.folder), name], stdin=subprocess.PIPE)
        for name in ("one", "two")
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(to_line(RECORD))
        writer.stdin.close()
    assert [writer.wait() for writer in writers] == [0, 0]
    assert len(file.read()) == 80 == len(file.path.read_bytes().splitlines())


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("")
    nowhere = RecordFile(tmp_path / "a file" / "memory")
    assert not nowhere.append(RECORD)
    assert nowhere.read() == ()
    assert nowhere.forget() == 0
    if os.name == "posix" and os.geteuid() != 0:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o500)
        assert not RecordFile(closed).append(RECORD)


def test_forgetting_leaves_no_record(file: RecordFile) -> None:
    assert file.forget() == 0
    file.append(RECORD)
    file.append(replace(RECORD, load="b"))
    assert file.forget() == 2
    assert file.read() == () and not file.path.exists()


def test_what_a_record_says_can_be_read_by_people() -> None:
    said = json.loads(to_line(RECORD))
    assert said["cards"][0]["peak_bytes"] == 6 * GIB
    assert said["variant"]["shape"]["hidden"] == 4096
    assert from_line(to_line(RECORD)) == RECORD
