"""One run of a stand-in: started as the host's server.py does, and taken out of this process again."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from standin import recording
from standin.web import Answer, FastAPI, Header, HTTPException, post

HERE = Path(__file__).resolve().parent
SCRIPT = HERE.parent.parent / "extension" / "script.py"
ERAS = ("v1", "v3", "v4")
OWN_SAMPLING = {"v1": "ExllamaModel", "v3": "Exllamav2Model", "v4": "Exllamav3Model"}
LOADERS = {
    "own": OWN_SAMPLING,
    "hf": dict.fromkeys(ERAS, "LlamaForCausalLM"),
    "llama.cpp": dict.fromkeys(ERAS, "LlamaServer"),
}

Extension = str | Path | tuple[str, str]
"""An extension to put into the host: this repository's ("branchfit"), a folder, or (name, source of script.py)."""

_HOSTS_OWN = ("modules", "extensions", "user_data", "server", "gradio", "fastapi", "branchfit_webui")


class Session:
    """What a test does with a running stand-in. The host reaches it as `shared.session`."""

    def __init__(self, era: str, root: Path, context: int, loader: str, adds_bos: bool) -> None:
        self.era, self.root, self.context = era, root, context
        self.model_class, self.adds_bos = LOADERS[loader][era], adds_bos
        self.recorder = recording.Recorder()
        self.heard: list[str] = []
        self.doors: list[str] = []
        self.settled, self.closing = threading.Event(), threading.Event()

    # What the model saw and says

    @property
    def calls(self) -> list[recording.Seen]:
        return self.recorder.calls

    @property
    def seen(self) -> list[str]:
        """The texts that entered the model, without BOS, oldest first."""
        return [call.text for call in self.calls]

    def answer_with(self, reply: str | Callable[[str], str]) -> None:
        self.recorder.answer = reply if callable(reply) else lambda prompt: reply

    # The host

    @property
    def shared(self) -> Any:
        return sys.modules["modules.shared"]

    @property
    def settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = self.shared.settings
        return settings

    def module(self, name: str) -> Any:
        """A module as this host has it: the extension's own are this session's, too."""
        return importlib.import_module(name)

    def state(self, **overrides: Any) -> dict[str, Any]:
        """What the page sends with a button: its settings, and the chat so far."""
        state: dict[str, Any] = {
            **{name: value for name, value in self.settings.items() if not name.startswith("prompt-")},
            "do_sample": True,
            "temperature": 0.7,
            "top_p": 0.9,
            "top_k": 20,
            "repetition_penalty": 1.0,
            "guidance_scale": 1,
            "name2": "AI",
            "context": "The following is a conversation with an AI.",
            "greeting": "",
            "character_menu": "Assistant",
            "mode": "instruct",
            "history": {"internal": [], "visible": []},
        }
        if self.era == "v1":
            loaded = self.module("modules.chat").load_character("Alpaca", "", "", instruct=True)
            names = ("name1_instruct", "name2_instruct", "", "", "context_instruct", "turn_template")
            state.update({name: value for name, value in zip(names, loaded, strict=True) if name})
        else:
            state["history"]["metadata"] = {}
        return state | overrides

    def press(self, button: str, *inputs: Any) -> list[Any]:
        """Everything the page is sent after a button is pressed."""
        outputs: list[Any] = self.shared.gradio[button].press(*inputs)
        return outputs

    def post(self, path: str, sent: Mapping[str, Any]) -> Answer:
        """What an API client gets."""
        if self.era == "v1":
            door = "extensions.api.blocking_api" if path.startswith("/api/") else "extensions.openai.script"
            return post(self.module(door).Handler, path, dict(sent))
        answer: Answer = self.app.ask("POST", path, dict(sent))
        return answer

    def get(self, path: str, **headers: str) -> Answer:
        answer: Answer = self.app.ask("GET", path, headers=headers)
        return answer

    @property
    def app(self) -> Any:
        return self.module("modules.api.script" if self.era == "v4" else "extensions.openai.script").app

    def load_model(self, name: str) -> None:
        """What the Model tab does."""
        list(self.module("modules.ui_model_menu").load_model_wrapper(name, None))

    def make_model(self, name: str, loader: str | None) -> tuple[Any, Any]:
        return recording.build(self.model_class, self.recorder, self.context, self.adds_bos)

    def restart_ui(self) -> None:
        """What "Apply flags and restart the UI" does."""
        self.module("server").create_interface()

    def open(self, run_server: Callable[[], None], in_front: bool) -> None:
        """How an era's API is started: beside the page, or in the foreground where there is none."""
        if in_front:
            run_server()
        else:
            threading.Thread(target=run_server, daemon=True).start()

    def serve(self, door: str) -> None:
        """A server's own loop: it does not return while the session runs."""
        self.doors.append(door)
        in_front = threading.current_thread().name == "server.py"
        if in_front:
            self.settled.set()
        self.closing.wait()
        if in_front:  # nothing that stands behind it may run when the test is over
            raise SystemExit

    def start(self, create: Callable[[], None]) -> None:
        """Run the host's main thread until it waits for clients. Raises what would have ended the server."""
        failed: list[BaseException] = []

        def run() -> None:
            try:
                create()
            except SystemExit:
                pass
            except BaseException as error:  # noqa: BLE001 (raised again below)
                failed.append(error)
            self.settled.set()

        threading.Thread(target=run, name="server.py", daemon=True).start()
        assert self.settled.wait(30)
        if failed:
            raise failed[0]


