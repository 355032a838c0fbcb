"""Exact prompt templates, as data.

A template is text with one `{instruction}` in it, and a `{system_message}` where its model was
trained with one. Rendering always wraps: whatever the instruction contains, template text and
braces included, stands in the result byte for byte, once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import PromptError

INSTRUCTION = "{instruction}"
SYSTEM_MESSAGE = "{system_message}"

_SLOTS = re.compile(re.escape(INSTRUCTION) + "|" + re.escape(SYSTEM_MESSAGE))


@dataclass(frozen=True)
class Template:
    """A prompt template: its usual name, its exact text, and where the bytes were read."""

    name: str
    text: str
    source: str

    def __post_init__(self) -> None:
        if self.text.count(INSTRUCTION) != 1 or self.text.count(SYSTEM_MESSAGE) > 1:
            raise PromptError(
                f"template {self.name}: {INSTRUCTION} stands {self.text.count(INSTRUCTION)} times in it "
                f"and {SYSTEM_MESSAGE} {self.text.count(SYSTEM_MESSAGE)} times; one and at most one are needed."
            )

    @property
    def takes_system_message(self) -> bool:
        return SYSTEM_MESSAGE in self.text

    def render(self, instruction: str, system_message: str = "") -> str:
        """The prompt for one instruction, wrapped once.

        Raises PromptError for text that no byte string stands for (lone surrogates).
        """
        for what, text in (("instruction", instruction), ("system message", system_message)):
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise PromptError(
                    f"the {what} holds half a character (a lone surrogate) at position {error.start}; "
                    f"no bytes stand for it. Send valid Unicode text."
                ) from error
        values = {INSTRUCTION: instruction, SYSTEM_MESSAGE: system_message}
        # One pass over the template alone: an instruction that spells a slot is never filled again.
        return _SLOTS.sub(lambda slot: values[slot[0]], self.text)


_WIZARDMATH = "nlpxucan/WizardLM, WizardMath/inference/gsm8k_inference.py and MATH_inference.py (2023-08-11)"

WIZARDMATH_PLAIN = Template(
    "WizardMath-plain",
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}\n\n### Response:",
    _WIZARDMATH + ': the "default version" of its model card, advised for simple questions',
)

ALPACA_COT = Template(
    "Alpaca-CoT",
    WIZARDMATH_PLAIN.text + " Let's think step by step.",
    _WIZARDMATH + ': the "CoT version" of its model card',
)

TEMPLATES = (ALPACA_COT, WIZARDMATH_PLAIN)

PLAIN_FORM = {ALPACA_COT.name: WIZARDMATH_PLAIN}
"""The form without chain of thought that an author offers beside a template."""


def by_name(name: str) -> Template | None:
    """The known template of that name (letter case aside), None where nobody knows it."""
    wanted = name.strip().casefold()
    return next((template for template in TEMPLATES if template.name.casefold() == wanted), None)


def guess_by_model(name: str) -> Template | None:
    """The template a model's name calls for: WizardMath in its spellings, else None."""
    plain = re.sub(r"[^a-z0-9]", "", name.casefold())
    return ALPACA_COT if "wizardmath" in plain else None
