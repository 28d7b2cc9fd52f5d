"""What was adapted from a base says the same in PyTorch, ONNX Runtime GenAI and llama.cpp, for each way to cut."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from shutil import which
from typing import Any

import httpx
import pytest

pytest.importorskip("onnxruntime_genai", reason="needs the extra `llm`")
pytest.importorskip("tokenizers", reason="needs the extra `llm`")
pytest.importorskip("torch", reason="needs the extra `train`")

import torch

from bases_made import EDGES, base, network, put, size, tokenizer
from fleetmill.core.line import Stretch, TrainJob
from fleetmill.core.model import BASE_FILE
from fleetmill.engines.genai import Genai
from fleetmill.engines.serving import known
from fleetmill.lines.brought import brought
from fleetmill.lines.fit import take_over
from fleetmill.lines.language import made
from fleetmill.lines.language.importing import chats
from fleetmill.lines.language.net import Llama, Slowed
from fleetmill.lines.language.sample import shops
from fleetmill.lines.language.sizes import size_of
from fleetmill.lines.splits import SPLITS
from fleetmill.lines.vocabulary import END, Vocabulary
from fleetmill.seams.engine import Start
from fleetmill.testing import Notes
from fleetmill.testing.kit import Held as Rows
from fleetmill.testing.kit import InMemory

BUILT = Path(__file__).parents[2] / "build" / "engines" / "llama-server"
ASKED = ("12+7=", "Ann has 12 apples and buys 7 more. How many apples does Ann have?", "naïve ☂?  12\n\n345 it's IT'S")
BEGUN = ("Ann has", "Ben buys 3 more", "Cleo has 12  ")
SHAPES: dict[str, dict[str, Any]] = {
    "gpt-2": {"is_tied": False},
    "smollm": {"epsilon": 1e-3},
    "qwen2": {"head_width": 12},
    "llama-bpe": {"slowed": Slowed(factor=8.0, low=1.0, high=4.0, before=64), "is_tied": False, "rope_base": 100.0},
}
Adapted = tuple[Path, Vocabulary]


@pytest.fixture(scope="module", params=SPLITS)
def adapted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Adapted:
    """The folder of a model that learned a little beside a base."""
    split = request.param
    files = InMemory(base(network(size(**SHAPES[split])), tokenizer(split)))
    words = brought(files).words
    line = made("shop", words)
    assert line.adopt is not None
    told = InMemory({"shop.jsonl": b"".join(shops(5)["shop-0.jsonl"].splitlines(keepends=True)[: 32 * 4])})
    said = [
        e
        for f in chats.read(told)
        for e in line.cut(Stretch(device="d", session=f.session, index=0, tags={}, messages=list(f.messages)))
    ]
    model: Mapping[str, bytes] = {**line.adopt(files), BASE_FILE: b"{}"}
    for steps, adapt in ((80, "weights"), (10, "q, v, down")):  # a random base has nothing to say
        how = {"steps": steps, "sums": 0, "adapt": adapt}
        model = line.train(TrainJob(data=Rows(said), parent=model, seed=10, settings=how), Notes())  # type: ignore[operator]
    return put(model, tmp_path_factory.mktemp("model")), words


def greedy(adapted: Adapted, ids: list[int], most: int) -> list[int]:
    """What PyTorch says, likeliest id after likeliest id."""
    folder, words = adapted
    net = Llama(size_of(json.loads((folder / "config.json").read_bytes()), words.size))
    take_over(net, {"weights.safetensors": (folder / "weights.safetensors").read_bytes()})
    net.eval()
    found = [*ids]
    with torch.no_grad():
        while len(found) < len(ids) + most and found[-1] != END:
            found.append(int(net(torch.tensor([found]))[0][0, -1].argmax()))
    return [i for i in found[len(ids) :] if i != END]


def test_genai_reads_as_the_line_reads_and_says_what_pytorch_says(adapted: Adapted) -> None:
    folder, words = adapted
    genai = Genai(folder)
    for text in (EDGES, *ASKED):
        assert genai.ids_of(text) == words.encode([text])[0]
    asked = [genai.ids_of_chat([{"role": "user", "content": text}]) for text in ASKED]
    said = 0
    for ids in (*asked, *words.encode(BEGUN)):
        answer = genai.generate(ids, most=30)
        assert list(answer.ids) == greedy(adapted, ids, 30)
        said += len(answer.ids)
    assert said > 30


@pytest.fixture
def llama(adapted: Adapted, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Asks llama.cpp's server."""
    program = str(BUILT) if BUILT.exists() else which("llama-server")
    if program is None:
        pytest.skip("llama-server is not here: `make engines` builds it")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = int(s.getsockname()[1])
    exact = ("-t", "1", "-ctk", "f32", "-ctv", "f32", "-fa", "off")
    asked = Start(model=str(adapted[0] / "model.gguf"), name="lm", port=port, context=256, at_once=1, more=exact)
    with (tmp_path / "llama.log").open("wb") as log:
        words = [program, *known.find("llama_server").start(asked)[1:]]
        process = subprocess.Popen(words, stdout=log, stderr=log)
    url, limit = f"http://127.0.0.1:{port}", time.monotonic() + 60
    try:
        while not _is_up(url):
            if time.monotonic() > limit:
                pytest.fail(f"the server did not start: {(tmp_path / 'llama.log').read_text()[-500:]}")
            time.sleep(0.1)
        yield lambda path, **body: httpx.post(url + path, json=body, timeout=60).json()
    finally:
        process.terminate()
        process.wait(30)


def _is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


def test_llama_cpp_reads_as_the_line_reads_and_says_what_pytorch_says(
    adapted: Adapted, llama: Callable[..., Any]
) -> None:
    words = adapted[1]
    for text in (EDGES, *ASKED):
        assert llama("/tokenize", content=text, parse_special=False)["tokens"] == words.encode([text])[0]
    for text, ids in zip(BEGUN, words.encode(BEGUN), strict=True):
        said = llama("/v1/completions", prompt=text, max_tokens=30, temperature=0)["choices"][0]["text"]
        assert said == words.decode(greedy(adapted, ids, 30))
