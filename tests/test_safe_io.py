"""Readers give what is in a file or one sentence, writers are atomic, and names stay in their folder."""

import pickle
from collections import OrderedDict

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from safetensors.torch import save_file

from hostile import refused
from weakseg import safe_io


def test_every_kind_of_checkpoint_is_read(tmp_path):
    weight = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    torch.save({"model": OrderedDict(w=weight), "iteration": np.int64(7), "a": weight.numpy()}, tmp_path / "a.pth")
    save_file({"w": weight}, tmp_path / "a.safetensors")
    for path, read in ((tmp_path / "a.pth", lambda w: w["model"]["w"]), (tmp_path / "a.safetensors", lambda w: w["w"])):
        torch.testing.assert_close(read(safe_io.read_weights(path)), weight, rtol=0, atol=0)
    assert safe_io.read_weights(tmp_path / "a.pth")["iteration"] == 7
    content = {
        "model": OrderedDict(w=weight.numpy()),
        "n": np.float32(0.5),
        "names": ["a", (1, None)],
        "b": np.array([True]),
    }
    for protocol in range(6):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol))
        weights = safe_io.read_weights(tmp_path / "a.pkl")
        torch.testing.assert_close(weights["model"]["w"], weight, rtol=0, atol=0)
        assert weights["n"] == 0.5 and weights["names"] == ["a", (1, None)] and weights["b"].dtype == torch.bool


def test_a_python_2_pickle_is_read_as_latin1(tmp_path):
    # What Python 2 and an old numpy write: str for names and for the bytes of arrays.
    code = (
        b"\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x01\x85"
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x01\xfftbs."
    )
    (tmp_path / "a.pkl").write_bytes(code)
    assert safe_io.read_weights(tmp_path / "a.pkl")["w"].tolist() == [255]


def test_a_checkpoint_is_a_dict_with_a_known_suffix(tmp_path):
    torch.save([1], tmp_path / "a.pth")
    refused("a list, not a dict", safe_io.read_weights, tmp_path / "a.pth")
    (tmp_path / "a.h5").write_bytes(b"x")
    refused("suffix '.h5'", safe_io.read_weights, tmp_path / "a.h5")


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.array(3),
        np.zeros((0, 4)),
        np.array(["ab", "c"]),
    ],
)
def test_arrays_are_read(array, tmp_path):
    np.save(tmp_path / "a.npy", array)
    np.savez_compressed(tmp_path / "a.npz", one=array, two=array)
    for read in (safe_io.read_npy(tmp_path / "a.npy"), *safe_io.read_npz(tmp_path / "a.npz").values()):
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)
    assert list(safe_io.read_npz(tmp_path / "a.npz")) == ["one", "two"]


def test_matlab_structures_cells_and_text_become_plain_data(tmp_path):
    cell = np.empty(2, dtype=object)
    cell[:] = [np.eye(2), np.arange(3.0)]
    for compress in (False, True):
        scipy.io.savemat(tmp_path / "a.mat", {"s": {"map": np.eye(3), "name": "x"}, "c": cell}, do_compression=compress)
        read = safe_io.read_mat(tmp_path / "a.mat")
        np.testing.assert_array_equal(read["s"]["map"], np.eye(3))
        assert read["s"]["name"] == "x" and list(read) == ["s", "c"]
        np.testing.assert_array_equal(read["c"][1], [0, 1, 2])


def test_json_round_trip_and_order_of_keys(tmp_path):
    safe_io.write_json(tmp_path / "new" / "a.json", {"b": 1, "a": [1.5, None, "\u00e4"]})
    assert list(safe_io.read_json(tmp_path / "new" / "a.json").items()) == [("b", 1), ("a", [1.5, None, "\u00e4"])]


def test_yaml_is_read(tmp_path):
    (tmp_path / "a.yaml").write_text("A: {B: [1, x]}")
    assert safe_io.read_yaml(tmp_path / "a.yaml") == {"A": {"B": [1, "x"]}}


PIXELS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[10, 20, 30], [40, 50, 60], [70, 80, 90]]], dtype=np.uint8)


