"""Builds the wheel of this tree around the build folder's libraries and installs it into an
environment of its own, where the tests of the package run."""

import os
import pathlib
import subprocess
import sys
import sysconfig

SOURCE = pathlib.Path(os.environ.get("DUALFP_SOURCE_DIR", pathlib.Path(__file__).parents[2]))
BUILD = pathlib.Path(os.environ.get("DUALFP_BUILD_DIR", SOURCE / "build"))


def run(*command, **options):
    done = subprocess.run(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}")
    return done.stdout


def build_wheel(folder):
    """pip's own way, with nothing downloaded: the test environment has the build backend."""
    run(
        sys.executable, "-m", "pip", "wheel", SOURCE, "--no-deps", "--no-build-isolation",
        "--disable-pip-version-check", "--wheel-dir", folder,
        f"-Cbuild-dir={folder}/build", f"-Ccmake.define.DUALFP_PREBUILT={BUILD}",
    )
    (wheel,) = pathlib.Path(folder).glob("*.whl")
    return wheel


def install(wheel, folder):
    """The interpreter of a new environment with the wheel, which sees the test environment's torch."""
    run(sys.executable, "-m", "venv", folder)
    python = pathlib.Path(folder) / "bin" / "python3"
    run(python, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps", "--no-index",
        "--force-reinstall", wheel)
    packages = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    pathlib.Path(packages, "test_environment.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


if __name__ == "__main__":
    target = pathlib.Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("*.whl"):
        old.unlink()
    print(install(build_wheel(target), target / "environment"))
