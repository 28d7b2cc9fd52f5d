"""A base that its owner brings becomes a parent: its weights in float32, the rows of its tables in our order of ids.

Loads torch. Taken are Llama-shaped networks as Hugging Face lays them out, and what we trained ourselves.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.line import Files
from fleetmill.lines.brought import CONFIG, Brought, brought, table_of
from fleetmill.lines.language.net import Llama
from fleetmill.lines.language.sizes import MOST_BYTES, graph_bytes, llama_config, size_of
from fleetmill.lines.vocabulary import Vocabulary

_INDEX = "model.safetensors.index.json"
_WHOLE = ("model.safetensors", "weights.safetensors")  # theirs, and ours
_TABLES = ("model.embed_tokens.weight", "lm_head.weight")
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def adopt(files: Files, words: Vocabulary) -> Mapping[str, bytes]:
    """``weights.safetensors`` and ``config.json`` of a base, as `learning` goes on from them.

    Raises:
        InvalidInputError: another vocabulary than the line's, a network that is none of ours, too large a one, or
            weights that are not its: what and where, in one line.
    """
    found = brought(files)
    if found.words.digest != words.digest:
        raise InvalidInputError(
            f"tokenizer.json: its vocabulary is {found.words.digest[:12]}, the line's is {words.digest[:12]}. Make a "
            "line for it: fleetmill line new NAME --from-base FOLDER"
        )
    size = size_of(found.config, words.size)
    if graph_bytes(size) > MOST_BYTES:
        raise InvalidInputError(
            f"config.json: as ONNX this base would have {graph_bytes(size):,} bytes of weights, {MOST_BYTES:,} fit "
            "into a file. Bring a smaller base"
        )
    with torch.device("meta"):
        wanted = {name: tuple(value.shape) for name, value in Llama(size).state_dict().items()}
    held: dict[str, torch.Tensor] = {}
    for name, value in _tensors(files):
        if name.endswith("rotary_emb.inv_freq") or (size.is_tied and name == "lm_head.weight"):
            continue  # both follow from the rest
        held[name] = _taken(name, value, found, wanted)
    missing = sorted(set(wanted) - set(held))
    if missing:
        raise InvalidInputError(f"safetensors: {missing[0]} is missing, and {len(missing) - 1} others. Copy them again")
    return {"weights.safetensors": save(held), CONFIG: json.dumps(llama_config(size)).encode()}


def _tensors(files: Files) -> Iterator[tuple[str, torch.Tensor]]:
    """Each tensor by its name, from one file or from shards, of which one is held at a time."""
    for shard in _shards(files):
        try:
            held = load(files.read(shard))
        except SafetensorError as error:
            raise InvalidInputError(f"{shard}: no safetensors ({error}). Copy it again") from error
        while held:
            yield held.popitem()


def _shards(files: Files) -> list[str]:
    there = set(files.names())
    if _INDEX in there:
        shards = sorted({str(shard) for shard in dict(table_of(files, _INDEX).get("weight_map", {})).values()})
    else:
        shards = [name for name in _WHOLE if name in there][:1]
    missing = [shard for shard in shards if shard not in there]
    if missing or not shards:
        raise InvalidInputError(f"{missing[0] if missing else _WHOLE[0]}: is missing in the base's folder. Copy it too")
    return shards


def _taken(name: str, value: torch.Tensor, found: Brought, wanted: Mapping[str, tuple[int, ...]]) -> torch.Tensor:
    """A tensor as ours: float32, a table's rows in our order."""
    if name not in wanted:
        raise InvalidInputError(f"safetensors: {name} has no place in such a network. Bring a base of Llama's shape")
    if value.dtype not in _FLOATS:
        raise InvalidInputError(f"safetensors: {name} is {value.dtype}: must be float32, float16 or bfloat16")
    shape, value = tuple(value.shape), value.to(torch.float32)
    if name in _TABLES and shape[1:] == wanted[name][1:] and len(value) > int(found.rows.max()):
        return torch.from_numpy(found.reordered(value.numpy()))
    if name in _TABLES or shape != wanted[name]:
        raise InvalidInputError(
            f"safetensors: {name} is {shape}: config.json and tokenizer.json ask for {wanted[name]}. Copy them again"
        )
    return value.contiguous()
