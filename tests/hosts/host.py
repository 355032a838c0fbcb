"""Start and stop one real webui on CPU, in a copy of its folder. What it can do is found by looking at its files."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .model import NAME

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
EXTENSION = "branchfit"
HIJACKER = "hijacker"
REPLY_TOKENS = 4
START_S = 180
"""Longest start waited for; 5 s to 20 s were seen on two cores."""


class NotStarted(RuntimeError):
    """A webui ended, or did not answer, before it was up."""


@dataclass(frozen=True)
class Source:
    """A webui's folder and the Python it runs with."""

    name: str
    folder: Path
    python: Path

    def text(self, path: str) -> str:
        file = self.folder / path
        return file.read_text(encoding="utf-8") if file.is_file() else ""

    def has_flag(self, flag: str) -> bool:
        shared = self.text("modules/shared.py")
        return f"'{flag}'" in shared or f'"{flag}"' in shared

    @property
    def user_data(self) -> str:
        """The folder of models and settings, from v3.0 on `user_data`."""
        return "user_data" if (self.folder / "user_data").is_dir() else "."

    @property
    def extensions(self) -> str:
        """Where a user's extensions stand: `user_data/extensions` from v3.7 on."""
        own = re.search(r"user_data(_dir)? ?/ ?'extensions'|user_data/extensions", self.text("modules/utils.py"))
        return "user_data/extensions" if own else "extensions"

    @property
    def is_legacy(self) -> bool:
        """The API of 2023: extensions/api on two ports, extensions/openai on a third."""
        return (self.folder / "extensions/api/blocking_api.py").is_file()

    @property
    def counts_first(self) -> bool:
        """Chat completions build the webui's own prompt first, to count it, and fail where that does not fit (v3.x)."""
        return (
            "token_count = len(encode(prompt)" in self.text("extensions/openai/completions.py") and not self.is_legacy
        )

    @property
    def gives_logits(self) -> bool:
        """Before v4, asking for logits with samplers over the API ends in KeyError: 'stream'."""
        return "setdefault('stream'" in self.text("modules/logits.py")

    @property
    def has_messages(self) -> bool:
        return "/v1/messages" in self.text("modules/api/script.py")


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


class Running:
    """One start of a webui. Use as a context manager: the copy and the whole process group go at the end."""

    def __init__(
        self, source: Source, model: Path, work: Path, out: Path, *, lock: bool, hijacker: bool = False,
        pages: bool = True,
    ) -> None:  # fmt: skip
        self.source, self.model, self.out = source, model, out
        self.lock, self.hijacker, self.pages = lock, hijacker, pages
        self.copy = work / "host"
        self.home = work / "home"
        self.recordings, self.log = out / "entered.jsonl", out / "server.log"
        self.page_port, self.api_port, self.ws_port, self.openai_port = (free_port() for _ in range(4))
        self.process: subprocess.Popen[bytes] | None = None

    # The folder

    def _prepare(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        self.home.mkdir(parents=True)
        left_out = shutil.ignore_patterns(".git", "__pycache__", "logs")
        shutil.copytree(self.source.folder, self.copy, symlinks=True, ignore=left_out)
        data = self.copy / self.source.user_data
        shutil.rmtree(data / "models", ignore_errors=True)
        shutil.copytree(self.model, data / "models" / NAME)
        settings: dict[str, Any] = {
            "max_new_tokens": REPLY_TOKENS,
            "auto_max_new_tokens": False,
            "mode": "instruct",
            "show_two_notebook_columns": False,
        }
        (data / "settings.yaml").write_text(json.dumps(settings))  # JSON is YAML
        extensions = self.copy / self.source.extensions
        if self.lock:
            (extensions / EXTENSION).mkdir(parents=True)
            shutil.copy(CHECKOUT / "extension" / "script.py", extensions / EXTENSION)
        if self.hijacker:
            (extensions / HIJACKER).mkdir(parents=True)
            shutil.copy(HERE / "hijacker" / "script.py", extensions / HIJACKER)

    def _flags(self) -> list[str]:
        enabled = [HIJACKER] * self.hijacker + [EXTENSION] * self.lock + ["openai"] * self.source.is_legacy
        wanted: dict[str, list[str]] = {
            "--model": [NAME],
            "--loader": ["Transformers"],
            "--cpu": [],
            "--api": [],
            "--listen-port": [str(self.page_port)],
            "--api-port": [str(self.api_port)],
            "--api-blocking-port": [str(self.api_port)],
            "--api-streaming-port": [str(self.ws_port)],
        }
        if enabled:
            wanted["--extensions"] = enabled
        if not self.pages:
            wanted["--nowebui"] = []
        return [part for flag, values in wanted.items() if self.source.has_flag(flag) for part in (flag, *values)]

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "XDG_"))}
        return kept | {
            "HOME": str(self.home),
            "PYTHONPATH": f"{CHECKOUT / 'manager'}{os.pathsep}{CHECKOUT / 'extension'}",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OPENEDAI_PORT": str(self.openai_port if self.source.is_legacy else self.api_port),
            "HF_HUB_OFFLINE": "1",
            "GRADIO_ANALYTICS_ENABLED": "False",
        }

    # Start and stop

    def __enter__(self) -> Running:
        self._prepare()
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _command(self) -> list[str]:
        recorder = [str(HERE / "recorder.py"), str(self.recordings.resolve())]
        return [*recorder, str(self.model.resolve() / "tokenizer.json"), "server.py", *self._flags()]

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(self.source.python), *self._command()], cwd=self.copy, env=self._environment(), stdout=log,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self.wait_until_up()

    def wait_until_up(self, api: str | None = None) -> None:
        """`api` is an address to ask instead of the OpenAI one, which v1.x has only with its extension."""
        addresses = [api or f"{self.openai}/v1/models"] + [f"{self.page}/"] * self.pages
        end = time.monotonic() + START_S
        for address in addresses:
            while not _answers(address):
                if self.process is None or self.process.poll() is not None or time.monotonic() > end:
                    raise NotStarted(f"{self.source.name} did not start; its log ends:\n{self.log_tail()}")
                time.sleep(0.2)

    def stop(self) -> None:
        """End the whole process group."""
        if self.process is not None:
            for sent in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(self.process.pid, sent)
                    self.process.wait(5)
                except ProcessLookupError:
                    break
                except subprocess.TimeoutExpired:
                    continue
        self.process = None

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.rmtree(self.home, ignore_errors=True)

    # What it gives

    @property
    def page(self) -> str:
        return f"http://127.0.0.1:{self.page_port}"

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def openai(self) -> str:
        return f"http://127.0.0.1:{self.openai_port}" if self.source.is_legacy else self.api

    def entered(self) -> list[dict[str, Any]]:
        """Every recording so far, oldest first."""
        if not self.recordings.exists():
            return []
        return [json.loads(line) for line in self.recordings.read_text(encoding="utf-8").splitlines()]

    def log_tail(self, lines: int = 25) -> str:
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
