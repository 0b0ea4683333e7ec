"""The glossary: one meaning a word, in names too.

A row of its table in docs/architecture.md is | word | meaning | in names |. The last cell says which files may
have the word in their name and may declare public functions that begin with it: paths or beginnings of paths,
comma-separated (`consumerd/lane` allows consumerd/lane.c and consumerd/lane_internal.h, `consumerd/` the folder);
"–" stands for none. What a name begins with says whose it is, so of functions only the beginning counts.
"""
import re

from sources import files

PAGE = "docs/architecture.md"
START, END = "<!-- glossary: checked by test/papers/run -->\n", "<!-- end of glossary -->\n"
ROW = re.compile(r"(?m)^\| \*\*([^*]+)\*\* \| (\S.*?) \| (\S.*?) \|$")
COMMENT = re.compile(r"(?s)/\*.*?\*/|//[^\n]*")
# At the margin: a type, then the name with its parameters, up to the semicolon.
FUNCTION = re.compile(r"(?m)^[a-z][\w \t*]*?[ *\n](\w+)\([^;{]*\);")


def read(root):
    """[(word as a name has it, meaning, [beginnings of paths])]"""
    table = (root / PAGE).read_text().split(START)[1].split(END)[0]
    return [(word.replace(" ", "_").replace("-", "_"), meaning, re.findall(r"`([^`]+)`", places))
            for words, meaning, places in ROW.findall(table) for word in words.split(", ")]


def names(root):
    """(file, what it has, its name in words joined by _, whether the word may stand anywhere in it)"""
    for path in files(root, "*.[ch]"):
        name = str(path.relative_to(root))
        yield name, "the file's name", path.stem.replace("-", "_"), True
        if path.suffix == ".h":
            for function in FUNCTION.findall(COMMENT.sub("", path.read_text())):
                yield name, f"{function}()", function, False


def check(root):
    words = read(root)
    if len({word for word, _, _ in words}) < len(words):
        yield f"{PAGE}: a word stands in the glossary twice"
    for file, what, name, anywhere in names(root):
        for word, meaning, places in words:
            used = f"_{word}_" in f"_{name}_" if anywhere else f"{name}_".startswith(f"{word}_")
            if used and not any(file.startswith(place) for place in places):
                yield (f"{file}: {what} has the word \"{word}\", which the glossary keeps for: {meaning} "
                       f"Choose a name without it; or, if this is meant, add the file to the word's row in {PAGE}.")
