"""settings.yaml (or .json): one name put into its lists of extensions, or taken out; every other byte stays.

The places are PyYAML's own marks, so whatever the webui's yaml.safe_load reads is found where it
stands: block and flow lists, comments, any line ends, a byte order mark, JSON. Each edit is read back
before it is given out, and has to have changed that one list and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import CannotEdit

__all__ = ["add_name", "names_in", "take_name"]


def names_in(text: str, key: str) -> tuple[str, ...] | None:
    """The extensions listed under `key`, None where the text has no such key or cannot be read."""
    import yaml

    try:
        value = (yaml.safe_load(text) or {}).get(key)
    except (yaml.YAMLError, AttributeError, ValueError):
        return None
    return tuple(str(item) for item in value) if isinstance(value, list) else None


def add_name(text: str, defaults: Mapping[str, Sequence[str]], name: str, path: Path | str) -> str:
    """`text` with `name` first in the list of each key of `defaults`.

    First, because an older webui's `openai` may never return to load what stands behind it. A key that
    is missing is added with what the webui takes for it without one, so that nothing gets disabled.
    Raises CannotEdit.
    """
    for key, without in defaults.items():
        before = _read(text, path, name)
        listed = before.get(key, list(without))
        if listed is None:
            listed = []
        if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
            raise CannotEdit(path, f"{key} is no list of names", f"{key}: [{name}]")
        if name in listed and key in before:
            continue
        wanted = {**before, key: [name, *listed]}
        for attempt in _ways_to_add(text, key, name, [*listed], key in before):
            if _same(attempt, wanted):
                text = attempt
                break
        else:
            raise CannotEdit(path, "no place in it takes the name without changing more", f"{key}: {wanted[key]}")
    return text


def take_name(text: str, keys: Sequence[str], name: str, path: Path | str) -> str:
    """`text` without `name` in the lists of `keys`. A list that gets empty becomes `[]`. Raises CannotEdit."""
    for key in keys:
        before = _read(text, path, name, f"nothing; take {name} out of {key}")
        listed = before.get(key)
        if not isinstance(listed, list) or name not in listed:
            continue
        left = [item for item in listed if item != name]
        taken = _without(text, key, name)
        if taken is None or not _same(taken, {**before, key: left}):
            raise CannotEdit(path, f"{name} cannot be taken out of it without changing more", f"{key}: {left}")
        text = taken
    return text


def _read(text: str, path: Path | str, name: str, by_hand: str = "") -> dict[str, Any]:
    import yaml

    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CannotEdit(path, f"it is no YAML that the webui could read ({reason})", by_hand or f"- {name}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CannotEdit(path, "it holds no settings", f"default_extensions: [{name}]")
    return value


def _same(text: str, wanted: Mapping[str, Any]) -> bool:
    import yaml

    try:
        # repr, since a NaN is not itself, and 1, 1.0 and True are each other.
        return repr(yaml.safe_load(text)) == repr(dict(wanted)) or _sorted(yaml.safe_load(text)) == _sorted(wanted)
    except (yaml.YAMLError, ValueError, TypeError):
        return False


def _sorted(value: Mapping[str, Any]) -> list[tuple[str, str]]:
    return sorted((repr(key), repr(item)) for key, item in value.items())


def _nodes(text: str, key: str) -> tuple[Any, Any, Any]:
    """The document's node, the key's and its value's; the last of equal keys, which is the one that counts."""
    import yaml

    top = yaml.compose(text, Loader=yaml.SafeLoader)
    top = top if isinstance(top, yaml.MappingNode) else None
    pairs = [pair for pair in top.value if pair[0].value == key] if top is not None else []
    return (top, *pairs[-1]) if pairs else (top, None, None)


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _ways_to_add(text: str, key: str, name: str, listed: list[str], there: bool) -> list[str]:
    top, found, value = _nodes(text, key)
    if there and found is not None:
        return [_into_list(text, value, name) if listed else _instead_of_empty(text, found, value, name)]
    end = _newline(text)
    if top is not None and top.flow_style:
        at = text.index("{", top.start_mark.index) + 1
        names = ", ".join(f'"{item}"' for item in [name, *listed])
        return [f'{text[:at]}"{key}": [{names}]{", " if top.value else ""}{text[at:]}']
    indent = " " * (top.start_mark.column - (text[:1] == "\ufeff" and top.start_mark.line == 0)) if top else ""
    block = "".join(f"{indent}{line}{end}" for line in (f"{key}:", *(f"- {item}" for item in [name, *listed])))
    at = _line_start(text, top.start_mark.index) if top else len(text)
    behind = text if not text or text.endswith(("\n", "\ufeff")) else text + end
    return [behind + block, text[:at] + block + text[at:]]


def _line_start(text: str, index: int) -> int:
    start = text.rfind("\n", 0, index) + 1
    return start + (text[start : start + 1] == "\ufeff")


def _into_list(text: str, value: Any, name: str) -> str:
    first = value.value[0]
    if value.flow_style:
        at = first.start_mark.index
        quote = '"' if text[at : at + 1] == '"' else ""
        return f"{text[:at]}{quote}{name}{quote}, {text[at:]}"
    dash = text.rindex("-", 0, first.start_mark.index)
    start = _line_start(text, dash)
    return f"{text[:start]}{text[start:dash]}- {name}{_newline(text)}{text[start:]}"


def _instead_of_empty(text: str, found: Any, value: Any, name: str) -> str:
    """`[]`, `null`, `~` or nothing at all."""
    start, end = value.start_mark.index, value.end_mark.index
    if text[start : start + 1] == "[":
        quote = '"' if text[found.start_mark.index : found.start_mark.index + 1] == '"' else ""
        return f"{text[: start + 1]}{quote}{name}{quote}{text[start + 1 :]}"
    gap = "" if text[start - 1 : start] in (" ", "\t") else " "
    return f"{text[:start]}{gap}[{name}]{text[end:]}"


def _without(text: str, key: str, name: str) -> str | None:
    """Every `name` out of the list, one at a time since each moves the marks."""
    while True:
        _, found, value = _nodes(text, key)
        if found is None or not hasattr(value, "value") or not isinstance(value.value, list):
            return None
        places = [place for place, item in enumerate(value.value) if item.value == name]
        if not places:
            return text
        item, last = value.value[places[0]], places[0] == len(value.value) - 1
        if value.flow_style:
            text = _out_of_flow(text, value, places[0], item, last)
        elif len(value.value) == 1:
            # A key without a value would be None, over which the webui cannot loop.
            colon = text.index(":", found.end_mark.index) + 1
            line_end = text.find("\n", item.end_mark.index)
            line_end = len(text) if line_end < 0 else line_end + 1
            start = _line_start(text, text.rindex("-", 0, item.start_mark.index))
            text = f"{text[:colon]} []{text[colon:start]}{text[line_end:]}"
        else:
            start = _line_start(text, text.rindex("-", 0, item.start_mark.index))
            line_end = text.find("\n", item.end_mark.index)
            text = text[:start] + (text[line_end + 1 :] if line_end >= 0 else "")


def _out_of_flow(text: str, value: Any, place: int, item: Any, last: bool) -> str:
    start, end = item.start_mark.index, item.end_mark.index
    if not last:
        return text[:start] + text[value.value[place + 1].start_mark.index :]
    if place:
        return text[: value.value[place - 1].end_mark.index] + text[end:]
    return text[:start] + text[end:].lstrip(" ,") if text[end:].lstrip(" ")[:1] == "," else text[:start] + text[end:]
