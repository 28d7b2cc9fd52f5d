"""From a folder with somebody's language model to a fleet's own: a line for it, turns, receipts, another base."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra `train`")
pytest.importorskip("tokenizers", reason="needs the extra `llm`")

import torch
from safetensors.torch import load, save

from bases_made import put, taught, tokenizer
from fleetmill import cli, lines
from fleetmill.core.errors import IntegrityError, InvalidInputError
from fleetmill.core.line import Line, Stretch
from fleetmill.core.talk import Said
from fleetmill.engines.runtime_onnx import OnnxRuntime
from fleetmill.home import open_home
from fleetmill.lines.fit import take_over
from fleetmill.lines.language import line as ours
from fleetmill.lines.language.importing import chats
from fleetmill.lines.language.net import Llama
from fleetmill.lines.language.sample import shops
from fleetmill.lines.language.sizes import size_of
from fleetmill.seams.runtime import policies
from fleetmill.settings import Settings
from fleetmill.testing import check_line, tiny_line
from fleetmill.testing.kit import Held as Rows
from fleetmill.testing.kit import InMemory
from fleetmill.train import trainer
from fleetmill.train.bases import open_base

FOUND = tokenizer("smollm")
ASKED = ("12+7=", "Ann has 12 apples and buys 7 more. How many apples does Ann have?", "naïve ☂?  12\n\n3")
Ran = tuple[int, str, str]


def conversations(name: str, first: int, last: int) -> bytes:
    return b"".join(shops(9)[name].splitlines(keepends=True)[32 * first : 32 * last])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """It has read other conversations of the kind."""
    files = InMemory({"shop.jsonl": conversations("shop-1.jsonl", 0, 12)})
    found = [
        e
        for f in chats.read(files)
        for e in ours.cut(Stretch(device="d", session=f.session, index=0, tags={}, messages=list(f.messages)))
    ]
    return taught(Rows(found), FOUND, steps=120)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Iterator[Callable[..., Ran]]:
    """Runs a command of ours in this process, in an empty folder; (exit code, stdout, stderr)."""
    monkeypatch.setenv("FLEETMILL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.chdir(tmp_path)

    def ran(*words: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["fleetmill", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    yield ran
    sys.modules.pop("shop_line", None)


@pytest.fixture
def done(run: Callable[..., Ran]) -> Callable[..., str]:
    """Runs a command that must succeed; what it printed."""

    def ran(*words: object) -> str:
        code, out, err = run(*words)
        assert code == 0, err
        return out

    return ran


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    """Makes the package's entry point known, as pip would."""
    info = folder / "shop_line-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shop-line\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[{lines.GROUP}]\nshop = shop_line:line\n")
    monkeypatch.syspath_prepend(str(folder))
    return lines.find("shop")


def configured(tmp_path: Path, base: str = "../base", **train: Any) -> None:
    told = "".join(f"{name} = {json.dumps(value)}\n" for name, value in train.items())
    (tmp_path / "home" / "fleetmill.toml").write_text(
        f'[lines.shop]\nbase = "{base}"\n[lines.shop.train]\nsteps = 30\n{told}'
    )


def champion(tmp_path: Path, name: str = "") -> dict[str, bytes]:
    with open_home(Settings(home=tmp_path / "home"), own=False) as home:
        released = [f.record["model"] for f in home.ledger.read(kind="release")]
        return dict(trainer.files(home.ledger, home.blobs, name or released[-1]))


def greedy(ask: Callable[[list[int]], int], ids: Sequence[int], most: int = 24) -> list[int]:
    found = list(ids)
    while len(found) < len(ids) + most and found[-1] != 256:
        found.append(ask(found))
    return [i for i in found[len(ids) :] if i != 256]


