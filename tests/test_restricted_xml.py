"""XML is read as elements and text; whatever would fetch, expand or nest without end is refused."""

import pytest

from hostile import refused
from weakseg.safe_io import read_xml


def write(tmp_path, content, encoding="utf-8"):
    path = tmp_path / "a.xml"
    path.write_bytes(content.encode(encoding))
    return path


def test_elements_text_and_attributes(tmp_path):
    text = '<?xml version="1.0" encoding="{}"?><a b="1"><!-- no --><tag>caf\u00e9 &lt; &#65;</tag><p/><tag> x</tag></a>'
    for encoding in ("utf-8", "latin-1", "utf-16"):
        root = read_xml(write(tmp_path, text.format(encoding), encoding))
        assert root.tag == "a" and root.attrib == {"b": "1"}
        assert [tag.text for tag in root.iter("tag")] == ["caf\u00e9 < A", " x"]
        assert len(root) == 3 and root[1].tag == "p"


@pytest.mark.parametrize(
    "content",
    [
        '<!DOCTYPE a [<!ENTITY b "boom">]><a>&b;</a>',
        '<!DOCTYPE a [<!ENTITY b SYSTEM "{path}">]><a>&b;</a>',
        '<!DOCTYPE a SYSTEM "{path}"><a/>',
        '<!DOCTYPE a [<!ENTITY % b SYSTEM "{path}">%b;]><a/>',
        "<!DOCTYPE a><a/>",
    ],
)
def test_document_types_are_refused(tmp_path, content):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    message = refused("a document type", read_xml, write(tmp_path, content.format(path=secret)))
    assert "secret" not in message and "a.xml: expected XML" in message


@pytest.mark.parametrize(
    "content",
    ["", "text", "<a>", "<a></b>", "<a/><b/>", "<a>&nothing;</a>", '<?xml version="1.0" encoding="odd"?><a/>'],
)
def test_what_is_damaged_is_one_sentence(tmp_path, content):
    refused("a.xml: expected XML without a document type; cannot read it", read_xml, write(tmp_path, content))


def test_limits(tmp_path):
    deep = write(tmp_path, "<a>" * 100 + "</a>" * 100)
    assert read_xml(deep).tag == "a"
    refused("more than 100 deep", read_xml, write(tmp_path, "<a>" * 101 + "</a>" * 101))
    flat = write(tmp_path, "<a>" + "<b/>" * 300 + "</a>")
    assert len(read_xml(flat, max_bytes=1207)) == 300
    refused("at most 1206 bytes; found more", read_xml, flat, max_bytes=1206)
