"""What a report is made of: sections of sentences, tables, charts and pictures, in which each number has its source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fleetmill.web.chart import Chart
from fleetmill.web.glimpse import data_uri
from fleetmill.web.number import Text


@dataclass(frozen=True, kw_only=True, slots=True)
class Opening:
    """The head of a report: title, a row of facts, the sentence that it is about, and what it needs beside it."""

    title: str
    facts: tuple[tuple[str, Text], ...] = ()
    headline: Text
    lead: tuple[Text, ...] = ()
    footer: Text = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column's name; numbers stand at the right, long texts wrap."""

    label: str
    is_number: bool = False
    is_long: bool = False
    is_name: bool = False  # it is called so in code, digits and all


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows under columns; the first cell names its row."""

    id: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Text, ...], ...]
    note: Text = ""
    kind: Literal["table"] = "table"


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """A chart."""

    id: str
    title: str
    chart: Chart
    caption: Text = ""
    kind: Literal["drawing"] = "drawing"


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A picture file (JPEG, PNG, GIF or SVG), laid into the page; `still` for those who want nothing to move."""

    id: str
    title: str
    data: bytes
    alt: str
    caption: Text = ""
    still: bytes = b""
    kind: Literal["picture"] = "picture"

    @property
    def uri(self) -> str:
        """Its ``data:`` address."""
        return data_uri(self.data)

    @property
    def still_uri(self) -> str:
        """The ``data:`` address of `still`."""
        return data_uri(self.still)


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """Sentences, one under the other."""

    id: str
    title: str
    items: tuple[Text, ...]
    kind: Literal["listing"] = "listing"


Section = Table | Drawing | Picture | Listing
Sections = Sequence[Section]
