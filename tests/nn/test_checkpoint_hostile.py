"""Weights files that are damaged, hostile or something else: one clear line each, at once, and nothing in them runs."""

import io
import json
import os
import pickle
import struct
import zipfile

import pytest
import torch
from safetensors.torch import save as serialize

from kbnet.errors import CheckpointError
from kbnet.models import KBNetSConfig, build, load_file, save_file, save_official

CONFIG = KBNetSConfig(width=4, encoder_blocks=(1,), middle_blocks=0, decoder_blocks=(1,), bases=2, lightweight=True)
LIMIT_SECONDS = 20  # generous for a busy machine; what hangs or allocates without end takes minutes
pytestmark = pytest.mark.timeout(LIMIT_SECONDS)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Bytes of one good file of each kind."""
    folder, network = tmp_path_factory.mktemp("good"), build(CONFIG)
    save_file(network, folder / "own")
    save_official(network, folder / "theirs", "params")
    return {"own": (folder / "own").read_bytes(), "theirs": (folder / "theirs").read_bytes()}


def refusal(tmp_path, content, name="weights"):
    """The message with which a file of these bytes is refused."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_file(path)
    message = str(caught.value)
    assert str(path) in message
    assert message.isprintable(), "one line, without control characters"
    assert len(message) < 700 + len(str(path))
    return message


def own(tensors=None, **header):
    """An own file with a header of choice; the tensors of a good one unless given."""
    tensors = build(CONFIG).state_dict() if tensors is None else tensors
    return serialize(tensors, metadata={"kbnet": "1", "family": "kbnet-s", **header})


def theirs(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def official_tensors():
    from kbnet.models.official_keys import to_official

    return dict(to_official("kbnet-s", build(CONFIG).state_dict()))


def settings(**changes):
    table = {
        "width": 4,
        "encoder_blocks": [1],
        "middle_blocks": 0,
        "decoder_blocks": [1],
        "bases": 2,
        "lightweight": True,
    }
    return json.dumps(table | changes)


def test_the_files_these_are_made_from_are_good(good, tmp_path):
    for name, content in good.items():
        (tmp_path / name).write_bytes(content)
        load_file(tmp_path / name)
    (tmp_path / "header").write_bytes(own(settings=settings()))
    load_file(tmp_path / "header")
    (tmp_path / "official").write_bytes(theirs({"net": official_tensors()}))
    load_file(tmp_path / "official")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"PK",
        b"\x80\x02",
        b"not weights at all\n" * 100,
        b"\x00" * 1000,
        b"\xff" * 1000,
        b"<!DOCTYPE html><html>404 Not Found</html>",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
    ],
    ids=["empty", "a brace", "PK", "80 02", "text", "zeros", "ones", "html", "png", "git lfs pointer"],
)
def test_what_is_no_weights_file_is_refused(content, tmp_path):
    refusal(tmp_path, content)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="Is a directory"):
        load_file(tmp_path)


@pytest.mark.parametrize("kind", ["own", "theirs"])
@pytest.mark.parametrize("keep", [1, 8, 9, 16, 100, 0.3, 0.6, 0.9, 0.99, -1])
def test_a_file_cut_short_is_refused(kind, keep, good, tmp_path):
    content = good[kind]
    end = int(len(content) * keep) if isinstance(keep, float) else keep
    refusal(tmp_path, content[:end])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["own", "theirs"])
def test_bytes_changed_at_random_give_a_network_or_a_refusal_and_nothing_else(kind, good, tmp_path):
    generator = torch.Generator().manual_seed(0)
    path = tmp_path / "weights"
    messages = []
    for _ in range(150):
        content = bytearray(good[kind])
        # Half of the changes near the start or the end, where headers and directories stand.
        reach = len(content) if torch.rand((), generator=generator) < 0.5 else 3000
        for _ in range(3):
            at = int(torch.randint(-reach, reach, (), generator=generator)) % len(content)
            content[at] = int(torch.randint(256, (), generator=generator))
        path.write_bytes(content)
        try:
            load_file(path)
        except CheckpointError as error:
            messages.append(str(error))
    assert len(messages) > 10
    assert all(message.isprintable() for message in messages)


