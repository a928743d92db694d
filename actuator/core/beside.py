"""What stands against a verb that no guard asks, because it only harms later: how the hosts are set up.

Each looks at what was measured of hosts beyond a look at a domain, and is silent about what is not known:
that a host does not answer the guards tell.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from actuator.core.decide import Question
from actuator.core.definition import Needs, missing_networks
from actuator.core.guards.memory import voted
from actuator.core.place import Placement
from actuator.core.replica import resources_here
from actuator.model import (
    HandlerReport,
    HostSetup,
    HostView,
    Proof,
    Refusal,
    ResourceSetup,
    Unknown,
)


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What was measured of one host, beyond a look at a domain."""

    libvirt_seconds: float | None = None
    """How long one answer took; None: there was none, which the guards tell."""
    drbd_seconds: float | None = None
    """Likewise of DRBD, over SSH."""
    view: HostView | None = None
    """As its libvirt sees it; None: it did not answer."""
    setup: HostSetup | None = None
    """How it is set up; None: it did not answer."""
    agent: str = ""
    """Why its fence agent, if it has one, would not power it off; empty: it says how the host is."""
    agent_errs: bool = False
    """Its fence agent calls it off while it answers: it is another host's."""

    @property
    def handler(self) -> HandlerReport | None:
        """What vmheal's handler there says of itself; None when it says nothing."""
        report = self.setup.handler if self.setup else None
        return report if isinstance(report, HandlerReport) else None

    @property
    def cpu(self) -> str:
        """What its processor calls itself; empty: not known."""
        return self.handler.cpu if self.handler else ""

    @property
    def links(self) -> Mapping[str, bool] | None:
        """Its network interfaces, and whether each is up; None: not known."""
        return self.handler.links if self.handler else None


@dataclass(frozen=True, slots=True)
class Known:
    """What a rehearsal rests on beside the question."""

    facts: Mapping[str, HostFacts] = field(default_factory=dict)
    """By host."""
    placement: Placement = field(default_factory=Placement)
    """Of all domains that would leave with it if its host were lost."""
    slow_seconds: float = 1.0
    """An answer that takes longer is too slow to build on."""
    paused: str = ""
    """Who has paused the domain, in a sentence."""
    needs: Needs = field(default_factory=Needs)
    """What its definition asks of a host, as far as that is kept."""
    cpu_misses: Mapping[str, str] = field(default_factory=dict)
    """By host: what its processor lacks for the domain's definition."""
    isolation_seconds: float = 5.0
    """For so long vmheal waits until a host that is cut off has ended its VMs; see failover.*."""
    margin_seconds: float = 5.0
    """On top of that: until DRBD there notices, and until a VM that is told to end has ended."""
    skew_seconds: float = 1.0
    """A clock that is further off is wrong."""
    live_uris: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """By host: where a domain that runs is sent to get there."""

    def of(self, host: str) -> HostFacts:
        """What was measured of a host; nothing when it was not asked yet."""
        return self.facts.get(host, HostFacts())


def of_any(it: Question, known: Known, host: str) -> Iterator[Refusal]:
    """What stands against having the domain come up on the host, by whatever verb."""
    yield from _allowed(it, known, host)
    yield from _fast(known, host)
    yield from _fits(it, known, host)
    yield from _clock(known, host)


def _allowed(it: Question, known: Known, host: str) -> Iterator[Refusal]:
    """What the host's own configuration lets the actuator's key touch."""
    setup, domain = known.of(host).setup, it.record.domain
    if setup is None:
        return
    names, domains = setup.allowed.resources, setup.allowed.domains
    here = {it.name for it in resources_here(it.home.evidence, host, it.home.kept)}
    missing_here = [] if names is None else [f"resource {name}" for name in sorted(here - names)]
    if domains is not None and domain not in domains:
        missing_here.append(f"domain {domain}")
    if missing_here:
        yield Refusal(
            "is_allowed_there",
            f"vmheal-host on {host} refuses it: its /etc/vmheal/host.conf does not name"
            f" {', '.join(missing_here)}",
        )


def of_live(it: Question, known: Known, host: str) -> Iterator[Refusal]:
    """And against moving there while it runs: what it has seen of its processor must stay."""
    own, there = (known.of(each).cpu for each in (it.home.host, host))
    if known.needs.same_cpu and own and there and own != there:
        yield Refusal(
            "cpu_is_the_same",
            f"{it.record.domain} sees the processor of {it.home.host} itself (host-passthrough: {own}), and"
            f" {host} has another one ({there}): live it moves only to the same",
        )
    setup = known.of(it.home.host).setup
    uris = setup.allowed.migrate_uris if setup else None
    missing_here = [] if uris is None else [uri for uri in known.live_uris.get(host, ()) if uri not in uris]
    if missing_here:
        yield Refusal(
            "may_be_sent_there",
            f"vmheal-host on {it.home.host} does not send it to {host} while it runs: its"
            f" /etc/vmheal/host.conf does not name migrate_uri {', '.join(missing_here)}",
        )


def of_failover(it: Question, known: Known, host: str, proof: Proof | None) -> Iterator[Refusal]:
    """And against coming up there when its own host is lost."""
    own = it.home.host
    yield from _fenced(known, own, proof)
    for where in (own, host):
        yield from _autostart(it.record.domain, known, where)
        yield from _auto_promote(it, known, where)
        if it.home.arbitrated and not voted(it.home):
            yield from _handled(it, known, where)
    if proof in {Proof.ARBITRATED, Proof.QUORUM, Proof.DRBD_ONLY}:
        yield from _noticed_in_time(it, known, own)


