"""From a chart to a file or to the page: SVG, PNG, and the one script that draws specifications in a browser."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ..core.errors import UsageError
from ..core.files import write_atomic
from .style import Chart, configured


def save(chart: Chart, path: Path) -> None:
    """Write a chart to an SVG or PNG file (by its suffix), atomically, on white."""
    if path.suffix not in (".svg", ".png"):
        raise UsageError(f"cannot draw a {path.suffix or 'nameless'} file", where=str(path), fix="use .svg or .png")
    svg = to_svg(specification(chart))
    write_atomic(path, svg if path.suffix == ".svg" else to_png(svg))


def specification(chart: Chart) -> dict[str, Any]:
    """The styled Vega-Lite specification of a chart, ``WIDTH`` pixels wide."""
    return dict(configured(chart).to_dict())


def specifications(charts: Mapping[str, Chart]) -> dict[str, dict[str, Any]]:
    """The charts as pages and files have them, by name."""
    return {name: specification(chart) for name, chart in charts.items()}


def for_page(spec: dict[str, Any]) -> dict[str, Any]:
    """The same as wide as its container, on the page's own paper."""
    return {**spec, "width": "container", "background": "transparent"}


def to_svg(spec: dict[str, Any]) -> str:
    """A specification drawn as SVG text."""
    import vl_convert

    return str(vl_convert.vegalite_to_svg(spec))


def to_png(svg: str) -> bytes:
    """SVG text as a PNG of twice the pixels."""
    import vl_convert

    return bytes(vl_convert.svg_to_png(svg, scale=2.0))


def to_csv(spec: dict[str, Any]) -> str:
    """The data of a specification's layers, one below the other; ``layer`` counts them."""
    tables = [*spec.get("datasets", {}).values()]
    columns = list(dict.fromkeys(key for table in tables for row in table for key in row))
    file = io.StringIO()
    writer = csv.DictWriter(file, ["layer", *columns], lineterminator="\n")
    writer.writeheader()
    for number, table in enumerate(tables, 1):
        writer.writerows({"layer": number, **row} for row in table)
    return file.getvalue()


@cache
def vega_script() -> str:
    """One script, without a network, that sets ``window.vegaEmbed``: Vega, Vega-Lite and Vega-Embed."""
    import vl_convert

    bundle = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
    bundle = re.sub("<(?=/script|!--)", r"\\x3c", bundle, flags=re.IGNORECASE)  # must not end its element
    return f"(() => {{{bundle}}})();"
