"""Bases as somebody would bring them, tiny and made here: their own merges, way to cut text, marks and order of ids."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from tokenizers import Regex as Pattern
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from fleetmill.lines.language.net import Llama, Size
from fleetmill.lines.language.sample import shops
from fleetmill.lines.language.sizes import llama_config
from fleetmill.lines.splits import SPLITS

END = "<|endoftext|>"
OWN_MARKS = [END, "<reserved>", "<|im_start|>"]
MERGES = 160
EDGES = "  12\n\n 345   678\n\n\n9  a\t\tb 1234 12 12²!\n\n.. it's IT'S  we'll x.\r\n\r\n   12 (12)  \n 7  77\n" * 40
SAID = b"".join(shops(2)["shop-0.jsonl"].splitlines(keepends=True)[:200]).decode() + EDGES  # where cuts are seen


class Held:
    """Files in memory."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def names(self) -> Sequence[str]:
        return sorted(self._files)

    def read(self, name: str) -> bytes:
        return self._files[name]


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
