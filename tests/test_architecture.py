"""The map of the house as data: who may import whom, and which file may import which library.

Every import counts, also one inside a function or under TYPE_CHECKING. Each test prints the offending line.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
PACKAGE = SOURCE / "fleetmill"
LONGEST_MODULE = 450

FLOORS: dict[str, int] = {
    "core": 0,
    "seams": 1,
    "engines": 1,
    "lines": 1,
    "settings": 1,
    "logs": 1,
    "receive": 2,
    "refine": 2,
    "train": 2,
    "judge": 2,
    "serve": 2,
    "release": 2,
    "findings": 2,
    "device": 2,
    "home": 3,
    "due": 3,
    "loop": 3,
    "score": 3,
    "forecasts": 3,
    "serving": 3,
    "status": 3,
    "receipts": 3,
    "care": 3,
    "scaffold": 3,
    "labels": 3,
    "api": 4,
    "web": 4,
    "demo": 5,
    "testing": 5,
    "cli": 6,
    "__init__": 7,  # the public face: nothing inside imports from it
}
# On one floor nobody imports a neighbour, but for these. So the verbs never import each other.
NEIGHBOURS = {
    ("engines", "seams"),
    ("lines", "engines"),
    ("settings", "logs"),
    ("due", "home"),
    ("loop", "home"),
    ("loop", "due"),
    ("loop", "forecasts"),
    ("forecasts", "home"),
    ("serving", "home"),
    ("status", "due"),
    ("score", "home"),
    ("status", "home"),
    ("receipts", "home"),
    ("care", "home"),
    ("api", "web"),
}

# library -> the files (or folders, with a slash at the end) that may import it
LIBRARIES: dict[str, tuple[str, ...]] = {
    "numpy": (
        "core/",
        "seams/",
        "engines/",
        "lines/",
        "refine/",
        "train/",
        "judge/",
        "release/",
        "findings/",
        "labels/",
        "device/",
        "score.py",
        "scaffold/found.py",
        "demo/answers.py",
        "demo/film.py",
        "demo/forgery.py",
        "demo/stock.py",
        "serve/compared.py",
        "serve/oip.py",
        "testing/",
    ),
    "mcap": ("seams/recordings.py",),
    "sqlalchemy": (
        "seams/ledger.py",
        "seams/books.py",
        "seams/projections.py",
        "seams/schema.py",
        "seams/migrations/",
        "serve/",
    ),
    "httptools": ("serve/",),
    "uvloop": ("serve/run.py",),
    "orjson": ("serve/",),
    "alembic": ("seams/migrations/",),
    "pyarrow": ("seams/tables.py",),
    "onnxruntime": ("engines/runtime_onnx.py",),
    "onnxruntime_genai": ("engines/genai.py",),
    "tokenizers": ("lines/",),
    "onnx": ("demo/forgery.py", "engines/export_onnx.py", "testing/"),
    "torch": ("engines/export_onnx.py", "lines/", "train/"),
    "safetensors": ("lines/",),
    "gymnasium": ("lines/",),
    "gymnasium_robotics": ("lines/",),
    "mujoco": ("lines/",),
    "Box2D": ("lines/",),
    "pygame": ("lines/",),
    "simplejpeg": ("refine/run.py", "findings/sheet.py", "labels/pictures.py", "lines/"),
    "tuf": ("demo/forgery.py", "release/trust.py", "release/forms.py", "device/update.py"),
    "securesystemslib": (
        "demo/forgery.py",
        "release/trust.py",
        "release/keys.py",
    ),
    "cryptography": ("demo/forgery.py", "seams/signatures.py", "release/keys.py", "device/identity.py"),
    "httpx": ("device/", "testing/", "cli/"),
    "fastapi": ("api/", "web/routes.py"),
    "starlette": ("api/", "web/routes.py"),
    "uvicorn": ("api/",),
    "prometheus_client": ("api/metrics.py",),
    "anyio": ("api/", "web/board.py", "testing/"),
    "jinja2": ("web/page.py",),
    "matplotlib": ("demo/picture.py",),
    "PIL": ("demo/film.py",),
    "hypothesis": ("testing/",),
    "typer": ("cli/",),
    "rich": ("cli/",),
}

# What `core` may import of the standard library: nothing that reaches a disk, a network, a clock or chance.
CORE_STANDARD = {
    "__future__",
    "base64",
    "binascii",
    "bisect",
    "collections",
    "contextlib",
    "dataclasses",
    "datetime",
    "decimal",
    "enum",
    "fractions",
    "functools",
    "hashlib",
    "heapq",
    "itertools",
    "json",
    "math",
    "operator",
    "re",
    "string",
    "struct",
    "types",
    "typing",
    "unicodedata",
}
CORE_CALLS = {"open", "input", "print", "exec", "eval", "__import__"}
CORE_ATTRIBUTES = {
    "now",
    "utcnow",
    "today",
    "environ",
    "getenv",
    "urlopen",
    "memmap",
    "fromfile",
    "tofile",
    "load",
    "save",
}
SEEDED = ("default_rng", "Generator", "SeedSequence", "Philox", "PCG64")

HEAVY = [
    "torch",
    "sqlalchemy",
    "fastapi",
    "starlette",
    "uvicorn",
    "pyarrow",
    "gymnasium",
    "mujoco",
    "matplotlib",
    "onnx",
]


# -- reading the source -----------------------------------------------------------------------------------------------


@cache
def modules() -> dict[str, tuple[Path, ast.Module]]:
    """Dotted name -> file and syntax tree of every module of ours."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = (path, ast.parse(path.read_text(), str(path)))
    return found


