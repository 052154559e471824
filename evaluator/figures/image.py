"""A figure as a file of its own."""

from __future__ import annotations

from evaluator.figures.base import Figure

__all__ = ["to_image"]


def to_image(figure: Figure, kind: str) -> bytes:
    """Draw a figure on white, as `svg` or `png`."""
    import vl_convert

    spec = {**figure.chart.to_dict(), "background": "white"}
    if kind == "svg":
        return str(vl_convert.vegalite_to_svg(spec)).encode()
    return bytes(vl_convert.vegalite_to_png(spec, scale=2))
