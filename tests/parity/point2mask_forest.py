"""The structured forest that the recorded edges were made with."""

from pathlib import Path

from parity.reference import all_files, kind_of
from weakseg.proposals.structured_edges import Forest, read_forest


def recorded_forest(path: Path, kind: str, folder: Path) -> Forest:
    """The forest beside the recorded file `path` of a kind: the one of the same suffix, else the first. It is read
    from a copy in `folder`, as reading leaves a cache beside the file."""
    forests = [file for file in all_files("point2mask") if kind_of("point2mask", file) == "tiny_edges"]
    assert forests, f"{path}: no forest tiny_edges*.yml.gz beside it"
    name = f"tiny_edges{path.stem.removeprefix(kind)}.yml.gz"
    source = next((file for file in forests if file.name == name), forests[0])
    (folder / source.name).write_bytes(source.read_bytes())
    return read_forest(folder / source.name)
