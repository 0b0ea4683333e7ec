"""A carrier on this machine: Debian's Kannel, bound by SMPP to a centre."""

import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "system"), str(HERE)]
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"

from centre import Centre  # noqa: E402
from harness.taker import Taker  # noqa: E402
from kannel import BEARERBOX, Kannel  # noqa: E402


def pytest_sessionstart(session):
    if not os.access(BEARERBOX, os.X_OK) or not (HERE / "node_modules" / "smpp").is_dir():
        pytest.exit("Kannel and npm's smpp are needed (make carriers-test)", returncode=2)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    for kannel in getattr(item, "kannels", ()):
        if report.failed:
            for log in sorted((kannel.folder / "log").iterdir()):
                lines = log.read_text(errors="replace").splitlines()[-15:]
                report.sections.append((f"{log.name} of Kannel", "\n".join(line[:300] for line in lines)))


@pytest.fixture
def centre():
    made = Centre()
    yield made
    assert made.process.poll() is None
    made.stop()


@pytest.fixture
def make_kannel(request, tmp_path, centre):
    """make(changes) -> Kannel, started and bound"""
    request.node.kannels = []

    def make(changes=None):
        made = Kannel(tmp_path / f"kannel-{len(request.node.kannels)}", centre.port, changes)
        request.node.kannels.append(made)
        return made.start()

    yield make
    for made in request.node.kannels:
        made.stop()


@pytest.fixture
def receiver():
    with Taker() as made:
        yield made
