"""Loading of extensions as v3.23 does it: each is imported once, the user's own from user_data."""

import importlib
import traceback
from pathlib import Path

import gradio as gr  # noqa: F401  (this version needs it even where no page is built)

import modules.shared as shared
from modules.logging_colors import logger
from standin.hooks import hook_map, set_up

state, available_extensions, setup_called = {}, [], set()


def load_extensions():
    global state
    state = {}
    wanted = [name for name in shared.args.extensions if name in available_extensions]
    for name in wanted:
        try:
            own = (Path("user_data") / "extensions" / name).is_dir()
            extension = importlib.import_module(f"{'user_data.' if own else ''}extensions.{name}.script")
            set_up(extension, name, setup_called, shared.settings, once=False)
            state[name] = [True, shared.args.extensions.index(name), extension]
        except ModuleNotFoundError:
            logger.error(f"requirements of {name} are missing")
            raise
        except Exception:  # noqa: BLE001  (the server goes on without the extension)
            logger.error(f"could not load {name}")
            traceback.print_exc()


def iterator():
    order = sorted(state.items(), key=lambda known: known[1][1])
    yield from ((known[2], name) for name, known in order if known[0])


EXTENSION_MAP = hook_map(lambda: iterator())


def apply_extensions(typ, *args, **kwargs):
    if typ not in EXTENSION_MAP:
        raise ValueError(typ)
    return EXTENSION_MAP[typ](*args, **kwargs)
