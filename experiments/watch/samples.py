"""What a model makes of examples: text that it fills, pictures from the work folder."""

import json
from collections.abc import Mapping
from html import escape

from bert_jax.filled_masks import FILLED_MASKS
from experiments.watch.markup import color, section, swatch, tag
from experiments.watch.pictures import PAGE_BYTES, Picture, find_pictures
from experiments.watch.runs import Run


def samples(runs: Mapping[str, Run]) -> str:
    """The samples that lie in the work folders; nothing where there are none."""
    cards = [_filled(place, name, run) for place, (name, run) in enumerate(runs.items())]
    pictures, left_out = _pictures(runs)
    content = "".join(cards)
    content += tag("div", "".join(pictures), class_="samples") if pictures else ""
    if left_out:
        content += tag("p", f"Left out, for the size of the page: {escape(', '.join(left_out))}", class_="soft")
    return section("Samples", content)


def _pictures(runs: Mapping[str, Run]) -> tuple[list[str], list[str]]:
    """Each picture once, with the runs that it is of; and the paths of those that there is no room for."""
    places = {name: place for place, name in enumerate(runs)}
    owners: dict[str, list[str]] = {}
    pictures: dict[str, Picture] = {}
    for name, run in runs.items():
        for picture in find_pictures(run.workdir):
            owners.setdefault(picture.uri, []).append(name)
            pictures[picture.uri] = picture
    cards, left_out, taken = [], [], 0
    for uri, picture in sorted(pictures.items(), key=lambda item: item[1].rank):
        if taken + len(uri) > PAGE_BYTES:
            left_out.append(picture.path)
            continue
        taken += len(uri)
        names = " ".join(tag("span", swatch(name), class_=color(places[name])) for name in owners[uri])
        image = f'<img src="{uri}" width="{picture.width}" height="{picture.height}" alt="{escape(picture.title)}">'
        cards.append(tag("div", tag("h3", escape(picture.title)) + tag("p", names) + image, class_="card"))
    return cards, left_out


def _filled(place, name, run):
    path = run.workdir / FILLED_MASKS
    try:
        pairs = json.loads(path.read_text())
        lines = "".join(tag("li", " ".join(_text(text) for text in pair)) for pair in pairs)
    except (OSError, ValueError, TypeError):  # not there, or written by something else
        return ""
    title = tag("h3", "How held-out text is filled, and what was right in its place")
    owner = tag("p", tag("span", swatch(name), class_=color(place)))
    return tag("div", title + owner + tag("ul", lines, class_="masks"), class_="card filled")


def _text(parts):
    shown = " ".join(escape(part) if isinstance(part, str) else _mask(*part) for part in parts)
    return tag("span", shown.replace(" ##", ""))  # pieces inside of a word; those that were hidden keep their mark


def _mask(right, given):
    if right == given:
        return tag("mark", escape(given))
    return f"{tag('mark', escape(given), class_='wrong')} {tag('small', f'({escape(right)})')}"
