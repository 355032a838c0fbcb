"""The Model tab's way of loading."""

import modules.shared as shared
from modules.models import load_model, unload_model


def load_model_wrapper(selected_model, loader, autoload=False):
    unload_model()
    if selected_model != "":
        shared.model, shared.tokenizer = load_model(selected_model, loader)
    yield f"Loaded `{selected_model}`."
