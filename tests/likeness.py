"""Whether what arrived is what was made: type, dtype, shape, flags and every byte."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.datasets import Record


def same(left: Any, right: Any) -> bool:
    """Equal in type, dtype, shape, writability and every byte."""
    if type(left) is not type(right):
        return False
    if isinstance(left, np.ma.MaskedArray):
        return same(left.data, right.data) and same(np.asarray(left.mask), right.mask)
    if isinstance(left, np.ndarray):
        facts = [(a.dtype, a.shape, a.flags.writeable) for a in (left, right)]
        if left.dtype.hasobject or left.dtype.char == "g":  # that has padding
            return facts[0] == facts[1] and left.tolist() == right.tolist()
        return facts[0] == facts[1] and left.tobytes() == right.tobytes()
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[k], right[k]) for k in left)
    if isinstance(left, (list, tuple)):
        pairs = zip(left, right, strict=False)
        return len(left) == len(right) and all(same(a, b) for a, b in pairs)
    if isinstance(left, Record):
        return left.name == right.name and same(left.values, right.values)
    return bool(left == right)


def same_tensors(left: Any, right: Any) -> bool:
    """The same of torch's tensors, alone or in a dict."""
    import torch

    if isinstance(left, dict):
        return all(same_tensors(left[key], right[key]) for key in right)
    facts = [
        (type(t), t.dtype, t.shape, t.layout, t.requires_grad) for t in (left, right)
    ]
    if facts[0] != facts[1]:
        return False
    if left.layout is torch.strided and left.dtype is torch.float8_e4m3fn:
        left, right = left.float(), right.float()
    if left.layout is torch.sparse_coo:
        left, right = left.to_dense(), right.to_dense()
    return bool(torch.equal(left, right))
