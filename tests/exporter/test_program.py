"""The command line, on libvirt's test:/// driver."""

import os
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from exporter import __version__
from tests.exporter.exporting import PROGRAM, exporting
from tests.exporter.pages import value

ALL = ("drbd", "libvirt", "libvirt.stats", "host", "lvm", "process")


def run(*flags):
    return subprocess.run([PROGRAM, *flags], capture_output=True, text=True, timeout=30, check=False)


def test_help_names_every_flag():
    text = run("--help").stdout
    for flag in (
        "--web.listen-address",
        "--web.telemetry-path",
        "--web.config.file",
        "--libvirt.uri",
        "--log.level",
        "--log.format",
        "--version",
        *(f"--collector.{name} / --no-collector.{name}" for name in ALL),
    ):
        assert flag in text, flag


def test_version():
    assert run("--version").stdout == f"vmheal-exporter, version {__version__}\n"


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ["--web.listen-adress=:1"],
            "No such option '--web.listen-adress'. Did you mean '--web.listen-address'",
        ),
        (["--web.listen-address=:99999999"], "cannot listen on ':99999999'"),
        (["--web.telemetry-path=metrics"], "--web.telemetry-path: 'metrics' is no path of its own"),
        (["--web.telemetry-path=/-/healthy"], "is no path of its own"),
        (["--web.config.file=/no/such.yml"], "cannot read /no/such.yml"),
        (["--log.level=loud"], "'loud' is not one of"),
        ([f"--no-collector.{name}" for name in ALL], "every collector is switched off"),
        (["extra"], "unexpected extra argument"),
    ],
)
def test_bad_flags_get_a_sentence_and_no_traceback(flags, sentence):
    done = run(*flags)
    assert done.returncode in {1, 2}
    assert sentence in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_port_in_use():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run(f"--web.listen-address=127.0.0.1:{taken.getsockname()[1]}")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "Address already in use" in done.stderr


def test_collectors_can_be_switched_off(tmp_path):
    with exporting(
        tmp_path, "--libvirt.uri=test:///default", "--no-collector.drbd", "--no-collector.lvm"
    ) as exporter:
        page = exporter.scrape()
        assert value(page, "vmheal_exporter_collector_success", collector="libvirt") == 1
        assert value(page, "vmheal_exporter_collector_success", collector="drbd") is None
        with pytest.raises(urllib.error.HTTPError) as refused:
            exporter.scrape("drbd")
        assert refused.value.code == 400
        assert b"there are: libvirt, libvirt.stats, host, process" in refused.value.read()


def test_other_paths_and_addresses_and_logs(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        second = probe.getsockname()[1]
    flags = [
        "--libvirt.uri=test:///default",
        "--web.telemetry-path=/other",
        f"--web.listen-address=127.0.0.1:{second}",
        "--log.format=json",
        "--log.level=debug",
    ]
    with exporting(tmp_path, *flags) as exporter:
        for port in (exporter.port, second):
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port}/other?collect[]=libvirt", timeout=10
            ) as page:
                assert b'libvirt_domain_state{domain="test"' in page.read()
    assert '"event": "scraped"' in exporter.log.read_text()
    assert "Traceback" not in exporter.log.read_text()


def test_the_host_and_the_program_itself(tmp_path):
    with exporting(tmp_path, "--libvirt.uri=test:///default") as exporter:
        page = exporter.scrape("host", "process")
        assert value(page, "vmheal_host_cpus") == os.cpu_count()
        total, free = (value(page, f"vmheal_host_memory_{what}_bytes") for what in ("total", "free"))
        assert 0 < free < total
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        assert value(page, "vmheal_host_boot_info", boot_id=boot_id) == 1
        assert value(page, "vmheal_exporter_build_info", version=__version__) == 1
        assert value(page, "process_resident_memory_bytes") > 0
