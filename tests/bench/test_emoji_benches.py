"""Benches on the bundled model: fields with a stand-in model and judge, clear words without."""

import pytest
import torch
from peft import LoraConfig

from fkdiff import as_reward
from fkdiff.bench import BenchRefused, compose, emoji_arms, guidance, rlg
from fkdiff.cli import main
from tests.tiny import build

pytestmark = pytest.mark.filterwarnings("ignore:Correct")


class StandIn:
    """Sees how bright each colour is; passes what is redder than blue."""

    def features(self, images):
        return torch.cat([images.mean((2, 3)), images.std((2, 3))], 1)

    def passes(self, images, prompts):
        return [bool(image[0].mean() > image[2].mean()) for image in images]


@pytest.fixture
def stood_in(monkeypatch):
    pipe = build("sd").pipe
    config = LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    pipe.unet.add_adapter(config, adapter_name="emoji-rl")
    pipe.disable_lora()
    reward = as_reward(lambda pixels: pixels.mean((1, 2, 3)), name="emoji-clip")
    real = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    stand_ins = {
        "emoji": lambda: pipe,
        "judge": StandIn,
        "adapter": lambda pipe: "emoji-rl",
        "load_reward": lambda name: reward,
        "real_pictures": lambda prompts, seed: real,
        "models": lambda *names: {},
    }
    for module in (guidance, rlg, compose):
        monkeypatch.setattr(module, "QUICK", (4, 2))
        for name in stand_ins.keys() & vars(module).keys():
            monkeypatch.setattr(module, name, stand_ins[name])


def test_guidance(stood_in, monkeypatch):
    monkeypatch.setattr(guidance, "SCALES", (1.5, 6.0))
    found = guidance.run(quick=True, seed=0)
    for field in ("distance", "pass_rate"):
        assert found[field].keys() == {"plain", "sde", "fk4", "fk16"}
        assert found[field]["fk16"].keys() == {"1.5", "6"}
    assert found["logw_var"]["6"]["mean"] > 0
    assert found["distance"]["plain"]["6"].keys() == {"mean", "se", "frechet"}


def test_a_stopped_bench_goes_on(stood_in, monkeypatch, tmp_path):
    monkeypatch.setattr(guidance, "SCALES", (1.5,))
    monkeypatch.setattr(emoji_arms, "ROWS", 2)
    whole = guidance.run(quick=True, seed=0, resume=tmp_path / "a.jsonl")
    lines = (tmp_path / "a.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 1 + 2 + 2 + 4 + 4
    (tmp_path / "b.jsonl").write_text("".join(lines[:5]) + lines[5][:30])
    assert guidance.run(quick=True, seed=0, resume=tmp_path / "b.jsonl") == whole
    with pytest.raises(BenchRefused, match=r"got others \(seed\)"):
        guidance.run(quick=True, seed=1, resume=tmp_path / "b.jsonl")


def test_rlg(stood_in, monkeypatch):
    monkeypatch.setattr(rlg, "WEIGHTS", (0.0, 2.0))
    found = rlg.run(quick=True, seed=0)
    for where in (found, found["sde"], found["corrected"]):
        for field in ("reward", "pass_rate", "distance"):
            assert where[field].keys() == {"w0", "w2"}
    assert found["reward"]["w0"] != found["reward"]["w2"]


def test_compose_spends_equally_in_its_pairs(stood_in):
    found = compose.run(quick=True, seed=0)
    nfe = found["nfe"]
    assert nfe["base_fk4"] == nfe["rl_bon4"] == 4 * nfe["base"]
    assert nfe["base_bon8"] == nfe["rl_rlg_fk4"] == 4 * nfe["rl_rlg"]
    assert found["reward"]["rl_bon4"]["mean"] > found["reward"]["rl"]["mean"]
    assert found["pass_rate"].keys() == found["seconds"].keys() == nfe.keys()


def test_missing_weights_are_named_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(emoji_arms.zoo, "__file__", str(tmp_path / "__init__.py"))
    target = tmp_path / "x.json"
    assert main(["bench", "guidance", "--quick", "--json", str(target)]) == 2
    assert "needs the weights of emoji-judge" in capsys.readouterr().err
    monkeypatch.setattr(emoji_arms.zoo, "adapters", list)
    with pytest.raises(FileNotFoundError, match=r"zoo\.train emoji-rl"):
        emoji_arms.adapter(None)
    assert not target.exists()


def test_distances_tell_laws_apart():
    generator = torch.Generator().manual_seed(0)
    a, b, c = (torch.randn(200, 20, generator=generator) for _ in range(3))
    same, moved = emoji_arms.distances(a, b), emoji_arms.distances(c + 0.5, b)
    assert abs(same["mean"]) < 4 * same["se"]
    assert moved["mean"] > 10 * moved["se"]
    assert moved["frechet"] > 3 * same["frechet"]
    # Pictures of one caption are alike: neither that nor equal pictures are a distance below 0.
    captions = torch.randn(200, 20, generator=generator)
    alike = emoji_arms.distances(a + 2 * captions, b + 2 * captions)
    assert abs(alike["mean"]) < 4 * alike["se"]
    assert emoji_arms.distances(b, b.clone())["frechet"] == pytest.approx(0, abs=1e-6)