def place(path: Path, node: ast.AST) -> str:
    """Where a finding stands: file:line."""
    return f"{path.relative_to(SOURCE.parent)}:{getattr(node, 'lineno', 1)}"


def imports(name: str) -> Iterator[tuple[ast.AST, str]]:
    """(node, dotted module) of each import of a module, wherever it stands; ours are resolved to modules."""
    path, tree = modules()[name]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
                base = ".".join([*here[: len(here) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield node, inner if inner in modules() else base
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "import_module"):
            yield from ((node, str(a.value)) for a in node.args[:1] if isinstance(a, ast.Constant))


def part(name: str) -> str:
    """The part of the house that a module belongs to: `fleetmill.seams.blobs` -> `seams`."""
    return name.split(".")[1] if "." in name else "__init__"


def ours(name: str) -> bool:
    """Whether a dotted name is of this package."""
    return name.split(".")[0] == "fleetmill"


def relative(path: Path) -> str:
    """Path inside the package, with slashes."""
    return path.relative_to(PACKAGE).as_posix()


def report(found: list[str]) -> None:
    """Fail with one line per finding."""
    if found:
        pytest.fail("\n" + "\n".join(sorted(set(found))), pytrace=False)


# -- who may import whom ----------------------------------------------------------------------------------------------


def test_every_part_of_the_house_has_a_floor() -> None:
    report([f"{name}: {part(name)} has no floor here" for name in modules() if part(name) not in FLOORS])


def test_imports_go_down_only_and_the_verbs_never_import_each_other() -> None:
    found = []
    for name, (path, _) in modules().items():
        mine = part(name)
        for node, target in imports(name):
            theirs = part(target) if ours(target) else ""
            if not theirs or theirs == mine:
                continue
            if FLOORS.get(theirs, 99) > FLOORS[mine]:
                found.append(f"{place(path, node)}: {mine} (floor {FLOORS[mine]}) imports {target} above it")
            elif FLOORS[theirs] == FLOORS[mine] and (mine, theirs) not in NEIGHBOURS:
                found.append(f"{place(path, node)}: {mine} imports its neighbour {target}")
    report(found)


def test_no_imports_go_in_a_circle_not_even_inside_a_folder_or_a_function() -> None:
    edges = {
        name: {target: node for node, target in imports(name) if target in modules() and target != name}
        for name in modules()
        if name != "fleetmill"  # the face names its modules and loads none
    }
    found = []
    for name in edges:
        for target, node in edges[name].items():
            if name in _reachable(edges, target):
                found.append(f"{place(modules()[name][0], node)}: {name} imports {target}, which comes back to it")
    report(found)


def _reachable(edges: dict[str, dict[str, ast.AST]], start: str) -> set[str]:
    seen, todo = set(), [start]
    while todo:
        for target in edges.get(todo.pop(), {}):
            if target not in seen:
                seen.add(target)
                todo.append(target)
    return seen


def test_a_line_is_found_by_name_and_never_imported() -> None:
    found = [
        f"{place(modules()[name][0], node)}: imports {target}; use fleetmill.lines.find(name)"
        for name in modules()
        if part(name) not in ("lines", "__init__")
        for node, target in imports(name)
        if target.startswith("fleetmill.lines.")
        and target.split(".")[2] in line_names()  # the rest is ready-made parts
    ]
    report(found)


# -- libraries --------------------------------------------------------------------------------------------------------


def test_each_library_is_imported_only_where_the_table_says() -> None:
    found = []
    for name, (path, _) in modules().items():
        for node, target in imports(name):
            library = target.split(".")[0]
            if ours(target) or library in sys.stdlib_module_names:
                continue
            allowed = LIBRARIES.get(library, ())
            if not any(relative(path) == a or (a.endswith("/") and relative(path).startswith(a)) for a in allowed):
                where = ", ".join(allowed) or "no file"
                found.append(f"{place(path, node)}: imports {library}, which belongs to {where}")
    report(found)


def test_no_row_of_the_library_table_is_idle() -> None:
    used = {(target.split(".")[0], relative(modules()[n][0])) for n in modules() for _, target in imports(n)}
    found = [
        f"LIBRARIES[{library!r}]: {where} does not import it"
        for library, places in LIBRARIES.items()
        for where in places
        if not any(lib == library and (file == where or file.startswith(where)) for lib, file in used)
        and (library, where) not in IDLE
    ]
    report(found)


# train/ may import torch one day (DDP); mujoco and gymnasium come in through gymnasium_robotics and Box2D.
IDLE = {
    ("torch", "train/"), ("mujoco", "lines/"), ("gymnasium", "lines/"), ("simplejpeg", "lines/"),
    ("numpy", "train/"), ("numpy", "engines/"),
}  # fmt: skip


# -- core -------------------------------------------------------------------------------------------------------------


def test_core_imports_the_standard_library_and_numpy_only() -> None:
    found = []
    for name, (path, _) in modules().items():
        if part(name) == "core":
            for node, target in imports(name):
                library = target.split(".")[0]
                if not ours(target) and library != "numpy" and library not in CORE_STANDARD:
                    found.append(f"{place(path, node)}: core imports {library}")
    report(found)


def test_core_opens_nothing_reads_no_clock_and_draws_no_chance_without_a_seed() -> None:
    found = []
    for name, (path, tree) in modules().items():
        if part(name) != "core":
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CORE_CALLS:
                found.append(f"{place(path, node)}: core calls {node.func.id}()")
            if isinstance(node, ast.Attribute) and node.attr in CORE_ATTRIBUTES:
                found.append(f"{place(path, node)}: core uses .{node.attr}")
            if isinstance(node, ast.Attribute) and ast.unparse(node).startswith(("np.random.", "numpy.random.")):
                found += [f"{place(path, node)}: chance that no seed decides"] if node.attr not in SEEDED else []
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("default_rng") and not node.args:
                found.append(f"{place(path, node)}: default_rng() without a seed")
    report(found)


# -- a light device ---------------------------------------------------------------------------------------------------


@cache
def loaded_by(*names: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after importing `names`."""
    code = f"import sys, {', '.join(names)}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("name", ["fleetmill", "fleetmill.device.agent", "fleetmill.cli"])
def test_importing_the_device_or_the_command_line_loads_nothing_heavy(name: str) -> None:
    report([f"import {name} loads {heavy}" for heavy in HEAVY if heavy in loaded_by(name)])


def test_importing_the_lines_loads_no_engine_and_no_simulator() -> None:
    names = [f"fleetmill.lines.{name}" for name in line_names()]
    heavy = ("torch", "gymnasium", "mujoco", "pygame", "Box2D")
    report([f"importing the lines loads {m}" for m in heavy if m in loaded_by(*names)])


# -- lines are values -------------------------------------------------------------------------------------------------


def line_names() -> set[str]:
    """Names of our own lines: the folders in `lines/`."""
    return {p.parent.name for p in (PACKAGE / "lines").glob("*/__init__.py")}


def test_no_string_outside_the_lines_is_a_lines_name() -> None:
    found = []
    for name, (path, tree) in modules().items():
        if part(name) != "lines":
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and node.value in line_names():
                    found.append(f"{place(path, node)}: names the line {node.value!r}")
    report(found)


def test_nothing_decides_by_a_lines_name() -> None:
    found = []
    for name, (path, tree) in modules().items():
        if part(name) == "lines":
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare):
                sides = [node.left, *node.comparators]
                is_line = any(
                    ast.unparse(s) in ("line", "line.name") or ast.unparse(s).endswith(".line") for s in sides
                )
                if is_line and any(isinstance(s, ast.Constant) and isinstance(s.value, str) and s.value for s in sides):
                    found.append(f"{place(path, node)}: {ast.unparse(node)}")
            if isinstance(node, ast.Match) and ast.unparse(node.subject) in ("line", "line.name"):
                found.append(f"{place(path, node)}: match on a line")
    report(found)


# -- size -------------------------------------------------------------------------------------------------------------


def test_no_module_is_longer_than_anyone_reads() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path, _ in modules().values()}
    report([f"{relative(p)}:{n}: longer than {LONGEST_MODULE} lines" for p, n in lengths.items() if n > LONGEST_MODULE])


def test_no_module_has_a_name_that_says_nothing() -> None:
    poor = {"utils", "util", "common", "helpers", "manager", "base", "misc"}
    report([f"{relative(path)}: what is in it?" for path, _ in modules().values() if path.stem in poor])
