"""Every cell of the board is its own, and each process sees what the other wrote."""

from __future__ import annotations

import os

from feedline.arena import Arena
from feedline.board import BOARD, OFFERS, Board
from tests.loader.arenas import PAGE, memory


def test_every_cell_holds_what_was_written_there_for_the_other_side(
    arena: Arena,
) -> None:
    board = Board(arena, 1024)
    for worker in range(1024):
        board.claims[worker] = 2**62 + worker
    for cell in range(1024 * OFFERS):
        board.offers[cell] = -cell
    theirs = Arena(os.dup(arena.fd), arena.stride)
    try:
        seen = Board(theirs, 1024)
        assert seen.claims.tolist() == [2**62 + worker for worker in range(1024)]
        assert seen.offers.tolist() == [-cell for cell in range(1024 * OFFERS)]
        before = seen.leaving
        board.leave()
        assert (before, seen.leaving) == (False, True)
        assert seen.claims[1023] == 2**62 + 1023
    finally:
        theirs.close()


def test_a_new_board_says_nothing_and_takes_a_page(arena: Arena) -> None:
    board = Board(arena, 2)
    assert board.claims.tolist() == [0, 0]
    assert not any(board.offers)
    assert memory(arena) == PAGE
    assert BOARD == 0
