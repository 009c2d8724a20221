import errno
import os
import textwrap

import numpy as np
import picture_files as files
import pytest

from kbnet.errors import InvalidInputError, OutputError, OutputExistsError, UnsupportedImageError
from kbnet.imaging import Photo, read_photo, write_photo

PHOTO = Photo(files.pattern())
needs_posix = pytest.mark.skipif(os.name != "posix", reason="POSIX permissions and limits")


def in_child(folder, body):
    """Run code in a fresh process inside `folder`, as nobody where this one is root, and return what it printed."""
    code = """
    import os, resource, signal
    import numpy as np
    from pathlib import Path
    from kbnet.errors import KBNetError
    from kbnet.imaging import Photo, read_photo, write_photo
    photo = Photo(np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8))

    def attempt(call, *args, **options):
        try:
            call(*args, **options)
            print("no error")
        except KBNetError as error:
            print(type(error).__name__, "|", error)

    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    """
    code = textwrap.dedent(code) + textwrap.dedent(body)
    # the working directory is entered while still root, so the folders above it may be closed to others
    done = files.run_python(code, folder)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.fixture
def open_folder(tmp_path):
    tmp_path.chmod(0o777)
    return tmp_path


def test_the_format_is_the_one_the_name_says(tmp_path):
    for suffix in (".png", ".JPG", ".tif", ".webp", ".avif"):
        target = tmp_path / f"out{suffix}"
        assert write_photo(PHOTO, target) is None
        assert read_photo(target).notes == ()
    bare = tmp_path / "out"
    write_photo(PHOTO, bare)
    assert read_photo(bare).format == "png"
    backup = tmp_path / "out.bak"
    write_photo(PHOTO, backup, format="jpg")
    assert read_photo(backup).format == "jpeg"
    with pytest.raises(UnsupportedImageError, match=r"expected one of the output formats png.*'\.bmp'"):
        write_photo(PHOTO, tmp_path / "out.bmp")
    with pytest.raises(InvalidInputError, match="the file name says jpeg, but the format is png"):
        write_photo(PHOTO, tmp_path / "out.jpg", format="png", overwrite=True)
    assert len(list(tmp_path.iterdir())) == 7


def test_an_existing_file_is_kept_unless_overwriting(tmp_path):
    target = tmp_path / "out.png"
    target.write_bytes(b"precious")
    with pytest.raises(OutputExistsError, match=r"out\.png: the file exists"):
        write_photo(PHOTO, target)
    assert target.read_bytes() == b"precious"
    write_photo(PHOTO, target, overwrite=True)
    assert read_photo(target).pixels.shape == PHOTO.pixels.shape
    assert names(tmp_path) == ["out.png"]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_is_kept(tmp_path, monkeypatch, links):
    target = tmp_path / "out.png"
    link = os.link

    def late(*args):
        target.write_bytes(b"precious")
        if not links:
            raise OSError(errno.EPERM, "no hard links here")
        link(*args)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(OutputExistsError):
        write_photo(PHOTO, target)
    assert target.read_bytes() == b"precious"
    assert names(tmp_path) == ["out.png"]


