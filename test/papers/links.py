"""README's length, and whether what the papers link is there."""
import re

LONGEST = 250
PAPERS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "grafana/prometheus/RUNBOOK.md"]
LINK = re.compile(r'\]\(([^)\s]+)\)|\b(?:src|href)="([^"]+)"')
CODE = re.compile(r"(?ms)^ *```.*?^ *```$|`[^`\n]*`")
HEADING = re.compile(r"(?m)^#+ +(.+?) *#*$")


def papers(root):
    return [root / name for name in PAPERS] + sorted((root / "docs").glob("*.md"))


def anchors(text):
    """Those that GitHub gives the headings."""
    found = set()
    for heading in HEADING.findall(re.sub(r"(?ms)^```.*?^```$", "", text)):
        heading = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        n = 0
        while (f"{slug}-{n}" if n else slug) in found:
            n += 1
        found.add(f"{slug}-{n}" if n else slug)
    return found


def linked(paper):
    """(target, anchor) of each relative link."""
    for match in LINK.finditer(CODE.sub("", paper.read_text())):
        link = match[1] or match[2]
        if not re.match(r"[a-z]+:", link):
            name, _, anchor = link.partition("#")
            yield (paper.parent / name).resolve() if name else paper, anchor, link


def check(root):
    readme = root / "README.md"
    length = readme.read_text().count("\n")
    if length > LONGEST:
        yield f"README.md: {length} lines; at most {LONGEST}: what explains more goes to a page under docs/"
    targets = {target for target, _, _ in linked(readme)}
    for paper in papers(root):
        if paper != readme and paper not in targets:
            yield f"README.md: does not link {paper.relative_to(root)}"
        for target, anchor, link in linked(paper):
            if not target.exists():
                yield f"{paper.relative_to(root)}: {link} leads nowhere"
            elif anchor and (target.suffix != ".md" or anchor not in anchors(target.read_text())):
                yield f"{paper.relative_to(root)}: {link}: there is no such heading"
