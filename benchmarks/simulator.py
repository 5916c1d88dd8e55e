"""CPU time to simulate a day of traffic, by services and replicas: `python benchmarks/simulator.py`."""

from __future__ import annotations

import time
from pathlib import Path

from repo_builder.partition.cost import DEFAULT_PROFILE
from repo_builder.partition.plan import Plan, Service, Shard
from repo_builder.simulation.fleets import DEFAULT_TIMING, SimulatedFleet, SimulatedModel, planned_fleet
from repo_builder.simulation.play import simulate
from repo_builder.traffic import Traffic, load_traffic

DAY = load_traffic(Path(__file__).parent.parent / "examples" / "traffic" / "day.csv")
PEAK_QPS = max(DAY.rates_qps)
GOAL_S = 60.0


def fleet(services: int, replicas: int) -> SimulatedFleet:
    """A front end and so many embedding services, which need so many replicas in all at the day's peak."""
    qps = PEAK_QPS * (services + 1) / (replicas * 0.65)
    dense = Service("dense", "dense", "cpu", 1, 1, 4 * 10**8, 0.0, qps, ())
    embedding = [
        Service(f"t{i}", "embedding", "cpu", 1, 1, 2 * 10**9, 1e4, qps, (Shard("t", i, i + 1),))
        for i in range(services)
    ]
    model = SimulatedModel("bench", 400.0, PEAK_QPS, DEFAULT_PROFILE)
    return planned_fleet(model, Plan("bench", "tiered", (dense, *embedding)))


def main() -> None:
    """Print a line a fleet; the goal is a day with 10,000 replicas in a minute."""
    print("services  peak replicas  CPU s    of the goal  us a service and sync")
    for services, replicas in ((4, 20), (4, 10_000), (40, 10_000), (160, 10_000)):
        simulated = fleet(services, replicas)
        started = time.process_time()
        found = simulate(simulated, DAY, DEFAULT_TIMING, 0.4)
        seconds = time.process_time() - started
        peak = int(found.replicas.sum(axis=1).max())
        each_us = 1e6 * seconds / found.replicas.size
        print(f"{services + 1:<8}  {peak:13,}  {seconds:7.2f}  {seconds / GOAL_S:11.3f}  {each_us:21.1f}")
    _print_replicas_ratio()


def _print_replicas_ratio() -> None:
    """How the time grows with the replicas alone: 1 would mean not at all."""
    hour = Traffic(DAY.starts_s[:8], DAY.rates_qps[:8], 7200.0)
    seconds = []
    for replicas in (20, 10_000):
        simulated = fleet(4, replicas)
        started = time.process_time()
        simulate(simulated, hour, DEFAULT_TIMING, 0.4)
        seconds.append(time.process_time() - started)
    print(f"two hours with 10,000 replicas take {seconds[1] / seconds[0]:.2f} x those with 20")


if __name__ == "__main__":
    main()
