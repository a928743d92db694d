"""Answering the hooks that DRBD runs on the hosts: from a question's bytes to a durable verdict.

A hook asks twice. First it says who it is, and gets the version: from then on no earlier run of a hook on its
host is heard. Then it looks at its own host, and asks with that version. Whatever changed in between turns
the second question away, and the hook begins again.
"""

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from actuator.contact import Contacts
from actuator.core.arbiter import (
    Answer,
    Ask,
    FencePeer,
    Side,
    Verdict,
    before_attach,
    before_resync,
    began,
    fence_peer,
    unfence_peer,
)
from actuator.faults import first_fault
from actuator.model import Authority, Event, HookRun
from actuator.ports import Clock, Conflict, Journal, JournalError
from exporter.drbd import Role

MAX_ATTEMPTS = 20
"""To write over a version that others change too; each that loses means that another one got through."""

MAX_REMEMBERED = 10_000
MAX_RESOURCES = 20_000
"""What hosts name, and nobody has seen, is written down too; no more of them than this."""
MAX_NAMED = 1000
"""Of those by one host, while this program runs: it leaves room for the others."""

_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.][A-Za-z0-9_.+-]{0,127}$")]


class Question(BaseModel):
    """What a hook sends. ``version`` is missing in its first question."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    hook: Literal["fence-peer", "before-resync-source", "unfence-peer", "attach"]
    resource: _Name
    peer: _Name | None = None
    """Of every hook but ``attach``."""
    minors: Annotated[str, StringConstraints(pattern=r"^[0-9 ]{0,200}$")] = ""
    """Of the volumes that it is about, as DRBD gives them: hooks of different ones run side by side."""
    boot_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f-]{1,64}$")]
    began_ns: Annotated[int, Field(ge=0, lt=2**63)]
    version: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    role: Literal["Primary", "Secondary", "Unknown"] = "Unknown"
    up_to_date: bool = False
    """Every volume's own disk is UpToDate."""
    connected: bool = False
    peer_up_to_date: bool = False


class MalformedQuestionError(ValueError):
    """The body is not a question that can be answered; the text says where and why."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a question, and the version that it left behind; a first question has no verdict."""

    version: int
    sentence: str
    verdict: Verdict | None = None


def parse(body: bytes) -> Question:
    """Read a question.

    Raises:
        MalformedQuestionError: it is none.
    """
    try:
        question = Question.model_validate_json(body)
    except ValidationError as error:
        raise MalformedQuestionError(first_fault(error)) from None
    if (question.peer is None) != (question.hook == "attach"):
        raise MalformedQuestionError(
            f"peer: {question.hook} {'has none' if question.peer else 'must name it'}"
        )
    return question


class Arbiter:
    """Keeps each resource's authority in the journal.

    Args:
        journal: where it is durable before anybody hears of it.
        clock: for the timeline.
        contacts: a host that asks is not isolated.
    """

    def __init__(self, journal: Journal, clock: Clock, contacts: Contacts) -> None:
        self._journal = journal
        self._clock = clock
        self._contacts = contacts
        self._lock = Lock()
        self._said: OrderedDict[tuple[str, ...], Answer] = OrderedDict()
        """What each hook was told last: one that asks again and again is no news."""
        self._named: dict[str, set[str]] = {}
        """By host, the resources that were unknown when it asked."""

    def reply(self, host: str, question: Question) -> Reply:
        """Answer a hook on ``host``.

        Raises:
            JournalError: nothing was granted; it may ask again.
        """
        self._contacts.heard(host, self._clock.monotonic())
        conflict: Conflict | None = None
        for _ in range(MAX_ATTEMPTS):
            before = self._journal.authority(question.resource) or self._unheard_of(host, question.resource)
            after, answer = _judge(before, host, question)
            try:
                self._write(before, after, host, question, answer)
            except Conflict as error:
                conflict = error
                continue
            if answer is None:
                return Reply(after.version, f"look, and ask with version {after.version}")
            return Reply(after.version, answer.sentence, answer.verdict)
        assert conflict is not None, "the loop ended without a reply"
        raise conflict

    def _unheard_of(self, host: str, resource: str) -> Authority:
        """Nothing is known of it.

        Raises:
            JournalError: of too many others something is, or this host has named too many.
        """
        if len(self._journal.authorities()) >= MAX_RESOURCES:
            raise JournalError(f"{resource} is unknown, and {MAX_RESOURCES} resources are known already")
        with self._lock:
            named = self._named.setdefault(host, set())
            if resource not in named and len(named) >= MAX_NAMED:
                raise JournalError(f"{resource} is unknown, as were {MAX_NAMED} that {host} has named before")
            named.add(resource)
        return Authority(resource)

    def _write(
        self, before: Authority, after: Authority, host: str, question: Question, answer: Answer | None
    ) -> None:
        """Write down what changes, and each verdict when a hook hears it for the first time."""
        events = []
        asker = (host, question.hook, question.resource, question.minors)
        if answer is not None and (after is not before or self._said.get(asker) != answer):
            said = f"{question.hook} of {question.resource} on {host}: {answer.verdict}, {answer.sentence}"
            detail = {
                "resource": question.resource,
                "verdict": answer.verdict.value,
                "version": after.version,
            }
            events.append(Event(self._clock.wall(), "arbitrated", said, host=host, detail=detail))
        if after is not before or events:
            self._journal.commit(authorities=[after] if after is not before else [], events=events)
        if answer is not None:
            self._remember(asker, answer)

    def _remember(self, asker: tuple[str, ...], answer: Answer) -> None:
        with self._lock:
            self._said[asker] = answer
            self._said.move_to_end(asker)
            if len(self._said) > MAX_REMEMBERED:
                self._said.popitem(last=False)


def _judge(it: Authority, host: str, question: Question) -> tuple[Authority, Answer | None]:
    peer, role = question.peer or "", Role(question.role)
    hook = " ".join(filter(None, (question.hook, peer, question.minors)))
    ask = Ask(host, hook, HookRun(question.boot_id, question.began_ns), question.version or 0)
    if question.version is None:
        return began(it, ask), None
    match question.hook:
        case "fence-peer":
            return fence_peer(
                it,
                FencePeer(
                    host, hook, ask.run, ask.version, peer, role, question.up_to_date, question.connected
                ),
            )
        case "before-resync-source":
            return before_resync(it, ask, peer)
        case "attach":
            return before_attach(it, ask)
        case "unfence-peer":
            sees = (question.up_to_date, peer, question.connected, question.peer_up_to_date)
            return unfence_peer(it, ask, Side(host, role, *sees, frozen=False))
