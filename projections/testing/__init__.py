"""The test kit for projections that you write: events, and what a projection makes of them in a real database."""

from projections.testing.events import event
from projections.testing.kit import Order, ProjectionKit

__all__ = ["Order", "ProjectionKit", "event"]
