"""XML files without entities and without references to anything else. A part of `safe_io`, which exports `read_xml`."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

_MAX_DEPTH = 100


def read_xml(path: str | Path, *, max_bytes: int = 1 << 22) -> Element:
    """The root element of an XML file. Refused: a document type, and with it every entity and every reference to a
    file or an address; elements nested more than 100 deep; more than `max_bytes`."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: expected an XML file; found a folder there. Check the path.")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected an XML file; found nothing there. Check the path.")
    with path.open("rb") as stream:
        content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(
            f"{path}: expected an XML file of at most {max_bytes} bytes; found more. Split it or raise the limit."
        )
    try:
        return _parsed(content)
    except (expat.ExpatError, ValueError, LookupError) as error:  # the latter for an encoding that nobody knows
        raise ValueError(
            f"{path}: expected XML without a document type; cannot read it ({error}). Fetch it again, or write it anew "
            "with elements and text alone."
        ) from error


def _parsed(content: bytes) -> Element:
    builder = TreeBuilder()
    depth = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            raise ValueError(f"elements nested more than {_MAX_DEPTH} deep")
        builder.start(name, attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name)

    def refuse(*_: object) -> None:
        raise ValueError("a document type, which can declare entities")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    parser.buffer_text = True
    parser.Parse(content, True)
    return builder.close()
