"""Time to accuracy: how soon a network is as good as plain Keras makes it, against the clock.

    python benchmarks/time_to_accuracy/run.py                    # all, 20 seeds; hours
    python benchmarks/time_to_accuracy/run.py --seeds 5 --workloads W1 W2
    python benchmarks/time_to_accuracy/run.py --untuned          # only who needs no tuning
    python benchmarks/time_to_accuracy/run.py --quick            # one tiny workload, 3 seeds

Three steps, each of which goes on where it was interrupted, and tables and pictures at the end:

1. Targets: what tuned plain Keras holds in half the cap. Once written to targets.json they stay.
2. Learning rates, tuned alike for each contestant that is tuned. Tuning is outside the clock.
3. Races: the seeds one after another, in each the workloads, in each the contestants. Seeds are
   paired; splits and rows of a batch are equal; each result is a line of races.jsonl.

The clock runs from building the model to the second of two validations running that reach the
target: building, tracing, compiling, training and validating. CPU time is what the tables compare,
since other programs disturb it least; wall time is kept beside it. A miss is charged what it took
to the cap. Importing Keras is outside the clock, and one thread runs everything.
"""

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
for _threads in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_threads, "1")

import torch_peer
from contestants import ABLATION, CONTROL, DEFAULTS, PEERS, TUNED, ZERO, Contestant, on
from race import run
from rates import freeze, tune
from report import report
from workloads import SMOKE, WORKLOADS, Workload

RESULTS = Path(__file__).parents[1] / "results" / "time_to_accuracy"
PEERS_TIMED = 2


class Book:
    """JSON files in the folder of results."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def read(self, name: str) -> dict:
        path = self.folder / name
        return json.loads(path.read_text()) if path.exists() else {}

    def once(self, name: str, key: str, make: Callable[[], object]) -> object:
        """Returns what is written under `key`; makes and writes it the first time."""
        written = self.read(name)
        if key not in written:
            written[key] = make()
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = self.folder / f"{name}.partial"
            partial.write_text(json.dumps(written, indent=1) + "\n")
            partial.replace(self.folder / name)
        return written[key]

    @property
    def races(self) -> Path:
        return self.folder / "races.jsonl"

    def lines(self) -> list[dict]:
        if not self.races.exists():
            return []
        return [json.loads(line) for line in self.races.read_text().splitlines()]


def tuned(contestant: Contestant, name: str, workload: Workload, book: Book) -> dict:
    """Returns the rate of a contestant and what its choice cost, tuned the first time."""
    target = book.read("targets.json")[name]

    def make() -> dict:
        start = time.process_time()
        rate, trials = tune(contestant, workload, target)
        print(f"{name}: {contestant.name}: rate {rate:g}", flush=True)
        spent = time.process_time() - start
        return {"rate": rate, "cpu": spent, "trials": [t.to_dict() for t in trials]}

    return book.once("tuning.json", f"{name}: {contestant.name}", make)


def best(group: list[Contestant], name: str, workload: Workload, book: Book, num: int) -> list:
    """Returns those of a group that need the fewest steps at their tuned rates."""
    ranked = []
    for contestant in group:
        entry = tuned(on(contestant, name), name, workload, book)
        mine = [t["steps"] for t in entry["trials"] if t["rate"] == entry["rate"]]
        misses = sum(s is None for s in mine)
        steps = sum(s or 0 for s in mine) / len(mine)
        ranked.append((misses, steps, replace(contestant, rate=entry["rate"])))
    return [contestant for *_, contestant in sorted(ranked, key=lambda r: r[:2])[:num]]


def entrants(
    name: str, workload: Workload, book: Book, quick: bool, untuned: bool
) -> list[Contestant]:
    """Returns who races."""
    if untuned:
        peers, ours, control, ablation = [], [], [], []
    elif quick:
        peers, ours, control, ablation = best(PEERS[:1], name, workload, book, 1), [], [], []
    else:
        peers = best(PEERS, name, workload, book, PEERS_TIMED)
        ours = best(TUNED, name, workload, book, 1)
        control = best([CONTROL], name, workload, book, 1)
        ablation = ABLATION.get(name, [])
    return [on(c, name) for c in (DEFAULTS, ZERO, *peers, *ours, *control, *ablation)]


def race(seed: int, name: str, workload: Workload, racers: list[Contestant], book: Book) -> None:
    """Runs what has not been run of one seed on one workload."""
    target = book.read("targets.json")[name]
    done = {(r["workload"], r["contestant"], r["seed"]) for r in book.lines()}
    runners = [(c.name, lambda c=c: run(c, workload, target, seed)) for c in racers]
    if torch_peer.takes(name):
        runners.append((torch_peer.NAME, lambda: torch_peer.run(workload, target, seed)))
    turn = seed % len(runners)  # Nobody is always first.
    for contestant, runner in runners[turn:] + runners[:turn]:
        if (name, contestant, seed) in done:
            continue
        result = {"workload": name, "contestant": contestant, "seed": seed, **asdict(runner())}
        result["scores"] = [round(s, 5) for s in result["scores"]]
        with book.races.open("a") as file:
            file.write(json.dumps(result) + "\n")
        hit = "hit " if result["hit"] else "miss"
        print(
            f"{name} seed {seed} {hit} {result['cpu']:6.2f} s of CPU, {result['steps']:5d} steps: "
            f"{contestant}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one tiny workload, 3 seeds")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=WORKLOADS)
    parser.add_argument("--untuned", action="store_true", help="only those without tuning")
    parser.add_argument("--results", type=Path, help="another folder for the results")
    parser.add_argument("--report", action="store_true", help="only write tables and pictures anew")
    options = parser.parse_args()
    workloads = SMOKE if options.quick else {n: WORKLOADS[n] for n in options.workloads}
    book = Book(options.results or (Path("time_to_accuracy") if options.quick else RESULTS))
    warnings.filterwarnings("ignore", message=".*no longer be used.*")
    if not options.report:
        for name, workload in workloads.items():
            book.once("targets.json", name, partial(freeze, workload))
        for warm in (DEFAULTS, ZERO):  # What only the first training of a process pays.
            run(warm, SMOKE["W0"], 2.0, 0)
        for seed in range(3 if options.quick else options.seeds):
            for name, workload in workloads.items():
                racers = entrants(name, workload, book, options.quick, options.untuned)
                race(seed, name, workload, racers, book)
    print(report(book.lines(), book.read("targets.json"), book.read("tuning.json"), book.folder))
    if not torch_peer.INSTALLED:
        print("skipped: torch with schedulefree, because one of them is not installed")


if __name__ == "__main__":
    main()
