"""The command `vmheal-exporter`: flags, logging, start and stop."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import structlog

from exporter import __version__
from exporter.collector import Collector
from exporter.collectors.drbd import Drbd
from exporter.collectors.host import Host
from exporter.collectors.libvirt_state import LibvirtState
from exporter.collectors.libvirt_stats import LibvirtStats
from exporter.collectors.lvm import Lvm
from exporter.collectors.process import Process
from exporter.memory import keep_small
from exporter.notify import notify, watchdog_seconds
from exporter.scrape import Scraper
from exporter.web import AddressError, Server, listen
from exporter.web_config import Guard, WebConfigError, WebConfigFile
from exporter.web_pages import Pages

log = structlog.get_logger()

CLOSE_SECONDS = 2.0


@dataclass(frozen=True)
class Options:
    """What collectors are made from; DRBD's knows volumes that others ask it for."""

    libvirt_uris: tuple[str, ...]
    drbd: Drbd


@dataclass(frozen=True)
class Registered:
    """A collector that can be switched on and off."""

    name: str
    about: str
    make: Callable[[Options], Collector]


COLLECTORS = (
    Registered(
        "drbd",
        "State of every DRBD resource, connection, device and peer device.",
        lambda options: options.drbd,
    ),
    Registered(
        "libvirt",
        "State, reasons, lifecycle events and DRBD resources of every domain; never waits for a VM.",
        lambda options: LibvirtState(options.libvirt_uris, options.drbd.volume_of_minor),
    ),
    Registered(
        "libvirt.stats",
        "Block, interface, memory and vCPU statistics of running domains; each may be missing by itself.",
        lambda options: LibvirtStats(options.libvirt_uris),
    ),
    Registered(
        "host", "Memory, CPUs, load, boot and clock of the host.", lambda options: Host(options.libvirt_uris)
    ),
    Registered(
        "lvm",
        "LVM's volume groups and logical volumes, and which of them lie below DRBD.",
        lambda options: Lvm(options.drbd.backing_disks),
    ),
    Registered("process", "The exporter itself.", lambda _options: Process()),
)


def _collector_flags(command: Callable[..., None]) -> Callable[..., None]:
    for registered in reversed(COLLECTORS):
        name = registered.name
        command = click.option(
            f"--collector.{name}/--no-collector.{name}",
            f"collector_{name}".replace(".", "_"),
            default=True,
            show_default=True,
            help=registered.about,
        )(command)
    return command


def configure_logging(level: str, log_format: str) -> None:
    """Log to standard error, as logfmt or JSON."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.processors.LogfmtRenderer(key_order=["ts", "level", "event"], bool_as_flag=False)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


async def serve(server: Server) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.call_soon(_tell_systemd, loop, "READY=1")
    await server.run(stop)
    notify("STOPPING=1")


def _tell_systemd(loop: asyncio.AbstractEventLoop, *states: str) -> None:
    """The loop that answers scrapes goes on. A collector that hangs is told on the page, and ends nothing."""
    notify("WATCHDOG=1", *states)
    if (seconds := watchdog_seconds()) is not None:
        loop.call_later(seconds, _tell_systemd, loop)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--web.listen-address",
    "listen_addresses",
    multiple=True,
    default=(":10810",),
    show_default=True,
    metavar="HOST:PORT",
    help="Address to serve on; may be repeated.",
)
@click.option(
    "--web.telemetry-path",
    "telemetry_path",
    default="/metrics",
    show_default=True,
    metavar="PATH",
    help="Path of the metrics page.",
)
@click.option(
    "--web.config.file",
    "web_config_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="TLS, client certificates and basic auth, in exporter-toolkit's format.",
)
@click.option(
    "--libvirt.uri",
    "libvirt_uris",
    multiple=True,
    metavar="URI",
    help="libvirt to ask, like qemu:///system; may be repeated. Without it: xen:///system on a Xen host, "
    "elsewhere qemu:///system and lxc:///system, whichever of them this host has.",
)
@_collector_flags
@click.option(
    "--log.level",
    "log_level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Messages below this level are not logged.",
)
@click.option(
    "--log.format",
    "log_format",
    type=click.Choice(["logfmt", "json"]),
    default="logfmt",
    show_default=True,
    help="Format of the log on standard error.",
)
@click.version_option(__version__, prog_name="vmheal-exporter")
def main(
    listen_addresses: tuple[str, ...],
    telemetry_path: str,
    web_config_file: Path | None,
    libvirt_uris: tuple[str, ...],
    log_level: str,
    log_format: str,
    **switches: bool,
) -> None:
    """Publish the state of this hypervisor's DRBD resources and virtual machines for Prometheus.

    Pages: /metrics (?collect[]=NAME limits it to some collectors), /-/healthy, and / with links to them.
    """
    configure_logging(log_level, log_format)
    keep_small()
    if not telemetry_path.startswith("/") or telemetry_path in {"/", "/-/healthy"}:
        raise click.UsageError(
            f"--web.telemetry-path: {telemetry_path!r} is no path of its own that begins with /"
        )
    enabled = [entry for entry in COLLECTORS if switches[f"collector_{entry.name}".replace(".", "_")]]
    if not enabled:
        raise click.UsageError("every collector is switched off: there is nothing to serve")
    try:
        web_config = WebConfigFile(web_config_file)
        sockets = listen(listen_addresses)
    except (WebConfigError, AddressError) as error:
        raise click.ClickException(str(error)) from error
    options = Options(libvirt_uris, Drbd())
    scraper = Scraper(entry.make(options) for entry in enabled)
    log.info(
        "serving",
        version=__version__,
        addresses=",".join(listen_addresses),
        collectors=",".join(scraper.names),
    )
    server = Server(
        sockets,
        Pages(scraper, telemetry_path),
        Guard(web_config.current),
        tls=lambda: web_config.current().tls,
        headers=lambda: web_config.current().headers,
    )
    asyncio.run(serve(server))
    scraper.close(CLOSE_SECONDS)
    log.info("stopped")
    sys.stderr.flush()
    # Not the interpreter's way out: it closes libvirt's handles, and waits for a libvirtd that hangs.
    os._exit(0)


if __name__ == "__main__":
    main()
