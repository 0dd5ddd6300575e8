"""What was exported, and how far it is from the model."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kerastools._core.table import Printed, format_table
from kerastools.folding import FoldReport

# Of each tensor by name: dtype and shape.
Described = dict[str, tuple[str, tuple[int | None, ...]]]


@dataclass(frozen=True, repr=False)
class ExportReport(Printed):
    """What `export_savedmodel` wrote; printed, it is a table.

    Attributes:
        model: Name of the model.
        path: Directory of this version, with `saved_model.pb` in it.
        version: Its number.
        inputs: Name, dtype and shape of each input of `serving_default`; `None` is any size.
        outputs: The same of each output.
        fold: What became of the batch normalizations, or `None` if they were not folded.
        frozen: Whether the weights are constants in the graph.
        signatures: The outputs of each further signature.
        note: What was done otherwise than asked and why, or what was not compared; or `None`.
        dtype: `"bfloat16"` if the layers were made to compute in it, or `None`.
        largest_difference: max |y − y'| / max |y| between the model's outputs y and those of the
            SavedModel loaded again, y'; the worst output.
        tolerance: The largest difference that was allowed.
        num_nodes: Operations in the serving graph before TensorFlow optimizes it.
        size_bytes: Size on disk.
        latency: By batch size, the median milliseconds of a request to this SavedModel and to one
            that `model.export` wrote, measured in turns; empty unless asked for.
        plain_num_nodes: Operations in what `model.export` wrote, if latency was asked for.
        plain_size_bytes: Size on disk of what `model.export` wrote, if latency was asked for.
    """

    model: str
    path: str
    version: int
    inputs: Described
    outputs: Described
    fold: FoldReport | None
    frozen: bool
    note: str | None
    dtype: str | None
    largest_difference: float
    tolerance: float
    num_nodes: int
    size_bytes: int
    latency: dict[int, tuple[float, float]] = field(default_factory=dict)
    plain_num_nodes: int | None = None
    plain_size_bytes: int | None = None
    signatures: dict[str, Described] = field(default_factory=dict)

    @property
    def serving_config(self) -> str:
        """The model's entry in TensorFlow Serving's `--model_config_file`.

        It belongs into `model_config_list { ... }`.
        """
        base = Path(self.path).resolve().parent
        name, path = (json.dumps(text, ensure_ascii=False) for text in (base.name, str(base)))
        return f'config {{ name: {name} base_path: {path} model_platform: "tensorflow" }}'

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain dictionaries, tuples, strings and numbers."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**fields, "fold": self.fold and self.fold.to_dict()}

    def __str__(self) -> str:
        def tensors(named: Described) -> str:
            return ", ".join(f"{name}: {dtype} {shape}" for name, (dtype, shape) in named.items())

        def megabytes(size: int) -> str:
            return f"{size / 1e6:.3g} MB"

        def versus(plain: str | int | None) -> str:
            return "" if plain is None else f" (model.export: {plain})"

        plain_size = self.plain_size_bytes and megabytes(self.plain_size_bytes)
        folded = "kept"
        if self.fold is not None:
            folded = f"{self.fold.num_folded} folded, {self.fold.num_kept} kept"
        weights = "constants in the graph" if self.frozen else "variables"
        rows = [
            ("path", self.path),
            ("inputs", tensors(self.inputs)),
            ("outputs", tensors(self.outputs)),
            ("batch norms", folded),
            ("weights", weights),
            (
                "largest difference",
                f"{self.largest_difference:.1e} of {self.tolerance:.0e} allowed",
            ),
            ("graph", f"{self.num_nodes} nodes{versus(self.plain_num_nodes)}"),
            ("size on disk", f"{megabytes(self.size_bytes)}{versus(plain_size)}"),
        ]
        rows += [(f"signature {n}", tensors(outputs)) for n, outputs in self.signatures.items()]
        if self.note:
            rows.append(("note", self.note))
        if self.dtype:
            rows.insert(5, ("computes in", self.dtype))
        for batch, (ours, plain) in self.latency.items():
            ratio = f"{plain / ours:.2f} times as fast as model.export, {plain:.3g} ms"
            rows.append((f"latency, batch {batch}", f"{ours:.3g} ms: {ratio}"))
        return f'Model "{self.model}" exported\n\n{format_table(("what", "value"), rows)}'
