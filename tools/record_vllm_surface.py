#!/usr/bin/env python3
"""Records what a release of vLLM declares of the names that the plugin touches.

Usage: tools/record_vllm_surface.py VLLM.whl...

Writes tests/vllm_surface/VERSION.json: for each name its parameters, or null where it is absent.
Reads sources only; nothing of vLLM is imported."""

import ast
import json
import pathlib
import sys
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "python"))
import importlib.util  # noqa: E402

_spec = importlib.util.spec_from_file_location(
    "surface", ROOT / "python" / "dualfp" / "vllm" / "surface.py"
)
surface = importlib.util.module_from_spec(_spec)
sys.modules["surface"] = surface
_spec.loader.exec_module(surface)


def source_of(wheel: zipfile.ZipFile, module: str) -> ast.Module | None:
    path = "vllm/" + module.replace(".", "/")
    for name in (path + ".py", path + "/__init__.py"):
        if name in wheel.namelist():
            return ast.parse(wheel.read(name))
    return None


def named(body: list[ast.stmt], name: str) -> ast.stmt | None:
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [node for node in body if isinstance(node, kinds) and node.name == name]
    return found[-1] if found else None


def parameters_of(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.ClassDef):  # a dataclass: its fields
        return [item.target.id for item in node.body if isinstance(item, ast.AnnAssign)]
    arguments = node.args
    return [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]


def declared(wheel: zipfile.ZipFile, touched: "surface.Name") -> list[str] | None:
    tree = source_of(wheel, touched.module)
    if tree is None:
        return None
    path, _, attribute = touched.name.partition("#")
    body: list[ast.stmt] = tree.body
    node = None
    for part in path.split("."):
        node = named(body, part)
        if node is None:
            imported = (alias.asname or alias.name for item in body
                        if isinstance(item, ast.ImportFrom) for alias in item.names)
            return ["(imported)"] if part in imported else None
        body = getattr(node, "body", [])
    if attribute:
        sets = any(
            isinstance(item, ast.Attribute) and item.attr == attribute
            and isinstance(item.ctx, ast.Store)
            for item in ast.walk(node)
        )
        return [] if sets else None
    return parameters_of(node)


def main() -> None:
    for path in sys.argv[1:]:
        with zipfile.ZipFile(path) as wheel:
            version = pathlib.Path(path).name.split("-")[1]
            record = {f"{t.module}.{t.name}": declared(wheel, t) for t in surface.TOUCHED}
        target = ROOT / "tests" / "vllm_surface" / f"{version}.json"
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(record, indent=1) + "\n")
        print(target.relative_to(ROOT), [name for name, value in record.items() if value is None])


if __name__ == "__main__":
    main()
