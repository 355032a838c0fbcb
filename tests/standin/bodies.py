"""The fields of a request to the FastAPI eras that are there when the client sends nothing."""

from __future__ import annotations

from typing import Any

GENERATION_FIELDS: dict[str, Any] = {
    "preset": None,
    "do_sample": True,
    "temperature": 1,
    "top_p": 1,
    "top_k": 0,
    "repetition_penalty": 1,
    "guidance_scale": 1,
    "negative_prompt": "",
    "max_tokens_second": 0,
    "auto_max_new_tokens": False,
    "ban_eos_token": False,
    "add_bos_token": True,
    "skip_special_tokens": True,
    "enable_thinking": True,
    "reasoning_effort": "medium",
    "truncation_length": 0,
    "seed": -1,
}

TEXT_FIELDS: dict[str, Any] = {
    "model": None,
    "prompt": None,
    "messages": None,
    "echo": False,
    "logprobs": None,
    "max_tokens": 512,
    "stop": None,
    "stream": False,
    "suffix": None,
}

CHAT_FIELDS: dict[str, Any] = {
    "model": None,
    "functions": None,
    "function_call": None,
    "tools": None,
    "logprobs": None,
    "max_tokens": None,
    "n": 1,
    "stop": None,
    "stream": False,
    "mode": "instruct",
    "instruction_template": None,
    "instruction_template_str": None,
    "character": None,
    "bot_name": None,
    "user_name": None,
    "user_bio": None,
    "context": None,
    "greeting": None,
    "chat_template_str": None,
    "chat_instruct_command": None,
    "continue_": False,
}

NEWER_CHAT_FIELDS: dict[str, Any] = {**CHAT_FIELDS, "max_completion_tokens": None, "tool_choice": None}

ANTHROPIC_FIELDS: dict[str, Any] = {
    "model": None,
    "max_tokens": 4096,
    "system": None,
    "stop_sequences": None,
    "stream": False,
    "tools": None,
}
