"""How well does the line `language` tell text that it never saw, and add up, beside counting?

    python bench/language.py --data ../shared/data [--seeds 0 1 2] [--steps 500] [--practice 0.5] [--size small]
    python bench/language.py --data ../shared/data --merges     the line's merges, learned anew from both texts

Every fourth session of text-gsm8k (32 conversations) and text-tinyshakespeare (16 KiB) is held out; all of a held-out
session is told, and all of its sums are asked. Bits are per byte of text. `counting N` tells a byte by the N before it
(the line's baseline has N = 2); `memory` answers a sum with what it came to in training, else with the most frequent
answer. Everything was chosen with seed 10. Intervals resample sessions (95 %), all seeds' results of one together.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fleetmill.core.line import Array, Episode, Policy, Stretch, TrainJob
from fleetmill.engines.runtime_onnx import OnnxRuntime
from fleetmill.lines.language import line
from fleetmill.lines.language.conversations import Conversation, conversations
from fleetmill.lines.language.judging import answers, told_bits
from fleetmill.lines.language.orders import Counted
from fleetmill.lines.language.pieces import OURS
from fleetmill.lines.language.sums import is_right, sums, worth
from fleetmill.receive.imports import open_files
from fleetmill.seams.runtime import policies
from fleetmill.testing import Notes
from fleetmill.testing.kit import Held

SETS = {"gsm8k": "text-gsm8k", "shakespeare": "text-tinyshakespeare"}
RESAMPLES = 2000
Rows = list[tuple[float, float]]  # per session: (bits, bytes) or (right, asked)


def main() -> None:
    said = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    said.add_argument("--data", type=Path, required=True)
    said.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    said.add_argument("--orders", type=int, nargs="*", default=[1, 2, 3, 4, 5])
    said.add_argument("--size", default="small")
    said.add_argument("--steps", type=int)
    said.add_argument("--practice", type=float)
    said.add_argument("--out", type=Path, help="folder for the last seed's model")
    said.add_argument("--merges", action="store_true")
    asked = said.parse_args()
    sets = {name: read(asked.data / folder) for name, folder in SETS.items()}
    if asked.merges:
        print(*merges([c for found in sets.values() for e in found for c in of(e)]))
        return
    train = [e for found in sets.values() for n, e in enumerate(found) if n % 4]
    held = {name: [of(e) for n, e in enumerate(found) if n % 4 == 0] for name, found in sets.items()}
    counting(train, held, asked.orders)
    settings = {
        k: v for k, v in (("size", asked.size), ("steps", asked.steps), ("practice", asked.practice)) if v is not None
    }
    made: list[dict[str, Rows]] = []
    for seed in asked.seeds:
        begun = time.process_time()
        files = line.train(TrainJob(data=Held(train), parent=None, seed=seed, settings=settings), Notes())
        spent, policy = time.process_time() - begun, policies(line, OnnxRuntime(), files)
        made.append(judged(policy, held, {e for c in train for e, _ in known(of(c))}))
        show(f"seed {seed}", made[-1:], cpu_seconds=round(spent), megabytes=round(len(files["model.onnx"]) / 1e6, 2))
    show(f"seeds {asked.seeds}", made)
    if asked.out:
        asked.out.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (asked.out / name).write_bytes(data)


def read(folder: Path) -> list[Episode]:
    files = open_files(folder)
    importer = next(i for i in line.importers if i.detects(files))
    return [
        e
        for f in importer.read(files)
        for e in line.cut(Stretch(device=f.device, session=f.session, index=0, tags={}, messages=list(f.messages)))
    ]


def of(episode: Episode) -> list[Conversation]:
    return conversations(episode.columns["text"], episode.columns["role"], episode.columns["first"])


def known(said: Sequence[Conversation]) -> list[tuple[str, str]]:
    return list(dict.fromkeys(found for c in said for turn in c for found in sums(turn.text)))


def judged(policy: Policy, held: dict[str, list[list[Conversation]]], seen: set[str]) -> dict[str, Rows]:
    found: dict[str, Rows] = {
        f"bits_{name}": [told_bits(policy, said, OURS, most=10**6) for said in sessions]
        for name, sessions in held.items()
    }
    right, unseen = [], []
    for said in held["gsm8k"]:
        asked = list(dict.fromkeys(e for e, _ in known(said)))
        hits = [is_right(text, worth(e)) for e, text in zip(asked, answers(policy, asked, OURS)[0], strict=True)]
        right.append((float(sum(hits)), float(len(hits))))
        new = [hit for e, hit in zip(asked, hits, strict=True) if e not in seen]
        unseen.append((float(sum(new)), float(len(new))))
    return found | {"sums_right": right, "sums_right_unseen": unseen}


def counting(train: Sequence[Episode], held: dict[str, list[list[Conversation]]], orders: Sequence[int]) -> None:
    whole = [c for e in train for c in of(e)]
    text = np.frombuffer("\n".join(turn.text for c in whole for turn in c).encode(), np.uint8)
    for order in orders:
        policy = Counted(text, [], order, OURS)
        show(
            f"counting {order}",
            [{f"bits_{n}": [told_bits(policy, said, OURS, most=10**6) for said in s] for n, s in held.items()}],
        )
    learned = known(whole)
    usual = Counter(result for c in whole for turn in c for _, result in sums(turn.text)).most_common(1)[0][0]
    memory = dict(learned)
    for name, answer in (("usual answer", lambda e: usual), ("memory", lambda e: memory.get(e, usual))):
        rows = []
        for said in held["gsm8k"]:
            asked = list(dict.fromkeys(e for e, _ in known(said)))
            rows.append((float(sum(is_right(answer(e), worth(e)) for e in asked)), float(len(asked))))
        show(name, [{"sums_right": rows}])


def show(name: str, made: Sequence[dict[str, Rows]], **more: float) -> None:
    told = {}
    for metric in made[0]:
        table = np.array([m[metric] for m in made]).sum(axis=0)  # (sessions, 2): all seeds' of a session together
        low, high = interval(table)
        told[metric] = f"{table[:, 0].sum() / table[:, 1].sum():.3f} [{low:.3f}, {high:.3f}]"
    print(json.dumps({"who": name, **told, **more}), flush=True)


def interval(table: Array) -> tuple[float, float]:
    chance = np.random.default_rng(0)
    drawn = table[chance.integers(len(table), size=(RESAMPLES, len(table)))].sum(axis=1)
    low, high = np.quantile(drawn[:, 0] / np.maximum(drawn[:, 1], 1.0), [0.025, 0.975])
    return float(low), float(high)


def merges(said: Sequence[Conversation]) -> list[str]:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = Tokenizer.from_str(OURS.tokenizer_json.decode()).pre_tokenizer
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=256 + len(OURS.merges), initial_alphabet=letters, show_progress=False)
    made.train_from_iterator([turn.text for c in said for turn in c], trainer)
    return ["·".join(merge) for merge in json.loads(made.to_str())["model"]["merges"]]


if __name__ == "__main__":
    main()
