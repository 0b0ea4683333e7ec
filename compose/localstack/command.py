"""What the front ends share: words of the command line, tables."""

from .config import StackError


class Arguments:
    """Options, names and SETTING=VALUE in any order."""

    def __init__(self, words, flags=(), values=()):
        self.names, self.assignments, self.options = [], {}, {}
        words = list(words)
        while words:
            word = words.pop(0)
            if word in flags:
                self.options[word] = True
            elif word in values:
                if not words:
                    raise StackError(f"{word} needs a value")
                self.options[word] = words.pop(0)
            elif word.startswith("-"):
                raise StackError(f"unknown option {word}")
            elif "=" in word:
                name, _, value = word.partition("=")
                self.assignments[name] = value
            else:
                self.names.append(word)

    def __contains__(self, option):
        return option in self.options


def print_table(rows):
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths)).rstrip())


def required(names):
    if not names:
        raise StackError("which? (help tells)")
    return names
