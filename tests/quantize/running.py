"""Running the command."""

import os
import pathlib
import subprocess

BINARY = os.environ["DUALFP_BINARY"]
MODEL = pathlib.Path(os.environ["DUALFP_SOURCE_DIR"]) / "models" / "reference"


def dualfp(*arguments, **more):
    command = [BINARY, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **more)


def quantize(*arguments):
    done = dualfp("quantize", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refuses(done, *texts):
    assert done.returncode == 1 and done.stdout == "", done
    assert done.stderr.startswith("dualfp: error: ") and len(done.stderr.splitlines()) == 1
    for text in texts:
        assert text in done.stderr
