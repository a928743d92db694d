"""Who may do what over HTTP: four rights, and who holds each by a bearer token or a client certificate.

No right opens another, but that who gives orders may also look. A host that arbitrates is one of the hosts,
and never another: where its certificate and its token are of two hosts, it is neither.
"""

import hmac
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Right(StrEnum):
    """What is allowed."""

    DELIVER = "deliver"
    """Alerts, on the webhook."""
    ARBITRATE = "arbitrate"
    """To ask the arbiter, as one host."""
    ORDER = "order"
    """What a person says is to be done, and a reload."""
    READ = "read"
    """All that is shown. Without a holder everybody may."""


class NotAllowedError(Exception):
    """Who asks has not shown that they may; the message says what is missing, and no secret."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Somebody who has a right."""

    right: Right
    who: str
    """For a host its name."""
    tokens: Callable[[], Sequence[str]] = tuple
    """Any of them opens, as they are at this moment."""
    names: frozenset[str] = frozenset()
    """A client certificate with any of them, as a subject's alternative name, opens too."""


class Rights:
    """Safe to use from several threads at once."""

    def __init__(self, holders: Collection[Holder]) -> None:
        self._holders = {right: [it for it in holders if it.right is right] for right in Right}
        self._openers = self._holders | {Right.READ: self._holders[Right.READ] + self._holders[Right.ORDER]}

    def held(self, right: Right) -> bool:
        """Whether anybody holds it."""
        return bool(self._holders[right])

    def has_token(self, right: Right) -> bool:
        """Whether anybody holds it by a token, which a person could type."""
        return any(it.tokens() for it in self._holders[right])

    def check(self, right: Right, authorization: str, names: Collection[str]) -> str:
        """Who it is that asks; "anybody" where reading is free.

        Args:
            right: what is asked for.
            authorization: the header; empty: there is none.
            names: of the client's certificate, which was verified.

        Raises:
            NotAllowedError: nobody who may. All that was brought must be right.
        """
        if right is Right.READ and not self.held(right):
            return "anybody"
        openers = self._openers[right]
        found = {it.who for it in openers if not it.names.isdisjoint(names)}
        if authorization or not found:
            found |= _by_token(openers, authorization)
        if len(found) != 1:
            raise NotAllowedError(f"the credentials are of {' and '.join(sorted(found))}: it can be only one")
        return found.pop()

    def of_token(self, token: str) -> Right | None:
        """Whether a token that a person has typed is one for orders, or one for reading."""
        matching = [it.right for it in self._openers[Right.READ] if _matches(it, token.encode())]
        return matching[0] if matching else None


def _by_token(holders: Sequence[Holder], authorization: str) -> set[str]:
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise NotAllowedError("no bearer token")
    secret = given.strip().encode("latin-1", "replace")
    found = {it.who for it in holders if _matches(it, secret)}
    if not found:
        raise NotAllowedError("the bearer token is not the right one")
    return found


def _matches(holder: Holder, secret: bytes) -> bool:
    # All are compared: the time taken does not tell which came near.
    return True in [hmac.compare_digest(secret, token.encode()) for token in holder.tokens()]
