"""Generates the events of a simulated world from one seed.

Requests are sent over three days and all their events happen within two more, so that everything fits into a replay
window of seven days.
"""

from __future__ import annotations

import math
import random
from collections import Counter

from eventstore.contracts import Contract
from eventstore.contracts.event_types import EventType
from projections.sandbox.simulator.world_types import (
    SANDBOX,
    Behaviour,
    Poll,
    Recipient,
    RecipientState,
    Request,
    RequestState,
    Summary,
    WorldEvent,
)

SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE

_SENDING_PERIOD = 72 * HOUR
_SANDBOX_SHARE = 0.1
_FAILING_REQUESTS = 0.03
_ANSWERING = 0.6
_CHANGING_ANSWER = 0.2
_PEOPLE_PER_RECIPIENT = 0.7  # below 1, so that many get more than one message
_MIX = {
    Behaviour.DELIVERS: 78,
    Behaviour.CONSENTS: 10,
    Behaviour.DENIES: 4,
    Behaviour.FAILS: 6,
    Behaviour.EXPIRES: 2,
}
_QUESTIONS = (
    (("Yes", "No", "Maybe"), False),
    (("Monday", "Tuesday", "Thursday", "Friday"), True),
    (("Vegetarian", "Vegan", "Fish", "Meat"), False),
    (("Morning", "Afternoon", "Evening"), True),
)


def generate(*, seed: int, recipients: int, recipients_per_request: int, polls: float) -> list[WorldEvent]:
    """Return the events in the order of their times; the parameters are those of ``World``."""
    people = max(math.ceil(recipients * _PEOPLE_PER_RECIPIENT), recipients_per_request)
    generator = _Generator(random.Random(seed), people, polls)  # noqa: S311 - must be repeatable, not secret
    count = math.ceil(recipients / recipients_per_request)
    for number, sent_at in enumerate(sorted(generator.random.randrange(_SENDING_PERIOD) for _ in range(count))):
        left = recipients - number * recipients_per_request
        generator.add_request(sent_at, min(left, recipients_per_request), first=number == 0)
    generator.events.sort(key=lambda event: event.at)  # stable: events of the same time keep their order
    return generator.events


