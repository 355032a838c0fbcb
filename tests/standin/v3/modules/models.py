"""Loading of models: the session of the stand-in makes them."""

import modules.shared as shared


def load_model(model_name, loader=None):
    shared.model_name = model_name
    made = shared.session.make_model(model_name, loader)
    if made[0] is not None:
        shared.settings["truncation_length"] = shared.session.context
    return made


def unload_model(keep_model_name=False):
    shared.model, shared.tokenizer = None, None
    shared.model_name = shared.model_name if keep_model_name else "None"