def test_file_systems_without_hard_links(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.EOPNOTSUPP, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    write_photo(PHOTO, tmp_path / "out.png")
    assert names(tmp_path) == ["out.png"]
    assert read_photo(tmp_path / "out.png").width == PHOTO.width

    monkeypatch.setattr("kbnet.files._rename_new", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_photo(PHOTO, tmp_path / "other.png")
    assert names(tmp_path) == ["out.png"]


def names(folder):
    return [path.name for path in folder.iterdir()]


def interrupt(*args, **options):
    raise KeyboardInterrupt


@pytest.mark.parametrize("step", ["fsync", "link", "open"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, OSError(errno.EIO, "Input/output error")])
def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch, step, error):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(os, step, fail)
    expected = OutputError if isinstance(error, OSError) else error
    with pytest.raises(expected):
        write_photo(PHOTO, tmp_path / "out.png")
    monkeypatch.undo()
    assert names(tmp_path) == []


def test_an_interrupted_overwrite_keeps_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "out.png"
    target.write_bytes(b"precious")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_photo(PHOTO, target, overwrite=True)
    assert target.read_bytes() == b"precious"
    assert names(tmp_path) == ["out.png"]


@needs_posix
def test_permissions_follow_the_umask_and_the_file_replaced(tmp_path):
    before = os.umask(0o027)
    try:
        write_photo(PHOTO, tmp_path / "new.png")
        assert (tmp_path / "new.png").stat().st_mode & 0o777 == 0o640
        (tmp_path / "new.png").chmod(0o600)
        write_photo(PHOTO, tmp_path / "new.png", overwrite=True)
        assert (tmp_path / "new.png").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


@needs_posix
def test_links_and_devices(tmp_path):
    original, link = tmp_path / "original.png", tmp_path / "link.png"
    original.write_bytes(b"precious")
    link.symlink_to(original)
    with pytest.raises(OutputExistsError):
        write_photo(PHOTO, link)
    write_photo(PHOTO, link, overwrite=True)
    assert original.read_bytes() == b"precious"
    assert not link.is_symlink()
    dangling = tmp_path / "dangling.png"
    dangling.symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(OutputExistsError):
        write_photo(PHOTO, dangling)
    for target in (tmp_path, "/dev/null"):
        with pytest.raises(OutputError, match="got a folder or device"):
            write_photo(PHOTO, target, overwrite=True)


def test_a_missing_folder_says_so(tmp_path):
    with pytest.raises(OutputError, match="its folder does not exist; create it first"):
        write_photo(PHOTO, tmp_path / "none" / "out.png")
    with pytest.raises(OutputError, match="too long"):
        write_photo(PHOTO, tmp_path / ("x" * 300 + ".png"))
    with pytest.raises(OutputError, match="null"):
        write_photo(PHOTO, tmp_path / "a\0.png")
    # a name as long as the file system takes still works, for the temporary name does not build on it
    write_photo(PHOTO, tmp_path / ("x" * 251 + ".png"))


@needs_posix
def test_files_and_folders_without_permission(open_folder):
    secret = open_folder / "secret.png"
    write_photo(PHOTO, secret)
    secret.chmod(0)
    closed = open_folder / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    lines = in_child(
        open_folder,
        """
        attempt(read_photo, Path("secret.png"))
        attempt(write_photo, photo, Path("closed/out.png"))
        """,
    )
    assert lines == [
        "UnreadableImageError | secret.png: can't be read: permission denied; check the path and its permissions",
        "OutputError | closed/out.png: can't be written: permission denied; check the folder and its permissions",
    ]
    assert names(closed) == []


@needs_posix
def test_a_full_disk_leaves_nothing(open_folder):
    # a limit on file size takes the same path as a full disk: write() fails after some bytes went through
    lines = in_child(
        open_folder,
        """
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
        attempt(write_photo, photo, Path("out.png"))
        print(os.listdir())
        """,
    )
    assert lines[0].startswith("OutputError | out.png: can't be written: file too large; ")
    assert lines[1] == "[]"


@needs_posix
def test_termination_turned_into_an_exception_leaves_nothing(open_folder):
    lines = in_child(
        open_folder,
        """
        def stop(*args):
            raise SystemExit(3)
        signal.signal(signal.SIGTERM, stop)
        sync = os.fsync
        os.fsync = lambda fd: (sync(fd), print(len(os.listdir())), os.kill(os.getpid(), signal.SIGTERM))
        try:
            write_photo(photo, Path("out.png"))
        except SystemExit:
            print(os.listdir())
        """,
    )
    assert lines == ["1", "[]"]


def test_pixels_given_as_views_are_written_right():
    stored = files.pattern()
    turned = Photo(stored[::-1, ::-1])
    np.testing.assert_array_equal(read_photo(write_photo(turned, None)).pixels, stored[::-1, ::-1])