def test_formats_of_images(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    np.testing.assert_array_equal(safe_io.read_image(tmp_path / "a.png"), PIXELS)
    np.testing.assert_array_equal(safe_io.read_image(tmp_path / "a.png", "BGR"), PIXELS[..., ::-1])
    # ITU-R 601-2 luma, the conversion to grey of every image tool
    luma = np.rint(PIXELS @ np.array([0.299, 0.587, 0.114]))
    np.testing.assert_allclose(safe_io.read_image(tmp_path / "a.png", "L"), luma, atol=1)
    refused("RGB, BGR or L", safe_io.read_image, tmp_path / "a.png", "HSV")


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [(1, PIXELS), (2, PIXELS[:, ::-1]), (3, PIXELS[::-1, ::-1]), (6, np.rot90(PIXELS, -1)), (8, np.rot90(PIXELS))],
)
def test_the_orientation_of_a_camera_is_applied(orientation, turned, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(safe_io.read_image(tmp_path / "a.png"), turned)
    assert safe_io.read_image_size(tmp_path / "a.png") == turned.shape[:2]


def test_16_bit_cmyk_transparent_palette_and_bilevel_images(tmp_path):
    grey = np.array([[0, 256, 65535], [511, 512, 40000]], dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    np.testing.assert_array_equal(safe_io.read_image(tmp_path / "a.png", "L"), grey // 256)
    assert safe_io.read_image(tmp_path / "a.png").shape == (2, 3, 3)
    np.testing.assert_array_equal(safe_io.read_label_png(tmp_path / "a.png"), grey)
    Image.fromarray(np.full((8, 8, 3), 200, np.uint8)).convert("CMYK").save(tmp_path / "c.jpg")
    assert np.abs(safe_io.read_image(tmp_path / "c.jpg").astype(int) - 200).max() <= 2
    Image.fromarray(np.dstack([PIXELS, np.zeros((2, 3), np.uint8)])).save(tmp_path / "t.png")
    np.testing.assert_array_equal(safe_io.read_image(tmp_path / "t.png"), PIXELS)
    Image.fromarray(np.eye(3, dtype=bool)).save(tmp_path / "b.png")
    np.testing.assert_array_equal(safe_io.read_label_png(tmp_path / "b.png"), np.eye(3, dtype=np.uint8))


def test_label_maps_keep_their_indices(tmp_path):
    labels = np.array([[0, 1], [254, 255]], dtype=np.uint8)
    palette = np.full((256, 3), 7, dtype=np.uint8)
    palette[1] = 1, 2, 3
    safe_io.write_png(tmp_path / "p.png", labels, palette)
    np.testing.assert_array_equal(safe_io.read_label_png(tmp_path / "p.png"), labels)
    np.testing.assert_array_equal(safe_io.read_image(tmp_path / "p.png")[0], [[7, 7, 7], [1, 2, 3]])
    for array in (labels, PIXELS):
        safe_io.write_png(tmp_path / "g.png", array)
        np.testing.assert_array_equal(safe_io.read_label_png(tmp_path / "g.png"), array)


def test_broken_images_are_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    for name in ("a.jpg", "a.png"):
        Image.fromarray(noise).save(tmp_path / name)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-2000])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("hello")
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "float.tiff")
    for name in ("a.jpg", "a.png", "empty.jpg", "text.jpg", "float.tiff"):
        message = refused("expected an image", safe_io.read_image, tmp_path / name)
        assert str(tmp_path / name) in message and "again" in message


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), safe_io.atomic_write(path) as temporary:
        temporary.write_text("half")
        assert temporary.parent == path.parent and temporary.suffix == path.suffix and path.read_text() == "old"
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with safe_io.atomic_write(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(TypeError):
        safe_io.write_json(tmp_path / "b.json", {"a": object()})
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "name", ["a.jpg", "sub/a.jpg", "sub/../a.jpg"[:3] + "/b c.jpg", "./a.jpg", "console.txt", "..a"]
)
def test_names_below_the_folder(name, tmp_path):
    assert safe_io.resolve_inside(tmp_path, name) == tmp_path.resolve() / name


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "sub/../../x",
        "/etc/passwd",
        "C:\\x",
        "C:x",
        "\\x",
        "a\\..\\..\\x",
        "\\\\host\\share\\x",
        "a\0b",
        "a\nb",
        "",
        ".",
        "..",
        "con",
        "sub/NUL.txt",
        "com1.png",
        "x" * 256,
    ],
)
def test_names_that_leave_the_folder_or_are_not_portable(name, tmp_path):
    assert str(tmp_path) in refused(
        "expected the name of a file below", safe_io.resolve_inside, tmp_path / "root", name
    )


def test_links_that_leave_the_folder(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "inside").mkdir()
    (tmp_path / "root" / "out").symlink_to(tmp_path)
    (tmp_path / "root" / "in").symlink_to(tmp_path / "root" / "inside")
    (tmp_path / "also_root").symlink_to(tmp_path / "root")
    refused("expected the name", safe_io.resolve_inside, tmp_path / "root", "out/x")
    assert safe_io.resolve_inside(tmp_path / "also_root", "in/x") == tmp_path.resolve() / "root" / "inside" / "x"
