"""Recorded maps are those that the layers really use, and nothing is left behind."""

import math

import pytest
import torch

from fkdiff import Cutout, Tilt, as_reward, steer
from fkdiff.taps import TapError
from fkdiff.taps.attention import AttentionMaps, grid_of
from fkdiff.taps.looks import attention_layers, looks
from tests.taps.pools import network_of
from tests.tiny import build

FAMILIES = ("sd", "sdxl", "pixart", "sd3", "flux")


@pytest.fixture(scope="module")
def tinies():
    return {name: build(name) for name in FAMILIES}


def hooks(network):
    return sum(len(m._forward_pre_hooks) for m in network.modules())


@pytest.mark.parametrize("name", FAMILIES)
def test_maps_are_the_softmax_that_the_layer_takes(tinies, name, monkeypatch):
    tiny, used = tinies[name], []
    original = torch.nn.functional.scaled_dot_product_attention

    def watched(query, key, value, attn_mask=None, **more):
        used.append((query, key, attn_mask))
        return original(query, key, value, attn_mask=attn_mask, **more)

    found, handles = [], []
    layers = attention_layers(network_of(tiny.pipe))
    for layer in layers.values():

        def before(layer, args, kwargs):
            given = {**kwargs, **({"hidden_states": args[0]} if args else {})}
            found.append((looks(layer, given, 10**6), len(used)))

        handles.append(layer.register_forward_pre_hook(before, with_kwargs=True))
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    tiny.pipe(**tiny.call, num_inference_steps=1, generator=torch.Generator().manual_seed(0))
    for handle in handles:
        handle.remove()
    texts = 0
    for seen, place in found:
        if seen is None:
            continue
        query, key, mask = used[place]
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        whole = (scores if mask is None else scores + mask).softmax(-1).mean(1)
        cells = (seen.text if seen.own is None else seen.own).shape[1]
        if seen.text is None or seen.own is None:
            alone = seen.own if seen.text is None else seen.text
            assert torch.allclose(alone, whole, atol=1e-5)
        elif name == "sd3":  # image first
            assert torch.allclose(torch.cat([seen.own, seen.text], 2), whole[:, :cells], atol=1e-5)
        else:
            joined = torch.cat([seen.text, seen.own], 2)
            assert torch.allclose(joined, whole[:, -cells:], atol=1e-5)
        texts += seen.text is not None
    assert texts > 0


@pytest.mark.parametrize("name", ("sd", "sd3"))
def test_recording_changes_no_bit_and_leaves_nothing(tinies, name):
    tiny = tinies[name]
    network = network_of(tiny.pipe)
    before, processors = hooks(network), dict(network.attn_processors)
    call = {**tiny.call, "num_inference_steps": 3, "output_type": "latent"}
    plain = steer(tiny.pipe, particles=2, select="all", seed=1)(**call)
    cut = steer(tiny.pipe, Cutout(mask=None), particles=2, select="all", seed=1)(**call)
    assert torch.equal(plain.steering.latents, cut.steering.latents)
    assert hooks(network) == before
    assert all(network.attn_processors[key] is own for key, own in processors.items())


def test_hooks_go_after_an_error(tinies):
    tiny = tinies["sd"]
    before = hooks(tiny.pipe.unet)

    def broken(cutouts):
        assert hooks(tiny.pipe.unet) > before
        raise RuntimeError("broken")

    reward = as_reward(broken, inputs="rgba")
    with pytest.raises(ValueError, match="broken"):
        steer(tiny.pipe, Cutout(), Tilt(reward), particles=2, seed=0)(
            **tiny.call, num_inference_steps=3
        )
    assert hooks(tiny.pipe.unet) == before


class Layer(torch.nn.Module):
    """Cross-attention or self-attention on given queries and keys."""

    heads = 1

    def __init__(self, cross):
        super().__init__()
        self.to_q, self.to_k = torch.nn.Identity(), torch.nn.Identity()
        self.is_cross_attention = cross

    def forward(self, hidden_states, encoder_hidden_states=None):
        return hidden_states


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.cross, self.own, self.coarse = Layer(True), Layer(False), Layer(False)

    def forward(self, cells, text):
        self.cross(cells, encoder_hidden_states=text)
        self.own(cells)
        self.coarse(cells.unflatten(1, (4, 4))[:, ::2, ::2].flatten(1, 2))


def test_sums_are_means_over_calls_of_chosen_rows():
    generator = torch.Generator().manual_seed(0)
    network = Network()
    maps = AttentionMaps([[1], [0, 2]], (32, 32))
    calls = [
        (torch.randn(4, 16, 3, generator=generator), torch.randn(4, 5, 3, generator=generator))
        for _ in range(3)
    ]
    index = torch.tensor([-1, -1, 0, 1])  # unconditional rows come first
    with maps.hooked({"unet": network}):
        for cells, text in calls[:2]:
            with maps.watching(index):
                network(cells, text)
        with maps.watching(index):  # in micro-batches of one
            for i in range(4):
                network(calls[2][0][i : i + 1], calls[2][1][i : i + 1])
        network(*calls[0])  # nobody watches
    found = maps.maps(torch.tensor([0, 1]))
    assert found is not None and found[1] is not None
    softmax = [(q @ k.transpose(1, 2) / math.sqrt(3)).softmax(-1) for q, k in calls]
    for row, tokens in enumerate(([1], [0, 2])):
        mean = torch.stack([s[row + 2][:, tokens].mean(1) for s in softmax]).mean(0)
        assert torch.allclose(found[0][row].flatten(), mean, atol=1e-6)
    assert torch.allclose(found[1].sum(2), torch.ones(2, 16), atol=1e-5)
    maps.permute(lambda rows: rows[[1, 1]])
    moved = maps.maps(torch.tensor([0, 1]))
    assert torch.equal(moved[0][0], found[0][1]) and torch.equal(moved[0][1], found[0][1])


def test_micro_batches_are_read_as_the_particles_that_they_are():
    tiny = build("sd")
    call = {**tiny.call, "num_inference_steps": 2, "output_type": "pt"}
    whole, parts = (
        steer(tiny.pipe, Cutout(), particles=3, select="all", seed=1, micro_batch=size)(
            **call, num_images_per_prompt=3
        ).images
        for size in (None, 2)
    )
    assert torch.allclose(whole, parts, atol=1e-3)
    assert not torch.allclose(whole[:, 3], whole[[1, 2, 0], 3], atol=1e-3)


def test_large_grids_keep_no_self_attention_and_grids_are_found():
    maps = AttentionMaps([[0]], (32, 32), most=4)
    with maps.hooked({"unet": Network()}), maps.watching(torch.tensor([0])):
        Network.forward(maps_network := Network(), torch.randn(1, 16, 3), torch.randn(1, 5, 3))
    assert maps_network is not None
    assert maps.maps(torch.tensor([0])) is None  # another network's hooks
    assert grid_of(96, (64, 96)) == (8, 12)
    with pytest.raises(TapError, match="make no grid"):
        grid_of(7, (64, 64))


def test_a_network_without_text_is_refused(tinies):
    tiny = tinies["sd"]
    with pytest.raises(TapError, match="no readable attention from image to text named nothing"):
        steer(tiny.pipe, Cutout(layers=("nothing",)), particles=1)(
            **tiny.call, num_inference_steps=2
        )
    with pytest.raises(TapError, match="was called without prompt"):
        dit = build("dit")
        steer(dit.pipe, Cutout(), particles=1)(**dit.call, num_inference_steps=2)
