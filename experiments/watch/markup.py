"""HTML as text."""

from html import escape

COLORS = 8  # of style.css: runs beyond have them again


def tag(name: str, content: str = "", **attributes: object) -> str:
    """An element.

    Args:
      name: such as td.
      content: HTML; texts that come from elsewhere go through `html.escape`.
      attributes: any text; `_` at the end of a name is left out, others are written as hyphens.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"' for key, value in attributes.items()
    )
    return f"<{name}{written}>{content}</{name}>"


def color(place: int) -> str:
    """The class of the elements of a run, by its place among all."""
    return f"run-{place % COLORS}"


def swatch(name: str) -> str:
    """The name of a run behind a patch of its colour."""
    return tag("span", class_="swatch") + escape(name)


def section(title: str, content: str) -> str:
    """A part of the page; nothing where it holds nothing."""
    return tag("section", tag("h2", escape(title)) + content) if content else ""
