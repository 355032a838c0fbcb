"""What every test shares: the user's own files and settings stay out, and a loopback Hub."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# huggingface_hub reads its environment when it is imported: this has to come first.
_HOME = tempfile.TemporaryDirectory(prefix="branchfit-tests-")
_FOR_TESTS = {
    "BRANCHFIT_SHARED",
    "BRANCHFIT_NEEDS_GPTQ",
    "BRANCHFIT_WEBUI",
    "BRANCHFIT_WEBUI_PYTHON",
    "BRANCHFIT_GRADIO_PYTHONS",
}
for _name in set(os.environ) - _FOR_TESTS:
    if _name.startswith(("HF_", "HUGGING", "BRANCHFIT_", "TRANSFORMERS_")) or _name.lower().endswith("_proxy"):
        del os.environ[_name]
os.environ["HF_HOME"] = str(Path(_HOME.name) / "hf")
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# Tests start processes of their own, which have to find the same sources as this one.
_ROOT = Path(__file__).resolve().parent.parent
_SOURCES = [str(_ROOT / "manager"), str(_ROOT / "extension"), os.environ.get("PYTHONPATH", "")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, _SOURCES))

# What a shell starts in its background is deaf to Ctrl-C, and every process that a test starts would be so too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from branchfit.demo.server import LoopbackHub  # noqa: E402 (only after the environment is clean)

# How long an example takes is not what a test is about, and both ends of the ranges are tried at once.
settings.register_profile("any machine", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_collection_finish() -> None:
    """Keep the garbage collector from what lives to the end anyway: thousands of tests, and torch where there is one.

    Without it, going through all that again and again was 1.6 of the 4.2 s that 750 quick tests took together.
    """
    gc.freeze()


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and a cache of the test's own: nothing of the user's is read or written."""
    home = tmp_path_factory.mktemp("home")
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(home))
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "LOCALAPPDATA", "APPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BRANCHFIT_CACHE", str(home / "branchfit-cache"))
    # Importing gptqmodel sets these, for every process that a test starts.
    monkeypatch.setenv("HF_HOME", str(Path(_HOME.name) / "hf"))
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_MODULES_CACHE"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture
def loopback_hub() -> Iterator[LoopbackHub]:
    """A loopback Hub without repos; give it some with `add_repo`."""
    with LoopbackHub() as hub:
        yield hub
    assert hub.mistakes == []