def test_a_folder_becomes_a_line_and_a_turn_and_its_receipt_names_the_base(
    base: dict[str, bytes], tmp_path: Path, done: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(base, tmp_path / "base")
    (tmp_path / "chats.jsonl").write_bytes(conversations("shop-0.jsonl", 0, 12))
    assert "shop/shop_line/vocabulary.txt" in done("line", "new", "shop", "--from-base", "base")
    line = install(tmp_path / "shop", monkeypatch)
    assert line.model.outputs[0].shape == (256 + 8 + len(FOUND["model"]["merges"]),)

    done("init")
    configured(tmp_path)
    done("import", "chats.jsonl", "--line", "shop", "--device", "desk")
    assert "accepted" in done("turn", "--line", "shop")
    made = champion(tmp_path)
    assert {"model.onnx", "genai.onnx", "genai_config.json", "model.gguf", "tokenizer.json", "base.json"} <= set(made)
    digest = json.loads(made["base.json"])["digest"]
    why = done("why", "champion", "--line", "shop")
    assert f"from base {digest[:12]}, " in why
    told = json.loads(done("why", "champion", "--line", "shop", "--json"))["descent"]
    assert [(t["base"], t["parent"]) for t in told] == [(digest, "")]
    assert 0.0 < told[0]["trained"] < 0.5
    assert str(tmp_path) not in json.dumps(told)  # where it lay on this machine is nobody's business

    _says_the_same_everywhere(line, made, tmp_path)
    _goes_on(base, digest, tmp_path, done)


def _says_the_same_everywhere(line: Line, made: dict[str, bytes], tmp_path: Path) -> None:
    """PyTorch, the graph of device and gate, and GenAI, from text to text."""
    net = Llama(size_of(json.loads(made["config.json"]), line.model.outputs[0].shape[0]))
    take_over(net, made)
    net.eval()
    policy = policies(line, OnnxRuntime(), made)
    assert line.talk is not None
    for text in ASKED:
        ids = line.talk.ids([Said(role="user", text=text)])
        with torch.no_grad():
            wanted = greedy(lambda found: int(net(torch.tensor([found]))[0][0, -1].argmax()), ids)
        assert greedy(lambda found: int(policy.ask({"ids": np.array([found])})["token"][0]), ids) == wanted
        if genai := _genai(made, tmp_path / "model"):
            assert genai.ids_of_chat([{"role": "user", "content": text}]) == ids
            answer = genai.generate(ids, most=24)
            assert (list(answer.ids), answer.text) == (wanted, line.talk.text(wanted))


def _genai(made: dict[str, bytes], folder: Path) -> Any:
    try:
        from fleetmill.engines.genai import Genai
    except ModuleNotFoundError:
        return None
    return Genai(put(made, folder))


def _goes_on(base: dict[str, bytes], digest: str, tmp_path: Path, done: Callable[..., str]) -> None:
    """A second turn stands beside the champion; another base begins anew, and that is said."""
    first = champion(tmp_path)
    (tmp_path / "more.jsonl").write_bytes(conversations("shop-2.jsonl", 0, 5))
    done("import", "more.jsonl", "--line", "shop", "--device", "till")
    turned = json.loads(done("turn", "--line", "shop", "--json"))
    assert turned["anew"] == ""
    with open_home(Settings(home=tmp_path / "home"), own=False) as home:
        run = [f.record for f in home.ledger.read(kind="run")][-1]
        released = next(f.record["model"] for f in home.ledger.read(kind="release"))
    assert (run["base"], run["parent"]) == (digest, released)
    second = champion(tmp_path, run["model"])
    norms = [name for name in load(first["weights.safetensors"]) if "norm" in name]
    assert all(torch.equal(*(load(m["weights.safetensors"])[n] for m in (first, second))) for n in norms)

    held = load(base["model.safetensors"])
    held["model.norm.weight"] = held["model.norm.weight"] * 1.01
    put({"model.safetensors": save(held), "README.md": b"other words"}, tmp_path / "base")
    (tmp_path / "most.jsonl").write_bytes(conversations("shop-2.jsonl", 5, 10))
    done("import", "most.jsonl", "--line", "shop", "--device", "door")
    said = done("turn", "--line", "shop").splitlines()
    assert said[0].startswith("begun anew from base ")
    assert f"came from base {digest[:12]}" in said[0]
    with open_home(Settings(home=tmp_path / "home"), own=False) as home:
        run = [f.record for f in home.ledger.read(kind="run")][-1]
    assert run["parent"] == ""
    assert run["base"] != digest


def test_what_cannot_be_a_base_is_refused_in_one_line_and_nothing_is_lost(
    base: dict[str, bytes], tmp_path: Path, run: Callable[..., Ran], done: Callable[..., str]
) -> None:
    folder = put(base, tmp_path / "base")
    (tmp_path / "chats.jsonl").write_bytes(conversations("shop-0.jsonl", 0, 4))
    done("init")
    done("import", "chats.jsonl", "--line", "language", "--device", "desk")

    def refused(settings: str, said: str) -> None:
        (tmp_path / "home" / "fleetmill.toml").write_text(settings)
        code, _, err = run("turn", "--line", "language")
        (told,) = err.strip().splitlines()
        assert (code, said in told) == (2, True), told

    refused('[lines.language]\nbase = "../base"\n', "the line's is ")
    refused('[lines.language]\nbase = "nowhere"\n', "there is no folder with .json and .safetensors files")
    refused("[lines.language.train]\nadapt = 'x'\n", "adapt = 'x': must be 'weights'")
    (tmp_path / "home" / "fleetmill.toml").write_text("[lines.language.train]\nsteps = 20\nsize = 'tiny'\n")
    assert "turn 0" in done("turn", "--line", "language")

    code, _, err = run("line", "new", "x", "--from-base", folder, "--observe", "y")
    assert (code, "Give it alone" in err) == (2, True)
    (folder / "tokenizer.json").write_text('{"model": {"type": "Unigram", "vocab": []}}')
    code, _, err = run("line", "new", "x", "--from-base", folder)
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert not (tmp_path / "x").exists()


def test_a_line_for_a_base_keeps_the_contract(
    base: dict[str, bytes], tmp_path: Path, done: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(base, tmp_path / "base")
    done("line", "new", "shop", "--from-base", "base")
    assert check_line(install(tmp_path / "shop", monkeypatch)) == []


def test_a_base_is_named_by_the_files_that_count(base: dict[str, bytes], tmp_path: Path) -> None:
    here, there = put(base, tmp_path / "here"), put({**base, "README.md": b"other"}, tmp_path / "there")
    (there / "older.json").mkdir()
    assert open_base(ours, here).digest == open_base(ours, there).digest
    assert list(open_base(ours, here).names()) == ["config.json", "model.safetensors", "tokenizer.json"]
    (there / "config.json").write_bytes(base["config.json"] + b"\n")
    assert open_base(ours, here).digest != open_base(ours, there).digest


def test_a_base_that_is_changed_while_it_is_read_is_noticed(base: dict[str, bytes], tmp_path: Path) -> None:
    opened = open_base(ours, put(base, tmp_path / "base"))
    assert opened.read("config.json") == base["config.json"]
    (tmp_path / "base" / "config.json").write_bytes(b"{}")
    with pytest.raises(IntegrityError, match=r"config\.json: was changed while it was read"):
        opened.read("config.json")


def test_a_line_that_takes_no_base_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"\[lines\.tiny\] base = .*takes no base"):
        open_base(tiny_line, tmp_path)
