import subprocess
import sys

RAISED = """
import resource, sys
from quotapool.app.file_limit import raise_file_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), 4096))
raise_file_limit()
import subprocess
shown = [sys.executable, "-c", "import resource; print(*resource.getrlimit(resource.RLIMIT_NOFILE))"]
print(*resource.getrlimit(resource.RLIMIT_NOFILE), flush=True)
subprocess.run(shown, check=True)
"""


def limits_after(soft: int) -> list[str]:
    words = [sys.executable, "-c", RAISED, str(soft)]
    return subprocess.run(
        words, capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)}
    ).stdout.splitlines()


def test_the_soft_limit_becomes_the_hard_one_also_for_the_workers():
    assert limits_after(1024) == ["4096 4096", "4096 4096"]


def test_a_limit_that_is_high_enough_stays():
    assert limits_after(4096) == ["4096 4096", "4096 4096"]
