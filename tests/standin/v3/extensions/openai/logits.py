"""Probabilities of the next token, over the API."""

from extensions.openai.completions import process_parameters
from modules.logits import get_next_logits


def _get_next_logits(body):
    use_samplers = body["use_samplers"]
    state = process_parameters(body)
    return get_next_logits(body["prompt"], state, use_samplers, "", top_logits=body["top_logits"], return_dict=True)