class RunsACommand:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_a_command_is_refused_and_the_command_does_not_run(protocol, zipped, tmp_path):
    mark = tmp_path / "it ran"
    content = {"params": official_tensors() | {"trap": RunsACommand(f"touch '{mark}'")}}
    buffer = io.BytesIO()
    torch.save(content, buffer, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    refusal(tmp_path, buffer.getvalue())
    refusal(tmp_path, pickle.dumps(RunsACommand(f"touch '{mark}'"), protocol))
    assert not mark.exists()


def test_a_pickle_that_runs_a_command_is_refused_with_the_reason(tmp_path):
    message = refusal(tmp_path, theirs({"params": {"intro.weight": RunsACommand("true")}}))
    assert "loading it could run code" in message


WRONG_CONTENT = {
    "a number": 3,
    "None": None,
    "a list": [torch.zeros(3)],
    "a tensor": torch.zeros(3),
    "an empty table": {},
    "an empty layout": {"params": {}},
    "a list under a layout": {"params": [torch.zeros(3)]},
    "numbers for tensors": {"params": {"intro.weight": 3}},
    "numbers for names": {"params": {3: torch.zeros(3)}},
    "tensors and other things": {"net": {"intro.weight": torch.zeros(8, 3, 3, 3), "epoch": 4}},
    "another network": {"params": {"body.0.weight": torch.zeros(3), "body.0.bias": torch.zeros(3)}},
    "a first tensor alone": {"params": {"intro.weight": torch.zeros(8, 3, 3, 3)}},
    "a first tensor of one axis": {"params": {"intro.weight": torch.zeros(8)}},
    "a first tensor of no axis": {"params": {"intro.weight": torch.tensor(1.0)}},
    "l's first tensor of one axis": {"params": {"patch_embed.proj.weight": torch.zeros(8)}},
    "a name with a line break": {"params": {"intro.weight": torch.zeros(8, 3, 3, 3), "a\nb\x1b[31m": torch.zeros(1)}},
    "names with line breaks alone": {"params": {"a\nb\x1b[31m": torch.zeros(1)}},
    "a very long name": {"params": {"a" * 100_000: torch.zeros(1)}},
}


@pytest.mark.parametrize("content", WRONG_CONTENT.values(), ids=WRONG_CONTENT.keys())
def test_a_pickle_of_something_else_is_refused(content, tmp_path):
    refusal(tmp_path, theirs(content))


def changed(key, tensor):
    return official_tensors() | {key: tensor}


BLOCK = "encoders.0.0."
WRONG_TENSORS = {
    "NaN": changed("intro.weight", torch.full((4, 3, 3, 3), torch.nan)),
    "infinity": changed("intro.bias", torch.full((4,), -torch.inf)),
    "integers": changed("intro.weight", torch.zeros(4, 3, 3, 3, dtype=torch.int64)),
    "complex numbers": changed("intro.weight", torch.zeros(4, 3, 3, 3, dtype=torch.complex64)),
    "booleans": changed("intro.bias", torch.zeros(4, dtype=torch.bool)),
    "eight-bit floats": changed("intro.bias", torch.zeros(4).to(torch.float8_e4m3fn)),
    "a tensor on the meta device": changed("intro.bias", torch.zeros(4, device="meta")),
    "a sparse tensor": changed("intro.bias", torch.zeros(4).to_sparse()),
    "a tensor too many": changed("intro.extra", torch.zeros(4)),
    "a block too many": changed("encoders.0.5.beta", torch.zeros(1, 4, 1, 1)),
    "a block of an absurd number": changed(f"encoders.0.{10**30}.beta", torch.zeros(1, 4, 1, 1)),
    "a part that is not there": changed(BLOCK + "conv9.weight", torch.zeros(4)),
    "bases of no set": changed(BLOCK + "w", torch.zeros(0, 2, 144)),
    "biases of no set": changed(BLOCK + "b", torch.zeros(0, 2, 4)),
    "bases of one axis": changed(BLOCK + "w", torch.zeros(288)),
    "bases that the channels do not divide": changed(BLOCK + "w", torch.zeros(1, 2, 143)),
    "biases of no channel": changed(BLOCK + "b", torch.zeros(1, 2, 0)),
    "biases of no axis": changed(BLOCK + "b", torch.tensor(0.0)),
    "biases of two sets": changed(BLOCK + "b", torch.zeros(2, 2, 4)),
    "bases of two sets": changed(BLOCK + "w", torch.zeros(2, 2, 144)),
    "groups of no channel": changed(BLOCK + "w", torch.zeros(1, 2, 4)),
    "a wrong shape": changed(BLOCK + "conv3.weight", torch.zeros(4, 4, 3, 3)),
    "a convolution of no axis": changed(BLOCK + "conv11.1.weight", torch.tensor(0.0)),
    "a feed-forward part of no axis": changed(BLOCK + "conv4.weight", torch.tensor(0.0)),
    "values repeated to an absurd size": changed("intro.weight", torch.zeros(1).expand(10**6, 3, 3, 3)),
    "all values repeated to a huge network": {
        key: torch.zeros(1).expand(tuple(side * 250 if side == 4 else side for side in t.shape))
        for key, t in official_tensors().items()
    },
}


@pytest.mark.parametrize("tensors", WRONG_TENSORS.values(), ids=WRONG_TENSORS.keys())
def test_wrong_tensors_are_refused(tensors, tmp_path):
    refusal(tmp_path, theirs({"params": tensors}))


@pytest.mark.parametrize("key", sorted(official_tensors()))
def test_a_missing_tensor_is_refused(key, tmp_path):
    tensors = official_tensors()
    del tensors[key]
    refusal(tmp_path, theirs({"params": tensors}))


def test_a_missing_tensor_is_named(tmp_path):
    tensors = build(CONFIG).state_dict()
    del tensors["last.bias"]
    assert "missing or unexpected: last.bias" in refusal(tmp_path, own(tensors, settings=settings()))


def test_a_wrong_shape_is_named_with_both(tmp_path):
    tensors = build(CONFIG).state_dict() | {"last.bias": torch.zeros(5)}
    assert "expected last.bias of shape [3], got [5]" in refusal(tmp_path, own(tensors, settings=settings()))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.full((3,), torch.nan),
        torch.zeros(3, dtype=torch.int32),
        torch.zeros(3).to(torch.float8_e4m3fn),
        torch.zeros(3).to(torch.float8_e8m0fnu),
        torch.zeros(3, dtype=torch.complex64),
    ],
    ids=lambda tensor: str(tensor.dtype),
)
def test_wrong_values_in_our_own_file_are_refused(tensor, tmp_path):
    tensors = build(CONFIG).state_dict() | {"last.bias": tensor}
    assert "last.bias" in refusal(tmp_path, own(tensors, settings=settings()))


