"""Is a notification ours to act on? Pure; everything else about it is decided on the live system."""

from collections.abc import Collection

from actuator.model import Notification, Refusal

ACTIONS = frozenset({"restart"})
"""What this version can do."""


def admit(
    notification: Notification, *, protected: Collection[str], now: float, max_age_seconds: float
) -> Refusal | None:
    """The refusal of a firing alert with an action; None when it is admitted. ``now`` is wall clock."""
    alert = f"alert {notification.labels.get('alertname', '?')}"
    if notification.action not in ACTIONS:
        return Refusal(
            "known_action",
            f"{alert} asks for the action {notification.action!r}; there is {', '.join(sorted(ACTIONS))}:"
            " correct the rule's label",
        )
    if not notification.domain:
        return Refusal("names_a_domain", f"{alert} names no domain: its rule must set the label 'domain'")
    if notification.domain not in protected:
        return Refusal(
            "protected",
            f"{alert} asks to {notification.action} {notification.domain}, which is not protected: add it to"
            " domains in the configuration, or take the action from the rule",
        )
    age = now - notification.starts_at
    if age > max_age_seconds:
        return Refusal(
            "not_too_old",
            f"{alert} for {notification.domain} began {age:.0f} s ago, more than limits.max_alert_age_seconds"
            f" ({max_age_seconds:g} s)",
        )
    return None
