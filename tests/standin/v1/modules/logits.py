"""Probabilities of the next token: through a generation of one token, or past all hooks."""

from modules import shared
from modules.logging_colors import logger
from modules.text_generation import generate_reply
from standin.hooks import last

NEEDS_NO_SAMPLERS = ("Exllamav2Model", "ExllamaModel", "LlamaCppModel")


def get_next_logits(prompt, state, use_samplers, previous):
    if shared.model is None:
        logger.error("no model is loaded")
        return "Error: no model", previous
    own = shared.model.__class__.__name__ in NEEDS_NO_SAMPLERS
    if use_samplers:
        if own:
            return "Error: not with this loader", previous
        state.update(max_new_tokens=1, auto_max_new_tokens=False)
        last(generate_reply(prompt, state), "")
    elif own:
        shared.model.get_logits(shared.tokenizer.encode(prompt))
    else:
        shared.model(input_ids=shared.tokenizer.encode(prompt, return_tensors="pt"))
    return "1.00000  -  ' 4'\n", previous
