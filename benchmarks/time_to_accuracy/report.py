"""Tables and pictures of the races."""

import math
from collections import defaultdict
from pathlib import Path
from statistics import median

import numpy as np

from kerastools._core.table import format_table

DEFAULTS, ZERO = "Keras, defaults", "kerastools, zero tuning"
BOOTSTRAPS = 4000


def wilson(hits: int, num: int, z: float = 1.96) -> tuple[float, float]:
    """Returns Wilson's 95 % interval of a rate."""
    rate, half = hits / num, z * z / (2 * num)
    spread = z * math.sqrt(rate * (1 - rate) / num + z * z / (4 * num * num))
    scale = 1 + z * z / num
    return max(0.0, (rate + half - spread) / scale), min(1.0, (rate + half + spread) / scale)


def geometric(ratios: list[float]) -> tuple[float, float, float]:
    """Returns the geometric mean of paired ratios and its bootstrap 95 % interval."""
    logs = np.log(ratios)
    draws = np.random.default_rng(0).integers(0, len(logs), (BOOTSTRAPS, len(logs)))
    low, high = np.percentile(logs[draws].mean(1), [2.5, 97.5])
    return tuple(float(np.exp(v)) for v in (logs.mean(), low, high))  # type: ignore[return-value]


def overall(ratios: dict[str, list[float]]) -> tuple[float, float, float]:
    """Returns the geometric mean over workloads, each weighing alike, and its interval."""
    rng = np.random.default_rng(0)
    logs = [np.log(r) for r in ratios.values()]
    draws = [
        np.mean([log[rng.integers(0, len(log), len(log))].mean() for log in logs])
        for _ in range(BOOTSTRAPS)
    ]
    low, high = np.percentile(draws, [2.5, 97.5])
    mean = np.mean([log.mean() for log in logs])
    return tuple(float(np.exp(v)) for v in (mean, low, high))  # type: ignore[return-value]


class Races:
    """The results by workload, contestant and seed."""

    def __init__(self, lines: list[dict]) -> None:
        self.by: dict[str, dict[str, dict[int, dict]]] = defaultdict(lambda: defaultdict(dict))
        for line in lines:
            self.by[line["workload"]][line["contestant"]][line["seed"]] = line

    def workloads(self) -> list[str]:
        return sorted(self.by)

    def ratios(self, workload: str, slow: str, fast: str) -> list[float]:
        """Returns CPU seconds of `slow` by those of `fast`, seed by seed."""
        a, b = self.by[workload][slow], self.by[workload][fast]
        return [a[seed]["cpu"] / b[seed]["cpu"] for seed in sorted(a.keys() & b.keys())]

    def peer(self, workload: str) -> str | None:
        """Returns the plain-Keras peer that was best: most hits, then least CPU."""
        peers = [c for c in self.by[workload] if c.startswith("Keras") and "He, tuned" in c]

        def rank(name: str) -> tuple[float, float]:
            runs = self.by[workload][name].values()
            return -sum(r["hit"] for r in runs) / len(runs), median(r["cpu"] for r in runs)

        return min(peers, key=rank, default=None)

    def ours(self, workload: str) -> str | None:
        names = [c for c in self.by[workload] if c.startswith("kerastools") and "tuned" in c]
        return names[0] if names else None


def table_of(races: Races, workload: str, target: float) -> str:
    """Returns the table of a workload, hit rate first."""
    rows = []
    for name, runs in races.by[workload].items():
        results = list(runs.values())
        hits, num = sum(r["hit"] for r in results), len(results)
        low, high = wilson(hits, num)
        ratio = ""
        if name != DEFAULTS and races.ratios(workload, DEFAULTS, name):
            mean, left, right = geometric(races.ratios(workload, DEFAULTS, name))
            ratio = f"{mean:.2f} ({left:.2f}–{right:.2f})"
        rows.append(
            (
                name,
                f"{hits}/{num} ({low:.2f}–{high:.2f})",
                ratio,
                f"{median(r['cpu'] for r in results):.2f}",
                f"{median(r['wall'] for r in results):.2f}",
                int(median(r["steps"] for r in results)),
                f"{median(r['test'] for r in results):.4f}",
            )
        )
    rows.sort(key=lambda r: float(r[3]))
    columns = ("", "hits (95 %)", "times faster (95 %)", "CPU s", "wall s", "steps", "test")
    return format_table(columns, rows, title=f"{workload}, target {target:g}", width=130)


