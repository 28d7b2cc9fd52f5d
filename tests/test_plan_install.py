"""What is taken where: the plan before an installation, without any network."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "plan_install.py"
INDEX = "https://example.org/cpu"


@pytest.fixture(scope="module")
def plan() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plan_install", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def package(name: str, url: str = "https://example.org/x.whl") -> dict:
    return {"metadata": {"name": name, "version": "1"}, "download_info": {"url": url}}


def test_cuda_libraries_are_known_by_name(plan: ModuleType) -> None:
    packages = [package(n) for n in ("torch", "nvidia_cublas", "triton", "cuda-bindings", "numpy", "tritonclient")]

    assert plan.cuda_names(packages) == ["cuda-bindings", "nvidia-cublas", "triton"]


@pytest.mark.parametrize(
    ("heavy", "environment", "has_nvidia", "index"),
    [
        (["triton"], {"TORCH_INDEX": INDEX}, False, INDEX),
        (["triton"], {"TORCH_INDEX": INDEX}, True, ""),
        (["triton"], {"TORCH_INDEX": INDEX, "CUDA": "1"}, False, ""),
        (["triton"], {"TORCH_INDEX": ""}, False, ""),
        ([], {"TORCH_INDEX": INDEX}, False, ""),
    ],
    ids=["no device", "a device", "CUDA=1", "no index", "no CUDA"],
)
def test_the_cpu_build_is_taken_where_cuda_would_be_in_vain(plan, heavy, environment, has_nvidia, index) -> None:
    assert plan.cpu_index(heavy, environment, has_nvidia=has_nvidia) == index


def test_the_plan_says_how_many_packages_and_megabytes(plan: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "a b.whl").write_bytes(bytes(3_000_000))
    url = (tmp_path / "a b.whl").as_uri()

    assert plan.summary([package("small", url)]) == "To download: 1 packages, 3 MB; the largest: small 3."
    assert plan.summary([]) == "Nothing to download: everything is installed."


def test_a_size_that_nobody_tells_is_said_to_be_unknown(plan: ModuleType) -> None:
    assert "(1 of unknown size)" in plan.summary([package("odd", "ftp://example.org/x.whl")])


def test_an_index_that_does_not_answer_is_not_asked_again_for_each_package(plan: ModuleType) -> None:
    assert not plan.answers("http://127.0.0.1:9/cpu")
