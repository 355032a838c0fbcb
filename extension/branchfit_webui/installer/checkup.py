"""What of BranchFit is installed in a webui, enabled, loadable, and what is missing: `branchfit doctor --webui`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..loading.offers import HOST_LOADERS
from . import flags_file, settings_file, wheels
from .errors import SetupError
from .files import read
from .finding import Found
from .gptq import offer
from .host_python import HostPython, ask, run
from .layout import EXTENSION, Layout, read_layout
from .record import Record
from .setting_up import PACKAGES, find_python, import_problem

__all__ = ["Checkup", "check_webui"]

_LOADERS = {
    "modules/llama_cpp_server.py": "llama.cpp",
    "modules/llamacpp_model.py": "llama.cpp",
    "modules/transformers_loader.py": "Transformers",
    "modules/exllamav3.py": "ExLlamav3",
    "modules/exllamav2.py": "ExLlamav2",
    "modules/exllama.py": "ExLlama",
    "modules/AutoGPTQ_loader.py": "AutoGPTQ",
    "modules/GPTQ_loader.py": "GPTQ-for-LLaMa",
    "modules/tensorrt_llm.py": "TensorRT-LLM",
}
"""The modules that play the loaders of load_func_map in modules/models.py, v1.5 to v4.7.3."""

_RUNTIMES = """
import json, sys
sys.path += sys.argv[1:]
from branchfit.loaders import check_host, this_host
print(json.dumps([vars(v) for v in check_host(this_host())]))
"""


@dataclass(frozen=True)
class Checkup:
    """The findings. `missing` are (what is missing, what mends it); all is well where it is empty."""

    layout: Layout
    running: int | None
    python: Path | None
    version: str | None
    """Of the branchfit that the webui would import, None where there is none."""
    installed_in: str
    script: str
    """ "current", "other" (older, or changed) or "missing"."""
    enabled: dict[str, bool]
    """Each file that can enable it, and whether it does."""
    loaders: tuple[str, ...]
    runtimes: tuple[dict[str, Any], ...]
    gptq: str
    missing: tuple[tuple[str, str], ...]

    def document(self) -> dict[str, Any]:
        """For --json."""
        return {
            "root": str(self.layout.root),
            "kind": self.layout.kind,
            "running_pid": self.running,
            "python": str(self.python) if self.python else None,
            "branchfit": self.version,
            "installed_in": self.installed_in,
            "extension": str(self.layout.folder),
            "script": self.script,
            "enabled": self.enabled,
            "loaders": list(self.loaders),
            "runtimes": list(self.runtimes),
            "gptq": self.gptq,
            "missing": [{"what": what, "remedy": remedy} for what, remedy in self.missing],
        }


def check_webui(found: Found, python: Path | None = None) -> Checkup:
    """Look at a webui without changing anything. Raises SetupError where its folder cannot be read."""
    layout = read_layout(found.root, found.user_data)
    remedy = f"branchfit setup --webui '{layout.root}'"
    missing: list[tuple[str, str]] = []
    host: HostPython | None = None
    try:
        host = ask(find_python(layout, python, found.python), layout.kind)
    except SetupError as error:
        missing.append((str(error), f"{remedy} --python PYTHON"))
    version, place, problem = _installed(layout, host)
    if host is not None and version is None:
        missing.append((f"branchfit is not installed in {host.executable}", remedy))
    elif version is not None and version != wheels.version():
        missing.append((f"branchfit {version} is there, {wheels.version()} is here", remedy))
    if problem:
        missing.append((f"the webui's Python cannot import it: {problem}", remedy))
    script = read(layout.folder / "script.py")
    state = "missing" if script is None else "current" if script == wheels.host_script() else "other"
    if state != "current":
        words = "is missing" if state == "missing" else "is not the one of this version"
        missing.append((f"{layout.folder / 'script.py'} {words}", remedy))
    enabled = _enabled(layout)
    missing += [(f"{path} does not enable {EXTENSION}", remedy) for path, is_on in enabled.items() if not is_on]
    record = Record.load(layout.folder)
    missing += [(f"a setup stopped at: {entry.target}", remedy) for entry in record.entries if not entry.done]
    return Checkup(
        layout=layout,
        running=found.pid,
        python=host.executable if host else None,
        version=version,
        installed_in=place,
        script=state,
        enabled=enabled,
        loaders=_loaders(layout.root),
        runtimes=_runtimes(layout, host) if host and version and not problem else (),
        gptq=offer(host, layout).why if host else "unknown, since the webui's Python was not found",
        missing=tuple(missing),
    )


def _loaders(root: Path) -> tuple[str, ...]:
    # Transformers had no module of its own before v3.0.
    models = (read(root / "modules" / "models.py") or b"").decode("utf-8", "replace")
    first = ("Transformers",) if "huggingface_loader" in models else ()
    return tuple(dict.fromkeys((*first, *(name for path, name in _LOADERS.items() if (root / path).is_file()))))


def _installed(layout: Layout, host: HostPython | None) -> tuple[str | None, str, str]:
    """The version the webui would import, where it is, and why it cannot import it."""
    if host is None:
        return None, "", ""
    folder = layout.folder / PACKAGES
    if EXTENSION in host.packages:  # wins over the folder, which script.py puts last
        return host.packages[EXTENSION], str(host.executable), import_problem(host, None)
    info = next(iter(sorted(folder.glob("branchfit-*.dist-info"))), None)
    if info is None:
        return None, "", ""
    return info.name.removesuffix(".dist-info").partition("-")[2], str(folder), import_problem(host, folder)


def _enabled(layout: Layout) -> dict[str, bool]:
    state = {}
    settings = (read(layout.settings) or b"").decode("utf-8", "replace")
    lists = [settings_file.names_in(settings, key) or () for key in layout.settings_keys]
    state[str(layout.settings)] = bool(lists) and all(EXTENSION in names for names in lists)
    if layout.flags is not None:
        flags = (read(layout.flags) or b"").decode("utf-8", "replace")
        state[str(layout.flags)] = EXTENSION in flags_file.names_in(flags)
    return state


def _runtimes(layout: Layout, host: HostPython) -> tuple[dict[str, Any], ...]:
    done = run([str(host.executable), "-B", "-c", _RUNTIMES, str(layout.folder / PACKAGES)], host.kind)
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return ()
    loaders = set(_loaders(layout.root))
    return tuple({**verdict, **_in_this_webui(verdict, loaders, layout)} for verdict in found)


def _in_this_webui(verdict: Mapping[str, Any], loaders: AbstractSet[str], layout: Layout) -> dict[str, Any]:
    """A verdict on a Python as one on its webui: a loader has to be there, and its remedy has to move nothing."""
    name = HOST_LOADERS[verdict["runtime"]][0].removesuffix("_HF")
    if name not in loaders:
        return {"can": False, "why": f"{verdict['runtime']} is the loader {name}, which this webui does not have."}
    lack, pip, _ = str(verdict["why"]).partition(": pip install")
    if lack.endswith("lacks triton"):
        return {"why": f"{lack}, which torch's GPU builds for Linux bring."}
    if pip and verdict["runtime"].startswith("gptqmodel:"):
        return {"why": f"{lack}: branchfit setup --webui '{layout.root}' --gptq"}
    if pip:
        return {"why": f"{lack}: the webui's own installer or update script brings it, if this version ships it."}
    return {}
