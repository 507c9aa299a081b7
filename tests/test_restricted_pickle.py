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
from weakseg._restricted_pickle import checked_plain, load_plain_pickle
from weakseg.safe_io import read_weights


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
