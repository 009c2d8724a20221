"""A server on a free port of the loopback, in a thread, and Restorers whose work is told and held from outside."""

import threading
from contextlib import contextmanager

import httpx
import numpy as np

from kbnet.imaging import Photo, write_photo
from kbnet.server import create_app
from kbnet.server.running import build_server, listen, url_of

PATIENCE = 60.0  # seconds; nothing here takes one, but machines may be busy


class Inverting:
    """In place of a Restorer: inverts, in four tiles, as soon as `gate` is open; remembers what it was asked."""

    def __init__(self, *, shut=False):
        self.gate = threading.Event()
        self.begun = threading.Event()
        self.strengths = []
        self.asked = []
        self.groups = []  # sizes of what was restored in one pass
        if not shut:
            self.gate.set()

    def provide(self, name):
        self.asked.append(name)
        return self

    def __call__(self, image, /, *, strength, progress):
        if image.shape[:2] == (8, 8):
            return image  # the server's own first call
        self.strengths.append(strength)
        progress(0, 4)
        self.begun.set()
        assert self.gate.wait(PATIENCE)
        for tile in range(1, 5):
            progress(tile, 4)
        return np.iinfo(image.dtype).max - image

    def together(self, images, /, *, strength):
        self.groups.append(len(images))
        return [self(image, strength=strength, progress=lambda done, total: None) for image in images]


@contextmanager
def serving(provide, limits=None, **options):
    """An httpx client of a server with such an application; at the end the server is stopped and has to be done.

    `client.app` is the application, `client.server` what serves it.
    """
    app = create_app(limits, provide=provide, **{"page": False} | options)
    listening = listen("127.0.0.1", 0)
    ready = threading.Event()
    server = build_server(app, ready=ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    with listening:
        thread.start()
        try:
            assert ready.wait(PATIENCE)
            with httpx.Client(base_url=url_of(listening), timeout=PATIENCE) as client:
                client.server, client.app = server, app
                yield client
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive()


def picture(height=24, width=32, *, seed=0, dtype=np.uint8, gray=False, format="png"):
    """Noise of the whole range, as pixels and as a file."""
    top = np.iinfo(dtype).max
    shape = (height, width) if gray else (height, width, 3)
    pixels = np.random.default_rng(seed).integers(0, top + 1, shape, dtype=dtype)
    return pixels, write_photo(Photo(pixels), None, format=format)


@contextmanager
def background(function, *arguments, **options):
    """Call in a thread; yields a list that holds the result, or the exception, once the block ends."""
    found = []

    def run():
        try:
            found.append(function(*arguments, **options))
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield found
    finally:
        thread.join(PATIENCE)
        assert not thread.is_alive()
