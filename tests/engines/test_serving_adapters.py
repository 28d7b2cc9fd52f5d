"""Each adapter reads what its engine says, and refuses what no such engine says. Where from: recorded/README.md."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.serve import Load, Served
from fleetmill.engines.serving import known
from fleetmill.engines.serving.oip import coreml, onnx
from fleetmill.seams.engine import Start

RECORDED = Path(__file__).parent / "recorded"
PAGES = Path(__file__).parents[2] / "docs" / "engines"


def answers(name: str) -> dict[str, bytes]:
    """What the engine answered at the paths that its adapter asks."""
    folder, engine = RECORDED / name, known.find(name)
    return {path: file.read_bytes() for path in engine.told if (file := folder / f"{Path(path).name}.json").exists()}


def load(name: str) -> Load:
    return known.find(name).load((RECORDED / name / "metrics.txt").read_bytes())


@pytest.mark.parametrize("name", sorted(known.ENGINES))
def test_every_engine_has_a_page_that_says_whether_we_ran_it(name: str) -> None:
    page = (PAGES / f"{name}.md").read_text()
    assert ("not run by us" in page.lower()) == (name in ("vllm", "sglang", "mlx_server", "coreml"))
    if name != "openai_url":
        asked = Start(model="MODEL", port=8080)
        assert shlex.join(known.find(name).start(asked)) in page, "the page has no start command, or another one"


@pytest.mark.parametrize("path", sorted((Path(known.__file__).parent).glob("*.py")), ids=lambda p: p.name)
def test_an_adapter_is_at_most_150_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 150


def test_an_unknown_engine_is_refused_with_the_list() -> None:
    with pytest.raises(InvalidInputError, match=r"'tgi': is not known\. Choose of coreml, genai, llama_server, mlx"):
        known.find("tgi")


def test_vllm_says_models_context_and_load() -> None:
    found = known.find("vllm").models(answers("vllm"))
    assert {n: s.context for n, s in found.items()} == {"qwen": 32768, "qwen-sql": 0}
    assert found["qwen"].goes_on
    assert {"chat", "responses", "token_ids"} <= found["qwen"].capabilities
    assert load("vllm") == Load(running=5, waiting=1, cache_ratio=0.4375, tokens=13000)


def test_sglang_says_whether_tools_are_read_and_adapters_have_the_model_s_context() -> None:
    found = known.find("sglang").models(answers("sglang"))
    assert {n: s.context for n, s in found.items()} == {"llama": 8192, "llama-fr": 8192}
    assert "tools" in found["llama"].capabilities
    bare = {p: b.replace(b'"llama3"', b"null") for p, b in answers("sglang").items()}
    assert "tools" not in known.find("sglang").models(bare)["llama"].capabilities
    embeds = {p: b.replace(b'"is_generation":true', b'"is_generation":false') for p, b in answers("sglang").items()}
    assert known.find("sglang").models(embeds)["llama"].capabilities == {"embeddings"}
    assert load("sglang") == Load(running=4, waiting=2, cache_ratio=0.31, tokens=1000)


def test_mlx_has_the_model_of_its_start_alone_and_never_goes_on() -> None:
    found = known.find("mlx_server").models(answers("mlx_server"))
    assert set(found) == {"/Users/me/models/small"}
    assert not found["/Users/me/models/small"].goes_on


def test_the_shell_around_genai_says_its_context_and_load() -> None:
    found = known.find("genai").models(answers("genai"))
    assert found == {
        "lm": Served(model="lm", context=256, capabilities=frozenset({"chat", "completions", "token_ids"}))
    }
    assert load("genai") == Load(running=0, waiting=0, tokens=16)


def test_llama_server_s_context_is_that_of_one_place() -> None:
    found = known.find("llama_server").models(answers("llama_server"))
    assert {n: s.context for n, s in found.items()} == {"lm": 256}
    assert found["lm"].goes_on
    told = load("llama_server")
    assert (told.running, told.waiting, told.cache_ratio) == (0, 0, None)
    assert told.tokens


def test_a_gateway_s_lines_are_for_inference_alone() -> None:
    found = onnx.models({"/v2/models": b'{"models":["rccar"]}'})
    assert found["rccar"].capabilities == {"infer"}
    assert onnx.load(b"fleetmill_serve_inferring 2\n") == Load(running=2)


@pytest.mark.parametrize("name", sorted(known.ENGINES))
@pytest.mark.parametrize("body", [b"", b"[]", b"<html>", b'{"data": []}', b'{"data": [{"id": 5}]}', b"\xff"])
def test_what_is_no_such_engine_is_refused_in_one_line(name: str, body: bytes) -> None:
    engine = known.find(name)
    with pytest.raises(InvalidInputError) as told:
        engine.models(dict.fromkeys(engine.told, body))
    assert "\n" not in str(told.value)
    with pytest.raises(InvalidInputError):
        engine.load(body)


@pytest.mark.parametrize("name", ["vllm", "sglang", "llama_server", "genai"])
def test_another_engine_s_metrics_are_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match=r"have no|no Prometheus"):
        known.find(name).load(b"some_other_total 5\n")


def test_a_start_command_has_what_was_asked_and_no_more() -> None:
    asked = Start(model="m.gguf", name="small", port=9, context=100, at_once=4, more=("-t", "8"))
    words = known.find("llama_server").start(asked)
    assert words[words.index("-c") + 1] == "400"  # shared by the places
    assert words[-2:] == ("-t", "8")
    assert "--max-model-len" in known.find("vllm").start(asked)
    assert "--context-length" in known.find("sglang").start(asked)
    assert "CoreMLExecutionProvider" in coreml.start(Start(model="home"))
    for name in ("mlx_server", "genai", "onnx", "openai_url"):
        with pytest.raises(InvalidInputError):
            known.find(name).start(asked)
