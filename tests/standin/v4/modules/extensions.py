"""Loading of extensions as v4.7.3 does it: the user's own are executed again at each call."""

import importlib

import modules.shared as shared
from modules.logging_colors import logger
from standin.hooks import from_file, hook_map, set_up

state, available_extensions, setup_called = {}, [], set()


def load_extensions():
    global state
    state = {}
    wanted = [name for name in shared.args.extensions if name in available_extensions]
    for name in wanted:
        try:
            own = shared.user_data_dir / "extensions" / name / "script.py"
            if own.is_file():
                extension = from_file(f"user_ext_{name}", own)
            else:
                extension = importlib.import_module(f"extensions.{name}.script")
            set_up(extension, name, setup_called, shared.settings, once=False)
            state[name] = [True, shared.args.extensions.index(name), extension]
        except ModuleNotFoundError:
            logger.error(f"requirements of {name} are missing")
            raise
        except Exception:  # noqa: BLE001  (the server goes on without the extension)
            logger.exception(f"could not load {name}")


def iterator():
    order = sorted(state.items(), key=lambda known: known[1][1])
    yield from ((known[2], name) for name, known in order if known[0])


EXTENSION_MAP = hook_map(lambda: iterator())


def apply_extensions(typ, *args, **kwargs):
    if typ not in EXTENSION_MAP:
        raise ValueError(typ)
    return EXTENSION_MAP[typ](*args, **kwargs)
