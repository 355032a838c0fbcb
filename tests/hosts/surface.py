"""Whether a stand-in webui has the real one's names, parameters, defaults and hooks. Both are read, never imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

HOOKS = "EXTENSION_MAP"


def functions(tree: ast.Module) -> dict[str, str]:
    """Each function and method a module defines, with its parameters and defaults as written, types left out."""
    found: dict[str, str] = {}
    for place, node in _walk(tree, ""):
        for argument in ast.walk(node.args):
            if isinstance(argument, ast.arg):
                argument.annotation = None
        found[place] = ast.unparse(node.args)
    return found


def _walk(node: ast.AST, inside: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield inside + child.name, child
        elif isinstance(child, ast.ClassDef):
            yield from _walk(child, f"{inside}{child.name}.")
        elif isinstance(child, (ast.If, ast.Try, ast.With)):
            yield from _walk(child, inside)


def hooks(tree: ast.Module) -> dict[str, str]:
    """EXTENSION_MAP: hook -> what it is made of, as written."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Dict):
            continue
        if any(isinstance(target, ast.Name) and target.id == HOOKS for target in node.targets):
            pairs = zip(node.value.keys, node.value.values, strict=True)
            return {key.value: ast.unparse(value) for key, value in pairs if isinstance(key, ast.Constant)}
    return {}


def imports(tree: ast.Module) -> dict[str, str]:
    """Names taken out of the webui's own modules, which are bound a second time there: name -> module's last name."""
    return {
        alias.asname or alias.name: (node.module or "").split(".")[-1]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and (node.level or (node.module or "").split(".")[0] in ("modules", "extensions"))
        for alias in node.names
    }


def differences(standin: Path, host: Path) -> list[str]:
    """What the stand-in has that the webui has not, or has otherwise. Code of its own begins with `_standin`."""
    found: list[str] = []
    for file in sorted(standin.rglob("*.py")):
        path = file.relative_to(standin)
        if path.parts[0] not in ("modules", "extensions"):
            continue
        if not (host / path).is_file():
            if file.name != "__init__.py":
                found.append(f"{path}: the webui has no such module")
            continue
        ours, real = (ast.parse(each.read_text(encoding="utf-8")) for each in (file, host / path))
        found += [f"{path}: {line}" for line in _unlike("function", functions(ours), functions(real))]
        found += [f"{path}: {line}" for line in _unlike("hook", hooks(ours), hooks(real))]
        found += [f"{path}: {line}" for line in _unlike("import of", imports(ours), imports(real))]
    return found


def _unlike(kind: str, ours: dict[str, str], real: dict[str, str]) -> Iterator[str]:
    for name, written in ours.items():
        if name.split(".")[-1].startswith("_standin"):
            continue
        if name not in real:
            yield f"{kind} {name}: the webui has none"
        elif real[name] != written:
            yield f"{kind} {name}: ({written}) here, ({real[name]}) in the webui"


def era(host: Path) -> str:
    """The folder of tests/standin that stands for this webui: by what is there, as in host.py."""
    if (host / "extensions/api/blocking_api.py").is_file():
        return "v1"
    return "v4" if (host / "modules/api/script.py").is_file() else "v3"
