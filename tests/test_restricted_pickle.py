"""Pickles of plain data and arrays are read as they are; whatever would call or claim anything else is refused."""

import argparse
import io
import pickle
import struct
from collections import OrderedDict

import numpy as np
import pytest
import scipy.sparse

from hostile import Bomb, refused
from weakseg._restricted_pickle import checked_plain, load_pickled_npy, load_plain_pickle
from weakseg.safe_io import read_pickled_npy, read_weights


def test_plain_data_and_arrays_are_read_from_every_protocol():
    content = OrderedDict(
        numbers=(1, 2.5, True, None, 10**30),
        text=["a", "\u00e9"],
        nested={"x": [(), {}, []]},
        scalar=np.float32(0.5),
    )
    arrays = [np.arange(6, dtype=np.int16).reshape(2, 3), np.asfortranarray(np.eye(3)), np.array("word")]
    for protocol in range(6):
        found = load_plain_pickle(io.BytesIO(pickle.dumps((content, arrays), protocol)))
        assert found[0] == content and type(found[0]) is OrderedDict and type(found[0]["scalar"]) is np.float32
        for array, expected in zip(found[1], arrays, strict=True):
            assert array.dtype == expected.dtype
            np.testing.assert_array_equal(array, expected)
        assert checked_plain(found) is found
    # Older protocols write a call for these.
    sets = {"x": {1, 2}, "y": frozenset([3])}
    found, empty = load_plain_pickle(io.BytesIO(pickle.dumps((sets, np.zeros((0, 4))), 4)))
    assert found == sets and empty.shape == (0, 4)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", r"the object os\.system"),
        (b"cnumpy\nndarray\n((I3\ntS'f8'\ntR.", r"a direct call of numpy\.ndarray"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I3\ntS'b'\ntR.", "does not start empty"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(ccollections\nOrderedDict\n(I0\ntS'b'\ntR.", "does not start empty"),
        (b"c_codecs\nencode\n(S'x'\nS'zlib'\ntR.", "bytes in encoding 'zlib'"),
        (b"ccollections\nOrderedDict\n(d(S'__class__'\nI1\ndb.", "state for an object of type dict"),
    ],
)
def test_what_is_not_plain_is_named(code, reason):
    with pytest.raises(pickle.UnpicklingError, match=reason):
        load_plain_pickle(io.BytesIO(code))


def array_code(code, state, shape="(I1\nt", content=b"S'" + b"A" * 8 + b"'\n"):
    """Pickle of an array whose type has this code, and of which all but the header is as given."""
    dtype = f"cnumpy\ndtype\n(S'{code}'\nI0\nI1\ntR({state}tb" if state else f"cnumpy\ndtype\n(S'{code}'\nI0\nI1\ntR"
    start = f"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n{shape}{dtype}I00\n"
    return start.encode() + content + b"tb."


OWN = "I3\nS'<'\nNNNI-1\nI-1\nI0\n"
OBJECTS = "I3\nS'|'\nNNNI-1\nI-1\nI63\n"


def test_the_form_of_hand_made_arrays():
    assert load_plain_pickle(io.BytesIO(array_code("i8", OWN))).tolist() == [0x4141414141414141]
    two = load_plain_pickle(io.BytesIO(array_code("O8", OBJECTS, "(I2\nt", b"(I7\nI8\nl")))
    assert two.tolist() == [7, 8] and two.dtype == object


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        # Believed by numpy, each of these reads or frees memory that is not the array's.
        (array_code("O8", OBJECTS, "(I100000\nt", b"(l"), "false state for a ndarray"),
        (array_code("O8", OBJECTS, "(I2\nt", b"(I7\nl"), "false state for a ndarray"),
        (array_code("O8", OBJECTS, "(I-1\nI-1\nt", b"(I7\nl"), "false state for a ndarray"),
        (array_code("O8", OBJECTS), "false state for a ndarray"),
        (array_code("i8", OWN, content=b"(I7\nl"), "false state for a ndarray"),
        (array_code("i8", OBJECTS), "false state for a Int64DType"),
        (array_code("i8", OWN.replace("I-1", "I99", 1)), "false state for a Int64DType"),
        (array_code("i8", OWN.replace("NNN", "N(S'a'\nt(dS'a'\n(cnumpy\ndtype\n(S'f8'\ntRI999\nts")), "false state"),
        (array_code("i8", "I3\nS'<'\n"), "false state for a Int64DType"),
        (array_code("f8,O", ""), "a data type of several parts"),
        (array_code("(9,)f8", ""), "a data type of several parts"),
    ],
)
def test_false_states_of_arrays_are_refused(code, reason):
    with pytest.raises(pickle.UnpicklingError, match=reason):
        load_plain_pickle(io.BytesIO(code))


