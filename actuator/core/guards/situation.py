"""What a guard may know, and what a guard is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from actuator.core.replica import Standing, peers, resources_here
from actuator.model import Authority, Disk, DomainState, DomainView, Evidence, Observed, Proof
from exporter.drbd import Resource, Snapshot, UnknownWord

RUNNING = frozenset({DomainState.RUNNING, DomainState.BLOCKED})
DOWN = frozenset({DomainState.SHUTOFF, DomainState.CRASHED})
COMING = "migration"
"""Why libvirt has a domain paused on the target of a live migration (VIR_DOMAIN_PAUSED_MIGRATION)."""
LEFT = "migrated"
"""Why libvirt has a domain shut off on the source of one that has ended (VIR_DOMAIN_SHUTOFF_MIGRATED)."""


@dataclass(frozen=True, slots=True)
class Situation:
    """One domain, where it should run, and what one look said. All that a guard may know."""

    domain: str
    host: str
    hosts: tuple[str, ...]
    """Where it may run, ``host`` included."""
    evidence: Evidence
    now: float
    """Monotonic seconds."""
    max_age_seconds: float
    arbitrated: bool = False
    """Its host's DRBD asks the arbiter."""
    authorities: Mapping[str, Authority] | None = field(default_factory=dict)
    """By resource, read before the look; None: not the same any more after it (arbiter's rule R2)."""
    kept: tuple[Disk, ...] = ()
    """The domain's disks as in the definition that vmheal keeps of it; none when it keeps none."""
    accepts_loss: bool = False
    """The site has said that writes may be lost that are acknowledged before the peer has them."""
    drifted: frozenset[str] = frozenset()
    """Hosts where the domain is defined otherwise than as kept."""
    failed: frozenset[str] = frozenset()
    """Hosts that an alert says have failed, and that were not seen alive since."""
    xen: bool = False
    """Its driver is Xen's, which has no live migration of paravirtual guests under Debian."""
    source: str = ""
    """The host that the domain leaves for ``host``; empty when it does not move."""
    proof: Proof | None = None
    """Of a failover: why the source cannot write any more."""
    quiet_seconds: float = 0.0
    """For so long nobody has heard of the source, on no way, while its DRBD peers had lost it."""
    isolation_seconds: float = float("inf")
    """After so long a quiet source has ended its frozen domains by itself (arbiter's rule R7)."""

    @property
    def view(self) -> DomainView | None:
        """The domain on its host; None when not defined there or not known."""
        return self.view_on(self.host)

    def view_on(self, host: str) -> DomainView | None:
        """The domain on a host; None when not defined there or not known."""
        fact = self.evidence.domains.get(host)
        return fact.value if isinstance(fact, Observed) else None

    @property
    def snapshot(self) -> Snapshot | None:
        """DRBD on its host; None when not known."""
        fact = self.evidence.storage.get(self.host)
        return fact.value if isinstance(fact, Observed) else None

    @property
    def resources(self) -> tuple[Resource, ...]:
        """The DRBD resources of its disks, as its host sees them."""
        return resources_here(self.evidence, self.host, self.kept)

    @property
    def disks(self) -> tuple[Disk, ...]:
        """The domain's disks: as its host has it defined, else as its definition was kept."""
        return self.kept if self.view is None else self.view.disks

    def peers(self, resource: Resource) -> dict[str, Standing]:
        """What is known of the resource's other hosts."""
        return peers(self.evidence, self.host, resource, self.hosts)

    def active_on(self, host: str) -> DomainView | None:
        """The domain as it was seen on the host, when it runs or holds anything there."""
        view = self.view_on(host)
        return view if view is not None and (view.id is not None or view.state not in DOWN) else None

    def was_granted(self, resource: Resource) -> bool:
        """The arbiter has excluded its peers for this host: DRBD asks it once more when it is promoted."""
        authority = self.authority(resource.name)
        return (
            self.arbitrated
            and authority.granted
            and authority.holder == self.host
            and authority.admitted == {self.host}
            and self.host in authority.armed
        )

    def authority(self, resource: str) -> Authority:
        """What was written about a resource before the look."""
        return (self.authorities or {}).get(resource) or Authority(resource)


Guard = Callable[[Situation], str | None]


def word(state: StrEnum | UnknownWord) -> str:
    """A state in DRBD's or libvirt's word for it."""
    return state.value if isinstance(state, StrEnum) else state.word
