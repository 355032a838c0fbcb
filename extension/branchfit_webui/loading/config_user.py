"""The webui's config-user.yaml, as bytes: settings of ours put in, found again, and taken out.

The file is the user's. A block of ours is appended between two comments, everything else is kept to the
byte; and a result that does not read back as the old file plus our entry is never given out. The host's
own "Save settings" writes the file anew and drops comments, so ours is found by its key as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

BEGIN = "# BranchFit >>> "
END = "# BranchFit <<< "
JOINED = {"\n": " (a newline was added before this line)", "\r\n": " (a newline, CR LF, was added before this line)"}
"""What the first comment says where the file did not end in a newline: which one goes with the block again."""


class Unreadable(ValueError):
    """A file that is left alone, and why, as a clause: 'is not YAML (line 3)'."""


def key_for(name: str) -> str:
    """The key whose settings the host gives to the model `name` and to no other.

    The host matches with `re.match(key.lower(), name.lower())`. re.escape puts a backslash before
    punctuation only, so lower() makes no `\\d` of a `\\D`. The host itself writes name + "$"; where
    escaping changes nothing, a leading "^" keeps the two apart. Lowering depends on what follows a
    capital sigma, which a backslash changes: such a name is lowered first.
    """
    escaped = re.escape(name) + "$"
    if re.match(escaped.lower(), name.lower()) is None:
        escaped = re.escape(name.lower()) + "$"
    return escaped if escaped != name + "$" else "^" + escaped


def read(data: bytes) -> dict[str, Any]:
    """What the host reads from it. Raises Unreadable for anything but a mapping of mappings."""
    loaded = _load(_text(data))
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise Unreadable(f"holds a {type(loaded).__name__} where the webui looks for models and their settings")
    for key, value in loaded.items():
        if not isinstance(key, str) or not isinstance(value, dict):
            raise Unreadable(f"holds no settings under {key!r}")
    return loaded


def kept(data: bytes, name: str) -> dict[str, Any] | None:
    """Our settings for `name`, None where there are none."""
    value = read(data).get(key_for(name))
    return dict(value) if value is not None else None


def with_settings(data: bytes, name: str, settings: Mapping[str, Any]) -> bytes:
    """The file with our settings for `name`, at its end, where they win over what stands above them.

    Raises Unreadable where the file is none that a block can be appended to.
    """
    bare = without(data, name)
    key, before = key_for(name), read(bare)
    text = _text(bare)
    newline = "\r\n" if "\r\n" in text else "\n"
    joined = bool(text) and not text.endswith("\n")
    body = yaml.safe_dump({key: dict(settings)}, sort_keys=False, allow_unicode=False, width=2**16)
    mark = json.dumps(key)
    lines = [f"{BEGIN}{mark}{JOINED[newline] if joined else ''}", *body.splitlines(), f"{END}{mark}"]
    made = text + (newline if joined else "") + newline.join(lines) + newline
    result = made.encode("utf-8")
    # Flow style, an indented mapping or a second document leave no room for a block; reading back tells.
    expected = {**before, key: dict(settings)}
    if _reads(result) != expected or list(read(result)) != list(expected):
        raise Unreadable("is laid out so that nothing can be appended to it")
    return result


def without(data: bytes, name: str) -> bytes:
    """The file without our settings for `name`: byte for byte what it was before, if nobody wrote it anew."""
    return _without(data, key_for(name))


def without_any(data: bytes) -> bytes:
    """The file without anything of ours that can be told: marked blocks, and keys that only we write."""
    for key in ours(data):
        data = _without(data, key)
    return data


def ours(data: bytes) -> tuple[str, ...]:
    """The keys that are ours: marked, or escaped as the host never does it, with a runtime of ours inside."""
    marked = [json.loads(found[1]) for found in re.finditer(_begin(r'("(?:[^"\\]|\\.)*")'), _text(data), re.M)]
    known = [key for key, value in read(data).items() if RUNTIME in value and key not in marked]
    return (*dict.fromkeys(marked), *known)


RUNTIME = "branchfit_runtime"
"""A setting of ours that the host passes over: which runtime this model was loaded with."""


def _without(data: bytes, key: str) -> bytes:
    before = read(data)
    text = _cut_marked(_text(data), key)
    if key in (_load(text) or {}):
        text = _cut_entry(text, key)
    result = text.encode("utf-8")
    if _reads(result) != {other: value for other, value in before.items() if other != key}:
        raise Unreadable("is laid out so that nothing can be taken out of it")
    return result


def _cut_marked(text: str, key: str) -> str:
    mark = re.escape(json.dumps(key))
    said = "|".join(map(re.escape, JOINED.values()))
    block = re.compile(_begin(f"{mark}(?P<joined>{said})?") + rf"\r?\n(?:.*\n)*?{re.escape(END)}{mark}\r?\n?", re.M)
    found = block.search(text)
    if found is None:
        return text
    head = text[: found.start()]
    rest = text[found.end() :]
    added = next((newline for newline, words in JOINED.items() if words == found["joined"]), "")
    if added and rest:
        # Another of our blocks stands on that newline now, and takes it along when it goes.
        begins = re.match(_begin(r'"(?:[^"\\]|\\.)*"') + r"(?=\r?\n)", rest)
        return head + (begins[0] + found["joined"] + rest[begins.end() :] if begins else rest)
    head = head.removesuffix(added)
    return head + text[found.end() :]


def _cut_entry(text: str, key: str) -> str:
    """Cut an entry without our comments: from its key to the end of its last line."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(node, yaml.MappingNode)
    for key_node, value_node in node.value:
        if key_node.value == key:
            end = text.find("\n", _last(value_node) - 1)
            return text[: key_node.start_mark.index] + (text[end + 1 :] if end >= 0 else "")
    return text


def _last(node: yaml.Node) -> int:
    """Where the last scalar under `node` ends; a block mapping's own end lies past the comments after it."""
    if not isinstance(node, yaml.CollectionNode) or not node.value or node.flow_style:
        return int(node.end_mark.index)
    last = node.value[-1]
    return _last(last[1] if isinstance(last, tuple) else last)


def _begin(mark: str) -> str:
    return rf"^{re.escape(BEGIN)}{mark}"


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable(f"is not UTF-8 (byte {error.start})") from None


def _load(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise Unreadable(f"is not YAML (line {mark.line + 1})" if mark else "is not YAML") from None
    except (ValueError, TypeError, RecursionError, OverflowError):  # a date that is none, a list as a key
        raise Unreadable("is not YAML that the webui can read") from None


def _reads(data: bytes) -> dict[str, Any] | None:
    try:
        return read(data)
    except Unreadable:
        return None
