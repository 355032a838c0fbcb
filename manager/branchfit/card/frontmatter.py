"""The YAML between the two `---` lines at a card's start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["read_front_matter", "text_field"]

MAX_YAML_CHARS = 64 * 1024
"""The longest front matter that is parsed. The longest seen, with `widget` and `model-index` entries,
has 6 KB; YAML parsers are quadratic at some inputs, and at this size that stays in milliseconds."""

MAX_YAML_DEPTH = 32
"""How deep it may nest. `model-index`, the deepest the Hub defines, has 7 levels; PyYAML composes
recursively and would meet Python's recursion limit, or in C the stack's end."""


def read_front_matter(lines: Sequence[str]) -> tuple[dict[str, Any], int, list[str]]:
    """The fields, the index of the first line after them, and notes.

    Like the Hub, blank lines before the first `---` are allowed. Without both `---` lines, or where
    what stands between them is no YAML mapping, there is no front matter: all lines are body.
    """
    start = next((i for i, line in enumerate(lines) if line.strip()), None)
    if start is None or lines[start].rstrip() != "---":
        return {}, 0, []
    end = next((i for i in range(start + 1, len(lines)) if lines[i].rstrip() == "---"), None)
    if end is None:
        return {}, 0, ["The front matter's closing `---` is missing, so none of it is read."]
    text = "".join(line + "\n" for line in lines[start + 1 : end])
    if len(text) > MAX_YAML_CHARS:
        note = f"The front matter has {len(text):,} characters and is not read; up to {MAX_YAML_CHARS:,} are."
        return {}, end + 1, [note]
    try:
        value = _load(text)
    except _Refused as refused:
        return {}, end + 1, [f"The front matter is not read: {refused}."]
    except ValueError as error:
        return {}, 0, [f"The front matter is not YAML that can be read ({error})."]
    if value is None:
        return {}, end + 1, []
    if not isinstance(value, dict):
        return {}, 0, ["What stands between the first two `---` lines is no list of fields."]
    return {key: field for key, field in value.items() if isinstance(key, str)}, end + 1, []


def text_field(front_matter: Mapping[str, Any], key: str) -> str | None:
    """A field's text: the first of a list of texts; None where it is absent, empty or something else."""
    value = front_matter.get(key)
    if isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, str) and value.strip() else None


class _Refused(Exception):
    """Valid YAML of a kind that front matter never needs."""


def _load(text: str) -> Any:
    """PyYAML's safe load without aliases, so that nothing grows. Raises ValueError or _Refused."""
    import yaml  # takes 20 ms to import, and many cards have no front matter

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        depth = 0
        for event in yaml.parse(text, Loader=loader):
            if isinstance(event, yaml.AliasEvent):
                raise _Refused("it uses a YAML alias, which a card has no need for")
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > MAX_YAML_DEPTH:
                    raise _Refused(f"it nests deeper than {MAX_YAML_DEPTH} levels")
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
        return yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or type(error).__name__
        raise ValueError(str(problem)) from error
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError) as error:
        # The safe constructors let these through for `!!timestamp x`, `!!int ""`, `!!bool x` (PyYAML 6.0).
        raise ValueError(f"a value that is not what its tag says ({type(error).__name__})") from error
