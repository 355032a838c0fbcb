"""Requests, with what they hold where the client says nothing."""

from standin.bodies import CHAT_FIELDS, GENERATION_FIELDS, TEXT_FIELDS
from standin.web import Body


class CompletionRequest(Body, defaults={**GENERATION_FIELDS, **TEXT_FIELDS, "n": 1}):
    pass


class ChatCompletionRequest(Body, defaults={**GENERATION_FIELDS, **CHAT_FIELDS}):
    pass


class LogitsRequest(Body, defaults={**GENERATION_FIELDS, "use_samplers": False, "top_logits": 50, "max_tokens": 512}):
    pass


class LoadModelRequest(Body, defaults={"args": None}):
    pass


def to_dict(obj):
    return obj.__dict__
