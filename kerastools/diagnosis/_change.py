"""One thing that a repair has changed."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """One thing that a repair has changed.

    Attributes:
        rule: The rule that was broken.
        layer: Path of the layer, or of the one where the fault showed most.
        what: What was done.
    """

    rule: str
    layer: str
    what: str
