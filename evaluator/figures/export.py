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
MARKS_WITH_TOOLTIP = ("symbol", "point", "circle", "square", "tick", "bar")
DEFAULTS = {"opacity": "1", "stroke-width": "1", "font-weight": "normal"}
"""Attribute → the value that it has where it is not given. No element in an SVG of the converter inherits another."""
PLACES = ("transform", "d", "x", "y", "x1", "x2", "y1", "y2", "width", "height", "cx", "cy", "r")
"""Attributes whose numbers are places, in pixels."""
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}(?:e[+-]?\d+)?|-?\d+(?:\.\d+)?e[+-]?\d+")
_REFERENCE = re.compile(r"url\(#([\w-]+)\)")
"""How an SVG refers to one of its parts: `url(#clip1)`."""


def save_figure(chart: alt.VConcatChart, path: Path) -> None:
    """Write a chart as SVG, PNG or HTML, as the ending of its file name says.

    Raises UsageError for another ending, EvaluatorError if the file cannot be written.
    """
    if path.suffix not in FORMATS:
        raise UsageError(f"a figure cannot be written as '{path.name}'", hint=f"end the name in {', '.join(FORMATS)}")
    # The scripts that draw the chart become part of the HTML, so that it needs no network.
    options: Mapping[str, Any] = {"inline": True} if path.suffix == ".html" else {}
    try:
        chart.save(str(path), **options)
    except OSError as error:
        raise EvaluatorError(f"{path} cannot be written: {error.strerror}") from error


def to_image(figure: Figure, image_format: str) -> bytes:
    """Draw a figure on white, as the content of a file; `image_format`: `svg`, or else `png`."""
    import vl_convert

    spec = {**figure.chart.to_dict(), "background": "white"}
    if image_format == "svg":
        return str(vl_convert.vegalite_to_svg(spec)).encode()
    return bytes(vl_convert.vegalite_to_png(spec, scale=2))


def to_svg(figure: Figure, name: str) -> str:
    """Draw a figure as an SVG element of a page; `name` must be unique among the figures of the page.

    The element takes its size and colours from the page. It has one label for the whole, and a tooltip per mark.
    """
    import vl_convert

    # Safe to parse: the converter has just written it, from text that it escaped.
    root = ET.fromstring(vl_convert.vegalite_to_svg(figure.chart.to_dict(validate=False)))  # noqa: S314
    _make_ids_unique(root, name)
    _shorten(root)
    for element in root.iter():
        # The label of a mark becomes its tooltip (a `title` in SVG); only the whole figure has a role and a label.
        label, mark_type = element.attrib.pop("aria-label", ""), element.attrib.pop("aria-roledescription", "")
        for attribute in ("role", "aria-hidden", "class", "pointer-events"):
            element.attrib.pop(attribute, None)
        if label and any(word in mark_type for word in MARKS_WITH_TOOLTIP):
            ET.SubElement(element, f"{{{SVG}}}title").text = label
    # Without width and height, the view box scales to the room on the page.
    for attribute in ("width", "height", "class", "version"):
        root.attrib.pop(attribute, None)
    root.attrib.update({"role": "img", "aria-label": figure.alt})
    ET.register_namespace("", SVG)
    return ET.tostring(root, encoding="unicode")


def _shorten(root: ET.Element) -> None:
    """Make an SVG shorter, in place: numbers to a hundredth of a pixel, the font once, no defaults."""
    fonts = {font for element in root.iter() if (font := element.get("font-family"))}
    for element in root.iter():
        for attribute, value in list(element.attrib.items()):
            if DEFAULTS.get(attribute) == value or (attribute == "font-family" and len(fonts) == 1):
                del element.attrib[attribute]
            elif attribute in PLACES:
                element.set(attribute, _LONG_NUMBER.sub(lambda match: f"{float(match[0]):.2f}", value))
    if len(fonts) == 1:
        root.set("font-family", fonts.pop())


def _make_ids_unique(root: ET.Element, name: str) -> None:
    """Rename the ids of an SVG, and the references to them, to `NAME-0`, `NAME-1` …, in place.

    Figures on one page must not share ids. Numbers start at 0 in each figure, so that the same figure always has the
    same text; the converter counts on from figure to figure.
    """
    new_ids: dict[str, str] = {}
    for element in root.iter():
        for attribute, value in list(element.attrib.items()):
            if attribute == "id":
                element.set(attribute, new_ids.setdefault(value, f"{name}-{len(new_ids)}"))
            elif "url(#" in value:
                # A reference may come before the element that has the id.
                (old_id,) = _REFERENCE.findall(value)
                new_id = new_ids.setdefault(old_id, f"{name}-{len(new_ids)}")
                element.set(attribute, f"url(#{new_id})")
