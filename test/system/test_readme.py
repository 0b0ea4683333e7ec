"""README's list of log events keeps in step with the sources."""

import shutil
import subprocess

import pytest
from harness.stack import BUILD, REPOSITORY

SOURCES = ["api", "outboxd", "consumerd", "operator-sim", "libcommon"]
ROW = "| `delivery.failed` | info | A recipient failed and was refunded (`reason`: `rejected` or `expired`). |\n"


@pytest.fixture
def copy(tmp_path):
    for name in SOURCES:
        (tmp_path / name).mkdir()
        for source in (REPOSITORY / name).glob("*.c"):
            shutil.copy(source, tmp_path / name)
    (tmp_path / "test").mkdir()
    shutil.copy(REPOSITORY / "test" / "readme", tmp_path / "test")
    shutil.copy(REPOSITORY / "README.md", tmp_path)
    return tmp_path


def check(copy):
    done = subprocess.run([copy / "test" / "readme", "--check"], env={"BUILD_DIR": str(BUILD)},
                          capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_what_is_here_is_in_step(copy):
    assert check(copy) == (0, "")


@pytest.mark.parametrize("statement", [
    'log_info("delivery.sung", L_MSG("la, la"));',
    'LOG_EVENT(loud ? LOG_WARN : LOG_INFO, "delivery.sung", L_MSG("la"));',
    'log_warn(loud ? "delivery.sung" : "delivery.failed", L_MSG(")"));',
    'const char *event = "delivery.sung"; log_warn(event, L_MSG("la"));',
])
def test_an_event_that_is_not_listed(copy, statement):
    (copy / "consumerd" / "song.c").write_text(f"void sing(int loud)\n{{\n    {statement}\n}}\n")
    code, text = check(copy)
    assert code == 1 and "not listed" in text and "delivery.sung" in text


def test_an_event_that_nothing_logs(copy):
    edit(copy / "README.md", ROW, ROW + ROW.replace(".failed", ".failed_twice"))
    code, text = check(copy)
    assert code == 1 and "nothing logs: ['delivery.failed_twice']" in text


@pytest.mark.parametrize("old, new, said", [
    (ROW, "", "not listed: ['delivery.failed']"),
    (ROW, ROW + ROW, "listed twice"),
    (ROW, ROW.replace("info", "warn"), "another level: ['delivery.failed']"),
])
def test_a_list_that_is_wrong(copy, old, new, said):
    edit(copy / "README.md", old, new)
    code, text = check(copy)
    assert code == 1 and said in text
