"""One thing that is wrong with a model."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a model, with the figures that say so and what mends it.

    Attributes:
        rule: Name of the rule that was broken, such as `"vanishing gradient"`.
        layer: Path of the layer where it shows most.
        value: What was measured.
        threshold: The limit that the value passed.
        evidence: The measurement as a sentence.
        fix: What mends it, as a call or a change of the model.
        source: Where the rule or its threshold comes from.
        remedy: What `Diagnosis.repair` puts in place, such as an activation or a learning rate;
            `None` where the rule alone says what to do, or where nothing can be done.
        layers: Paths of all layers where it shows; empty if `layer` is the only one.
    """

    rule: str
    layer: str
    value: float
    threshold: float
    evidence: str
    fix: str
    source: str
    remedy: Any = None
    layers: tuple[str, ...] = ()

    @property
    def guilty(self) -> tuple[str, ...]:
        """Paths of all layers where it shows."""
        return self.layers or (self.layer,)

    def to_dict(self) -> dict[str, Any]:
        """Returns the attributes as a dictionary."""
        return asdict(self)
