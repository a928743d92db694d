"""Who reaches whom, on which network."""

from dataclasses import dataclass, field
from random import Random

MANAGEMENT, REPLICATION = "management", "replication"
MONITOR = "monitor"
"""Where Prometheus, Alertmanager and the actuator run."""
GATEWAY = "gateway"
"""A witness, on the management network."""


@dataclass
class Network:
    """Directed: what goes one way may not come back."""

    random: Random
    cut: set[tuple[str, str, str]] = field(default_factory=set)
    """Network, from, to."""
    slow: dict[tuple[str, str, str], float] = field(default_factory=dict)
    """Seconds that are added to each way."""

    def passes(self, net: str, source: str, target: str) -> bool:
        return not self.cut or source == target or (net, source, target) not in self.cut

    def both_ways(self, net: str, one: str, other: str) -> bool:
        return not self.cut or (self.passes(net, one, other) and self.passes(net, other, one))

    def latency(self, net: str, source: str, target: str) -> float:
        seconds = self.random.uniform(0.0002, 0.003)
        return seconds + self.slow.get((net, source, target), 0.0) if self.slow else seconds

    def cut_link(self, net: str, one: str, other: str) -> None:
        self.cut |= {(net, one, other), (net, other, one)}

    def heal(self) -> None:
        self.cut.clear()
        self.slow.clear()
