"""`make bench-failover`: kill a host again and again, and say how long each part of its failover took.

Three VMs on real DRBD that asks the arbiter, on Xen hosts that QEMU emulates; from a site at rest each time.
With a fence agent nothing is waited for; without one the VMs start when the lost host cannot have them any more.
"""

import click
from rich.console import Console

from tests.bench.parts import table
from tests.lab.fenced import FencedSite
from tests.lab.lab import Lab
from tests.lab.moves import (
    Failover,
    Moment,
    bring_back,
    failover_of,
    home,
    other,
    wait_at_rest,
    wait_writes_on,
)
from tests.lab.site import Site
from tests.lab.vm import Vm


@click.command(help=__doc__)
@click.option("--kills", type=click.IntRange(1, 100), default=10, show_default=True)
@click.option("--agent", is_flag=True, help="The hosts have a fence agent.")
@click.option("--vms", "count", type=click.IntRange(1, 6), default=3, show_default=True)
def main(kills: int, count: int, agent: bool) -> None:
    """Run the benchmark."""
    with Lab(hosts=2, flavour="xen", name="bench") as lab:
        vms = [
            lab.add_vm(f"vm{number:02d}", on=("v01", "v02"), fenced=True) for number in range(1, count + 1)
        ]
        lab.start_vms(vms, timeout_seconds=300)
        settings = {"restart": {"max_attempts": 100, "backoff_seconds": 0}}
        with (FencedSite if agent else Site)(lab, vms, settings) as site:
            found = []
            for number in range(1, kills + 1):
                if isinstance(site, FencedSite):
                    site.behaves("works")
                found.append(kill(lab, site, vms))
                lab.progress(f"kill {number} of {kills}: {found[-1]}")
            wait_at_rest(lab, site, vms)
        for vm in vms:
            lab.assert_nothing_lost(vm)
    how = f"{count} VMs, {'with' if agent else 'without'} a fence agent"
    title = f"{len(found)} hosts killed, records lost 0; seconds from the kill"
    Console().print(table(title, {how: found}))


def kill(lab: Lab, site: Site, vms: list[Vm]) -> Failover:
    """Kill the host of all VMs when all is at rest, and bring it back."""
    wait_at_rest(lab, site, vms)
    site.wait_looked()
    dead = home(site, vms[0])
    fault = Moment.now()
    lab.host(dead).kill()
    for vm in vms:
        wait_writes_on(lab, site, vm, other(vm, dead), fault)
    took = failover_of(site, vms, fault)
    bring_back(lab, dead)
    return took


if __name__ == "__main__":
    main()
