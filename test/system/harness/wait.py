import time


class Timeout(AssertionError):
    pass


def wait_until(condition, deadline, what=None, pause=0.05):
    """Polls until condition() is true and returns its value; fails after `deadline` seconds."""
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            name = what or getattr(condition, "__name__", "condition")
            raise Timeout(f"not within {deadline} s: {name() if callable(name) else name} "
                          f"(last: {value!r})")
        time.sleep(pause)
