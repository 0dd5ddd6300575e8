"""What `import kerastools` costs above `import keras`: CPU time, interleaved, medians.

    python benchmarks/import_time.py

Aim: at most 50 ms.
"""

import argparse
import resource
import statistics
import subprocess
import sys

STATEMENTS = {"keras": "import keras", "kerastools": "import keras, kerastools"}


def cpu_seconds(statement: str) -> float:
    """Returns the CPU time, user and system, of a process that runs `statement`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", statement], check=True, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(rounds):
        for name, statement in STATEMENTS.items():
            seconds[name].append(cpu_seconds(statement))
    for name, measured in seconds.items():
        low, middle, high = statistics.quantiles(measured, n=4)
        print(f"{STATEMENTS[name]:28} {middle:6.3f} s of CPU (quartiles {low:.3f} to {high:.3f})")
    extra = statistics.median(seconds["kerastools"]) - statistics.median(seconds["keras"])
    print(f"kerastools adds {1e3 * extra:.0f} ms")


if __name__ == "__main__":
    main()
