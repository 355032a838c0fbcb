"""Loading of models: the session of the stand-in makes them."""

import modules.shared as shared


def load_model(model_name, loader=None):
    return shared.session.make_model(model_name, loader)


def unload_model():
    shared.model, shared.tokenizer = None, None
