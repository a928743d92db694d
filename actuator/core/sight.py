"""Whether monitoring works: a failover rests on it, and a part of it that is broken looks like a dead host.

The rules have an alert that always fires, ``Watchdog``. As long as Alertmanager shows it, Prometheus
evaluates its rules, and Alertmanager hears of it.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Sight:
    """What reconcile has seen of Prometheus and Alertmanager."""

    seen_at: float
    """Monotonic seconds: when they were last seen to work, or first looked for. An Alertmanager that has just
    started is told by Prometheus within a minute."""
    missing: str = ""
    """What was missing in the last turn; empty: nothing."""

    def after(self, missing: str, now: float) -> "Sight":
        """The sight after a turn in which this was missing; empty: nothing was."""
        return replace(self, missing=missing) if missing else Sight(now)


def not_blind(sight: Sight | None, now: float, max_age_seconds: float) -> str | None:
    """Who sees nothing takes every host for dead; None has not looked yet, and is not blind for that."""
    if sight is None or now - sight.seen_at <= max_age_seconds:
        return None
    missing = sight.missing or "reconcile does not come to its end"
    return (
        f"vmheal sees nothing of monitoring for {now - sight.seen_at:.0f} s ({missing}), and"
        f" failover.watchdog_max_age_seconds is {max_age_seconds:g}: mend Prometheus or Alertmanager"
    )
