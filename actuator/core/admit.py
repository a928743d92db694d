"""Is a notification ours to act on? Pure; everything else about it is decided on the live system."""

from collections.abc import Collection

from actuator.model import Notification, Refusal

OF_DOMAINS = frozenset({"restart", "migrate"})
"""What is done for one domain; the alert names it."""
OF_HOSTS = frozenset({"failover", "evacuate"})
"""What is done for every protected domain of a host; the alert names it."""
RUN = "run"
"""A program of the site's own; the alert names it with the label ``program``."""
PROGRAM = "program"
ACTIONS = OF_DOMAINS | OF_HOSTS | {RUN}


def admit(
    notification: Notification,
    *,
    protected: Collection[str],
    hosts: Collection[str],
    programs: Collection[str],
    now: float,
    max_age_seconds: float,
) -> Refusal | None:
    """The refusal of a firing alert with an action; None when it is admitted. ``now`` is wall clock."""
    alert = f"alert {notification.labels.get('alertname', '?')}"
    if notification.action not in ACTIONS:
        return Refusal(
            "known_action",
            f"{alert} asks for the action {notification.action!r}; there is {', '.join(sorted(ACTIONS))}:"
            " correct the rule's label",
        )
    if notification.action == RUN:
        refusal = _about(notification, PROGRAM, programs, "known_program", "which is not in programs")
    elif notification.action in OF_HOSTS:
        refusal = _about(notification, "host", hosts, "known_host", "which is not in hosts")
    else:
        refusal = _about(notification, "domain", protected, "protected", "which is not protected")
    age = now - notification.starts_at
    if refusal is None and age > max_age_seconds:
        return Refusal(
            "not_too_old",
            f"{alert} began {age:.0f} s ago, more than limits.max_alert_age_seconds ({max_age_seconds:g} s):"
            f" {notification.domain or notification.host or 'it'} is left to reconcile",
        )
    return refusal


def _about(it: Notification, label: str, known: Collection[str], guard: str, why: str) -> Refusal | None:
    """What it asks for must be something that the configuration knows."""
    alert, about = f"alert {it.labels.get('alertname', '?')}", it.labels.get(label, "")
    if not about:
        return Refusal(f"names_a_{label}", f"{alert} names no {label}: its rule must set the label {label!r}")
    if about not in known:
        return Refusal(
            guard,
            f"{alert} asks to {it.action} {about}, {why}: add it to the configuration, or take the action"
            " from the rule",
        )
    return None
