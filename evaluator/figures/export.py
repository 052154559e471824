"""A figure as a file, as an image, or as an SVG that is part of a page.

An SVG carries no script, needs no network and prints as it is seen; the page gives it light and dark colours.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluator.errors import EvaluatorError, UsageError
from evaluator.figures.base import Figure

if TYPE_CHECKING:
    import altair as alt


FORMATS = (".svg", ".png", ".html")
SVG = "http://www.w3.org/2000/svg"
TIPPED = ("symbol", "point", "circle", "square", "tick", "bar")
_REFERENCE = re.compile(r"url\(#([\w-]+)\)")


def save_figure(chart: alt.VConcatChart, path: Path) -> None:
    """Write a figure as SVG, PNG or one HTML file that needs no network. Raises UsageError, EvaluatorError."""
    if path.suffix not in FORMATS:
        raise UsageError(f"a figure cannot be written as '{path.name}'", hint=f"end the name in {', '.join(FORMATS)}")
    options: Mapping[str, Any] = {"inline": True} if path.suffix == ".html" else {}
    try:
        chart.save(str(path), **options)
    except OSError as error:
        raise EvaluatorError(f"{path} cannot be written: {error.strerror}") from error


def to_image(figure: Figure, kind: str) -> bytes:
    """Draw a figure on white, as `svg` or `png`."""
    import vl_convert

    spec = {**figure.chart.to_dict(), "background": "white"}
    if kind == "svg":
        return str(vl_convert.vegalite_to_svg(spec)).encode()
    return bytes(vl_convert.vegalite_to_png(spec, scale=2))


def to_svg(figure: Figure, name: str) -> str:
    """Draw a figure as an SVG element of a page. `name`: unique among the figures of the page."""
    import vl_convert

    # The converter has just written it, from text that it escaped.
    root = ET.fromstring(vl_convert.vegalite_to_svg(figure.chart.to_dict(validate=False)))  # noqa: S314
    _name_parts(root, name)
    for element in root.iter():
        # The label of a mark becomes its tooltip; only the whole figure has a role and a label.
        label, kind = element.attrib.pop("aria-label", ""), element.attrib.pop("aria-roledescription", "")
        for attribute in ("role", "aria-hidden", "class", "pointer-events"):
            element.attrib.pop(attribute, None)
        if label and any(word in kind for word in TIPPED):
            ET.SubElement(element, f"{{{SVG}}}title").text = label
    for attribute in ("width", "height", "class", "version"):
        root.attrib.pop(attribute, None)
    root.attrib.update({"role": "img", "aria-label": figure.alt})
    ET.register_namespace("", SVG)
    return ET.tostring(root, encoding="unicode")


def _name_parts(root: ET.Element, name: str) -> None:
    """Give parts and references to them names of their own: several figures may be on one page.

    They are numbered again, since the converter goes on counting from figure to figure.
    """
    names: dict[str, str] = {}
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            if key == "id":
                element.set(key, names.setdefault(value, f"{name}-{len(names)}"))
            elif "url(#" in value:
                (part,) = _REFERENCE.findall(value)
                element.set(key, f"url(#{names.setdefault(part, f'{name}-{len(names)}')})")
