"""The hash that a file is expected to have."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Self

__all__ = ["Checksum"]

_BY_DIGITS = {
    32: "md5",
    40: "sha1",
    56: "sha224",
    64: "sha256",
    96: "sha384",
    128: "sha512",
}


@dataclass(frozen=True, slots=True)
class Checksum:
    """A hash and how it is taken.

    Attributes:
        algorithm: Name that ``hashlib`` knows.
        digits: Hexadecimal, lower case.
    """

    algorithm: str
    digits: str

    @classmethod
    def parse(cls, text: object, algorithm: object) -> Self:
        """Check what the user wrote.

        Args:
            text: Hexadecimal digits, upper or lower case.
            algorithm: A name of ``hashlib``, or "auto" to tell it by the length.

        Raises:
            ValueError: Not hexadecimal, an unknown algorithm, or a length that the
                algorithm does not have.

        >>> Checksum.parse("D41D8CD98F00B204E9800998ECF8427E", "auto")
        Checksum(algorithm='md5', digits='d41d8cd98f00b204e9800998ecf8427e')
        """
        if not isinstance(text, str) or not re.fullmatch("[0-9a-fA-F]+", text):
            raise ValueError(f"a hash must be hexadecimal digits, got {text!r}")
        if algorithm == "auto":
            algorithm = _BY_DIGITS.get(len(text))
            if algorithm is None:
                raise ValueError(
                    f"no algorithm has a hash of {len(text)} digits, got {text!r}; "
                    f"known lengths are {sorted(_BY_DIGITS)}, others need hash_algorithm"
                )
        digits = 2 * _new(algorithm).digest_size
        if len(text) != digits:
            raise ValueError(
                f"a hash by {algorithm} must have {digits} digits, got {len(text)}: "
                f"{text!r}"
            )
        return cls(str(algorithm), text.lower())

    def of(self, path: str) -> str:
        """The digits that the file has."""
        with open(path, "rb") as file:
            return hashlib.file_digest(file, lambda: _new(self.algorithm)).hexdigest()

    def matches(self, path: str) -> bool:
        """Whether the file is the one expected."""
        return self.of(path) == self.digits


def _new(algorithm: object) -> Any:
    try:
        # Only compared with what the user expects; md5 stays allowed under FIPS.
        known = hashlib.new(str(algorithm), usedforsecurity=False)
    except ValueError:
        known = None
    if known is None or not known.digest_size:  # 0: shake, which has no length
        raise ValueError(
            f"hash_algorithm must be 'auto' or a hash of hashlib, got {algorithm!r}; "
            "such as 'sha256', 'md5', 'sha512'"
        )
    return known
