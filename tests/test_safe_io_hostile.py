"""Files that would run code or claim huge sizes are refused, and nothing but `safe_io` opens files from outside."""

import argparse
import io
import re
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

from hostile import Bomb, refused
from weakseg import safe_io

ROOT = Path(__file__).parents[1]


@pytest.fixture
def marker(tmp_path):
    path = tmp_path / "marker"
    yield path
    assert not path.exists(), "the file ran code"


def test_a_torch_checkpoint_that_runs_code_is_refused(tmp_path, marker):
    for new_format in (True, False):
        path = tmp_path / "weights.pth"
        torch.save({"model": {"w": torch.ones(2)}, "x": Bomb(marker)}, path, _use_new_zipfile_serialization=new_format)
        refused("expected a checkpoint", safe_io.read_weights, path)


def test_a_namespace_in_a_torch_checkpoint_is_refused(tmp_path):
    torch.save({"args": argparse.Namespace(a=1)}, tmp_path / "weights.pth")
    refused(r"the object argparse\.Namespace", safe_io.read_weights, tmp_path / "weights.pth")


def test_yaml_that_makes_objects_is_refused(tmp_path, marker):
    path = tmp_path / "config.yaml"
    path.write_text(f"A: !!python/object/apply:pathlib.Path.touch [{marker}]")
    refused("YAML without Python tags", safe_io.read_yaml, path)


def test_arrays_of_objects_are_refused(tmp_path, marker):
    array = np.array([Bomb(marker)], dtype=object)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", array=array)
    refused("Python objects", safe_io.read_npy, tmp_path / "a.npy")
    refused("Python objects", safe_io.read_npz, tmp_path / "a.npz")


@pytest.mark.parametrize(
    "reader",
    [
        "read_json",
        "read_yaml",
        "read_image",
        "read_image_size",
        "read_label_png",
        "read_npy",
        "read_npz",
        "read_pickled_npy",
        "read_yml_gz",
        "read_mat",
        "read_weights",
        "read_xml",
    ],
)
def test_what_is_missing_is_named(reader, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.pth: expected .*; found nothing there\."):
        getattr(safe_io, reader)(tmp_path / "gone.pth")
    refused("found a folder", getattr(safe_io, reader), tmp_path)


def test_text_files_have_a_size_limit_and_a_depth_limit(tmp_path):
    (tmp_path / "a.json").write_text("[" * 100_000 + "]" * 100_000)
    refused("expected JSON", safe_io.read_json, tmp_path / "a.json")
    refused("at most 100 bytes", safe_io.read_json, tmp_path / "a.json", max_bytes=100)
    (tmp_path / "b.json").write_text("{nothing")
    refused("expected JSON", safe_io.read_json, tmp_path / "b.json")
    (tmp_path / "b.yaml").write_text("x" * 101)
    refused("at most 100 bytes", safe_io.read_yaml, tmp_path / "b.yaml", max_bytes=100)


def test_images_have_a_pixel_limit(tmp_path):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 300_000, 300_000, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "huge.png").write_bytes(content)
    refused("expected an image", safe_io.read_image, tmp_path / "huge.png")
    refused("expected an image", safe_io.read_image_size, tmp_path / "huge.png")
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    assert safe_io.read_image(tmp_path / "a.png", max_pixels=6).shape == (2, 3, 3)
    refused("3 x 2 pixels, more than the limit of 5", safe_io.read_image, tmp_path / "a.png", max_pixels=5)


def npy_claiming(shape) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return stream.getvalue() + b"\0" * 64


def test_arrays_that_claim_more_than_they_hold_are_refused(tmp_path):
    (tmp_path / "a.npy").write_bytes(npy_claiming((10**11,)))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", npy_claiming((10**6, 10**6)))
    refused("claims shape", safe_io.read_npy, tmp_path / "a.npy")
    refused("claims shape", safe_io.read_npz, tmp_path / "a.npz")
    np.savez_compressed(tmp_path / "zeros.npz", x=np.zeros(2_000_000))
    assert (tmp_path / "zeros.npz").stat().st_size < 20_000
    refused("more than the limit of 1000000", safe_io.read_npz, tmp_path / "zeros.npz", max_bytes=1_000_000)
    (tmp_path / "text.npz").write_text("hello")
    refused("expected an .npz archive", safe_io.read_npz, tmp_path / "text.npz")


def test_matlab_files_have_a_size_limit_after_unpacking(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"x": np.zeros(2_000_000)}, do_compression=True)
    assert (tmp_path / "a.mat").stat().st_size < 20_000
    refused("more than the limit of 1000000", safe_io.read_mat, tmp_path / "a.mat", max_bytes=1_000_000)
    (tmp_path / "b.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(200))
    refused("-v7", safe_io.read_mat, tmp_path / "b.mat")


def test_a_compressed_torch_archive_that_unpacks_to_much_more_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 1_000_000)
    refused("unpacked, more than the limit", safe_io.read_weights, tmp_path / "a.pth")


ELSEWHERE = re.compile(
    r"\b(c?pickle|dill|joblib|h5py|shelve|marshal|lxml|imageio|ElementTree|expat|minidom|sax)\b|torch\.load\b|np\.(load|fromfile|memmap)\b|"
    r"yaml\.(\w*load|Loader)|loadmat|(?<![\w.])(eval|exec)\(|json\.loads?\b|Image\.open\b|cv2\.(imread|FileStorage)|"
    r'(ZipFile|tarfile\.open|gzip\.open|GzipFile)\((?!.*"w)|(?<!\w)load_file\(|\bsafe_open\b|detection_utils|'
    r"merge_from_file\((?!.*allow_unsafe=False)"
)
DOOR = {
    Path("projects/weakseg") / name
    for name in ("safe_io.py", "_restricted_pickle.py", "_restricted_xml.py", "_opencv_storage.py")
}


def test_no_other_file_deserialises():
    sources = [
        path.relative_to(ROOT) for folder in ("projects", "tools", "datasets") for path in (ROOT / folder).rglob("*.py")
    ]
    inspected = [path for path in sources if path not in DOOR and path.parts[:2] != ("tools", "setup")]
    assert len(inspected) > 20
    found = [
        f"{path}:{number}: {line.strip()}"
        for path in inspected
        for number, line in enumerate((ROOT / path).read_text().splitlines(), 1)
        if ELSEWHERE.search(line.split("  # ")[0])
    ]
    assert not found, "read files through weakseg.safe_io:\n" + "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from xml.parsers import expat",
        "x = np.load(p)",
        "json.load(f)",
        "eval(text)",
        "Image.open(p)",
        "loadmat(p)",
    ],
)
def test_the_search_finds_what_it_looks_for(line):
    assert ELSEWHERE.search(line)
    assert not ELSEWHERE.search("model.eval()")
