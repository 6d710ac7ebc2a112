"""Says which simulated world is wanted; the same values, the seed among them, give the same world."""

from __future__ import annotations

from dataclasses import dataclass

from eventstore.errors import UsageError
from projections.sandbox.simulator.story import tell
from projections.sandbox.simulator.world_model import Happening

MOST_RECIPIENTS = 1_000
"""Per request; the vendor's limit."""


@dataclass(frozen=True, slots=True)
class World:
    """What to make up: the same values give the same happenings.

    Args:
        seed: any whole number.
        recipients: how many there are in all requests together; a person who is sent to twice counts twice.
        recipients_per_request: 1 to 1,000; the last request may have fewer.
        polls: the share of requests that carry a poll, 0 to 1.

    Raises:
        UsageError: a value lies outside its limits.

    """

    seed: int = 1
    recipients: int = 2_000
    recipients_per_request: int = 50
    polls: float = 0.3

    def __post_init__(self) -> None:
        if self.recipients < 0:
            raise UsageError("the number of recipients can't be negative")
        if not 1 <= self.recipients_per_request <= MOST_RECIPIENTS:
            raise UsageError(f"a request has 1 to {MOST_RECIPIENTS:,} recipients")
        if not 0 <= self.polls <= 1:
            raise UsageError("the share of requests with a poll lies between 0 and 1")

    def happenings(self) -> list[Happening]:
        """Return what happens, in the order in which it happens."""
        return tell(
            seed=self.seed,
            recipients=self.recipients,
            recipients_per_request=self.recipients_per_request,
            polls=self.polls,
        )
