"""The wheel as a package: what it holds, what it needs, and its own report."""

import importlib.metadata
import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import dualfp

ROOT = pathlib.Path(dualfp.__file__).parent


def python(*arguments, **environment):
    return subprocess.run([sys.executable, *arguments], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, env={**os.environ, **environment})


def test_version_and_tag():
    cmake = (pathlib.Path(os.environ["DUALFP_SOURCE_DIR"]) / "CMakeLists.txt").read_text()
    version = re.search(r"project\(dualfp VERSION ([\d.]+)", cmake).group(1)
    assert dualfp.__version__ == importlib.metadata.version("dualfp") == version
    (tag,) = re.findall(r"^Tag: (.*)$", importlib.metadata.distribution("dualfp").read_text("WHEEL"), re.M)
    assert tag.startswith("cp310-abi3-")


def test_type_hints_and_libraries_are_in_it():
    assert (ROOT / "py.typed").exists()
    names = {path.name for path in (ROOT / "lib").iterdir()}
    assert names == {"libdualfp_c.so.1", "libdualfp_llm.so.1", "_torch_ops.so"}


def test_type_hints_hold(tmp_path):
    # Of what needs no torch, whose own hints take minutes to read.
    use = tmp_path / "use.py"
    use.write_text("""
import dualfp

llm = dualfp.LLM("model", precision="exact")
text: str = llm.generate("a", dualfp.SamplingParams(max_tokens=1))[0].outputs[0].text
llm.generate(3.5)  # expected to be refused
""")
    modules = ["llm", "sampling", "outputs", "_engine", "_native", "_precision"]
    done = python("-m", "mypy", "--cache-dir", str(tmp_path / "cache"), str(use),
                  *(str(ROOT / f"{name}.py") for name in modules))
    errors = [line for line in done.stdout.splitlines() if "error:" in line]
    assert len(errors) == 1 and "use.py:6" in errors[0], done.stdout


def test_libraries_export_the_c_interface_alone():
    for name, prefix in [("libdualfp_c.so.1", "dualfp_"), ("libdualfp_llm.so.1", "dualfp_llm_")]:
        done = subprocess.run(["nm", "-D", "--defined-only", ROOT / "lib" / name], check=True, text=True,
                              stdout=subprocess.PIPE)
        exported = [line.split()[-1].split("@")[0] for line in done.stdout.splitlines()]
        functions = [symbol for symbol in exported if not symbol.isupper() and not symbol.startswith("DUALFP_")]
        assert functions and all(symbol.startswith(prefix) for symbol in functions)


def test_the_engine_needs_no_torch():
    done = python("-c", "import sys; sys.modules['torch'] = None; import dualfp; print(dualfp.LLM.__name__)")
    assert done.stdout.strip() == "LLM", done.stderr
    done = python("-c", "import sys; sys.modules['torch'] = None; import dualfp.torch")
    assert done.returncode != 0 and "torch" in done.stderr


def test_a_library_of_another_interface_is_refused(tmp_path):
    done = python("-c", "import dualfp", DUALFP_LIBRARY_DIR=str(tmp_path))
    assert done.returncode != 0 and "ImportError: dualfp: cannot load" in done.stderr


def test_verify_proves_what_works():
    done = python("-m", "dualfp.verify")
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = {line[:18].strip(): line[19:].split()[0] for line in done.stdout.splitlines()}
    assert {"machine", "engine", "torch", "cpu float16", "cpu bfloat16", "cpu FP8Linear"} <= set(outcomes)
    assert set(outcomes.values()) == {"ok"}


def test_verify_says_what_is_wrong():
    done = python("-m", "dualfp.verify", DUALFP_KERNEL="no_such_kernel")
    assert done.returncode == 1
    assert re.search(r"cpu float16 +WRONG .*no_such_kernel", done.stdout), done.stdout
