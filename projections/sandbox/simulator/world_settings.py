"""The settings of a simulated world; the same values, including the seed, generate the same events."""

from __future__ import annotations

from dataclasses import dataclass

from eventstore.errors import UsageError
from projections.sandbox.simulator.world_generator import generate
from projections.sandbox.simulator.world_types import WorldEvent

MAX_RECIPIENTS_PER_REQUEST = 1_000
"""The vendor's limit."""


@dataclass(frozen=True, slots=True)
class World:
    """What to generate: the same values give the same events.

    Args:
        seed: any whole number.
        recipients: the total over all requests; a person with two messages counts twice.
        recipients_per_request: 1 to 1,000; the last request may have fewer.
        polls: the share of requests with a poll, 0 to 1.

    Raises:
        UsageError: a value is outside its limits.

    """

    seed: int = 1
    recipients: int = 2_000
    recipients_per_request: int = 50
    polls: float = 0.3

    def __post_init__(self) -> None:
        if self.recipients < 0:
            raise UsageError("the number of recipients must not be negative")
        if not 1 <= self.recipients_per_request <= MAX_RECIPIENTS_PER_REQUEST:
            raise UsageError(f"the recipients per request must be 1 to {MAX_RECIPIENTS_PER_REQUEST:,}")
        if not 0 <= self.polls <= 1:
            raise UsageError("the share of requests with a poll must be between 0 and 1")

    def events(self) -> list[WorldEvent]:
        """Return the events in the order of their times."""
        return generate(
            seed=self.seed,
            recipients=self.recipients,
            recipients_per_request=self.recipients_per_request,
            polls=self.polls,
        )