def _fenced(known: Known, host: str, proof: Proof | None) -> Iterator[Refusal]:
    if proof is Proof.POWER and (why := known.of(host).agent):
        yield Refusal("fence_agent_answers", f"the fence agent of {host} does not say how it is: {why}")
    if known.of(host).agent_errs:
        yield Refusal(
            "fence_agent_is_its_own",
            f"the fence agent of {host} says that it is off, and it answers: the agent looks at another"
            " host's power, and its word is no proof",
        )


def _autostart(domain: str, known: Known, host: str) -> Iterator[Refusal]:
    view = known.of(host).view
    if view is not None and domain in view.autostarted:
        yield Refusal(
            "autostart_is_off",
            f"libvirt on {host} starts {domain} by itself when {host} comes up, also while it runs elsewhere:"
            f" 'virsh autostart --disable {domain}' there",
        )


def _setups(it: Question, known: Known, host: str) -> Iterator[tuple[str, ResourceSetup]]:
    """The domain's resources on a host, as they are set up there; those that are not known are left out."""
    setup = known.of(host).setup
    for resource in resources_here(it.home.evidence, host, it.home.kept) if setup else ():
        if setup and (found := setup.resources.get(resource.name)):
            yield resource.name, found


def _auto_promote(it: Question, known: Known, host: str) -> Iterator[Refusal]:
    for name, setup in _setups(it, known, host):
        if setup.auto_promote:
            yield Refusal(
                "auto_promote_is_off",
                f"{name} on {host} has auto-promote: who opens its device makes it Primary, past every guard",
            )


def _noticed_in_time(it: Question, known: Known, host: str) -> Iterator[Refusal]:
    """How long a host that is cut off goes on without knowing it, the margin must cover."""
    for name, setup in _setups(it, known, host):
        if setup.notices_seconds >= known.margin_seconds:
            yield Refusal(
                "loss_is_noticed_in_time",
                f"{name} on {host} needs up to {setup.notices_seconds:g} s to see that it is cut off"
                f" (ping-int and ping-timeout), and failover.margin_seconds is {known.margin_seconds:g}:"
                f" {it.record.domain} would be started elsewhere before {host} has ended it",
            )


def _handled(it: Question, known: Known, host: str) -> Iterator[Refusal]:
    """Whether the handler that DRBD asks there could run, and what it would do when it hears nothing."""
    setup = known.of(host).setup
    if setup is None:
        return
    name = "handler_can_run"
    for resource, found in _setups(it, known, host):
        if not found.handler:
            yield Refusal(name, f"DRBD's configuration on {host} names no fence-peer handler for {resource}")
    report = setup.handler
    if isinstance(report, Unknown):
        yield Refusal(name, f"DRBD's handler on {host} cannot be asked: {report.reason}")
        return
    if report.problems:
        yield Refusal(name, f"DRBD's handler on {host} could not do its work: {'; '.join(report.problems)}")
    if report.host and report.host != host:
        yield Refusal(
            "handler_is_its_own",
            f"DRBD's handler on {host} has the token of {report.host}: the arbiter would take the one for the"
            " other",
        )
    waits = report.isolation_seconds
    if waits is not None and waits > known.isolation_seconds:
        yield Refusal(
            "isolation_is_agreed",
            f"cut off, DRBD's handler on {host} ends {it.record.domain} after {waits:g} s, and vmheal counts"
            f" on {known.isolation_seconds:g} s: it would be started elsewhere before that",
        )


def _fits(it: Question, known: Known, host: str) -> Iterator[Refusal]:
    """What the domain's definition asks of a host, beyond disks and memory."""
    facts, domain = known.of(host), it.record.domain
    if lacks := missing(known.needs, facts):
        yield Refusal("has_networks", f"{host} has not the networks of {domain}: {lacks}")
    if misses := known.cpu_misses.get(host):
        yield Refusal("cpu_fits", f"{domain} asks for a processor that {host} does not have: {misses}")


def missing(needs: Needs, facts: HostFacts) -> str:
    """What of a domain's networks a host does not have; empty: nothing, as far as that is known."""
    if facts.view is None:
        return ""
    return "; ".join(missing_networks(needs, facts.view, facts.links))


def _clock(known: Known, host: str) -> Iterator[Refusal]:
    """A guest takes its time from the host that it is started on."""
    report = known.of(host).handler
    if report is not None and abs(report.ahead_seconds) > known.skew_seconds:
        way = "ahead of" if report.ahead_seconds > 0 else "behind"
        yield Refusal(
            "clock_is_right",
            f"the clock of {host} is {abs(report.ahead_seconds):.1f} s {way} that of vmheal's machine, more"
            f" than readiness.clock_skew_seconds ({known.skew_seconds:g})",
        )


def _fast(known: Known, host: str) -> Iterator[Refusal]:
    """A host that answers late is taken for one that does not answer when it counts."""
    facts, slow = known.of(host), known.slow_seconds
    for name, who, seconds in (
        ("libvirt_is_fast", "libvirt", facts.libvirt_seconds),
        ("drbd_is_fast", "DRBD, over SSH,", facts.drbd_seconds),
    ):
        if seconds is not None and seconds > slow:
            yield Refusal(
                name,
                f"{who} on {host} needed {seconds:.1f} s for an answer, more than readiness.slow_seconds"
                f" ({slow:g}): find out what keeps the host or the way to it busy",
            )
