"""Pages that the exporters and the actuator really publish, for replays of the rules."""

from dataclasses import replace as changed

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from actuator.model import DomainRecord, Plan, PlanRecord, PlanStatus
from actuator.protected import Protected
from actuator.report import Report, WatchedJournal
from exporter.collectors import libvirt_state
from exporter.libvirt_domain import CONTROL_STATES, REASONS, STATES, parse_definition
from tests.actuator.world import Clock, Machine, World, settings
from tests.exporter.drbd_samples import SAMPLES
from tests.rules.replay import Replay

HEALTHY84 = {host: f"14-connected-primary-secondary.{host}" for host in ("v01", "v02")}
HEALTHY9 = {host: f"08b-connected-uptodate-primary-secondary/{host}" for host in ("v01", "v02", "v03")}


def armed(text: str) -> str:
    """With the fencing policy that vmheal asks for: the captured site had none."""
    section = "            disk {\n"
    assert section in text
    return text.replace(section, f"{section}                fencing resource-and-stonith;\n")


XML = "<domain type='kvm'><os><type>hvm</type></os></domain>"


CONTROL_DOMAIN = {"Domain-0": "00000000-0000-0000-0000-000000000000"}
"""On each Xen host, with this UUID (libvirt's libxl_driver.c)."""


def domains(*, control=("ok", 0.0), silent=(), up=1.0, **states: tuple[str, str]) -> list[Metric]:
    """What the collector `libvirt` publishes when libvirt says so of its domains; each has its own resource."""
    families = libvirt_state._Families()
    for name, (state, reason) in states.items():
        uuid = CONTROL_DOMAIN.get(name, f"uuid-of-{name}")
        domain = libvirt_state._Domain("qemu:///system", name, uuid, True, False, 1)
        known = libvirt_state._Known(parse_definition(XML), ((name, "0", "vda"),), (), name, 0.0, 1)
        answer = libvirt_state._State(
            STATES.index(state),
            REASONS[state].index(reason),
            (CONTROL_STATES.index(control[0]), int(control[1] * 1000)),
            known,
        )
        families.add(domain, answer)
    for name in silent:
        families.answers.add_metric([name, f"uuid-of-{name}"], 0.0)
    return [*families.all(), gauge("libvirt_up", up)]


def gauge(name: str, value: float, **labels: str) -> Metric:
    metric = Metric(name, "", "gauge")
    metric.add_sample(name, labels, value)
    return metric


RUNS = ("running", "booted")


class ActuatorPage:
    """An actuator's journal and what it publishes."""

    def __init__(self, path) -> None:
        self.path = path
        self.more: dict[str, object] = {}
        self.machine = self.report = None
        self.restart()

    def restart(self, **more: object) -> None:
        if self.machine is not None:
            self.machine.close()
        self.more |= more
        self.config = settings(self.path, **self.more)
        self.report = Report(self.config)
        self.machine = Machine(World(), self.path, Clock(), config=self.config)
        self.machine.journal = WatchedJournal(self.machine.journal, self.report)
        self.protected = Protected(self.config, self.machine.journal)
        self.report.show(self.protected)
        self.reconciled(0.0)

    def protect(self, domain: str) -> None:
        """Let it protect this domain, too."""
        hosts = {"host": "v01", "hosts": ["v01", "v02"]}
        self.restart(domains={"voms01": hosts, domain: hosts})

    def commit(self, domain: str, **changes: object) -> None:
        record = (
            self.protected.record(domain) if domain in self.config.domains else DomainRecord(domain, 0, "v01")
        )
        self.machine.journal.commit(record=changed(record, version=record.version + 1, **changes))

    def host(self, host: str, **changes: object) -> None:
        record = self.protected.host(host)
        self.machine.journal.commit(hosts=[changed(record, version=record.version + 1, **changes)])

    def reconciled(self, at: float, **silent: bool) -> None:
        answered = {"Alertmanager": True, "Prometheus": True, "libvirt on v01": True}
        self.report.reconciled(at, answered | {name.replace("_", " "): it for name, it in silent.items()})


def open_plan(page: ActuatorPage, domain: str, verb: str, at: float) -> None:
    if domain not in page.config.domains:
        page.protect(domain)
    plan = Plan(verb, domain, "v02", "it is moved", ())
    page.commit(domain, plan=PlanRecord("p1", plan, PlanStatus.OPEN, at, ()))


def actuator(replay: Replay, page: ActuatorPage, at: range) -> None:
    """Publish the actuator's page; reconcile came to its end each second."""
    replay.up("localhost", 1, at, job="vmheal-actuator")
    metrics = list(page.report.registry.collect())
    replay.publish(
        "localhost",
        [it for it in metrics if it.name != "vmheal_reconcile_timestamp_seconds"],
        at,
        "vmheal-actuator",
    )
    for second in at:
        replay.publish(
            "localhost",
            [gauge("vmheal_reconcile_timestamp_seconds", second)],
            range(second, second + 1),
            "vmheal-actuator",
        )


def hardware(label: str, *prefixes: str) -> list[Metric]:
    """What a host published; with prefixes only these series."""
    text = "".join((SAMPLES / "hardware" / label / f"{job}.prom").read_text() for job in ("node", "ipmi"))
    return [it for it in text_string_to_metric_families(text) if it.name.startswith(prefixes or "")]
