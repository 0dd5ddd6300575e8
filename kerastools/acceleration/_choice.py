"""How many steps a call, and by which program: chosen by measuring the first steps."""

from typing import Any

_CALL_SECONDS = 0.2  # A call may last this long: progress stays visible, Ctrl-C answers.
_SLOW_STEP = 0.05  # From here on the overhead of a call, a few ms, is lost in the step.
_BYTES = 64 * 2**20  # What a stack of batches may take.
_MOST_STEPS = 256
_DISPATCH = 5e-6  # Seconds an operation costs on TensorFlow, whatever it computes.
_SAVES = 0.5  # What the second compilation is expected to save of a short step.
_LOOP_DISPATCH = 1e-6  # Seconds an operation costs inside a loop over time.
_LOOP_SAVES = 0.75  # What XLA saves of these.
_XLA_SECONDS = 3  # What XLA takes to compile such a step, over the time to trace it.

LABELS = {"single": "one step at a time", "loop": "looped", "xla": "looped with XLA"}


class _Choice:
    """Says what to run next and is told how long it took.

    On TensorFlow one compiled loop runs any number of steps, also one; XLA is a second compilation,
    tried where a step is many small operations. On JAX XLA compiles the single step already, and
    the loop is the second compilation. A second compilation must promise to save twice what it
    costs in the steps that are left; it is kept only if it is then measured to be faster.

    Args:
        jax: Whether the backend is JAX.
        steps: Steps a call; `None` to choose.
        xla: Whether to compile the loop with XLA; `None` to choose.
        epoch: The steps of an epoch, where known; there are no more in a call.
    """

    def __init__(
        self, jax: bool, steps: int | None = None, xla: bool | None = None, epoch: int | None = None
    ) -> None:
        self.jax, self.steps, self.xla, self.epoch = jax, steps, xla, epoch
        self.most = min(epoch or _MOST_STEPS, _MOST_STEPS)
        self.program = "xla" if xla and not jax else "loop" if steps or not jax else "single"
        self.length = steps or 1
        self.in_time: int | None = None
        self.settled = bool(steps) and (jax or xla is not None)
        self.seconds: dict[str, float] = {}
        self.compile_seconds: dict[str, float] = {}
        self._before: tuple[str, int] | None = None
        self._expected = 0.0
        self._calls = 0

    @property
    def measuring(self) -> bool:
        """Whether the next call is to be timed: the first of each kind, then ever more rarely."""
        return not self.settled and (self._calls < 4 or self._calls & (self._calls - 1) == 0)

    def next(self) -> tuple[str, int]:
        """Returns the program and how many steps it shall run at most."""
        careful = (
            {0: 1, 1: 4} if self._before or (self.program == "xla" and not self.settled) else {}
        )
        length = min(self.length, self.in_time or self.length)
        return self.program, min(length, careful.get(self._calls, length))

    @property
    def beginning(self) -> bool:
        """Whether nothing has been run yet, so that the traced graph may decide."""
        return not self.compile_seconds and self._before is None and not self.settled

    def begin(self, seconds: float, step_bytes: int, left: float, programs: Any) -> None:
        """Takes XLA at once for a net that loops over time, without compiling the plain loop first.

        Args:
            seconds: What tracing took.
            step_bytes: Size of a batch.
            left: Steps still to come.
            programs: Tells about the graph.
        """
        if self.program == "xla":  # It was asked for; now a batch is known.
            self.length = self.steps or self._fitting(0.0, step_bytes)
        elif not self.jax and self.xla is None and programs.num_loops:
            step = _LOOP_DISPATCH * programs.num_operations
            if _LOOP_SAVES * step * left > _XLA_SECONDS * seconds:
                self._expected = step
                self._try("xla", self._fitting((1 - _LOOP_SAVES) * step, step_bytes))

    def record(self, num: int, seconds: float, step_bytes: int, left: float, programs: Any) -> None:
        """Takes note of a call of `num` steps that was timed and decides what is next.

        Args:
            num: Steps that ran.
            seconds: What they took; the first call of a program compiles it.
            step_bytes: Size of a batch.
            left: Steps still to come.
            programs: Tells about the graph, on TensorFlow.
        """
        if self.program not in self.compile_seconds:
            self.compile_seconds[self.program] = seconds
            return
        per_step = seconds / num
        self.seconds[self.program] = min(per_step, self.seconds.get(self.program, per_step))
        if self._before and self._before[0] not in self.seconds:
            self._doubt(left)
        elif self._before:
            self._judge(self.seconds[self._before[0]], self.seconds[self.program])
        elif self.jax:
            self._consider_loop(left, step_bytes)
        elif not self._lengthened(step_bytes):
            self._consider_xla(left, step_bytes, programs)

    def count(self) -> None:
        """Counts a call."""
        self._calls += 1

    def give_up(self) -> None:
        """Goes back to the program before; the one on trial cannot be compiled or is slower."""
        if self._before:
            self.program, self.length = self._before
        self._before = None
        self.settled = self.program in self.seconds
        self.xla = False

    @property
    def compiling_on_trial(self) -> bool:
        """Whether the next call is the first of a second compilation, which may fail."""
        return self._before is not None and self.program not in self.compile_seconds

    def _lengthened(self, step_bytes: int) -> bool:
        """Approaches the right number of steps a call in leaps; returns whether it changed."""
        if self.steps:
            return False
        now, before = self.seconds[self.program], self.length
        if self.program == "xla":  # Compiled for this length: a call may run fewer steps.
            self.in_time = self._fitting(now, step_bytes)
            return False
        fits = 1 if now > _SLOW_STEP else self._fitting(now, step_bytes)
        self.length = min(fits, 8) if before == 1 else max(before, fits)
        changed = self.length != before
        self._calls = 1 if changed else self._calls
        return changed

    def _fitting(self, seconds: float, step_bytes: int) -> int:
        fits = min(self.most, _BYTES // max(1, step_bytes), int(_CALL_SECONDS / max(seconds, 1e-6)))
        if self.epoch is None:
            return max(1, fits)
        calls = -(-self.epoch // max(1, fits))
        return -(-self.epoch // calls)  # The calls of an epoch are equally long.

    def _consider_loop(self, left: float, step_bytes: int) -> None:
        now = self.seconds["single"]
        if now > _SLOW_STEP:
            self.settled = True
        elif _SAVES * now * left > 2 * self.compile_seconds["single"]:
            self._try("loop", self._fitting(_SAVES * now, step_bytes))

    def _consider_xla(self, left: float, step_bytes: int, programs: Any) -> None:
        if self.program == "xla":
            self.settled = True
            return
        now = self.seconds["loop"]
        # XLA compiles convolutions for long and may run them slowly: they have to be a small part.
        conv = programs.has_convolutions
        dispatch = programs.num_operations * (_DISPATCH / 3 if conv else _DISPATCH)
        if self.xla is False or now > min(_SLOW_STEP, dispatch):
            self.settled = True
        elif _SAVES * now * left > (8 if conv else 2) * self.compile_seconds["loop"]:
            self._try("xla", self._fitting(_SAVES * now, step_bytes))

    def _doubt(self, left: float) -> None:
        """Lets the plain loop compete where XLA is slower than that was expected to be."""
        now, length = self.seconds["xla"], self.length
        self._before, self.settled = None, True
        if now > self._expected and now * left > 2 * self.compile_seconds["xla"]:
            self.settled = False
            self._try("loop", length)

    def _try(self, program: str, length: int) -> None:
        self._before = self.program, self.length
        self.program, self.length = program, length
        self._calls = 0

    def _judge(self, old: float, new: float) -> None:
        if new < 0.95 * old:
            if self._calls > 1:
                self._before = None
                self.settled = True
        elif new > 3 * old or self._calls > 2:
            self.give_up()

    def __str__(self) -> str:
        one = self.length == 1
        steps = "1 step a call" if one else f"{self.length} steps a call"
        label = "" if one else f", {LABELS[self.program]}"
        times = ", ".join(f"{LABELS[p]} {1e3 * s:.3g}" for p, s in self.seconds.items())
        compiled = sum(self.compile_seconds.values())
        return (
            f"{steps}{label} (ms a step: {times or 'not measured'}; compiled in {compiled:.1f} s)"
        )
