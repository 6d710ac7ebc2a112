"""Whether a process runs is told by its state."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from projections.sandbox.embedded import processes


def test_a_process_that_executes_another_program_is_alive_and_a_zombie_is_not(tmp_path: Path) -> None:
    script = tmp_path / "again.sh"
    script.write_text('exec /bin/sh "$0"\n')
    with subprocess.Popen(["/bin/sh", str(script)]) as process:
        try:
            assert all(processes.is_alive(process.pid) for _ in range(5_000))
        finally:
            process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not processes.is_alive(process.pid)
    assert not processes.is_alive(process.pid)
