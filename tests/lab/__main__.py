"""`python -m tests.lab`: build the lab's image, bring a lab up to play with, take it down."""

import sys

import click

from tests.lab.image import CACHE, build
from tests.lab.lab import Lab, take_away
from tests.lab.waiting import LabError

NAME = "play"


@click.group()
def main() -> None:
    """Two or three whole hosts under QEMU, with real guests on real DRBD."""


@main.command("build")
def build_image() -> None:
    """Build the hosts' image, when the cache has none for this recipe."""
    click.echo(build().folder)


@main.command()
@click.option("--hosts", type=click.IntRange(2, 9), default=2, show_default=True)
@click.option("--flavour", type=click.Choice(["xen", "plain"]), default="xen", show_default=True)
@click.option(
    "--vms", type=click.IntRange(0, 8), default=1, show_default=True, help="VMs, each mirrored by two hosts."
)
@click.option("--keep", is_flag=True, help="Leave it running; `down` ends it.")
def up(hosts: int, flavour: str, vms: int, keep: bool) -> None:
    """Boot hosts and start VMs on them; without --keep, until Enter is pressed."""
    with Lab(hosts=hosts, flavour="xen" if flavour == "xen" else "plain", name=NAME) as lab:
        names = list(lab.hosts)
        for number in range(vms):
            pair = (names[number % hosts], names[(number + 1) % hosts])
            lab.add_vm(f"vm{number + 1:02d}", pair)
        lab.start_vms(lab.vms.values(), timeout_seconds=300)
        click.echo(lab.witness.table(lab.vms.values()))
        click.echo(_how_to_play(lab))
        if keep:
            lab.leave_running()
        else:
            click.pause("Press Enter to end it ...")


@main.command()
def down() -> None:
    """End the lab that `up --keep` left running."""
    take_away(NAME)


def _how_to_play(lab: Lab) -> str:
    inside = f"ip netns exec {lab.network.namespace}"
    lines = [f"{inside} ssh -F {lab.folder}/ssh_config {host}" for host in lab.hosts]
    consoles = [
        f"tail -f {lab.hosts[host].machine.guest_log(vm.port)}   # {vm.name} on {host}"
        for vm in lab.vms.values()
        for host in vm.hosts
    ]
    cable = f"ip -n {lab.network.namespace} link set v01-repl nomaster   # pulls a cable; 'master br-repl' puts it back"
    reach = f"What listens inside is reached at {lab.door}; the logs are in {CACHE / 'logs' / lab.name}"
    return "\n".join([*lines, *consoles, cable, reach])


if __name__ == "__main__":
    try:
        main(standalone_mode=True)
    except LabError as error:
        sys.exit(f"lab: {error}")
