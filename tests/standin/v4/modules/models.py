"""Loading of models: the session of the stand-in makes them."""

import threading

import modules.shared as shared
from standin.generating import Counter

_generation_count_lock = threading.Lock()
counted = Counter(_generation_count_lock)


def load_model_if_idle_unloaded():
    if shared.model is None and shared.args.idle_timeout > 0 and shared.model_name not in (None, "None"):
        shared.model, shared.tokenizer = load_model(shared.model_name)


def load_model(model_name, loader=None):
    shared.model_name = model_name
    made = shared.session.make_model(model_name, loader)
    if made[0] is not None:
        shared.settings["truncation_length"] = shared.session.context
    return made


def unload_model(keep_model_name=False):
    shared.model, shared.tokenizer = None, None
    shared.model_name = shared.model_name if keep_model_name else "None"
