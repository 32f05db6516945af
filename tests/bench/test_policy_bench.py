"""The policy bench keeps blocks of episodes, so that a cut run goes on."""

from typing import Any

from fkdiff.bench import policy
from fkdiff.bench.kept import Kept


def cell(episodes: int) -> Any:
    return policy._Cell("hold", "push-v3", 1, False, episodes)


def test_blocks_cover_the_episodes_once():
    seeds = [seed for block in cell(60).blocks() for seed in block]
    assert seeds == list(range(1000, 1060))
    assert [len(block) for block in cell(60).blocks()] == [25, 25, 10]


def test_more_episodes_go_on_from_fewer(monkeypatch, tmp_path):
    file = tmp_path / "policy.jsonl"
    made: list[range] = []

    def rows(self, job):
        seeds = job[1]
        made.append(seeds)
        facts = {"success": True, "steps": 1, "decisions": 1, "evaluations": 1, "cold": 1}
        return [{"seed": seed, **facts} for seed in seeds]

    monkeypatch.setattr(policy._Bench, "rows", rows)
    monkeypatch.setattr(policy._Bench, "_latency", lambda self: {})
    plan = policy.Plan(25, 0, 0, set_ups=(), methods=("hold",), tasks=("push-v3",))
    policy.run(resume=file, plan=plan)
    found = policy.run(resume=file, plan=policy.Plan(**{**vars(plan), "main": 50}))
    assert made == [range(1000, 1025), range(1025, 1050)]
    assert found["success"]["hold"]["push-v3"] == 1.0
    kept = Kept(file, {"seed": 0, "digest": policy._digest()})
    assert len(kept.parts) == 2
