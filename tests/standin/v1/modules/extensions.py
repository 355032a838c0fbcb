"""Loading of extensions as v1.7 does it: once, and whatever goes wrong is only printed."""

import importlib
import traceback

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
            extension = importlib.import_module(f"extensions.{name}.script")
            set_up(extension, name, setup_called, shared.settings, once=True)
            state[name] = [True, shared.args.extensions.index(name)]
        except BaseException:  # noqa: BLE001  (v1.7 goes on without the extension, whatever it raised)
            logger.error(f"could not load {name}")
            traceback.print_exc()


def iterator():
    order = sorted(state.items(), key=lambda known: known[1][1])
    yield from ((importlib.import_module(f"extensions.{name}.script"), name) for name, known in order if known[0])


EXTENSION_MAP = hook_map(lambda: iterator())


def apply_extensions(typ, *args, **kwargs):
    if typ not in EXTENSION_MAP:
        raise ValueError(typ)
    return EXTENSION_MAP[typ](*args, **kwargs)
