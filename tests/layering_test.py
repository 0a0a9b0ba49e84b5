"""Every #include of the tree against the layering of the house.

A folder may include itself and the folders of lower layers; folders of one layer never include
each other. Applications, tests, benchmarks and fuzzers may include everything.
"""

import os
import pathlib
import re

SOURCE_DIR = pathlib.Path(os.environ.get("DUALFP_SOURCE_DIR", pathlib.Path(__file__).parent.parent))

LAYERS = [
    {"base"},
    {"numeric"},
    {"tensor"},
    {"io", "kernels"},
    {"model", "text"},
    {"quant", "engine"},
    {"llm"},
    {"server"},
]
# text/ knows no tensors' kernels: it is not allowed what its layer would give it.
FORBIDDEN = {("text", "kernels"), ("text", "tensor")}

# Folders beside dualfp/, and the layers up to which they include.
BESIDE = {"capi": "kernels", "python/csrc": "llm"}

# Third-party headers that belong to one layer alone.
CONFINED = {
    "nlohmann/": {"io", "text", "model", "quant", "llm", "server"},
    "torch/": set(),
    "boost/": {"server"},
    # Header-only: Jinja's integers of any size.
    "boost/multiprecision/": {"text"},
    "pcre2.h": {"io", "text"},
    "cuda": {"kernels"},
}

SUFFIXES = {".h", ".cc", ".cu", ".cuh"}
INCLUDE = re.compile(r'^\s*#\s*include\s+["<]([^">]+)[">]', re.MULTILINE)


def layer_of(folder):
    for index, layer in enumerate(LAYERS):
        if folder in layer:
            return index
    return None


def violations(root):
    found = []
    for path in sorted((root / "dualfp").rglob("*")):
        if path.suffix not in SUFFIXES:
            continue
        relative = path.relative_to(root)
        folder = relative.parts[1]
        level = layer_of(folder)
        if level is None:
            found.append(f"{relative}: folder dualfp/{folder} is not a layer")
            continue
        text = path.read_text(encoding="utf-8")
        for target in INCLUDE.findall(text):
            if target.startswith("dualfp/"):
                other = target.split("/")[1]
                other_level = layer_of(other)
                lower = other_level is not None and other_level < level
                if other != folder and (not lower or (folder, other) in FORBIDDEN):
                    found.append(f"{relative}: {folder}/ may not include {target}")
                # The build writes x_generated.*; everything else is in the tree.
                if "_generated." not in target and not (root / target).is_file():
                    found.append(f"{relative}: {target} does not exist")
            else:
                # The longest prefix is the one that counts.
                prefix = max((p for p in CONFINED if target.startswith(p)), key=len, default=None)
                if prefix is not None and folder not in CONFINED[prefix]:
                    found.append(f"{relative}: {target} does not belong in {folder}/")
    return found


def violations_beside(root):
    found = []
    for folder, top in BESIDE.items():
        allowed = layer_of(top)
        for path in sorted((root / folder).rglob("*")):
            if path.suffix not in SUFFIXES | {".c"}:
                continue
            for target in INCLUDE.findall(path.read_text(encoding="utf-8")):
                level = layer_of(target.split("/")[1]) if target.startswith("dualfp/") else -1
                if level is None or level > allowed or (level == allowed and target.split("/")[1] != top):
                    found.append(f"{path.relative_to(root)}: {folder}/ may not include {target}")
    return found


def test_every_include_points_downwards():
    assert violations(SOURCE_DIR) == []
    assert violations_beside(SOURCE_DIR) == []


def test_the_test_catches_a_violation(tmp_path):
    for folder, text in {
        "base": '#include "dualfp/tensor/dtype.h"\n',
        "tensor": "#include <torch/torch.h>\n",
        "io": '#include "dualfp/kernels/gemm.h"\n',
        "kernels": '#include "dualfp/tensor/gone.h"\n',
        "text": "#include <boost/multiprecision/cpp_int.hpp>\n#include <boost/asio.hpp>\n",
        "server": "#include <boost/multiprecision/cpp_int.hpp>\n#include <boost/asio.hpp>\n",
        "misc": "",
    }.items():
        (tmp_path / "dualfp" / folder).mkdir(parents=True)
        (tmp_path / "dualfp" / folder / "x.h").write_text(text)
    (tmp_path / "dualfp" / "tensor" / "dtype.h").write_text("")
    (tmp_path / "dualfp" / "kernels" / "gemm.h").write_text("")
    assert len(violations(tmp_path)) == 7
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / "x.cc").write_text(
        '#include "dualfp/model/model.h"\n#include "dualfp/io/json.h"\n#include "dualfp/kernels/gemm.h"\n'
    )
    assert len(violations_beside(tmp_path)) == 2
