"""What runs inside: the doctor, then the chosen tests; what they say goes into the folder that is shared."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

OUT = Path("/mnt/out")
BIN = Path(sys.executable).parent
TEST_LIMIT_S = 600


def main() -> int:
    """``python -m tests.kernels.guest TEST...``; 0 when the tests ran, whatever they found."""
    said = subprocess.run(
        [sys.executable, "-m", "whyidle_daemon.doctor", "--json"], capture_output=True, text=True, check=False
    )
    sys.stderr.write(said.stderr)
    print(f"Linux {platform.release()}", flush=True)
    print(said.stdout, flush=True)
    (OUT / "doctor.json").write_text(json.dumps(json.loads(said.stdout)))
    done = subprocess.run(
        [
            *(BIN / "pytest", "-v", "-p", "no:cacheprovider", "-o", "junit_family=xunit1"),
            *(f"--timeout={TEST_LIMIT_S}", f"--junitxml={OUT / 'tests.xml'}", "--basetemp=/mnt/disk/tests"),
            *sys.argv[1:],
        ],
        check=False,
    )
    return 0 if done.returncode in (0, 1) else 1  # 1: some test failed, which its row says


if __name__ == "__main__":
    sys.exit(main())
