"""Web servers: each says its name. On standard input: `NAME well`, `NAME slow SECONDS`, `NAME gone`; "ok" when done.

python backends.py NAME=ADDRESS:PORT...

A connection that asks for /slowly gets a line every 100 ms until it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys


class Backend:
    """One server, as it is told to be."""

    def __init__(self, name: str, address: str, port: int) -> None:
        self.name, self.address, self.port = name, address, port
        self.delay = 0.0
        self.server: asyncio.Server | None = None
        self.writers: set[asyncio.StreamWriter] = set()

    async def become(self, state: str, *values: str) -> None:
        self.delay = float(values[0]) if state == "slow" else 0.0
        if state == "gone":
            if self.server is not None:
                self.server.close()
                self.server = None
            for writer in self.writers:
                writer.close()
        elif self.server is None:
            self.server = await asyncio.start_server(self.answer, self.address, self.port, reuse_address=True)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                head = await reader.readuntil(b"\r\n\r\n")
                await asyncio.sleep(self.delay)
                writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/plain\r\n\r\n")
                writer.write(f"{self.name}\n".encode())
                while b" /slowly " in head.split(b"\r\n")[0]:
                    await writer.drain()
                    await asyncio.sleep(0.1)
                    writer.write(f"{self.name}\n".encode())
                await writer.drain()
        finally:
            self.writers.discard(writer)
            writer.close()


def say_ok() -> None:
    sys.stdout.write("ok\n")
    sys.stdout.flush()


async def main(wanted: list[str]) -> None:
    backends = {}
    for each in wanted:
        name, _, where = each.partition("=")
        address, _, port = where.rpartition(":")
        backends[name] = Backend(name, address, int(port))
        await backends[name].become("well")
    loop = asyncio.get_running_loop()
    say_ok()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        name, *state = line.split()
        await backends[name].become(*state)
        say_ok()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
