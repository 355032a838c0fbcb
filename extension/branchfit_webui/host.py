"""Everything known about the webui: found by looking at it, never by its version.

Read from oobabooga/text-generation-webui, v1.5 (July 2023) to v4.7.3 (May 2026). A name that is not
there is reported as missing; nothing here raises because a host is older or newer than expected.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from .asked import Asked


def module(name: str) -> ModuleType | None:
    """A module of the host that is loaded already. Importing one early could change the host's own order."""
    return sys.modules.get(name)


class Host:
    """The running webui."""

    def __init__(self) -> None:
        import modules.extensions
        import modules.shared
        import modules.text_generation

        self.shared: Any = modules.shared
        self.generation: Any = modules.text_generation
        self.extensions: Any = modules.extensions
        self._adds_bos: tuple[weakref.ref[Any], bool] | None = None

    # The model

    @property
    def model(self) -> Any:
        return getattr(self.shared, "model", None)

    def model_name(self) -> str | None:
        """The loaded model's name as the menu shows it. None while none is loaded, whatever name is still shown."""
        name = getattr(self.shared, "model_name", None)
        return name if isinstance(name, str) and name not in ("", "None") and self.model is not None else None

    def model_folder(self, name: str) -> Path:
        return Path(getattr(self.args, "model_dir", None) or "models") / name

    @property
    def args(self) -> Any:
        return getattr(self.shared, "args", None)

    @property
    def settings(self) -> Mapping[str, Any]:
        return getattr(self.shared, "settings", None) or {}

    def context_tokens(self) -> int | None:
        """The context the model was loaded with, in tokens. None where nothing tells it.

        Since November 2023 load_model keeps it in settings['truncation_length']. Before, only the page
        knew, so the loader's argument or the model's own config is asked.
        """
        if "instruction_template_str" in self.settings:
            return _positive(self.settings.get("truncation_length"))
        loader = str(getattr(self.args, "loader", "") or "").lower()
        if loader.startswith("exllama"):
            return _positive(getattr(self.args, "max_seq_len", None))
        if loader.startswith("llama.cpp"):
            return _positive(getattr(self.args, "n_ctx", None))
        config = getattr(self.model, "config", None)
        trained = _positive(getattr(config, "max_position_embeddings", None))
        if trained is None:
            return _positive(self.settings.get("truncation_length"))
        scaling = getattr(config, "rope_scaling", None)
        factor = scaling.get("factor", 1) if isinstance(scaling, dict) else 1
        return int(trained * factor) if isinstance(factor, (int, float)) and factor > 1 else trained

    # Loading

    @property
    def models(self) -> Any:
        """The host's modules.models. None before the host has imported it."""
        return module("modules.models")

    @property
    def model_dir(self) -> Path:
        return Path(getattr(self.args, "model_dir", None) or "models")

    def loaded_folder(self, name: str) -> Path:
        """Where the host loads `name` from: newer ones take a path, too (resolve_model_path in modules/utils.py)."""
        resolve = getattr(module("modules.utils"), "resolve_model_path", None)
        return Path(resolve(name)) if callable(resolve) else self.model_dir / name

    def offered_loaders(self) -> dict[str, tuple[str, ...]]:
        """The host's loaders and the names of their parameters: those that its page lists and `load_model` calls."""
        listed = getattr(module("modules.loaders"), "loaders_and_params", None) or {}
        return {name: tuple(params) for name, params in listed.items() if self.load_function(name) is not None}

    def load_function(self, loader: str) -> str | None:
        """The name of the function in modules.models that `load_model` calls for `loader`; None where there is none."""
        called = _names_in(getattr(self.models, "load_model", None))
        for name in _LOAD_FUNCTIONS.get(loader, ()):
            if callable(getattr(self.models, name, None)) and (called is None or name in called):
                return name
        return None

    # Tokens

    def encode(self, text: str, add_bos_token: bool) -> list[int]:
        """The token ids the host would send for `text`, uncut."""
        ids = self.generation.encode(text, add_bos_token=add_bos_token)[0]
        return [int(token) for token in (ids.tolist() if hasattr(ids, "tolist") else ids)]

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`, special tokens included, leading BOS tokens left out."""
        bos = getattr(self.shared.tokenizer, "bos_token_id", None)
        first = next((place for place, token in enumerate(ids) if token != bos), len(ids))
        text: str = self.shared.tokenizer.decode(ids[first:], skip_special_tokens=False)
        return text

    def wants_bos(self, prompt: str) -> bool:
        """Whether a prompt should be sent with a BOS token in front: as the model's own tokenizer does it.

        A template that spells the token itself gets none twice.
        """
        tokenizer = getattr(self.shared, "tokenizer", None)
        spelled = getattr(tokenizer, "bos_token", None)
        if isinstance(spelled, str) and spelled and prompt.startswith(spelled):
            # Versions from v1.8 to v3.7 strip the spelled one too where the flag is off; with it on they leave one.
            return self.encode(prompt, False)[:1] != [getattr(tokenizer, "bos_token_id", None)]
        if self._adds_bos is None or self._adds_bos[0]() is not tokenizer:
            try:
                self._adds_bos = (weakref.ref(tokenizer), _adds_bos(tokenizer))
            except TypeError:  # not to be kept, so that an unloaded tokenizer is freed
                return _adds_bos(tokenizer)
        return self._adds_bos[1]

    # The page

    def component(self, name: str) -> Any:
        """One of the host's own parts of the page by its key in shared.gradio, None where there is none."""
        components = getattr(self.shared, "gradio", None)
        return components.get(name) if isinstance(components, dict) else None

    def menu_update(self, autoload: bool) -> dict[str, Any]:
        """What brings the host's model menu up to date.

        `autoload` is its tick box of that name (hosts up to v2.x): where it is ticked, putting the model's
        name into the menu would load the model a second time, so only the choices are renewed.
        """
        import gradio as gr

        listed = getattr(module("modules.utils"), "get_available_models", None)
        if listed is None:
            return dict(gr.update())
        choices = listed()
        return dict(
            gr.update(choices=choices) if autoload else gr.update(choices=choices, value=self.model_name() or "None")
        )

    # What the host would have done

    def own_chat_prompt(self, text: str, state: dict[str, Any], arguments: dict[str, Any]) -> str | None:
        """The prompt the host's own builder makes for a chat message; None where it cannot make one."""
        chat = module("modules.chat")
        if chat is None:
            return None
        try:
            built = chat.generate_chat_prompt(text, state, **arguments)
        except Exception:  # noqa: BLE001 - the host's builder, with whatever a client sent
            return None
        return built if isinstance(built, str) else None

    def attachments(self, history: Mapping[str, Any], row: int) -> str:
        """The text that the host appends for files attached to message `row` (v3.4 and newer), else ''.

        Source: generate_chat_prompt in modules/chat.py.
        """
        metadata = history.get("metadata")
        of_row = metadata.get(f"user_{row}", {}) if isinstance(metadata, Mapping) else {}
        parts = [_attachment(item) for item in of_row.get("attachments", ()) if item.get("type") != "image"]
        return "\n\nATTACHMENTS:\n" + "".join(parts) if parts else ""

    def own_hooks(self, hook: str) -> list[str]:
        """Names of the other extensions that define `hook`, first in the list first."""
        iterator = getattr(self.extensions, "iterator", None)
        if iterator is None:
            return []
        return [name for extension, name in iterator() if hasattr(extension, hook)]

    def cut_at_stop(self, reply: str, stops: list[str]) -> tuple[str, bool]:
        cut: tuple[str, bool] = self.generation.apply_stopping_strings(reply, stops)
        return cut

    # Saying no

    def refuse(self, sentence: str, origin: Asked) -> Iterator[str]:
        """Give `sentence` to whoever asked, in the way that reaches them: an error of the API, an error
        in the page where a text box would be written over, else the sentence in the reply's place."""
        if origin.kind == "logits":  # it reads scores, not text: a sentence would show it those of the prompt before
            raise ValueError(sentence)
        if origin.api and not origin.stream:
            raise api_error(sentence)
        if origin.kind in ("box", "impersonate"):
            gradio = module("gradio")
            if origin.kind == "impersonate":
                yield ""  # puts back what stood in the message box, which the host has dotted by now
            # gradio before 3.38, which has no Info, shows an error's words only where the host asked for that.
            if gradio is not None and hasattr(gradio, "Error") and hasattr(gradio, "Info"):
                raise gradio.Error(sentence)
        yield sentence


_LOAD_FUNCTIONS = {
    "Transformers": ("transformers_loader", "huggingface_loader"),
    "AutoGPTQ": ("AutoGPTQ_loader",),
    "GPTQ-for-LLaMa": ("GPTQ_loader",),
    "ExLlama": ("ExLlama_loader",),
    "ExLlama_HF": ("ExLlama_HF_loader",),
    "ExLlamav2": ("ExLlamav2_loader",),
    "ExLlamav2_HF": ("ExLlamav2_HF_loader",),
}
"""The loaders that read GPTQ, with what `load_func_map` in modules/models.py names for them, v3.0 and newer first."""


def _names_in(function: Any) -> frozenset[str] | None:
    """The global names a function uses. None where that cannot be seen: it is wrapped, or none of Python's."""
    code = getattr(function, "__code__", None)
    names = frozenset(getattr(code, "co_names", ()))
    return names if any(name.endswith("_loader") for name in names) else None


def _attachment(item: Mapping[str, Any]) -> str:
    url = f"URL: {item['url']}\n" if item.get("type") == "text/html" and item.get("url") else ""
    name, content = item.get("name", "file"), item.get("content", "")
    return f"\nName: {name}\n{url}Contents:\n\n=====\n{content}\n=====\n\n"


def _positive(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer puts BOS in front on its own. One that is not transformers' is taken to: for
    ExLlama and llama.cpp the host's flag decides, and Llama models are trained with BOS."""
    if not hasattr(tokenizer, "convert_ids_to_tokens"):
        return True
    bos = getattr(tokenizer, "bos_token_id", None)
    return bos is not None and list(tokenizer.encode(""))[:1] == [bos]


def api_error(sentence: str) -> Exception:
    """The error that this host's API answers with its own words: status 400 and the sentence."""
    for package in ("modules.api", "extensions.openai"):
        errors, script = module(f"{package}.errors"), module(f"{package}.script")
        if errors is None or not hasattr(errors, "InvalidRequestError"):
            continue
        handlers = getattr(getattr(script, "app", None), "exception_handlers", None)
        if handlers is not None and errors.OpenAIError not in handlers:
            from fastapi import HTTPException  # before v4, the FastAPI app knew no error class of its own

            plain: Exception = HTTPException(status_code=400, detail=sentence)
            return plain
        error: Exception = errors.InvalidRequestError(message=sentence, param="prompt")
        return error
    return ValueError(sentence)
