"""Bases as somebody would bring them, tiny and made here: their own merges, way to cut text, marks and order of ids."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from tokenizers import Regex as Pattern
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from fleetmill.core.line import TrainJob
from fleetmill.lines.brought import brought
from fleetmill.lines.language import made
from fleetmill.lines.language.net import Llama, Size
from fleetmill.lines.language.sample import shops
from fleetmill.lines.language.sizes import llama_config, named
from fleetmill.lines.splits import SPLITS
from fleetmill.testing import Notes
from fleetmill.testing.kit import InMemory

END = "<|endoftext|>"
OWN_MARKS = [END, "<reserved>", "<|im_start|>"]
MERGES = 160
EDGES = (
    "  12\n\n 345   678\n\n\n9  a\t\tb 1234 12 12²!\n\n.. it's IT'S  we'll x.\r\n\r\n   12 (12)  \n 7  77 34 4 34\n"
    * 40
)
SAID = b"".join(shops(2)["shop-0.jsonl"].splitlines(keepends=True)[:200]).decode() + EDGES  # where cuts are seen


def tokenizer(split: str = "smollm") -> dict[str, Any]:
    """A `tokenizer.json` as its makers write it: marks first, then letters, then what merges make."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split in ("gpt-2", "smollm"))
    before: list[Any] = []
    if split == "smollm":
        before = [pre_tokenizers.Digits(individual_digits=True)]
    elif split != "gpt-2":
        before = [pre_tokenizers.Split(Pattern(SPLITS[split].patterns[0]), behavior="isolated")]
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence([*before, level]) if before else level
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + len(OWN_MARKS) + MERGES,
        special_tokens=OWN_MARKS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([SAID], trainer)
    found: dict[str, Any] = json.loads(made.to_str())
    found["model"]["ignore_merges"] = split == "llama-bpe"
    return found


def size(**more: Any) -> Size:
    """A tiny network of a base's own numbers."""
    usual = {"width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "inner": 48, "epsilon": 1e-6, "rope_base": 5e5}
    return Size(vocabulary=256 + len(OWN_MARKS) + MERGES + 5, **{**usual, **more})  # 5 places that nobody uses


def network(of: Size, seed: int = 3) -> Llama:
    torch.manual_seed(seed)
    return Llama(of).eval()


def base(net: Llama, found: Mapping[str, Any], dtype: torch.dtype = torch.float32, shards: int = 1) -> dict[str, bytes]:
    """The files of a folder."""
    weights = {name: value.detach().to(dtype) for name, value in net.state_dict().items()}
    config = llama_config(net.size) | {"eos_token_id": 0, "bos_token_id": 0, "max_position_embeddings": 2048}
    files = {
        "config.json": json.dumps(config).encode(),
        "tokenizer.json": json.dumps(found).encode(),
        "README.md": b"what it is",
    }
    if shards == 1:
        return files | {"model.safetensors": save(weights)}
    names = [f"model-{n + 1:05d}-of-{shards:05d}.safetensors" for n in range(shards)]
    where = {weight: names[n % shards] for n, weight in enumerate(weights)}
    for name in names:
        files[name] = save({weight: value for weight, value in weights.items() if where[weight] == name})
    return files | {"model.safetensors.index.json": json.dumps({"metadata": {}, "weight_map": where}).encode()}


def put(files: Mapping[str, bytes], folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def taught(said: Any, found: Mapping[str, Any], steps: int) -> dict[str, bytes]:
    """A base that has learned something, in its own order of ids."""
    words = brought(InMemory(base(network(size()), found))).words
    job = TrainJob(data=said, parent=None, seed=3, settings={"steps": steps, "size": "tiny", "sums": 0})
    files = made("taught", words).train(job, Notes())  # type: ignore[operator]
    net = network(named("tiny", size().vocabulary))
    held = load(files["weights.safetensors"])
    rows = torch.from_numpy(brought(InMemory(base(net, found))).rows)
    table = net.state_dict()["model.embed_tokens.weight"].clone()
    table[rows[rows >= 0]] = held["model.embed_tokens.weight"][rows >= 0]
    net.load_state_dict(held | {"model.embed_tokens.weight": table})
    return base(net, found)
