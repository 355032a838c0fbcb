"""config.json with changes laid over it, in memory: for one folder, in one thread, for as long as a block lasts.

transformers reads every config through `PretrainedConfig._get_config_dict` (4.31 to 5.23:
configuration_utils.py; AutoConfig's and from_pretrained's calls end there). That method is wrapped
while a block is open anywhere, and looks at its own thread's changes only.

`transformers_weights` names the weight file where it is not called model.safetensors. transformers
since 4.56 reads it from the config (`_get_resolved_checkpoint_files`, transformers_explicit_filename);
for older ones `_add_variant` of modeling_utils.py, which makes the name that is looked for, gives
this one while that folder is being loaded.
"""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_INDEX = ".index.json"


class _Mine(threading.local):
    """This thread's open blocks, the innermost last, and the folders it is loading weights from."""

    def __init__(self) -> None:
        self.open: list[tuple[str, Mapping[str, Any]]] = []
        self.loading: list[str] = []


_mine = _Mine()
_lock = threading.Lock()
_blocks = 0
_undo: list[Callable[[], None]] = []


@contextmanager
def overlaid(folder: Path, changes: Mapping[str, Any]) -> Iterator[None]:
    """While inside, transformers reads `folder`'s config.json with `changes` laid over it, key by key.

    Nothing on disk is touched; other folders and other threads are not affected; blocks nest, the
    innermost wins. A value of None stands as null. With no changes nothing is imported. Raises
    ImportError where there is no transformers.
    """
    if not changes:
        yield
        return
    entry = (os.path.realpath(folder), changes)
    _enter()
    _mine.open.append(entry)
    try:
        yield
    finally:
        _mine.open.remove(entry)
        _leave()


def changes_of(name: Any) -> dict[str, Any]:
    """What is laid over the config of `name` (a folder, or a file in one) in this thread now."""
    if not _mine.open or not isinstance(name, (str, os.PathLike)):
        return {}
    path = Path(name)
    # A file's own folder, before links are followed: in huggingface_hub's cache each file is a link to elsewhere.
    place = os.path.realpath(path.parent if path.is_file() else path)
    found: dict[str, Any] = {}
    for folder, changes in _mine.open:
        if folder == place:
            found.update(changes)
    return found


def _enter() -> None:
    global _blocks
    with _lock:
        if _blocks == 0:
            _install()
        _blocks += 1


def _leave() -> None:
    global _blocks
    with _lock:
        _blocks -= 1
        if _blocks == 0:
            while _undo:
                _undo.pop()()


def _install() -> None:
    _wrap_config(importlib.import_module("transformers").PretrainedConfig)
    modeling = importlib.import_module("transformers.modeling_utils")
    resolve = getattr(modeling, "_get_resolved_checkpoint_files", None)
    if resolve is not None and "transformers_explicit_filename" in inspect.signature(resolve).parameters:
        return
    _wrap_loading(modeling)


def _wrap_config(config_class: Any) -> None:
    before = config_class.__dict__["_get_config_dict"]

    def read(cls: Any, name: Any, *args: Any, **kwargs: Any) -> Any:
        content, rest = before.__get__(None, cls)(name, *args, **kwargs)
        if isinstance(content, dict) and not kwargs.get("gguf_file"):
            laid = changes_of(os.path.join(name, kwargs.get("subfolder") or "") if _mine.open else name)  # noqa: PTH118
            if laid:
                content = {**content, **copy.deepcopy(laid)}
        return content, rest

    _put(config_class, "_get_config_dict", before, classmethod(functools.wraps(before.__func__)(read)))


def _wrap_loading(modeling: Any) -> None:
    """For transformers that does not know transformers_weights."""
    model_class, add_variant = modeling.PreTrainedModel, modeling._add_variant
    before = model_class.__dict__["from_pretrained"]

    def load(cls: Any, name: Any, *args: Any, **kwargs: Any) -> Any:
        _mine.loading.append(name)
        try:
            return before.__get__(None, cls)(name, *args, **kwargs)
        finally:
            _mine.loading.pop()

    def named(weights_name: str, variant: str | None = None) -> str:
        found = changes_of(_mine.loading[-1]).get("transformers_weights") if _mine.loading else None
        if isinstance(found, str):
            if weights_name == modeling.SAFE_WEIGHTS_NAME:
                # For an index: a name no file has, so that the index is looked for next.
                return found if not found.endswith(_INDEX) else found.removesuffix(_INDEX) + ".none"
            if weights_name == modeling.SAFE_WEIGHTS_INDEX_NAME and found.endswith(_INDEX):
                return found
        return str(add_variant(weights_name, variant))

    _put(model_class, "from_pretrained", before, classmethod(functools.wraps(before.__func__)(load)))
    _put(modeling, "_add_variant", add_variant, named)


def _put(holder: Any, name: str, before: Any, wrapped: Any) -> None:
    """Set `holder.name`, and remember to undo it; where someone has wrapped it since, it stays, and does nothing."""
    setattr(holder, name, wrapped)

    def undo() -> None:
        if holder.__dict__.get(name) is wrapped:
            setattr(holder, name, before)

    _undo.append(undo)
