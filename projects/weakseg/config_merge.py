"""Keys and values from outside into a config: what does not fit is one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence

from detectron2.config import CfgNode


def merge_content(cfg: CfgNode, content: dict, where: str) -> None:
    """Merge nested keys and values into `cfg`. where: the file they are from, for the message.

    Raises ValueError for an unknown key and for a value of another type than the default's.
    """
    known = list(_keys(cfg, nodes=True))
    for key in _keys(content):
        if not _may_be_new(key, cfg):
            _refuse_unknown_key(key, known, where)
    _merge(lambda: cfg.merge_from_other_cfg(CfgNode(content)), where)


def merge_options(cfg: CfgNode, opts: Sequence[str]) -> None:
    """Merge keys and values by turns, as they stand on a command line, into `cfg`. Raises ValueError like
    `merge_content`, and where the last value is missing."""
    opts = list(opts)
    if len(opts) % 2:
        raise ValueError(
            f"Options: expected pairs KEY VALUE; found {len(opts)} words ({' '.join(opts)}). Add what is missing."
        )
    known = list(_keys(cfg, nodes=True))
    for key in opts[::2]:
        _refuse_unknown_key(key, known, "Options")
    _merge(lambda: cfg.merge_from_list(opts), "Options")


def _merge(merge: Callable[[], None], where: str) -> None:
    try:
        merge()
    except (ValueError, AttributeError, AssertionError) as error:
        raise ValueError(f"{where}: {error}. Give a value of the same type as the default.") from None


def _refuse_unknown_key(key: str, known: list[str], where: str) -> None:
    if key not in known:
        close = difflib.get_close_matches(key, known, n=1, cutoff=0)
        raise ValueError(f"{where}: expected keys of the config; found the unknown key {key}. Did you mean {close[0]}?")


def _may_be_new(key: str, cfg: CfgNode) -> bool:
    """Whether a node above `key` takes keys without a default."""
    node = cfg
    for name in key.split(".")[:-1]:
        node = node.get(name)
        if not isinstance(node, CfgNode):
            return False
    return node.is_new_allowed()


def _keys(node: dict, prefix: str = "", nodes: bool = False) -> Iterator[str]:
    """Full names of all values; with `nodes` of the nodes above them too."""
    for name, value in node.items():
        if isinstance(value, dict):
            if nodes:
                yield f"{prefix}{name}"
            yield from _keys(value, f"{prefix}{name}.", nodes)
        else:
            yield f"{prefix}{name}"
