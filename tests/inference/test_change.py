"""The change that a restoration made, as a number and as a line for people."""

import numpy as np
import pytest

from kbnet.errors import InvalidInputError
from kbnet.inference.change import UNCHANGED, mean_change, unchanged_note
from kbnet.models import TASKS


@pytest.mark.parametrize(("dtype", "level"), [(np.uint8, 51), (np.uint16, 13107), (np.float32, 0.2), (np.float64, 0.2)])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (1, 1)])
def test_the_mean_change_is_on_the_scale_of_one(dtype, level, shape):
    black, other = np.zeros(shape, dtype), np.full(shape, level, dtype)
    assert mean_change(black, other) == mean_change(other, black) == pytest.approx(0.2, rel=1e-6)
    assert mean_change(other, other) == 0


def test_images_that_cannot_be_compared_are_refused():
    for other in (np.zeros((2, 3), np.uint8), np.zeros((2, 2), np.uint16)):
        with pytest.raises(InvalidInputError, match="the same shape and dtype"):
            mean_change(np.zeros((2, 2), np.uint8), other)


def test_a_result_that_hardly_differs_says_so_and_what_else_to_try():
    for task in TASKS:
        note = unchanged_note(UNCHANGED / 2, task)
        assert note.startswith("the result hardly differs from the input: ")
        assert any(other in note for other in TASKS if other != task)
        assert unchanged_note(UNCHANGED, task) is None
    assert unchanged_note(0) == "the result hardly differs from the input"
