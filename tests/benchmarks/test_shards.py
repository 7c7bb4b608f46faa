"""What the simulation of a sharded pool rests on: where accounts are, and that no budget is in two places."""

from __future__ import annotations

import sys

from benchmarks.rig.processes import HERE

sys.path.insert(0, str(HERE.parent))  # benchmarks import their neighbours by name

from shards_in_virtual_time import Layout, ShardedWorld, case_of, shard_of

ACCOUNTS = [f"acct-{n}" for n in range(2_000)]


def test_one_shard_more_takes_only_what_will_be_its_own():
    before = {account: shard_of(account, 4) for account in ACCOUNTS}
    after = {account: shard_of(account, 5) for account in ACCOUNTS}

    moved = [account for account in ACCOUNTS if before[account] != after[account]]
    assert all(after[account] == 4 for account in moved)
    assert abs(len(moved) - 400) < 90  # a fifth of 2,000, within five standard deviations (18)


def test_each_account_is_in_one_shard():
    world = ShardedWorld(case_of(64, 0.9, 1, seed=1), Layout(16))

    names = [name for shard in world.shards for name in shard.part.pool.accounts]
    assert sorted(names) == sorted(str(n) for n in range(64))
