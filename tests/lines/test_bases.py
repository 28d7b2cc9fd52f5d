"""A base that somebody brings: its weights in our order of ids, what is refused, and what is learned beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra `train`")
pytest.importorskip("tokenizers", reason="needs the extra `llm`")

import torch
from safetensors.torch import load, save

from bases_made import base, network, size, tokenizer
from fleetmill.core.errors import InvalidInputError
from fleetmill.core.line import Episode, Line, Stopped, Stretch, TrainJob
from fleetmill.core.model import BASE_FILE
from fleetmill.engines.runtime_onnx import OnnxRuntime
from fleetmill.lines.brought import brought
from fleetmill.lines.fit import take_over
from fleetmill.lines.language import line, made
from fleetmill.lines.language.adapting import Adapters, Adapting, asked
from fleetmill.lines.language.importing import chats
from fleetmill.lines.language.net import Llama, Slowed
from fleetmill.lines.language.sample import shops
from fleetmill.lines.language.sizes import graph_bytes, llama_config, size_of
from fleetmill.seams.runtime import policies
from fleetmill.testing import Notes
from fleetmill.testing.kit import Held as Rows
from fleetmill.testing.kit import InMemory

FOUND = tokenizer("smollm")
WORDS = brought(InMemory(base(network(size()), FOUND))).words
LINE = made("shop", WORDS)
SLOWED = Slowed(factor=8.0, low=1.0, high=4.0, before=64)
SHAPES = {
    "as it is": {},
    "untied": {"is_tied": False},
    "wide heads": {"head_width": 12},
    "slowed": {"slowed": SLOWED, "rope_base": 100.0},
}


def episodes(of: Line, chat: str = "shop-0.jsonl", sessions: int = 10) -> list[Episode]:
    data = b"".join(shops(7)[chat].splitlines(keepends=True)[: 32 * sessions])
    return [
        e
        for f in chats.read(InMemory({"shop.jsonl": data}))
        for e in of.cut(Stretch(device="d", session=f.session, index=0, tags={}, messages=list(f.messages)))
    ]


SAID = episodes(LINE)


def adopted(files: Mapping[str, bytes], of: Line = LINE) -> dict[str, bytes]:
    """As the factory hands a base to a training."""
    assert of.adopt is not None
    return {**of.adopt(InMemory(files)), BASE_FILE: b'{"digest":"d"}'}


def train(parent: Mapping[str, bytes] | None, notes: Notes | None = None, of: Line = LINE, **how: Any) -> Any:
    job = TrainJob(data=Rows(SAID[:7]), parent=parent, seed=10, settings=how)
    return of.train(job, notes or Notes())  # type: ignore[operator]


def net_of(files: Mapping[str, bytes], words: Any = WORDS) -> Llama:
    net = Llama(size_of(json.loads(files["config.json"]), words.size))
    take_over(net, files)
    return net.eval()


def bits(files: Mapping[str, bytes], of: Line = LINE) -> float:
    policy = policies(of, OnnxRuntime(), files)
    return of.judging.metrics([of.judging.score(policy, e) for e in SAID[7:]])["bits_per_byte"]


# -- the weights ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shards", [1, 3])
def test_a_base_in_our_order_says_what_it_said_in_its_own(shape: str, shards: int) -> None:
    net = network(size(**SHAPES[shape]))
    files = base(net, FOUND, shards=shards)
    found, ours = brought(InMemory(files)), net_of(adopted(files))

    known = np.flatnonzero(found.rows >= 0)
    ids = np.random.default_rng(1).choice(known, (2, 40))
    with torch.no_grad():
        theirs = net(torch.from_numpy(found.rows[ids]))[0].numpy()
        said = ours(torch.from_numpy(ids))[0].numpy()
    np.testing.assert_array_equal(said[..., known], theirs[..., found.rows[known]])
    assert (ours.size.is_tied, ours.size.head, ours.size.slowed) == (net.size.is_tied, net.size.head, net.size.slowed)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_the_digits_are_read_as_they_are(dtype: torch.dtype) -> None:
    files = base(network(size()), FOUND, dtype)
    held = load(files["model.safetensors"])["model.layers.1.mlp.up_proj.weight"]
    ours = net_of(adopted(files)).state_dict()["model.layers.1.mlp.up_proj.weight"]
    assert held.dtype == dtype
    assert torch.equal(ours, held.to(torch.float32))


def test_places_are_slowed_as_llama_3_slows_them() -> None:
    """Against the formula as it is published: by wavelength, not by turns."""
    from fleetmill.lines.language.net import plain_speed, slowness

    speed = plain_speed(size(head_width=64, rope_base=500_000.0))
    slowed = Slowed(factor=8.0, low=1.0, high=4.0, before=8192)
    long, short = 8192 / 1.0, 8192 / 4.0
    for plain, divided in zip(speed.tolist(), slowness(slowed, speed).tolist(), strict=True):
        wave = 2 * np.pi / plain
        smooth = (8192 / wave - 1.0) / (4.0 - 1.0)
        middle = (1 - smooth) * plain / 8.0 + smooth * plain
        wanted = plain if wave < short else plain / 8.0 if wave > long else middle
        assert plain / divided == pytest.approx(wanted, rel=1e-5)

    ids = torch.randint(0, 256, (1, 60), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        said, as_usual = (network(size(rope_base=100.0, slowed=how))(ids)[0] for how in (SLOWED, None))
    assert torch.equal(said[:, 0], as_usual[:, 0])  # at the first place nothing turns
    assert not torch.allclose(said[:, 50], as_usual[:, 50])


def test_an_earlier_model_of_ours_is_a_base_row_for_row() -> None:
    said = episodes(line)
    job = TrainJob(data=Rows(said[:4]), parent=None, seed=1, settings={"steps": 3, "size": "tiny"})
    files = line.train(job, Notes())  # type: ignore[operator]
    taken = adopted(files, line)
    assert load(taken["weights.safetensors"]).keys() == load(files["weights.safetensors"]).keys()
    for name, value in load(files["weights.safetensors"]).items():
        assert torch.equal(load(taken["weights.safetensors"])[name], value), name


def test_the_bytes_that_a_graph_will_have_are_foreseen() -> None:
    for more in SHAPES.values():
        files = train(adopted(base(network(size(width=64, inner=256, **more)), FOUND)), steps=0)
        foreseen = graph_bytes(net_of(files).size)
        assert foreseen < len(files["model.onnx"]) < foreseen + 100_000


# -- what is refused --------------------------------------------------------------------------------------------------


def configured(**more: Any) -> dict[str, bytes]:
    files = base(network(size()), FOUND)
    config = {**json.loads(files["config.json"]), **more}
    files["config.json"] = json.dumps({k: v for k, v in config.items() if v is not ...}).encode()
    return files


def weighed(change: Callable[[dict[str, Any]], object]) -> dict[str, bytes]:
    files = base(network(size()), FOUND)
    held = load(files["model.safetensors"])
    change(held)
    return files | {"model.safetensors": save(held)}


def damaged() -> dict[str, bytes]:
    files = base(network(size()), FOUND)
    return files | {"model.safetensors": files["model.safetensors"][:-9]}


def without(name: str, shards: int = 1) -> dict[str, bytes]:
    return {n: data for n, data in base(network(size()), FOUND, shards=shards).items() if n != name}


UP = "model.layers.0.mlp.up_proj.weight"
WRONG: dict[str, tuple[Callable[[], dict[str, bytes]], str]] = {
    "another network": (partial(configured, model_type="qwen2"), "config.json: model_type = 'qwen2': must be 'llama'"),
    "biases": (partial(configured, attention_bias=True), "config.json: attention_bias = True: must be False"),
    "inner biases": (partial(configured, mlp_bias=True), "config.json: mlp_bias = True"),
    "another bend": (partial(configured, hidden_act="gelu"), "config.json: hidden_act = 'gelu': must be 'silu'"),
    "few bits": (
        partial(configured, quantization_config={"bits": 4}),
        "config.json: quantization_config = {'bits': 4}",
    ),
    "other places": (
        partial(configured, rope_scaling={"rope_type": "yarn", "factor": 4.0}),
        "config.json: rope_scaling of type 'yarn': must be none or 'llama3'",
    ),
    "no way between": (
        partial(configured, rope_scaling={**llama_config(size(slowed=SLOWED))["rope_scaling"], "low_freq_factor": 4.0}),
        "config.json: low_freq_factor = 4: must be below high_freq_factor = 4",
    ),
    "no width": (partial(configured, hidden_size=...), "config.json: hidden_size = None: must be a whole number"),
    "no epsilon": (partial(configured, rms_norm_eps="x"), "config.json: rms_norm_eps = 'x': must be a number above 0"),
    "odd heads": (partial(configured, num_key_value_heads=3), "config.json: 4 heads of 8 on 3 of keys"),
    "too large": (
        partial(configured, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, head_dim=128),
        "config.json: as ONNX this base would have ",
    ),
    "no table of tokens": (lambda: without("tokenizer.json"), "tokenizer.json: is missing"),
    "no weights": (lambda: without("model.safetensors"), "model.safetensors: is missing"),
    "a shard missing": (
        lambda: without("model-00002-of-00003.safetensors", 3),
        "model-00002-of-00003.safetensors: is missing",
    ),
    "cut short": (damaged, "model.safetensors: no safetensors"),
    "a tensor missing": (lambda: weighed(lambda held: held.pop(UP)), f"safetensors: {UP} is missing"),
    "a tensor too many": (
        lambda: weighed(lambda held: held.update({"model.layers.0.mlp.up_proj.bias": torch.zeros(2)})),
        "safetensors: model.layers.0.mlp.up_proj.bias has no place",
    ),
    "another shape": (
        lambda: weighed(lambda held: held.update({UP: torch.zeros(3, 3)})),
        f"safetensors: {UP} is (3, 3)",
    ),
    "integers": (lambda: weighed(lambda held: held.update({UP: torch.zeros(2, dtype=torch.int8)})), "is torch.int8"),
    "a short table": (
        lambda: weighed(lambda held: held.update({"model.embed_tokens.weight": torch.zeros(9, 32)})),
        "safetensors: model.embed_tokens.weight is (9, 32)",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_not_taken_is_said_in_one_line_before_anything_is_learned(what: str) -> None:
    files, said = WRONG[what]
    with pytest.raises(InvalidInputError, match=re.escape(said)) as refused:
        adopted(files())
    assert "\n" not in str(refused.value)


def test_a_base_of_other_words_is_refused_by_both_digests() -> None:
    files = base(network(size()), FOUND)
    with pytest.raises(InvalidInputError, match=f"is {WORDS.digest[:12]}, the line's is .*--from-base") as refused:
        adopted(files, line)
    assert "\n" not in str(refused.value)


# -- what is learned beside it ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("names", "rows"), [(("q", "v", "down"), range(256, 264)), (("q", "table"), range(424))])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_was_learned_beside_a_network_says_the_same_once_it_is_in_it(
    shape: str, names: tuple[str, ...], rows: range
) -> None:
    net = network(size(**SHAPES[shape]))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    adapters = Adapters(net, Adapting(names=names, rank=3, scale=2.0))
    ids = torch.randint(0, net.size.vocabulary, (2, 30))
    ids[:, ::5] = 256 + torch.arange(6)
    with torch.no_grad():
        begun = net(ids)[0]
        for parameter in adapters.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        apart = net(ids)[0]
        adapters.merge()
        merged = net(ids)[0]
    assert (apart - begun).abs().max() > 0.01
    torch.testing.assert_close(merged, apart, atol=1e-4, rtol=1e-4)
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    places = {f"{name}_proj" for name in names if name != "table"} | {"embed_tokens"}
    assert {name.split(".")[-2] for name in changed} == places | ({"lm_head"} if not net.size.is_tied else set())
    assert net.state_dict().keys() == before.keys()
    assert net.size.vocabulary == 424
    table = net.state_dict()["model.embed_tokens.weight"]
    moved = (table != before["model.embed_tokens.weight"]).any(1).nonzero()[:, 0].tolist()
    assert moved == list(rows)


def test_without_a_step_the_base_is_what_it_was() -> None:
    parent = adopted(base(network(size()), FOUND))
    files = train(parent, steps=0)
    assert load(files["weights.safetensors"]).keys() == load(parent["weights.safetensors"]).keys()
    assert all(
        torch.equal(v, load(parent["weights.safetensors"])[k]) for k, v in load(files["weights.safetensors"]).items()
    )
    assert train(files, steps=0) == files
    assert files[BASE_FILE] == parent[BASE_FILE]


def test_only_what_stands_beside_is_learned_and_its_share_is_told() -> None:
    parent, notes = adopted(base(network(size()), FOUND)), Notes()
    files = train(parent, notes, steps=4, adapt="q, v", rank=2)
    own, learned = load(parent["weights.safetensors"]), load(files["weights.safetensors"])
    changed = {name for name in own if not torch.equal(own[name], learned[name])}
    assert changed == {"model.embed_tokens.weight"} | {
        f"model.layers.{n}.self_attn.{p}_proj.weight" for n in range(2) for p in "qv"
    }
    beside = 2 * (2 * (32 + 32) + 2 * (32 + 16)) + 8 * 32
    assert notes.metrics[-1]["trained.share"] == pytest.approx(beside / sum(v.numel() for v in own.values()))


def test_a_training_beside_a_base_that_was_stopped_goes_on_to_the_same_bytes() -> None:
    parent = adopted(base(network(size()), FOUND))
    stopped = Notes(stop_at=50)
    whole = train(parent, steps=75)
    with pytest.raises(Stopped):
        train(parent, stopped, steps=75)
    assert train(parent, Notes(saved=(50, stopped.states[50])), steps=75) == whole
    kept = [name for name in load(stopped.states[50]) if name.startswith("weight/")]
    assert {name.rpartition(".")[2] for name in kept} == {"a", "b", "rows"}  # the base itself is not saved again


def test_a_champion_s_weights_are_what_the_next_turn_stands_beside() -> None:
    first = train(adopted(base(network(size()), FOUND)), steps=6)
    second = train(first, steps=6)
    own, learned = load(first["weights.safetensors"]), load(second["weights.safetensors"])
    still = {name for name in own if torch.equal(own[name], learned[name])}
    assert still == {name for name in own if "norm" in name}
    assert second[BASE_FILE] == first[BASE_FILE]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"adapt": "q, z"}, "adapt = 'q, z': must be 'weights', or some of q, k, v, o, gate, up, down, table"),
        ({"adapt": ""}, "adapt = ''"),
        ({"rank": 0}, "rank = 0, alpha = 16: must be at least 1, and above 0"),
        ({"alpha": -1.0}, "rank = 8, alpha = -1"),
        ({"size": "small"}, "size: a model that came from a base has that one's"),
    ],
)
def test_settings_that_make_no_sense_are_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(said)):
        train(adopted(base(network(size()), FOUND)), steps=1, **how)


def test_all_weights_are_trained_where_that_is_asked_or_nothing_was_brought() -> None:
    def how(parent: Any, **settings: Any) -> Adapting | None:
        return asked(TrainJob(data=Rows([]), parent=parent, seed=0, settings=settings))

    assert how(None) is how(None, adapt="q") is how({"weights.safetensors": b""}) is None
    assert how({BASE_FILE: b""}, adapt="weights") is None
    assert how({BASE_FILE: b""}, alpha=4) == Adapting(
        names=("q", "k", "v", "o", "gate", "up", "down"), rank=8, scale=0.5
    )
    assert how({"weights.safetensors": b""}, adapt="gate q") == Adapting(names=("gate", "q"), rank=8, scale=2.0)


def test_beside_a_base_that_knows_its_language_less_is_to_be_learned() -> None:
    """On other conversations than it learned from: better than the base, and than as many steps from nothing."""
    small = {"size": "tiny", "sums": 0}
    other = Rows(episodes(LINE, "shop-1.jsonl"))
    job = partial(TrainJob, data=Rows(SAID[:7]), seed=4)
    base_job = TrainJob(data=other, parent=None, seed=3, settings={"steps": 150, **small})
    taught = LINE.train(base_job, Notes())  # type: ignore[operator]
    parent = {**taught, BASE_FILE: b"{}"}
    beside = LINE.train(job(parent=parent, settings={"steps": 40, "sums": 0}), Notes())  # type: ignore[operator]
    nothing = LINE.train(job(parent=None, settings={"steps": 40, **small}), Notes())  # type: ignore[operator]
    assert bits(beside) < min(bits(taught), bits(nothing))
