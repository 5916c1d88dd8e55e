"""How many replicas one machine is to run, and on which ports."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from repo_builder.errors import InputError
from repo_builder.local_fleet.machine import GIB, Capacity, FreePorts, Need

# two services that share 4 and 2 GiB of rows, a replica takes 1 and 2 GiB more
NEEDS = {"tier0": Need(4 * GIB, 1 * GIB), "tier1": Need(2 * GIB, 2 * GIB)}


def test_memory_bounds_what_replicas_do_not_share() -> None:
    small = Capacity(cores=100, memory_bytes=16 * GIB, needs=NEEDS)
    small.check({"tier0": 6, "tier1": 2})  # 6 + 6 + 4 GiB
    with pytest.raises(InputError) as refused:
        small.check({"tier0": 7, "tier1": 2})
    assert str(refused.value) == (
        "tier0=7 tier1=2: too many for this machine: 17.0 GiB, and this machine has 16.0; ask for fewer, or add --force"
    )
    assert small.most("tier0", {"tier0": 1, "tier1": 2}) == 6
    assert small.most("tier1", {"tier0": 6, "tier1": 1}) == 2


def test_cores_bound_the_servers_of_all_services_together() -> None:
    small = Capacity(cores=2, memory_bytes=1000 * GIB, needs=NEEDS)
    small.check({"tier0": 10, "tier1": 6})
    with pytest.raises(InputError, match="17 servers, and 2 cores run 16 at most"):
        small.check({"tier0": 10, "tier1": 7})
    assert small.most("tier1", {"tier0": 10, "tier1": 1}) == 6


def test_both_are_told_and_one_replica_is_always_counted_on() -> None:
    none = Capacity(cores=1, memory_bytes=GIB, needs=NEEDS)
    with pytest.raises(InputError, match=r"100,000,001 servers.* GiB, and this machine has 1\.0"):
        none.check({"tier0": 10**8, "tier1": 1})
    assert none.most("tier0", {"tier0": 3, "tier1": 1}) == 1


def test_ports_are_given_again_but_not_to_two() -> None:
    ports = FreePorts()
    first = ports.take()
    assert ports.take(first) != first
    ports.release(first)
    assert ports.take(first) == first != ports.take(first)


def test_no_port_is_given_twice_at_once() -> None:
    """More than the odds of one repetition allow, were they drawn alone."""
    ports = FreePorts()
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: ports.take(), range(300)))
    numbers = [number for each in taken for number in each.numbers]
    assert len(numbers) == len(set(numbers)) == 1200
