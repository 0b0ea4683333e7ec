"""A TCP proxy that misbehaves on command, to stand between two parts of a stack.

Faults hold for all connections, those that exist and those to come, until `heal`. A direction is "up"
(client to server), "down" (server to client) or "both".
"""

import asyncio
import contextlib
import random
import socket
import struct
import threading

CHUNK = 65536
LOSE_AFTER = 0.2  # seconds from a request whose answer is lost to the end of its connection


class FaultProxy:
    def __init__(self, host, port, listen_port=0):
        self.target = (host, port)
        self._lock = threading.Lock()
        self._links = set()
        self.connections = 0
        self.cut = 0  # connections ended by a fault
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.heal()
        self._server = self._call(asyncio.start_server(self._accept, "127.0.0.1", listen_port))
        self.port = self._server.sockets[0].getsockname()[1]

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    # ---- faults ----

    def heal(self):
        self._refuse = False
        self._delay = {"up": 0.0, "down": 0.0}
        self._stalled = {"up": False, "down": False}
        self._left = {"up": None, "down": None}
        self._jitter = 0.0
        self._needle = self._cut_needle = self._sight = None
        self._loop.call_soon_threadsafe(self._wake)

    def delay(self, seconds, direction="both", jitter=0.0):
        for way in self._ways(direction):
            self._delay[way] = seconds
        self._jitter = jitter

    def stall(self, direction="both"):
        """Bytes are taken and kept: a half-open link, or a dead one when both."""
        for way in self._ways(direction):
            self._stalled[way] = True

    def drop_after(self, count, direction="both"):
        """After that many more bytes the connection that carries them is reset."""
        for way in self._ways(direction):
            self._left[way] = count

    def lose_answer_to(self, needle, every=1):
        """What the client sends with these bytes in it arrives; its answer never comes back."""
        self._needle, self._every, self._seen = needle, every, 0

    def cut_answer_to(self, needle, lengths):
        """What the client sends with these bytes in it arrives; of its answer so many bytes come back
        as lengths() says, then the connection is reset."""
        self._cut_lengths, self._cut_needle = lengths, needle

    def on_sight(self, needle, act, passes=True, every=1):
        """act() for what the client sends with these bytes in it; passes: it has arrived then, else it
        never does."""
        self._act, self._passes, self._every, self._seen = act, passes, every, 0
        self._sight = needle

    def refuse(self):
        """New connections are reset; those that exist too."""
        self._refuse = True
        self.reset()

    def reset(self):
        """Ends what is connected, with RST."""
        self._call(self._reset())

    async def _reset(self):
        for link in list(self._links):
            link.abort()

    def close(self):
        self._loop.call_soon_threadsafe(self._server.close)
        self.reset()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def held(self):
        """The connections that their clients have not given up."""
        return {link for link in list(self._links) if not link.given_up}

    @staticmethod
    def _ways(direction):
        return ("up", "down") if direction == "both" else (direction,)

    # ---- the loop's side ----

    def _wake(self):
        for link in self._links:
            link.wake.set()

    async def _accept(self, reader, writer):
        self.connections += 1
        if self._refuse:
            _reset_writer(writer)
            return
        try:
            there = await asyncio.open_connection(*self.target)
        except OSError:
            _reset_writer(writer)
            return
        link = Link(self, (reader, writer), there)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)


class Link:
    def __init__(self, proxy, client, server):
        self.proxy = proxy
        self.client = client
        self.server = server
        self.deaf = False  # the answer to a needle is being lost
        self.left = None   # bytes of an answer until it is cut
        self.wake = asyncio.Event()

    @property
    def given_up(self):
        """Also while a stall keeps what came before the end from being read."""
        reader = self.client[0]
        return reader._eof or reader.exception() is not None

    def abort(self):
        self.proxy.cut += 1
        _reset_writer(self.client[1])
        _reset_writer(self.server[1])

    async def run(self):
        pumps = [
            asyncio.ensure_future(self._pump("up", self.client[0], self.server[1])),
            asyncio.ensure_future(self._pump("down", self.server[0], self.client[1])),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            for _, writer in (self.client, self.server):
                with contextlib.suppress(Exception):
                    writer.close()

    async def _pump(self, way, reader, writer):
        proxy = self.proxy
        with contextlib.suppress(ConnectionError, OSError):
            while data := await reader.read(CHUNK):
                if proxy._delay[way]:
                    await asyncio.sleep(proxy._delay[way] + random.random() * proxy._jitter)
                while proxy._stalled[way]:
                    self.wake.clear()
                    await self.wake.wait()
                if way == "down" and self.deaf:
                    continue
                if way == "up" and proxy._needle and proxy._needle in data:
                    self.deaf = self._due()
                    if self.deaf:  # cut at once, the server would give up before its last statement
                        proxy._loop.call_later(LOSE_AFTER, self.abort)
                if way == "up" and proxy._sight and proxy._sight in data and self._due():
                    if proxy._passes:
                        writer.write(data)
                        await writer.drain()
                    proxy._act()
                    continue
                if way == "up" and self.left is None and proxy._cut_needle and proxy._cut_needle in data:
                    self.left = proxy._cut_lengths()
                if way == "down" and self.left is not None:
                    if len(data) > self.left:
                        await self._last_words(writer, data[:self.left])
                        return
                    self.left -= len(data)
                left = proxy._left[way]
                if left is not None:
                    proxy._left[way] = max(0, left - len(data))
                    if left < len(data):
                        await self._last_words(writer, data[:left])
                        return
                writer.write(data)
                await writer.drain()

    def _due(self):
        self.proxy._seen += 1
        return self.proxy._seen % self.proxy._every == 0

    async def _last_words(self, writer, data):
        """A reset throws away what the other side has not read yet: it gets a moment to."""
        writer.write(data)
        await writer.drain()
        await asyncio.sleep(0.01)
        self.abort()


def _reset_writer(writer):
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with contextlib.suppress(Exception):
        writer.transport.abort()
