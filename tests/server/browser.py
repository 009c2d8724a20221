"""Browsers as the system has them; Chromium without anything that would reach out of the machine."""

import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]


def chromium():
    """Its path, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def firefox():
    """Its path, or None."""
    return shutil.which("firefox-esr") or shutil.which("firefox")