def summary_of(races: Races) -> str:
    """Returns the two comparisons that count, workload by workload and over all."""
    lines = []
    for title, slow, fast in (
        ("zero tuning against Keras's defaults", lambda w: DEFAULTS, lambda w: ZERO),
        ("zero tuning against the best tuned peer", races.peer, lambda w: ZERO),
        ("tuned against the best equally tuned peer", races.peer, races.ours),
    ):
        found = {
            w: races.ratios(w, slow(w), fast(w)) for w in races.workloads() if slow(w) and fast(w)
        }
        found = {w: r for w, r in found.items() if r}
        if not found:
            continue
        mean, low, high = overall(found)
        each = {w: geometric(r)[0] for w, r in found.items()}
        worst = min(each, key=each.__getitem__)
        missed = [w for w in found if not all(r["hit"] for r in races.by[w][fast(w)].values())]
        lines.append(f"{title}: {mean:.2f} times faster ({low:.2f}–{high:.2f})")
        lines.append("  " + ", ".join(f"{w} {r:.2f}" for w, r in each.items()))
        lines.append(f"  worst: {worst} {each[worst]:.2f}")
        if missed:
            lines.append(f"  void on {', '.join(missed)}, where kerastools missed the target")
    hits = [run["hit"] for w in races.workloads() for run in races.by[w].get(ZERO, {}).values()]
    lines.append(f"zero tuning reaches the target in {sum(hits)} of {len(hits)} trainings")
    seeds = [len(races.by[w].get(ZERO, {})) for w in races.workloads()]
    lines.append(
        "seeds: " + ", ".join(f"{w} {n}" for w, n in zip(races.workloads(), seeds, strict=True))
    )
    return "\n".join(lines)


def report(lines: list[dict], targets: dict, tuning: dict, folder: Path) -> str:
    """Writes table.txt and the pictures into the folder; returns the table."""
    if not lines:
        return "no races yet"
    races = Races(lines)
    parts = [summary_of(races)]
    parts += [table_of(races, w, targets[w]) for w in races.workloads()]
    parts.append(
        "Tuning, outside the clock, CPU s: "
        + ", ".join(
            f"{key} {entry['rate']:g} ({entry['cpu']:.0f})" for key, entry in tuning.items()
        )
    )
    text = "\n\n".join(parts) + "\n"
    (folder / "table.txt").write_text(text)
    _pictures(races, folder)
    return text


def _pictures(races: Races, folder: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), constrained_layout=True)
    for name, curve in _profile(races).items():
        axes.step(curve, np.arange(1, len(curve) + 1) / len(curve), where="post", label=name)
    axes.set(
        xscale="log",
        xlim=(1, 12),
        ylim=(0, 1.02),
        xlabel="at most so many times the CPU time of the fastest",
        ylabel="part of the trainings that reach the target",
        title="Performance profile",
    )
    axes.set_xticks([1, 2, 3, 4, 6, 8, 12], labels=["1", "2", "3", "4", "6", "8", "12"])
    axes.legend(fontsize=8, loc="lower right")
    figure.savefig(folder / "profile.png", dpi=120)
    plt.close(figure)

    names = races.workloads()
    figure, panels = plt.subplots(
        len(names), 1, figsize=(8, 1 + 2.0 * len(names)), constrained_layout=True, squeeze=False
    )
    for axes, workload in zip(panels[:, 0], names, strict=True):
        groups = [(n, list(r.values())) for n, r in _shown(races, workload).items()]
        for i, (_, runs) in enumerate(groups):
            missed = not all(r["hit"] for r in runs)
            axes.barh(
                i, median(r["cpu"] for r in runs), color="#c44" if missed else "#3a7", height=0.6
            )
            axes.plot([r["cpu"] for r in runs], [i] * len(runs), "k.", ms=3)
        axes.set_yticks(range(len(groups)), labels=[n for n, _ in groups], fontsize=8)
        axes.invert_yaxis()
        axes.set_title(f"{workload}: CPU s to the target (red: missed at least once)", fontsize=9)
    figure.savefig(folder / "time_to_target.png", dpi=120)
    plt.close(figure)


def _shown(races: Races, workload: str) -> dict[str, dict]:
    """Returns the results without the ablation."""
    return {n: r for n, r in races.by[workload].items() if not n.startswith("zero tuning")}


def _profile(races: Races) -> dict[str, list[float]]:
    """Returns for each kind of contestant its sorted CPU times over the fastest's."""
    found: dict[str, list[float]] = defaultdict(list)
    for workload in races.workloads():
        kinds = {
            DEFAULTS: DEFAULTS,
            "best tuned peer": races.peer(workload),
            ZERO: ZERO,
            "kerastools, tuned": races.ours(workload),
            "tanh, Glorot, NAG, tuned": "Keras, tanh, Glorot, NAG, tuned",
        }
        runs = {k: races.by[workload][n] for k, n in kinds.items() if n in races.by[workload]}
        for seed in set.intersection(*(set(r) for r in runs.values())):
            hit = [r[seed]["cpu"] for r in runs.values() if r[seed]["hit"]]
            for kind, results in runs.items():
                mine = results[seed]
                found[kind].append(mine["cpu"] / min(hit) if mine["hit"] else math.inf)
    return {kind: sorted(values) for kind, values in found.items()}
