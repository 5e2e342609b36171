"""Run tests with the oldest and the newest Keras that pyproject.toml allows: `make test-keras`.

Each is installed into build/keras, outside the virtual environment, and precedes it on the path.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = ["tests/test_keras_internals.py", "tests/optimization", "tests/layers", "tests/models"]


def bounds() -> tuple[str, str]:
    """The oldest version that is allowed, and the first that is not."""
    found = re.search(r'"keras>=([\d.]+),<([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert found, "pyproject.toml must ask for keras>=OLDEST,<FIRST_UNSUPPORTED"
    return found[1], found[2]


def installed(requirement: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*command, "--no-deps", "--upgrade", "--target", str(folder), requirement], check=True
    )
    return folder


def main(tests: list[str]) -> int:
    """Run the tests under both; the number of versions that failed."""
    oldest, first_unsupported = bounds()
    places = ROOT / "build" / "keras"
    failed = 0
    for requirement, name in (
        (f"keras=={oldest}", "oldest"),
        (f"keras>={oldest},<{first_unsupported}", "newest"),
    ):
        folder = installed(requirement, places / name)
        version = next(folder.glob("keras-*.dist-info")).name.split("-")[1].removesuffix(".dist")
        print(f"== Keras {version}", flush=True)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
        command = [sys.executable, "-m", "pytest", *(tests or TESTS)]
        failed += subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode != 0
    return failed


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