def test_an_object_in_an_npy_file(tmp_path):
    maps = {3: np.arange(6, dtype=np.float16).reshape(2, 3), np.int64(7): np.ones((2, 3), ">f4"), "keys": [1, 2]}
    np.save(tmp_path / "a.npy", maps)
    found = read_pickled_npy(tmp_path / "a.npy")
    assert found.keys() == maps.keys() and found["keys"] == [1, 2]
    for key in (3, 7):
        assert found[key].dtype == maps[key].dtype.newbyteorder("=")
        np.testing.assert_array_equal(found[key], maps[key])
    for protocol in range(6):
        stream = io.BytesIO()
        np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": ()})
        stream.write(pickle.dumps(np.array(maps, dtype=object), protocol))
        stream.seek(0)
        assert load_pickled_npy(stream)["keys"] == [1, 2]
    refused("at most 10 bytes", read_pickled_npy, tmp_path / "a.npy", max_bytes=10)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (np.ones(3), "an array of float64, not one Python object"),
        (np.array([{}, {}]), r"an array of shape \(2,\) of Python objects, not one object"),
        (np.array({"a": [argparse.Namespace()]}), r"the object argparse\.Namespace"),
    ],
)
def test_other_content_of_an_npy_file_is_named(content, reason, tmp_path):
    np.save(tmp_path / "a.npy", content)
    refused(
        rf"a\.npy: expected a \.npy file of one object of plain data; cannot read it \({reason}\)",
        read_pickled_npy,
        tmp_path / "a.npy",
    )


def test_an_npy_file_that_runs_code_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", {0: Bomb(tmp_path / "marker")})
    refused("the object", read_pickled_npy, tmp_path / "a.npy")
    (tmp_path / "b.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:200])
    refused("expected a .npy file of one object", read_pickled_npy, tmp_path / "b.npy")
    # The header is honest, the pickle is not the array that it announces.
    (tmp_path / "c.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:128] + pickle.dumps({0: 1}))
    refused(r"not one object", read_pickled_npy, tmp_path / "c.npy")
    (tmp_path / "c.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:128] + pickle.dumps(np.array([{}])))
    refused(r"not one object", read_pickled_npy, tmp_path / "c.npy")
    assert not (tmp_path / "marker").exists()


def test_checked_plain_looks_into_everything_once():
    sparse = scipy.sparse.csc_matrix(np.eye(2))
    nested = {
        "a": [(1, "x"), {2.5}, np.array([[1, "y"]], dtype=object)],
        b"k": np.ones(3),
        "s": sparse,
        "n": np.int8(1),
    }
    nested["itself"] = nested
    assert checked_plain(nested) is nested


class OwnArray(np.ndarray):
    """An array of another type."""


@pytest.mark.parametrize(
    ("intruder", "name"),
    [
        (argparse.Namespace(), "Namespace"),
        (np.zeros(2).view(OwnArray), "OwnArray"),
        (np.zeros(2, dtype=[("a", object)]), "ndarray"),
        (len, "builtin_function_or_method"),
    ],
)
def test_checked_plain_names_the_type_of_an_intruder(intruder, name):
    holders = [
        intruder,
        [intruder],
        ("x", [intruder]),
        {"a": {"b": intruder}},
        np.array([intruder, None], dtype=object),
    ]
    if intruder.__hash__:
        holders += [{intruder: 1}, {1, intruder}, frozenset([intruder])]
    for holder in holders:
        with pytest.raises(ValueError, match=f"an object of type {name}"):
            checked_plain(holder)


def test_bombs_do_explode_when_read_without_care(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "exploded")))
    assert (tmp_path / "exploded").exists()


@pytest.mark.parametrize("content", [lambda b: b, lambda b: {"model": {"w": np.ones(2), "x": [b]}}, lambda b: {b: 1}])
def test_a_pickle_that_runs_code_is_refused(content, tmp_path):
    marker = tmp_path / "marker"
    for protocol in range(6):
        code = pickle.dumps(content(Bomb(marker)), protocol)
        with pytest.raises(pickle.UnpicklingError, match="the object"):
            load_plain_pickle(io.BytesIO(code))
        path = tmp_path / "weights.pkl"
        path.write_bytes(code)
        assert str(path) in refused("cannot read it", read_weights, path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "code",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nndarray\n((I1000000000000\ntS'f8'\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I1000000000000\ntS'f8'\ntR.",
        b"c_codecs\nencode\n(S'x'\nS'zlib'\ntR.",
        b"ccollections\nOrderedDict\n(d(S'__class__'\nI1\ndb.",
        b"\x80\x02]r\xff\xff\xff\xff.",
        b"\x80\x04}\x8c\x01a\x8e" + struct.pack("<Q", 10**11) + b"x",
        b"",
    ],
)
def test_hand_made_pickles_are_refused(code, tmp_path):
    path = tmp_path / "weights.pkl"
    path.write_bytes(code)
    refused("expected a checkpoint", read_weights, path)