ABSURD = {
    "no settings": {},
    "empty settings": {"settings": ""},
    "settings that are no JSON": {"settings": "{width: 4}"},
    "a list for a table": {"settings": "[1, 2]"},
    "null": {"settings": "null"},
    "an absurd width": {"settings": settings(width=10**9)},
    "a width past every integer": {"settings": settings().replace('"width": 4', '"width": ' + "9" * 10_000)},
    "a negative width": {"settings": settings(width=-4)},
    "a width of text": {"settings": settings(width="4")},
    "a width of a fraction": {"settings": settings(width=4.0)},
    "true for a number": {"settings": settings(middle_blocks=True)},
    "absurdly many blocks": {"settings": settings(encoder_blocks=[10**9])},
    "absurdly many blocks in the middle": {"settings": settings(middle_blocks=10**9)},
    "absurdly many levels": {"settings": settings(encoder_blocks=[1] * 10**5, decoder_blocks=[1] * 10**5)},
    "the most that is allowed": {
        "settings": settings(encoder_blocks=[64] * 6, decoder_blocks=[64] * 6, middle_blocks=64, width=1024)
    },
    "levels that differ": {"settings": settings(encoder_blocks=[1, 1])},
    "blocks of text": {"settings": settings(encoder_blocks=["1"])},
    "blocks in a list of lists": {"settings": settings(encoder_blocks=[[1]])},
    "a number for a list": {"settings": settings(encoder_blocks=1)},
    "NaN": {"settings": settings(ffn_scale=float("nan"))},
    "infinity": {"settings": settings(ffn_scale=float("inf"))},
    "a number past every float": {"settings": settings(ffn_scale=10**400)},
    "an unknown setting": {"settings": settings(depth=3)},
    "an unknown setting with a line break": {"settings": settings(**{"de\npth\x1b": 3})},
    "a very long unknown setting": {"settings": settings(**{"d" * 100_000: 3})},
    "deep nesting": {"settings": "[" * 100_000 + "]" * 100_000},
    "deep nesting in a table": {"settings": '{"width": ' + "[" * 100_000 + "]" * 100_000 + "}"},
    "an unknown family": {"family": "kbnet-x", "settings": settings()},
    "another family": {"family": "kbnet-l", "settings": "{}"},
    "another version": {"kbnet": "2", "settings": settings()},
}


@pytest.mark.parametrize("header", ABSURD.values(), ids=ABSURD.keys())
def test_a_header_with_absurd_settings_is_refused(header, tmp_path):
    refusal(tmp_path, own(**header))


def test_a_safetensors_file_of_something_else_is_refused(tmp_path):
    assert "a .safetensors file that kbnet didn't write" in refusal(tmp_path, serialize({"a": torch.zeros(3)}))


def test_a_safetensors_header_that_claims_more_than_the_file_is_refused(tmp_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}).encode()
    refusal(tmp_path, struct.pack("<Q", len(header)) + header)
    refusal(tmp_path, struct.pack("<Q", 2**62) + header)


def test_a_compressed_archive_is_refused_before_it_is_unpacked(good, tmp_path):
    # A few KB that unpack to a GB: torch itself never compresses, so nothing good is refused.
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good["theirs"])) as archive, zipfile.ZipFile(packed, "w") as out:
        for entry in archive.infolist():
            out.writestr(entry.filename, archive.read(entry), compress_type=zipfile.ZIP_DEFLATED)
    assert "compressed" in refusal(tmp_path, packed.getvalue())


def test_a_torchscript_archive_is_refused(tmp_path):
    content = io.BytesIO(theirs({"params": official_tensors()}))
    with zipfile.ZipFile(content, "a") as archive:
        name = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{name}/constants.pkl", pickle.dumps(()))
    refusal(tmp_path, content.getvalue())


def test_a_zip_of_something_else_is_refused(tmp_path):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("word/document.xml", "<document/>")
    refusal(tmp_path, content.getvalue())


def test_a_pickle_that_claims_more_values_than_its_storage_holds_is_refused(good, tmp_path):
    # The shape of a tensor is in the pickle, its values in another member of the archive.
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good["theirs"])) as archive, zipfile.ZipFile(packed, "w") as out:
        for entry in archive.infolist():
            data = archive.read(entry)
            out.writestr(entry.filename, data[:4] if "/data/" in entry.filename else data)
    refusal(tmp_path, packed.getvalue())
