"""Makes the notebooks of experiments/colab from their texts: `python tests/notebooks.py`.

The address that they and README name for Colab and git is that of pyproject.toml, `project.urls.Repository`.
"""

import hashlib
import pathlib
import re
import tomllib

import jupytext
import nbformat

ROOT = pathlib.Path(__file__).parent.parent
TEXTS = sorted((ROOT / "experiments" / "colab").glob("*.md"))
ADDRESS = re.compile(r"(colab\.research\.google\.com/github/|git clone (?:-\S+ )*https://github\.com/)[^/\s]+/[^/\s)]+")
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def repository() -> str:
    """OWNER/NAME."""
    address = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    return address.removeprefix("https://github.com/")


def with_address(text: str) -> str:
    """A text whose links to Colab and commands of git name the repository."""
    return ADDRESS.sub(rf"\g<1>{repository()}", text)


def notebook(text: pathlib.Path) -> str:
    """The notebook of a text, without outputs. A cell's id follows from its content: it changes with nothing else."""
    made = jupytext.reads(text.read_text(), fmt="md")
    seen: dict[str, int] = {}
    for cell in made.cells:
        name = hashlib.sha256(cell.source.encode()).hexdigest()[:12]
        seen[name] = seen.get(name, 0) + 1
        cell.id, cell.metadata = f"{name}-{seen[name]}", {}
    made.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    made.nbformat, made.nbformat_minor = 4, 5
    nbformat.validate(made)
    return nbformat.writes(made, indent=1) + "\n"


if __name__ == "__main__":
    for file in (*TEXTS, ROOT / "README.md"):
        file.write_text(with_address(file.read_text()))
    for file in TEXTS:
        file.with_suffix(".ipynb").write_text(notebook(file))
