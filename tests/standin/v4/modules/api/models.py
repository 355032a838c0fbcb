"""Loading of a model over the API."""

import modules.shared as shared
from modules.models import load_model, unload_model


def _load_model(data):
    unload_model()
    shared.model, shared.tokenizer = load_model(data["model_name"])
