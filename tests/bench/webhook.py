"""How fast the webhook answers: `python -m tests.bench.webhook`.

200 connections that stay open, as Alertmanager's do, deliver ordinary bodies (one alert, about 1.1 kB) to a
receiver in a process of its own, over the real journal: each answer comes after an fsync. The load is open: each
delivery has its time, and its answer is counted from that time, so one that waits for its turn counts in full.
"""

import argparse
import asyncio
import math
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.actuator.deliveries import alert, body, receiver_process, request
from tests.proc import stat_of

BAR_SECONDS = 0.050


class Client:
    """One connection; one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._turn = asyncio.Lock()

    async def deliver(self, content: bytes) -> int:
        async with self._turn:
            self._writer.write(request(content))
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.split(b"\r\n") if line.startswith(b"Content-Length:"))
            await self._reader.readexactly(int(length.partition(b":")[2]))
            return int(head.split(b" ", 2)[1])


async def steady(
    clients: list[Client], per_second: float, seconds: float
) -> tuple[list[float], Counter[int]]:
    """Deliver at a steady rate; the seconds that each answer took, and the codes."""
    loop = asyncio.get_running_loop()
    bodies = [body(alert(number)) for number in range(len(clients))]
    took, codes = [], Counter()

    async def one(number: int, due: float) -> None:
        codes[await clients[number % len(clients)].deliver(bodies[number % len(clients)])] += 1
        took.append(loop.time() - due)

    begin = loop.time() + 0.1
    async with asyncio.TaskGroup() as tasks:
        for number in range(int(per_second * seconds)):
            due = begin + number / per_second
            await asyncio.sleep(due - loop.time())
            tasks.create_task(one(number, due))
    return took, codes


async def burst(clients: list[Client]) -> tuple[list[float], Counter[int]]:
    """Every connection delivers at the same moment."""
    return await steady(clients, per_second=1e6, seconds=len(clients) / 1e6)


def fsyncs(folder: Path, count: int = 200) -> list[float]:
    """What this disk alone takes for 4 KiB that must survive."""
    took = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(count):
            begin = time.perf_counter()
            file.write(bytes(4096))
            os.fdatasync(file)
            took.append(time.perf_counter() - begin)
    return took


def cpu_seconds(pid: int) -> float:
    """Of the process until now, user and system."""
    fields = stat_of(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def row(name: str, took: list[float], codes: Counter[int] | None = None) -> list[str]:
    ordered = sorted(took)
    quantiles = [ordered[math.ceil(share * len(ordered)) - 1] for share in (0.5, 0.99, 1.0)]
    answers = ", ".join(f"{count} x {code}" for code, count in sorted((codes or {}).items()))
    return [name, str(len(took)), *(f"{seconds * 1000:.1f}" for seconds in quantiles), answers]


async def measure(
    pid: int, port: int, connections: int, per_second: float, seconds: float, table: Table
) -> float:
    clients = [Client(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(connections)]
    await burst(clients)  # connections and code are warm afterwards
    cpu = cpu_seconds(pid)
    took, codes = await steady(clients, per_second, seconds)
    cpu = cpu_seconds(pid) - cpu
    table.add_row(*row(f"{per_second:g} a second", took, codes))
    table.add_row(*row(f"{connections} at once", *await burst(clients)))
    table.caption = (
        f"{cpu / len(took) * 1000:.2f} ms of the receiver's CPU for each delivery at the steady rate"
    )
    return sorted(took)[math.ceil(0.99 * len(took)) - 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--rate", type=float, default=100.0, help="deliveries a second")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--folder", type=Path, help="where the journal lies; a temporary one by default")
    options = parser.parse_args()
    table = Table(
        "what", "count", "p50 ms", "p99 ms", "max ms", "answers", title="Webhook: time to the answer"
    )
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        with receiver_process(Path(folder) / "journal.db") as (process, port):
            p99 = asyncio.run(
                measure(process.pid, port, options.connections, options.rate, options.seconds, table)
            )
        table.add_row(*row("(fdatasync of 4 KiB alone)", fsyncs(Path(folder))))
    Console().print(table)
    verdict = "met" if p99 < BAR_SECONDS else "MISSED"
    print(
        f"bar: p99 under {BAR_SECONDS * 1000:g} ms at {options.rate:g} a second: {verdict} ({p99 * 1000:.1f} ms)"
    )


if __name__ == "__main__":
    main()