class _Generator:
    """Generates the events of one request after another, in the order of sending."""

    def __init__(self, numbers: random.Random, people: int, polls: float) -> None:
        self.random = numbers
        self.polls = polls
        self.behaviours = numbers.choices(list(_MIX), list(_MIX.values()), k=people)
        self.consented: dict[str, int] = {}  # since when, by phone number
        self.denied: dict[str, int] = {}
        self.events: list[WorldEvent] = []

    def add_request(self, sent_at: int, total: int, *, first: bool) -> None:
        poll = self._poll() if self.random.random() < self.polls else None
        request = Request(self._entropy(), sent_at, total, poll)
        fails = self.random.random() < _FAILING_REQUESTS and not first
        chosen = self._choose_recipients(total, sandbox=first or self.random.random() < _SANDBOX_SHARE)
        if fails:
            chosen = chosen[: self.random.randrange(total)]
        first_steps = [sent_at + self._between(SECOND, 2 * MINUTE) for _ in chosen]
        completed_at = max(first_steps, default=sent_at) + self._between(SECOND, 10 * SECOND)
        counts: Counter[RecipientState] = Counter()
        for at, (ppnum, behaviour) in zip(first_steps, chosen, strict=True):
            recipient = Recipient(ppnum, self._entropy(), self._entropy())
            counts[self._add_recipient(request, recipient, behaviour, at, completed_at)] += 1
        # Consent takes longer: messages that wait for it still wait when the request is completed, in both contracts.
        summary = Summary(
            RequestState.FAILED if fails else RequestState.COMPLETED,
            counts[RecipientState.DELIVERED],
            counts[RecipientState.PENDING_CONSENT],
            counts[RecipientState.FAILED],
        )
        kind = EventType.REQUEST_FAILED if fails else EventType.REQUEST_COMPLETED
        only = Contract.PCS_EXTERNAL_V1 if fails else None
        self.events.append(WorldEvent(completed_at, kind, request, self._entropy(), summary=summary, only=only))

    def _choose_recipients(self, total: int, *, sandbox: bool) -> list[tuple[str, Behaviour]]:
        chosen = list(SANDBOX.items())[:total] if sandbox else []
        for person in self.random.sample(range(len(self.behaviours)), total - len(chosen)):
            # Twelve digits that start with the sandbox's prefix: no real phone number in that numbering plan.
            chosen.append((f"123{100_000_000 + person}", self.behaviours[person]))
        self.random.shuffle(chosen)
        return chosen

    def _add_recipient(
        self, request: Request, recipient: Recipient, behaviour: Behaviour, at: int, completed_at: int
    ) -> RecipientState:
        """Generate the events of one recipient; return its state when the request is completed."""
        ppnum = recipient.ppnum
        if behaviour is Behaviour.FAILS:
            self._add(at, EventType.RECIPIENT_FAILED, request, recipient, RecipientState.FAILED, "undeliverable")
            return RecipientState.FAILED
        if ppnum not in SANDBOX and self.denied.get(ppnum, at) < at:
            self._add(at, EventType.RECIPIENT_FAILED, request, recipient, RecipientState.FAILED, "consent_denied")
            return RecipientState.FAILED
        if behaviour is Behaviour.DELIVERS or (ppnum not in SANDBOX and self.consented.get(ppnum, at) < at):
            self._deliver(at, request, recipient)
            return RecipientState.DELIVERED
        self._add(at, EventType.RECIPIENT_PENDING_CONSENT, request, recipient, RecipientState.PENDING_CONSENT)
        self._wait_for_consent(behaviour, request, recipient, completed_at)
        return RecipientState.PENDING_CONSENT

    def _wait_for_consent(
        self, behaviour: Behaviour, request: Request, recipient: Recipient, completed_at: int
    ) -> None:
        chat, pcs = Contract.CHAT_EXTERNAL, Contract.PCS_EXTERNAL_V1
        decided_at = completed_at + self._between(MINUTE, 12 * HOUR)
        if behaviour is Behaviour.CONSENTS:
            self._add(decided_at, EventType.CONSENT_GRANTED, request, recipient, RecipientState.PENDING, only=chat)
            self.consented[recipient.ppnum] = decided_at
            self._deliver(decided_at + self._between(SECOND, 10 * SECOND), request, recipient)
            return
        failed = RecipientState.FAILED
        if behaviour is Behaviour.DENIES:
            self._add(decided_at, EventType.CONSENT_DENIED, request, recipient, failed, only=chat)
            self._add(decided_at, EventType.RECIPIENT_FAILED, request, recipient, failed, "consent_denied", only=pcs)
            self.denied[recipient.ppnum] = decided_at
        else:
            self._add(
                completed_at + 24 * HOUR,
                EventType.RECIPIENT_FAILED,
                request,
                recipient,
                failed,
                "consent_expired",
                only=pcs,
            )

    def _deliver(self, at: int, request: Request, recipient: Recipient) -> None:
        self._add(at, EventType.RECIPIENT_DELIVERED, request, recipient, RecipientState.DELIVERED)
        if request.poll is None or self.random.random() >= _ANSWERING:
            return
        at += self._between(10 * SECOND, 6 * HOUR)
        self._add_answer(at, request, request.poll, recipient)
        if self.random.random() < _CHANGING_ANSWER:
            self._add_answer(at + self._between(MINUTE, 6 * HOUR), request, request.poll, recipient)

    def _add_answer(self, at: int, request: Request, poll: Poll, recipient: Recipient) -> None:
        picked = self.random.sample(range(len(poll.options)), self.random.randint(1, 3) if poll.multiple else 1)
        answer = tuple(poll.options[option] for option in sorted(picked))
        delivered, chat = RecipientState.DELIVERED, Contract.CHAT_EXTERNAL
        self._add(at, EventType.POLL_RESPONSE_RECEIVED, request, recipient, delivered, answer=answer, only=chat)

    def _add(
        self,
        at: int,
        kind: EventType,
        request: Request,
        recipient: Recipient,
        state: RecipientState,
        error_code: str | None = None,
        *,
        answer: tuple[str, ...] | None = None,
        only: Contract | None = None,
    ) -> None:
        entropy = self._entropy()
        self.events.append(WorldEvent(at, kind, request, entropy, recipient, state, error_code, answer, None, only))

    def _poll(self) -> Poll:
        return Poll(self._entropy(), *self.random.choice(_QUESTIONS))

    def _between(self, low: int, high: int) -> int:
        return self.random.randrange(low, high)

    def _entropy(self) -> bytes:
        return self.random.randbytes(10)
