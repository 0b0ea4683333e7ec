"""A crowd of clients that take their time, as a program of its own: `python -m harness.slow PORT COUNT`.

A third of them send headers a byte a second, a third a body, and a third read like that what they have asked for. It
says "ready" when all of them are at it, and at the end, of each kind, after how many seconds the server had ended each;
null: it had not.
"""

import asyncio
import json
import socket
import subprocess
import sys
import time
from pathlib import Path

EVERY_SEC = 1
PATIENCE_SEC = 30
STARTS = {"headers": b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ",
          "body": b"POST /messages HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n{",
          "reads": b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 30}


class Slow:
    """The crowd, from where a test is: with Slow(port, 1000) as slow: …; slow.ended()"""

    def __init__(self, port, count):
        self.process = subprocess.Popen([sys.executable, "-m", "harness.slow", str(port), str(count)],
                                        cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        assert self.process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def ended(self):
        return json.loads(self.process.stdout.readline())


async def one(port, kind, ready):
    loop, s = asyncio.get_running_loop(), socket.socket()
    if kind == "reads":
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    s.setblocking(False)
    began = time.monotonic()
    try:
        await loop.sock_connect(s, ("127.0.0.1", port))
        await loop.sock_sendall(s, STARTS[kind])
        began = time.monotonic()
        ready.release()
        while time.monotonic() - began < PATIENCE_SEC:
            await asyncio.sleep(EVERY_SEC)
            if kind == "reads":
                # What has come before a reset can still be read.
                if s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or not await loop.sock_recv(s, 1):
                    return time.monotonic() - began
            else:
                s.send(b"1")
        return None
    except OSError:
        return time.monotonic() - began
    finally:
        s.close()


async def main(port, count):
    ready, kinds = asyncio.Semaphore(0), list(STARTS)
    clients = [asyncio.create_task(one(port, kinds[i % 3], ready)) for i in range(count)]
    for _ in clients:
        await ready.acquire()
    print("ready", flush=True)
    ended = await asyncio.gather(*clients)
    print(json.dumps({kind: ended[i::3] for i, kind in enumerate(kinds)}), flush=True)


if __name__ == "__main__":
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
