"""A client: a new TCP connection and HTTP request every few milliseconds, each on its own, and what came of each.

    python client.py ADDRESS PORT INTERVAL TIMEOUT     (seconds)

One JSON line a request on standard output: when it began and ended (time.monotonic()), and the body that came, or
"HTTP nnn" where the status was not 200, or the error.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time


async def ask(address: str, port: int) -> str:
    reader, writer = await asyncio.open_connection(address, port)
    try:
        writer.write(f"GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    if not status:
        raise ConnectionError("closed without an answer")
    return body.decode().strip() if status == [b"200"] else f"HTTP {status[0].decode()}"


async def once(address: str, port: int, timeout: float) -> None:
    began = time.monotonic()
    try:
        said = await asyncio.wait_for(ask(address, port), timeout)
        good = not said.startswith("HTTP ")
    except TimeoutError:
        said, good = "timeout", False
    except OSError as error:
        said, good = str(error), False
    sys.stdout.write(json.dumps([began, time.monotonic(), good, said]) + "\n")
    sys.stdout.flush()


async def main(address: str, port: int, interval: float, timeout: float) -> None:
    tasks: set[asyncio.Task[None]] = set()
    due = time.monotonic()
    while True:
        task = asyncio.create_task(once(address, port, timeout))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        due = max(due + interval, time.monotonic())
        await asyncio.sleep(due - time.monotonic())


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])))
