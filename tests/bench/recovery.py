"""`make bench-recovery`: crash a VM again and again on whole hosts, and say how long each part took.

Real Xen guests on real DRBD, on hosts that QEMU emulates; from a site at rest each time.
"""

import time

import click
from rich.console import Console
from rich.table import Table

from tests.lab.lab import Lab
from tests.lab.recovery import Recovery, medians, wait_recovered
from tests.lab.site import Site
from tests.lab.vm import Vm
from tests.lab.waiting import wait_until


@click.command(help=__doc__)
@click.option("--crashes", type=click.IntRange(1, 100), default=10, show_default=True)
def main(crashes: int) -> None:
    """Run the benchmark."""
    console = Console()
    with Lab(hosts=2, flavour="xen", name="bench") as lab:
        vms = [lab.add_vm("voms01", on=("v01", "v02")), lab.add_vm("ce01", on=("v02", "v01"))]
        lab.start_vms(vms)
        settings = {"restart": {"max_attempts": 100, "backoff_seconds": 0}}
        with Site(lab, vms, settings, crashes_again=True) as site:
            recoveries = []
            for number in range(1, crashes + 1):
                recoveries.append(crash(site, vms[0]))
                parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in recoveries[-1].parts().items())
                lab.progress(f"crash {number} of {crashes}: {parts} s")
        for vm in vms:
            lab.assert_nothing_lost(vm)
    console.print(table(recoveries))


def crash(site: Site, vm: Vm) -> Recovery:
    """Crash the VM's kernel when all is at rest, at no certain moment between two scrapes."""
    site.wait_watching()
    wait_until(lambda: not site.alerts(), "the end of all alerts", 120)
    site.wait_looked()
    since = time.time()
    site.lab.host(vm.hosts[0]).crash_guest(vm)
    return wait_recovered(site, vm, since)


def table(recoveries: list[Recovery]) -> Table:
    """Return what was measured."""
    lost = sum(recovery.lost for recovery in recoveries)
    shown = Table(title=f"{len(recoveries)} crashes, records lost {lost}; seconds")
    for heading in ("part", "shortest", "median", "longest"):
        shown.add_column(heading)
    for name, seconds in medians(recoveries).items():
        shown.add_row(name, *(f"{value:.2f}" for value in seconds))
    return shown


if __name__ == "__main__":
    main()
