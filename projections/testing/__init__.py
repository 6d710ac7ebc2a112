"""What tests of your own projections and scripts need: events, a kit that folds them, and a simulated upstream.

The names below are public API; docs/api.md says what is stable.
"""

from typing import TYPE_CHECKING

from eventstore.lazy_names import load_on_demand

__all__ = ["Fault", "FaultKind", "Order", "ProjectionKit", "SimulatedEvent", "Simulator", "SimulatorSettings", "event"]

if TYPE_CHECKING:
    from projections.sandbox.simulator import Fault, FaultKind, SimulatedEvent, Simulator, SimulatorSettings
    from projections.testing.events import event
    from projections.testing.kit import Order, ProjectionKit
else:
    __getattr__ = load_on_demand(
        __name__,
        {
            "projections.sandbox.simulator": ("SimulatedEvent", "Fault", "FaultKind", "SimulatorSettings", "Simulator"),
            "projections.testing.events": ("event",),
            "projections.testing.kit": ("Order", "ProjectionKit"),
        },
    )


def __dir__() -> list[str]:
    return [*globals(), *__all__]
