"""Makes up what happens in a simulated world, all of it drawn from one seed.

Requests go out over three days and everything that comes of them is over within two more, so that the whole of it
fits into a replay window of seven days.
"""

from __future__ import annotations

import math
import random
from collections import Counter

from eventstore.contracts import Contract
from projections.sandbox.simulator.world_model import (
    SANDBOX,
    Behaviour,
    EventType,
    Happening,
    Poll,
    Recipient,
    RecipientState,
    Request,
    RequestState,
    Summary,
)

SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE

_SENDING_LASTS = 72 * HOUR
_SANDBOX_SHARE = 0.1
_FAILING_REQUESTS = 0.03
_ANSWERING = 0.6
_CHANGING_MINDS = 0.2
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


def tell(*, seed: int, recipients: int, recipients_per_request: int, polls: float) -> list[Happening]:
    """Return what happens, in the order in which it happens; the parameters are those of ``World``."""
    people = max(math.ceil(recipients * _PEOPLE_PER_RECIPIENT), recipients_per_request)
    author = _Author(random.Random(seed), people, polls)  # noqa: S311 - wants to be repeatable, not secret
    count = math.ceil(recipients / recipients_per_request)
    for number, sent_at in enumerate(sorted(author.random.randrange(_SENDING_LASTS) for _ in range(count))):
        left = recipients - number * recipients_per_request
        author.request(sent_at, min(left, recipients_per_request), first=number == 0)
    author.story.sort(key=lambda happening: happening.at)  # stable: ties stay as they were told
    return author.story


class _Author:
    """Writes the story down, request by request in the order of sending."""

    def __init__(self, numbers: random.Random, people: int, polls: float) -> None:
        self.random = numbers
        self.polls = polls
        self.behaviours = numbers.choices(list(_MIX), list(_MIX.values()), k=people)
        self.consented: dict[str, int] = {}  # since when, by number
        self.denied: dict[str, int] = {}
        self.story: list[Happening] = []

    def request(self, sent_at: int, total: int, *, first: bool) -> None:
        poll = self._poll() if self.random.random() < self.polls else None
        request = Request(self._entropy(), sent_at, total, poll)
        fails = self.random.random() < _FAILING_REQUESTS and not first
        cast = self._cast(total, sandbox=first or self.random.random() < _SANDBOX_SHARE)
        if fails:
            cast = cast[: self.random.randrange(total)]
        first_steps = [sent_at + self._between(SECOND, 2 * MINUTE) for _ in cast]
        over_at = max(first_steps, default=sent_at) + self._between(SECOND, 10 * SECOND)
        counts: Counter[RecipientState] = Counter()
        for at, (ppnum, behaviour) in zip(first_steps, cast, strict=True):
            recipient = Recipient(ppnum, self._entropy(), self._entropy())
            counts[self._recipient(request, recipient, behaviour, at, over_at)] += 1
        # Consent takes its time: what was held is still held when the request is over, under either contract.
        summary = Summary(
            RequestState.FAILED if fails else RequestState.COMPLETED,
            counts[RecipientState.DELIVERED],
            counts[RecipientState.PENDING_CONSENT],
            counts[RecipientState.FAILED],
        )
        kind = EventType.REQUEST_FAILED if fails else EventType.REQUEST_COMPLETED
        only = Contract.PCS_EXTERNAL_V1 if fails else None
        self.story.append(Happening(over_at, kind, request, self._entropy(), summary=summary, only=only))

    def _cast(self, total: int, *, sandbox: bool) -> list[tuple[str, Behaviour]]:
        cast = list(SANDBOX.items())[:total] if sandbox else []
        for person in self.random.sample(range(len(self.behaviours)), total - len(cast)):
            # Twelve digits after the sandbox's prefix: nobody's number in the plan that the prefix belongs to.
            cast.append((f"123{100_000_000 + person}", self.behaviours[person]))
        self.random.shuffle(cast)
        return cast

    def _recipient(
        self, request: Request, recipient: Recipient, behaviour: Behaviour, at: int, over_at: int
    ) -> RecipientState:
        """Tell all that becomes of one recipient; return how it stands when the request is over."""
        ppnum = recipient.ppnum
        if behaviour is Behaviour.FAILS:
            self._tell(at, EventType.FAILED, request, recipient, RecipientState.FAILED, "undeliverable")
            return RecipientState.FAILED
        if ppnum not in SANDBOX and self.denied.get(ppnum, at) < at:
            self._tell(at, EventType.FAILED, request, recipient, RecipientState.FAILED, "consent_denied")
            return RecipientState.FAILED
        if behaviour is Behaviour.DELIVERS or (ppnum not in SANDBOX and self.consented.get(ppnum, at) < at):
            self._delivered(at, request, recipient)
            return RecipientState.DELIVERED
        self._tell(at, EventType.PENDING_CONSENT, request, recipient, RecipientState.PENDING_CONSENT)
        self._held(behaviour, request, recipient, over_at)
        return RecipientState.PENDING_CONSENT

    def _held(self, behaviour: Behaviour, request: Request, recipient: Recipient, over_at: int) -> None:
        chat, pcs = Contract.CHAT_EXTERNAL, Contract.PCS_EXTERNAL_V1
        decided_at = over_at + self._between(MINUTE, 12 * HOUR)
        if behaviour is Behaviour.CONSENTS:
            self._tell(decided_at, EventType.CONSENT_GRANTED, request, recipient, RecipientState.PENDING, only=chat)
            self.consented[recipient.ppnum] = decided_at
            self._delivered(decided_at + self._between(SECOND, 10 * SECOND), request, recipient)
            return
        failed = RecipientState.FAILED
        if behaviour is Behaviour.DENIES:
            self._tell(decided_at, EventType.CONSENT_DENIED, request, recipient, failed, only=chat)
            self._tell(decided_at, EventType.FAILED, request, recipient, failed, "consent_denied", only=pcs)
            self.denied[recipient.ppnum] = decided_at
        else:
            self._tell(over_at + 24 * HOUR, EventType.FAILED, request, recipient, failed, "consent_expired", only=pcs)

    def _delivered(self, at: int, request: Request, recipient: Recipient) -> None:
        self._tell(at, EventType.DELIVERED, request, recipient, RecipientState.DELIVERED)
        if request.poll is None or self.random.random() >= _ANSWERING:
            return
        at += self._between(10 * SECOND, 6 * HOUR)
        self._answer(at, request, request.poll, recipient)
        if self.random.random() < _CHANGING_MINDS:
            self._answer(at + self._between(MINUTE, 6 * HOUR), request, request.poll, recipient)

    def _answer(self, at: int, request: Request, poll: Poll, recipient: Recipient) -> None:
        chosen = self.random.sample(range(len(poll.options)), self.random.randint(1, 3) if poll.multiple else 1)
        answer = tuple(poll.options[option] for option in sorted(chosen))
        delivered, chat = RecipientState.DELIVERED, Contract.CHAT_EXTERNAL
        self._tell(at, EventType.POLL_RESPONSE, request, recipient, delivered, answer=answer, only=chat)

    def _tell(
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
        self.story.append(Happening(at, kind, request, entropy, recipient, state, error_code, answer, None, only))

    def _poll(self) -> Poll:
        return Poll(self._entropy(), *self.random.choice(_QUESTIONS))

    def _between(self, low: int, high: int) -> int:
        return self.random.randrange(low, high)

    def _entropy(self) -> bytes:
        return self.random.randbytes(10)
