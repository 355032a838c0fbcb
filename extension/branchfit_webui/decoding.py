"""The author's decoding settings, offered and never forced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .host import Host

DECODING: dict[str, Any] = {
    "temperature": 0,
    "top_p": 1,
    "top_k": 1,
    "do_sample": False,
    "max_new_tokens": 1024,
    "auto_max_new_tokens": False,
}
"""Temperature 0, top_p 1, at most 1024 tokens: SamplingParams in WizardMath/inference/gsm8k_inference.py. The webui's
own API turns temperature 0 into do_sample off and top_k 1 (process_parameters in its completions.py), so these
come with it, and auto_max_new_tokens would let a reply fill the context whatever max_new_tokens says."""


def for_components(host: Host) -> tuple[list[Any], list[str]]:
    """The webui's own sliders and boxes for these settings, and their names; those this version has."""
    components = getattr(host.shared, "gradio", None) or {}
    names = [name for name in DECODING if name in components]
    return [components[name] for name in names], names


def current_values(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """What stood there before, to be put back."""
    return dict(zip(names, values, strict=True))
