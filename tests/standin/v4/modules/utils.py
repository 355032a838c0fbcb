"""Whether there is a model to ask."""

import modules.shared as shared
from modules.logging_colors import logger


def check_model_loaded():
    if shared.model_name == "None" or shared.model is None:
        logger.error("no model is loaded")
        return False, "No model is loaded."
    return True, None
