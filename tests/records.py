"""The measurements that bench/results keeps packed."""

import os
import pathlib
import subprocess
import sys

SOURCE_DIR = pathlib.Path(os.environ["DUALFP_SOURCE_DIR"])


def unpack_records(folder, *patterns):
    """Unpacks bench/results/PATTERN.xz into `folder`; returns the files."""
    packed = [path for pattern in patterns for path in (SOURCE_DIR / "bench/results").glob(pattern + ".xz")]
    assert len(packed) >= len(patterns)
    target = folder / "records"
    subprocess.run([sys.executable, SOURCE_DIR / "tools/tuning_log.py", "unpack", *packed, target],
                   check=True, timeout=120)
    return sorted(target.iterdir())
