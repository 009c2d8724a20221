"""Gray images are restored by gray weights, and results that the weights don't suit have a note."""

import json

import numpy as np
import pytest
from serving import serving

from kbnet import Restorer, list_models
from kbnet.imaging import Photo, read_photo, write_photo
from kbnet.server.providing import restorers

GRAY = [entry for entry in list_models() if entry.default and entry.task.startswith("denoise")]


@pytest.fixture(scope="module")
def client():
    """A server with the weights of the package."""
    with serving(restorers("cpu")) as client:
        yield client


@pytest.mark.parametrize("preset", ["fast", "best"])
@pytest.mark.parametrize("entry", GRAY, ids=lambda entry: entry.task)
def test_gray_images_are_restored_by_gray_weights(client, entry, preset):
    assert entry.gray, "the task has no gray weights"
    pixels = np.random.default_rng(0).integers(90, 160, (24, 40), dtype=np.uint8)
    data = write_photo(Photo(pixels), None)
    reply = client.post("/v1/restore", content=data, params={"task": entry.task, "preset": preset})
    assert reply.status_code == 200, reply.text
    gray = Restorer.from_pretrained(entry.gray, device="cpu")
    assert gray.config.channels == 1
    np.testing.assert_array_equal(read_photo(reply.content).pixels, gray(pixels))


class Painting:
    """In place of a Restorer: paints a quarter of the image white."""

    def __call__(self, image, /, *, strength, progress):
        painted = image.copy()
        painted[: len(image) // 2, : image.shape[1] // 2] = 255
        return painted


def test_a_result_that_the_weights_do_not_suit_has_a_note():
    data = write_photo(Photo(np.full((64, 64, 3), 90, np.uint8)), None)
    with serving(lambda name: Painting()) as client:

        def notes(**options):
            reply = client.post("/v1/restore", content=data, params=options)
            assert reply.status_code == 200, reply.text
            return json.loads(reply.headers["kbnet-notes"])

        (note,) = notes(task="denoise")
        assert note.startswith("25% of the ")
        assert "--guard" not in note  # an option of the command line, which a server does not have
        assert notes(task="derain") == []  # removing rain may change an area's mean
        assert notes(task="denoise", strength=0) == []
