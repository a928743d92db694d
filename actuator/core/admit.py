"""Is a notification ours to act on? Pure; everything else about it is decided on the live system."""

from collections.abc import Collection

from actuator.model import Notification, Refusal

OF_DOMAINS = frozenset({"restart", "migrate"})
"""What is done for one domain; the alert names it."""
OF_HOSTS = frozenset({"failover", "evacuate"})
"""What is done for every protected domain of a host; the alert names it."""


def admit(
    notification: Notification,
    *,
    protected: Collection[str],
    hosts: Collection[str],
    now: float,
    max_age_seconds: float,
) -> Refusal | None:
    """The refusal of a firing alert with an action; None when it is admitted. ``now`` is wall clock."""
    alert = f"alert {notification.labels.get('alertname', '?')}"
    action, of_host = notification.action, notification.action in OF_HOSTS
    if action not in OF_DOMAINS | OF_HOSTS:
        return Refusal(
            "known_action",
            f"{alert} asks for the action {action!r}; there is {', '.join(sorted(OF_DOMAINS | OF_HOSTS))}:"
            " correct the rule's label",
        )
    about = notification.host if of_host else notification.domain
    kind = "host" if of_host else "domain"
    if not about:
        return Refusal(f"names_a_{kind}", f"{alert} names no {kind}: its rule must set the label {kind!r}")
    if of_host and about not in hosts:
        return Refusal("known_host", f"{alert} asks to {action} {about}, which is not in hosts: add it there")
    if not of_host and about not in protected:
        return Refusal(
            "protected",
            f"{alert} asks to {action} {about}, which is not protected: add it to domains in the"
            " configuration, or take the action from the rule",
        )
    age = now - notification.starts_at
    if age > max_age_seconds:
        return Refusal(
            "not_too_old",
            f"{alert} for {about} began {age:.0f} s ago, more than limits.max_alert_age_seconds"
            f" ({max_age_seconds:g} s)",
        )
    return None
