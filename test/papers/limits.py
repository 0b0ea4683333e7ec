"""The page of limits: its settings are the programs', its tests are there."""
import re

PAGE = "docs/limits.md"
START, END = "<!-- limits: checked by test/papers/run -->\n", "<!-- end of limits -->\n"
SETTING = re.compile(r"`([A-Z][A-Z0-9_]+)`")
TEST = re.compile(r"`(test_\w+\.(?:py|c))::(\w+)`")


def check(root):
    rows = [line for line in (root / PAGE).read_text().split(START)[1].split(END)[0].splitlines()
            if line.startswith("| ") and not line.startswith(("| what |", "| --- |"))]
    settings = set(SETTING.findall((root / "docs/settings.md").read_text()))
    texts = {}
    for path in [*(root / "test/unit").rglob("test_*.c"), *(root / "test/system").rglob("test_*.py")]:
        texts[path.name] = texts.get(path.name, "") + path.read_text()
    for row in rows:
        if unknown := set(SETTING.findall(row)) - settings:
            yield f"{PAGE}: settings that no program has: {sorted(unknown)}"
        tests = TEST.findall(row)
        if not tests:
            yield f"{PAGE}: a limit without a test: {row}"
        for file, name in tests:
            if not re.search(rf"\b{name}\b", texts.get(file, "")):
                yield f"{PAGE}: no such test: {file}::{name}"
