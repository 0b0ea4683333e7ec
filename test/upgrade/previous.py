"""The release before this one, as test/upgrade/previous names it."""

import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]


class NoHistory(Exception):
    """Why its files cannot be had: a folder that is no clone, or a shallow one."""


def commit():
    return re.search(r"(?m)^[0-9a-f]{40}$", (ROOT / "test" / "upgrade" / "previous").read_text()).group()


def git(*words):
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True)
    except FileNotFoundError as e:
        raise NoHistory("git is not installed") from e
    if done.returncode:
        raise NoHistory(done.stderr.decode(errors="replace").strip())
    return done.stdout


def files(*folders):
    """{path: text} of what it has under these folders."""
    names = git("ls-tree", "-r", "--name-only", commit(), "--", *folders).decode().split("\n")
    return {name: git("show", f"{commit()}:{name}").decode(errors="replace") for name in names
            if name.endswith((".c", ".h", ".sql"))}
