"""The package of a line whose models are adapted from a base: its vocabulary, and not its weights."""

from __future__ import annotations

from pathlib import Path
from string import Template

from fleetmill.lines.brought import brought
from fleetmill.receive.imports import open_files
from fleetmill.scaffold.texts import TEST, project

_LINE = Template('''\
"""The line `$name`: language models adapted from a base. Made by `fleetmill line new`; change what you like.

$merges merges, text cut as `$split` does: vocabulary $digest.
"""

from importlib.resources import files

from fleetmill.lines.language import made
from fleetmill.lines.vocabulary import read

line = made("$name", read(files(__name__).joinpath("vocabulary.txt").read_text("utf-8"), "vocabulary.txt"))
''')

_HOLDS = Template("""packages = ["${name}_line"]

[tool.setuptools.package-data]
${name}_line = ["vocabulary.txt"]""")

_README = Template("""# The line `$name`

Language models adapted from a base that lies in a folder of yours. The package holds the base's vocabulary; factory and
devices install it. The weights stay where they are: the factory's settings name them.

```
pip install -e '.[test]'
fleetmill init --home my-home
printf '[lines.$name]\\nbase = "%s"\\n' "$where" >> my-home/fleetmill.toml
fleetmill import conversations.jsonl --line $name --device desk --home my-home
fleetmill turn --line $name --home my-home
fleetmill why champion --line $name --home my-home
```

`import` reads `.jsonl` (`{"messages": [{"role", "content"}]}`) and plain text. Some of the sessions are held out to
judge with: begin with a dozen or more of 32 conversations. What is learned, and with which settings:
docs/lines/language.md of Fleetmill.
""")


def files(name: str, folder: Path) -> dict[str, str]:
    """Every file of the package of a line for the base in `folder`, by its name.

    Raises:
        NotFoundError: no such folder.
        InvalidInputError: no base that the line could take: what, where.
    """
    words = brought(open_files(folder)).words
    told = {
        "name": name,
        "merges": f"{len(words.merges):,}",
        "split": words.split.name,
        "digest": words.digest[:12],
        "where": str(folder.resolve()),
    }
    return {
        f"{name}_line/__init__.py": _LINE.substitute(told),
        f"{name}_line/vocabulary.txt": words.written(),
        f"test_{name}_line.py": TEST.substitute(told),
        "pyproject.toml": project(
            name,
            holds=_HOLDS.substitute(told),
            what=": language models adapted from a base",
            extras="testing,train,llm",
        ),
        "README.md": _README.substitute(told),
    }
