"""The command, run as a user runs it: against a loopback Hub, by its exit codes and its JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from branchfit import cli
from branchfit.cli.app import COMMANDS
from branchfit.demo.repo import BRANCHES, REPO, demo_repo
from branchfit.demo.server import LoopbackHub
from branchfit.prompts import ALPACA_COT, WIZARDMATH_PLAIN
from models import LLAMA_2_7B, LLAMA_2_70B, SEED_CARD_ROWS, seed_card

BEST = "gptq-4bit-32g-actorder_True"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    made = demo_repo(tmp_path_factory.mktemp("repo"))
    with LoopbackHub() as hub:
        hub.add_repo(made.repo, made.branches)
        hub.add_repo("o/gated", {"main": {"README.md": b"# gated\n"}}, gated=True)
        yield hub


@pytest.fixture
def card(tmp_path: Path) -> Path:
    path = tmp_path / "card.md"
    path.write_text(seed_card(), encoding="utf-8")
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA_2_70B), encoding="utf-8")
    return path


def branchfit(
    *arguments: str | Path,
    hub: LoopbackHub | None = None,
    code: int = 0,
    stdin: bytes = b"",
    cwd: Path | None = None,
    **environment: str,
) -> subprocess.CompletedProcess[bytes]:
    """Run the command in a process of its own and check its exit code."""
    variables = {**os.environ, **environment}
    if hub is not None:
        variables["HF_ENDPOINT"] = hub.endpoint
    done = subprocess.run(
        [sys.executable, "-m", "branchfit", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        env=variables,
        cwd=cwd,
        check=False,
    )
    assert done.returncode == code, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    return done


def document(done: subprocess.CompletedProcess[bytes]) -> Any:
    return json.loads(done.stdout)


def test_recommending_from_a_card_on_disk_prints_the_promised_document(card: Path, config: Path) -> None:
    answer = document(
        branchfit("recommend", "TheBloke/W-GPTQ", "--card", card, "--config", config, "--gpu", "24GiB@8.6x2", "--json")
    )
    assert set(answer) >= {"repo", "commit", "context_tokens", "gpus", "choice", "variants", "disagreements", "sisters"}
    assert answer["repo"] == "TheBloke/W-GPTQ" and answer["commit"] is None and answer["context_tokens"] == 4096
    assert answer["gpus"][1] == {
        "index": 1,
        "name": answer["gpus"][1]["name"],
        "total_bytes": 24 * 2**30,
        "free_bytes": 24 * 2**30,
        "compute_capability": "8.6",
        "source": "given",
    }
    choice = answer["choice"]
    assert choice["branch"] == BEST and choice["loader"] == "ExLlama" and choice["runtime"] == "exllamav2"
    assert len(choice["gpu_split_bytes"]) == 2
    assert [v["branch"] for v in answer["variants"]] == [row[0] for row in SEED_CARD_ROWS]
    for variant in answer["variants"]:
        need = variant["need_bytes"]
        assert need["weights"] + need["kv_cache"] + need["scratch"] + need["context"] == need["total"]
        assert sum(variant["need_per_gpu_bytes"]) == need["total"]
        assert all(isinstance(value, int) for value in need.values())
    assert {"repo": "TheBloke/WizardMath-70B-V1.0-GGUF", "kind": "gguf"} in answer["sisters"]


def test_nothing_fits_is_exit_code_3_with_the_document_on_stdout(card: Path, config: Path) -> None:
    done = branchfit("recommend", "--card", card, "--config", config, "--gpu", "8GiB@8.6", "--json", code=3)
    assert document(done)["choice"] is None
    assert b"short by" in done.stderr
    assert b"Nothing fits" in branchfit("recommend", "--card", card, "--config", config, "--gpu", "8GiB", code=3).stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["--gpu", "24GiB@banana"],
        ["--gpu", "0GiB"],
        ["--gpu", "none", "--gpu", "8GiB"],
        ["--gpu", "8GiB", "--loader", "llama.cpp"],
        ["--gpu", "8GiB", "--runtime", "no-such"],
        ["--gpu", "8GiB", "--prefer", "beauty"],
        ["--gpu", "8GiB", "--context", "0"],
        ["--no-such-option"],
    ],
)
def test_bad_usage_is_exit_code_2_and_says_what_is_wrong(card: Path, arguments: list[str]) -> None:
    done = branchfit("recommend", "--card", card, *arguments, code=2)
    assert arguments[-1].encode() in done.stderr or arguments[-2].encode() in done.stderr


def test_a_missing_card_a_missing_repo_and_a_lone_config_are_bad_usage(tmp_path: Path, config: Path) -> None:
    assert b"cannot be read" in branchfit("variants", "--card", tmp_path / "none.md", code=2).stderr
    assert b"name a repo" in branchfit("variants", code=2).stderr
    assert b"--card" in branchfit("variants", "o/r", "--config", config, code=2).stderr


def test_a_config_of_another_model_is_bad_usage_with_both_sizes(card: Path, tmp_path: Path) -> None:
    other = tmp_path / "seven.json"
    other.write_text(json.dumps(LLAMA_2_7B), encoding="utf-8")
    said = branchfit("recommend", "--card", card, "--config", other, "--gpu", "24GiB", code=2).stderr.decode()
    assert "another model's" in said and "35.33 GB" in said and "3.77 GB" in said


def test_a_misspelt_command_is_answered_with_the_nearest() -> None:
    assert b"Did you mean 'recommend'" in branchfit("recomend", code=2).stderr


def test_a_card_that_looks_like_markup_or_moves_the_cursor_is_shown_as_it_is(card: Path) -> None:
    text = card.read_text(encoding="utf-8").replace("CamelAI Math", "[/x] \x1b[2J [red]")
    card.write_text(text, encoding="utf-8")
    shown = branchfit("variants", "--card", card).stdout
    assert b"[/x]" in shown and b"[red]" in shown and b"\x1b" not in shown


def test_contradicting_loader_and_runtime_and_two_kinds_of_json_are_bad_usage(card: Path) -> None:
    options = ["--gpu", "24GiB", "--loader", "ExLlama", "--runtime", "gptqmodel:torch"]
    assert b"plays ExLlama" in branchfit("recommend", "--card", card, *options, code=2).stderr
    assert b"--json-lines" in branchfit("pull", "o/r", "--json", "--json-lines", code=2).stderr


@pytest.mark.parametrize(
    "arguments", [["recommend", "http://["], ["recommend", "--gpu", "8GiB", "--context", "1" + "0" * 400]]
)
def test_hostile_arguments_are_bad_usage(arguments: list[str]) -> None:
    branchfit(*arguments, code=2)


def test_every_failure_with_json_is_a_document_on_stdout(served: LoopbackHub, tmp_path: Path) -> None:
    small = branchfit("pull", REPO, "--to", tmp_path, "--gpu", "100MiB", "--json", hub=served, code=3)
    assert document(small)["error"]["kind"] == "NothingFits"
    assert document(branchfit("recommend", "--gpu", "8GiB", "--json", "--nonsense", code=2))["error"]["kind"]
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 200_000, encoding="utf-8")
    done = branchfit("recommend", "--card", deep, "--config", deep, "--gpu", "8GiB", "--json", code=1)
    assert document(done)["error"]["kind"] == "ConfigError"


def test_a_config_that_is_no_config_is_an_error_with_the_files_name(card: Path, tmp_path: Path) -> None:
    for text in ("{", "[]", "{}"):
        bad = tmp_path / "bad.json"
        bad.write_text(text, encoding="utf-8")
        assert b"bad.json" in branchfit("recommend", "--card", card, "--config", bad, "--gpu", "8GiB", code=1).stderr


def test_what_nobody_waits_for_may_end_before_the_interpreter_does(monkeypatch: pytest.MonkeyPatch) -> None:
    ended, hangs = threading.Event(), threading.Event()

    def soon() -> None:
        time.sleep(0.05)
        ended.set()

    def run() -> None:
        for work in (soon, hangs.wait):
            threading.Thread(target=work, name="branchfit-test", daemon=True).start()
        raise SystemExit(3)

    monkeypatch.setattr("branchfit.cli.app.run", run)
    with pytest.raises(SystemExit, match="3"):
        cli.main()  # comes back, whatever hangs
    assert ended.is_set()
    hangs.set()


def test_a_local_card_imports_neither_torch_nor_huggingface_hub(card: Path, config: Path) -> None:
    code = (
        "import sys; from branchfit.cli.app import app\n"
        f"app(['recommend', '--card', {str(card)!r}, '--config', {str(config)!r}, '--gpu', '24GiB@8.6x2', '--json'],"
        " standalone_mode=False)\n"
        "heavy = {'torch', 'huggingface_hub', 'transformers', 'numpy', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_variants_lists_every_branch_with_where_its_size_was_read(served: LoopbackHub) -> None:
    answer = document(branchfit("variants", REPO, "--json", hub=served))
    assert [v["branch"] for v in answer["variants"]] == list(BRANCHES)
    assert {v["size_source"] for v in answer["variants"]} == {"headers"}
    assert answer["prompt_template"] == {"name": "Alpaca-CoT", "text": ALPACA_COT.text, "source": "registry"}
    assert len(answer["commit"]) == 40
    assert answer["disagreements"] == []
    table = branchfit("variants", REPO, hub=served).stdout.decode()
    assert all(branch in table for branch in BRANCHES)
    assert "\x1b" not in table


def test_pulling_listing_verifying_and_removing_a_recommended_branch(served: LoopbackHub, tmp_path: Path) -> None:
    models = tmp_path / "my models é"
    pulled = document(branchfit("pull", REPO, "--to", models, "--gpu", "24GiB@8.6", "--json", hub=served))
    name = f"{REPO.replace('/', '_')}_{BEST}"
    assert (pulled["name"], pulled["branch"], pulled["loader"]) == (name, BEST, "ExLlama")
    assert (models / name / "model.safetensors").is_file()
    assert [path.name for path in models.iterdir()] == [name]

    again = branchfit("pull", f"{REPO}:{BEST}", "--to", models, hub=served)
    assert b"already there" in again.stdout

    (listed,) = document(branchfit("list", "--to", models, "--json"))["models"]
    assert listed["prompt_template"]["text"] == ALPACA_COT.text
    (verified,) = document(branchfit("verify", "--to", models, "--json", hub=served))["models"]
    assert (verified["ok"], verified["against"]) == (True, "hub")
    alone = branchfit("verify", "--to", models, HF_ENDPOINT="http://127.0.0.1:9")
    assert b"recorded at the pull" in alone.stdout and b"recorded at the pull" in alone.stderr

    weights = models / name / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    bad = branchfit("verify", name, "--to", models, hub=served, code=1).stdout
    assert b"model.safetensors" in bad and b"to mend it" in bad
    weights.unlink()
    branchfit("pull", f"{REPO}:{BEST}", "--to", models, hub=served)
    branchfit("verify", name, "--to", models, hub=served)

    prompted = branchfit("prompt", name, "What is 2+2?", "--to", models)
    assert prompted.stdout.decode() == ALPACA_COT.render("What is 2+2?")

    assert b"give --yes" in branchfit("remove", name, "--to", models, "--json", code=2).stderr
    branchfit("remove", name, "--to", models, stdin=b"n\n", code=1)
    assert weights.is_file()
    freed = document(branchfit("remove", f"{REPO}:{BEST}", "--to", models, "--yes", "--json"))
    assert freed["freed_bytes"] > 1_000_000
    assert list(models.iterdir()) == []


def test_a_lock_that_cannot_be_read_is_no_success_and_two_names_are_never_mixed_up(tmp_path: Path) -> None:
    made = demo_repo(tmp_path / "repo")
    models = tmp_path / "m"
    with LoopbackHub() as hub:
        hub.add_repo("a/b_c", {"main": made.branches["main"]})
        branchfit("pull", "a/b_c:main", "--to", models, hub=hub)
    assert b"no installed model" in branchfit("remove", "a_b/c", "--yes", "--to", models, code=4).stderr
    (models / "a_b_c" / "branchfit.lock.json").write_text("{", encoding="utf-8")
    assert b"cannot be verified" in branchfit("verify", "--to", models, code=1).stdout
    assert b"no folder" in branchfit("verify", "--to", tmp_path / "none", code=2).stderr


@pytest.mark.parametrize("asked", [REPO, f"{REPO}:{BEST}"])
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_pull_asks_for_each_branch_s_files_once_and_then_not_again(
    served: LoopbackHub, tmp_path: Path, asked: str, dry: tuple[str, ...]
) -> None:
    def listings() -> list[str]:
        served.requests.clear()
        branchfit("pull", asked, "--to", tmp_path / "m", "--gpu", "24GiB@8.6", *dry, hub=served, **cache)
        return [request.path for request in served.requests if "blobs=true" in request.path]

    cache = {"BRANCHFIT_CACHE": str(tmp_path / "cache")}
    first = listings()
    assert len(first) == len(set(first)) == (len(BRANCHES) if asked == REPO else 1)
    assert listings() == []


def test_a_dry_run_says_what_would_come_and_changes_nothing(served: LoopbackHub, tmp_path: Path) -> None:
    models = tmp_path / "models"
    plan = document(branchfit("pull", f"{REPO}:main", "--to", models, "--dry-run", "--json", hub=served))
    assert plan["fetch_bytes"] == plan["total_bytes"] > 1_000_000
    assert b"model.safetensors" in branchfit("pull", f"{REPO}:main", "--to", models, "--dry-run", hub=served).stdout
    assert not models.exists()


def test_events_come_as_one_json_object_a_line(served: LoopbackHub, tmp_path: Path) -> None:
    done = branchfit("pull", f"{REPO}:main", "--to", tmp_path / "m", "--json-lines", hub=served)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[0]["event"] == "started"
    assert events[-1]["event"] == "finished"
    assert {"file_verified", "progress"} <= {event["event"] for event in events}


def test_an_unknown_repo_and_branch_are_exit_code_4_and_the_nearest_are_named(served: LoopbackHub) -> None:
    done = branchfit("recommend", "o/nothing-here", "--json", hub=served, code=4)
    assert document(done)["error"]["kind"] == "RepoNotFound"
    done = branchfit("pull", f"{REPO}:gptq-4bit-32g-actorder_Tru", hub=served, code=4)
    assert BEST.encode() in done.stderr
    assert b"no installed model" in branchfit("verify", "nothing_here", code=4).stderr


def test_a_gated_repo_is_exit_code_5_and_says_what_to_do(served: LoopbackHub) -> None:
    done = branchfit("recommend", "o/gated", hub=served, code=5)
    assert b"accept its terms" in done.stderr and b"HF_TOKEN" in done.stderr


def test_without_network_the_last_answer_is_used_and_its_date_said(tmp_path: Path) -> None:
    made = demo_repo(tmp_path / "repo")
    with LoopbackHub() as hub:
        hub.add_repo(made.repo, made.branches)
        endpoint = hub.endpoint
        online = document(branchfit("variants", REPO, "--json", HF_ENDPOINT=endpoint))
    offline = document(branchfit("variants", REPO, "--json", HF_ENDPOINT=endpoint))
    assert offline["variants"] == online["variants"]
    assert any("refused" in note and "the Hub's answer of" in note and "UTC" in note for note in offline["notes"])
    done = branchfit("variants", "o/never-asked", HF_ENDPOINT=endpoint, code=1)
    assert b"no usable answer" in done.stderr


def test_a_second_pull_without_network_does_nothing_and_says_so(tmp_path: Path) -> None:
    made = demo_repo(tmp_path / "repo")
    with LoopbackHub() as hub:
        hub.add_repo(made.repo, made.branches)
        endpoint = hub.endpoint
        branchfit("pull", f"{REPO}:main", "--to", tmp_path / "m", HF_ENDPOINT=endpoint)
    again = branchfit("pull", f"{REPO}:main", "--to", tmp_path / "m", HF_ENDPOINT=endpoint)
    assert b"already there (the Hub could not be asked" in again.stdout
    branchfit("pull", f"{REPO}:gptq-4bit-32g-actorder_True", "--to", tmp_path / "m", HF_ENDPOINT=endpoint, code=1)


def test_a_readme_that_is_no_text_costs_only_the_readme(tmp_path: Path) -> None:
    made = demo_repo(tmp_path / "repo")
    with LoopbackHub() as hub:
        hub.add_repo(made.repo, {"main": {**made.branches["main"], "README.md": b"\0\1\2" * 50}})
        answer = document(branchfit("recommend", REPO, "--gpu", "24GiB@8.6", "--json", hub=hub))
    assert answer["choice"]["branch"] == "main"
    assert any("README.md" in note for note in answer["notes"])


def test_a_prompt_takes_standard_input_byte_for_byte() -> None:
    raw = "a\n\n{instruction}\0é\n".encode()
    done = branchfit("prompt", "--template", "alpaca-cot", stdin=raw)
    assert done.stdout == ALPACA_COT.render(raw.decode()).encode()
    plain = branchfit("prompt", "o/any-model", "hi", "--template", "Alpaca-CoT", "--plain")
    assert plain.stdout.decode() == WIZARDMATH_PLAIN.render("hi")
    piped = branchfit("prompt", "o/any-model", "--template", "Alpaca-CoT", stdin=b"2+2")
    assert piped.stdout.decode() == ALPACA_COT.render("2+2")
    assert b"not UTF-8" in branchfit("prompt", "--template", "Alpaca-CoT", stdin=b"\xff", code=1).stderr
    assert b"Alpaca-CoT" in branchfit("prompt", "--template", "nonsense", code=1).stderr
    assert b"--system" in branchfit("prompt", "--template", "Alpaca-CoT", "--system", "x", stdin=b"hi", code=1).stderr
    assert b"cannot be read" in branchfit("prompt", "--card", "none.md", stdin=b"hi", code=2).stderr


def test_a_prompt_takes_its_template_from_a_repos_card(served: LoopbackHub) -> None:
    assert branchfit("prompt", REPO, "hi", hub=served).stdout.decode() == ALPACA_COT.render("hi")


def test_the_doctor_says_what_it_found(tmp_path: Path) -> None:
    found = document(branchfit("doctor", "--json"))
    assert {runtime["runtime"] for runtime in found["runtimes"]} >= {"exllamav2", "gptqmodel:torch", "auto_gptq"}
    assert all(runtime["why"] for runtime in found["runtimes"])
    assert b"Runtimes in this Python" in branchfit("doctor").stdout


def test_the_demo_does_the_whole_job_without_network_and_leaves_nothing(tmp_path: Path) -> None:
    dead = "http://127.0.0.1:9"
    scratch = {"TMPDIR": str(tmp_path), "TEMP": str(tmp_path)}
    done = branchfit("demo", http_proxy=dead, https_proxy=dead, no_proxy="127.0.0.1", **scratch)
    text = done.stdout.decode()
    assert f"-> {BEST} is the best quality that ExLlama can run here" in text
    assert "pulled and verified" in text and "ok, 8 files" in text
    assert ALPACA_COT.render("What is 7 * 8?") in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    assert b"Usage:" in branchfit(command, "--help").stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_there_for_the_usual_shells(shell: str) -> None:
    assert b"_BRANCHFIT_COMPLETE" in branchfit("completion", shell).stdout


def test_the_models_folder_is_the_webuis_own_inside_a_webui(served: LoopbackHub, tmp_path: Path) -> None:
    for newer, folder in ((False, "models"), (True, "user_data/models")):
        root = tmp_path / str(newer)
        (root / "modules").mkdir(parents=True)
        (root / "modules" / "extensions.py").touch()
        (root / "server.py").touch()
        (root / folder).mkdir(parents=True)
        answer = document(branchfit("list", "--json", cwd=root / "modules"))
        assert Path(answer["folder"]) == root / folder


def test_output_that_nobody_reads_to_the_end_is_no_error(card: Path, config: Path) -> None:
    options = ["--card", str(card), "--config", str(config), "--gpu", "80GiB", "--json"]
    command = [sys.executable, "-m", "branchfit", "recommend", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()


def test_an_interrupted_pull_says_how_far_it_came_and_the_next_goes_on(tmp_path: Path) -> None:
    made = demo_repo(tmp_path / "repo")
    with LoopbackHub() as hub:
        hub.add_repo(made.repo, made.branches)
        hub.slow_down(400_000, matching=r"cdn|model\.safetensors")
        command = [
            sys.executable,
            "-m",
            "branchfit",
            "pull",
            f"{REPO}:main",
            "--to",
            str(tmp_path / "m"),
            "--json-lines",
        ]
        environment = {**os.environ, "HF_ENDPOINT": hub.endpoint}
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
            assert process.stdout is not None and process.stderr is not None
            for line in process.stdout:
                event = json.loads(line)
                if event["event"] == "progress" and event["path"] == "model.safetensors":
                    break
            process.send_signal(signal.SIGINT)
            said = process.stderr.read().decode()
        assert process.returncode == 130
        assert "interrupted at" in said and "Traceback" not in said
        assert not (tmp_path / "m").exists() or list((tmp_path / "m").iterdir()) == []
        hub.clear_faults()
        done = branchfit("pull", f"{REPO}:main", "--to", tmp_path / "m", hub=hub)
    assert b"pulled and verified" in done.stdout
