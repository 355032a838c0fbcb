"""The Model tab's way of loading."""

import modules.shared as shared
from modules.models import load_model, unload_model


def load_model_wrapper(selected_model, loader, autoload=False):
    shared.model_name = selected_model
    unload_model()
    if selected_model != "":
        shared.model, shared.tokenizer = load_model(shared.model_name, loader)
    yield f"Loaded `{selected_model}`."