@contextmanager
def stand_in(
    era: str,
    extensions: Sequence[Extension] = ("branchfit",),
    *,
    tmp_path: Path,
    model: str | None = "WizardMath-tiny",
    context: int = 2048,
    loader: str = "hf",
    ui: bool = True,
    enabled_by: str = "flags",
    settings: Mapping[str, Any] | None = None,
    model_files: Mapping[str, str] | None = None,
    adds_bos: bool = True,
    before_load: Callable[[Session], None] | None = None,
) -> Iterator[Session]:
    """A running host of `era` (v1, v3, v4) with `extensions` in that order.

    `loader` is "hf" (token ids go to the model), "own" (ExLlama's: text goes) or "llama.cpp". `enabled_by` is
    "flags" or "settings", which differ without a page (`ui=False`; v1 always has one). `before_load` is called
    when the host's modules are there and no extension is.
    """
    root = tmp_path / f"webui-{era}"
    shutil.copytree(HERE / era, root, ignore=shutil.ignore_patterns("__pycache__"))
    names = [
        _place(extension, root / ("extensions" if era == "v1" else "user_data/extensions")) for extension in extensions
    ]
    session = Session(era, root, context, loader, adds_bos)
    with _own_modules(root, era, ui):
        try:
            shared = importlib.import_module("modules.shared")
            shared.session, shared.args.nowebui = session, not ui
            shared.settings.update({"truncation_length": context, **(settings or {})})
            _choose(shared, era, names, enabled_by)
            folder = Path(shared.args.model_dir) / str(model)
            folder.mkdir(parents=True)
            for name, text in {"config.json": '{"model_type": "llama"}', **(model_files or {})}.items():
                (folder / name).write_text(text, encoding="utf-8")
            loaded = importlib.import_module("modules.extensions")
            loaded.available_extensions = [*names, "openai", "api"]
            shared.args.max_seq_len = context
            if model is not None:
                shared.model_name = model
                shared.model, shared.tokenizer = importlib.import_module("modules.models").load_model(model)
            shared.generation_lock = threading.Lock()
            if before_load is not None:
                importlib.import_module("modules.text_generation")
                before_load(session)
            session.start(
                importlib.import_module("server").create_interface if ui else lambda: _without_page(shared, loaded)
            )
            yield session
        finally:
            session.closing.set()


def _choose(shared: Any, era: str, names: list[str], enabled_by: str) -> None:
    """Which extensions are loaded, in the order in which this era puts its API among them."""
    flags = names if enabled_by == "flags" else []
    shared.settings["default_extensions"] = [] if enabled_by == "flags" else names
    shared.args.extensions, shared.args.api = [*flags], True
    if era == "v1":
        shared.args.extensions.append("openai")
        shared.add_extension("api")
    elif era == "v3":
        shared.add_extension("openai", last=True)
    shared.args.extensions += [name for name in shared.settings["default_extensions"] if name not in flags]


def _without_page(shared: Any, loaded: Any) -> None:
    """The end of server.py with --nowebui."""
    if shared.args.extensions:
        loaded.load_extensions()
    if "modules.api" in sys.modules or (Path("modules") / "api").is_dir():
        importlib.import_module("modules.api.script").setup()


def _place(extension: Extension, folder: Path) -> str:
    if isinstance(extension, tuple):
        name, source = extension
    elif isinstance(extension, Path):
        name, source = extension.name, (extension / "script.py").read_text(encoding="utf-8")
    else:
        name, source = extension, SCRIPT.read_text(encoding="utf-8")
    (folder / name).mkdir(parents=True)
    (folder / name / "script.py").write_text(source, encoding="utf-8")
    return name


@contextmanager
def _own_modules(root: Path, era: str, ui: bool) -> Iterator[None]:
    """This process with the host's folder as its own, and with nothing of it afterwards."""

    def ours() -> list[str]:
        return [name for name in sys.modules if name.split(".")[0] in _HOSTS_OWN or name.startswith("user_ext_")]

    before, folder, path, arguments = (
        {name: sys.modules.pop(name) for name in ours()},
        Path.cwd(),
        [*sys.path],
        sys.argv,
    )
    sys.path.insert(0, str(root))
    sys.argv = ["server.py"]
    os.chdir(root)
    gradio: Any = types.ModuleType("gradio")
    gradio.Error = type("Error", (Exception,), {})
    if era != "v1":  # gradio 3.33 has none, and shows an error's words only where the host asked for it
        gradio.Info = lambda message: None
    if not ui and era == "v4":  # this era asks for gradio only where a page is built
        gradio = None
    sys.modules["gradio"] = gradio
    if era != "v1":
        fastapi: Any = types.ModuleType("fastapi")
        fastapi.FastAPI, fastapi.HTTPException, fastapi.Header = FastAPI, HTTPException, Header
        sys.modules["fastapi"] = fastapi
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for name in ours():
            del sys.modules[name]
        sys.modules.update(before)
        sys.path[:], sys.argv = path, arguments
        os.chdir(folder)
        importlib.invalidate_caches()
