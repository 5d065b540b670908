"""Files as users have them: damaged, of another layout, no files at all: read, or refused in one line by name."""

import gzip
import io
import lzma
import os
import struct
import warnings
import zipfile
import zlib

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import smoothjax as sj
from smoothjax import mechanisms
from smoothjax.datasets import Dataset, load

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 6, 7), dtype=np.uint8)


def refused(path, message, **options):
    with pytest.raises(ValueError, match=message) as info:
        load(path, **options)
    text = str(info.value)
    assert "\n" not in text and len(text) < 1000
    assert os.path.basename(str(path).rstrip("/"))[:20] in text
    return text


def npy_header(shape="(3, 2)", descr="'<f4'", length=None, close="}"):
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, {close}".encode()
    text += b" " * (118 - len(text) - 1) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", length or len(text)) + text


def idx_bytes(array, code=8):
    head = struct.pack(">HBB", 0, code, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.tobytes()


# --- arrays ----------------------------------------------------------------------------------

HEADERS = {
    "terabytes": npy_header("(1000000000, 1000)"),
    "overflow": npy_header("(99999999999999999999999999, 2)"),
    "empty-overflow": npy_header("(0, 99999999999999999999999999)"),
    "negative": npy_header("(-1, 2)"),
    "open": npy_header(close=""),
    "open-text": npy_header(descr="'<f4"),
    "long": npy_header(length=65535),
    "digits": npy_header("(" + "9" * 60 + ",)"),
    "parentheses": npy_header("(" * 60),
    "no-version": b"\x93NUMPY\x09\x00" + npy_header()[8:],
    "four-gigabytes-of-header": b"\x93NUMPY\x02\x00" + b"\xff" * 4 + b"{" * 300,
    "no-header": b"\x93NUMPY\x01\x00\x00\x00",
    "header-of-one-byte": b"\x93NUMPY\x01\x00\x01\x00",
    "cut-version": b"\x93NUMPY\x02\x00\x01",
}


@pytest.mark.parametrize("case", HEADERS)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_headers_that_claim_what_is_not_there(tmp_path, case, suffix):
    path, content = tmp_path / f"claims{suffix}", HEADERS[case] + bytes(24)
    if suffix == ".npy":
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("points.npy", content)
    refused(path, "damaged")


def test_archive_whose_directory_claims_terabytes(tmp_path):
    path = tmp_path / "claims.npz"
    np.savez_compressed(path, points=np.zeros((10, 2)))
    content = path.read_bytes()
    at = content.index(b"PK\x01\x02")
    # Sizes of the only member, packed and unpacked, in the directory at the end.
    path.write_bytes(content[: at + 20] + b"\xf0\xff\xff\xff" * 2 + content[at + 28 :])
    refused(path, "damaged")


def test_idx_header_that_claims_terabytes(tmp_path):
    head = struct.pack(">HBBIII", 0, 8, 3, 2**31, 2**20, 2**20)
    (tmp_path / "a.idx").write_bytes(head + bytes(10))
    refused(tmp_path / "a.idx", "truncated")
    (tmp_path / "a.idx.gz").write_bytes(gzip.compress(head + bytes(10)))
    refused(tmp_path / "a.idx.gz", "truncated")
    (tmp_path / "b.idx").write_bytes(struct.pack(">HBB", 0, 8, 200) + b"\0\0\0\1" * 200 + b"!")
    refused(tmp_path / "b.idx", "no array has the shape")


def zipped(path, method, *, content=None):
    buffer = io.BytesIO()
    np.save(buffer, RNG.normal(size=(50, 3)))
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("points.npy", buffer.getvalue() if content is None else content)
    return path.read_bytes()


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED])
def test_every_compression_there_and_damaged(tmp_path, method):
    path = tmp_path / "a.npz"
    content = zipped(path, method)
    assert load(path).points.shape == (50, 3)
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes(40) + content[middle + 40 :])
    refused(path, "damaged")
    # The properties of LZMA, and the first bytes of the others.
    path.write_bytes(content[:40] + b"\xff" * 9 + content[49:])
    refused(path, "damaged")


def test_archives_of_unknown_compression_and_with_a_password(tmp_path):
    path = tmp_path / "a.npz"
    content = zipped(path, zipfile.ZIP_STORED)
    at = content.index(b"PK\x01\x02")

    def with_fields(flags, method):
        fields = struct.pack("<HH", flags, method)
        return content[:6] + fields + content[10 : at + 8] + fields + content[at + 12 :]

    path.write_bytes(with_fields(0, 77))
    refused(path, "compressed by a method that is not known.*savez_compressed")
    path.write_bytes(with_fields(1, 0))
    refused(path, "encrypted")


def test_archive_of_one_value_over_and_over(tmp_path):
    size = 80_000_000
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("points.npy", npy_header(f"({size}, 1)", "'|u1'") + bytes(size))
    refused(tmp_path / "a.npz", r"unpacks to 80 MB from .* kB.*uncompressed")
    content = struct.pack(">HBBII", 0, 8, 2, size, 1) + bytes(size)
    (tmp_path / "a.idx.gz").write_bytes(gzip.compress(content))
    refused(tmp_path / "a.idx.gz", r"unpacks to 80 MB")
    # Nothing of moderate size is refused for how well it was compressed.
    np.savez_compressed(tmp_path / "b.npz", points=np.zeros((100_000, 2), np.float32))
    assert len(load(tmp_path / "b.npz")) == 100_000


def test_numbers_whose_squares_overflow(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.array([[1e30, 0.0], [0.0, 1.0]], np.float32))
    refused(path, r"reach 1e\+30.*squared distances overflow float32; divide.*float64")
    np.save(path, np.array([[-1e30, 0.0], [0.0, 1.0]], np.float32))
    refused(path, r"reach 1e\+30")
    np.save(path, np.array([[1e18, 0.0], [0.0, 1.0]], np.float32))
    assert load(path).dim == 2


def test_numbers_that_overflow_in_float32_only(tmp_path, x64):
    np.save(tmp_path / "a.npy", np.array([[1e30, 0.0], [0.0, 1.0]], np.float32))
    assert float(load(tmp_path / "a.npy", dtype=jnp.float64).points[0, 0]) == float(
        np.float32(1e30)
    )


def test_numbers_that_vary_by_less_than_float32_resolves(tmp_path):
    """Times in seconds, say: of a column of 1.7e9 + [0, 50], float32 leaves one value."""
    table = np.stack([np.arange(8.0), 1.7e9 + np.arange(8.0), np.full(8, 0.1)], axis=1)
    np.save(tmp_path / "a.npy", table)
    with pytest.warns(
        UserWarning, match=r"a.npy'.*more than 1% .* in column 1 \(from 0\)"
    ) as caught:
        data = load(tmp_path / "a.npy", dtype=np.float32)
    assert [one.filename for one in caught] == [__file__]
    assert len(np.unique(np.asarray(data.points)[:, 1])) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table[:, 1] -= 1.7e9
        np.save(tmp_path / "a.npy", table)
        np.testing.assert_array_equal(
            load(tmp_path / "a.npy", dtype=np.float32).points, table.astype(np.float32)
        )


# --- what is no file -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a-images-idx3-ubyte", "a.idx.gz"])
def test_pipes_are_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    refused(tmp_path / name, "not a regular file but a pipe")


def test_labels_that_are_a_folder_or_a_pipe(tmp_path):
    (tmp_path / "t-images-idx3-ubyte").write_bytes(idx_bytes(GREY))
    (tmp_path / "t-labels-idx1-ubyte").mkdir()
    with pytest.raises(ValueError, match=r"t-labels-idx1-ubyte.*it is a folder"):
        load(tmp_path / "t-images-idx3-ubyte")


def test_files_that_cannot_be_opened(tmp_path, monkeypatch):
    path = tmp_path / "a.npy"
    np.save(path, np.eye(2))

    def forbidden(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    # Not by the file's mode, which does not bind an administrator.
    monkeypatch.setattr("builtins.open", forbidden)
    refused(path, r"cannot be opened \(Permission denied\)")


def test_names_that_no_file_can_have(tmp_path):
    refused("x" * 5000 + ".npy", "File name too long")
    refused(tmp_path / ("x" * 300 + ".npy"), "File name too long")
    with pytest.raises(ValueError, match="null"):
        load("a\0.npy")


def test_slash_after_a_file(tmp_path):
    np.save(tmp_path / "a.npy", np.eye(2))
    refused(f"{tmp_path}/a.npy/", "Not a directory")
    assert len(load(f"{tmp_path}/a.npy")) == 2


@pytest.mark.parametrize("packed", ["images", "labels"])
def test_labels_beside_images_either_compressed(tmp_path, packed):
    names = {"images": "t-images-idx3-ubyte", "labels": "t-labels-idx1-ubyte"}
    contents = {"images": idx_bytes(GREY), "labels": idx_bytes(np.arange(5, dtype=np.uint8))}
    names[packed] += ".gz"
    contents[packed] = gzip.compress(contents[packed])
    for which, name in names.items():
        (tmp_path / name).write_bytes(contents[which])
    np.testing.assert_array_equal(load(tmp_path / names["images"]).labels, np.arange(5))


# --- images ----------------------------------------------------------------------------------


def pillow():
    return pytest.importorskip("PIL.Image")


@pytest.mark.parametrize("suffix", [".tif", ".png", ".webp"])
def test_files_of_several_pages(tmp_path, suffix):
    pages = [pillow().fromarray(page).convert("RGB") for page in GREY[:3]]
    pages[0].save(tmp_path / f"0{suffix}", save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match=rf"0{suffix}': it holds 3 pages; .*files of their own"):
        load(tmp_path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_lie_as_viewers_show_them(tmp_path, orientation):
    image = pillow().fromarray(GREY[0])
    exif = pillow().Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "0.png", exif=exif)
    turned = {
        1: lambda x: x,
        2: np.fliplr,
        3: lambda x: np.rot90(x, 2),
        4: np.flipud,
        5: np.transpose,
        6: lambda x: np.rot90(x, -1),
        7: lambda x: np.rot90(x, 2).T,
        8: np.rot90,
    }[orientation](GREY[0])
    data = load(tmp_path)
    assert data.image_shape == (*turned.shape, 1)
    np.testing.assert_array_equal(np.rint((data.points[0] + 1) * 127.5), turned.ravel())


def png(depth, colour, channels):
    """Three by three pixels."""

    def chunk(kind, body):
        end = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + end

    rows = b"".join(b"\0" + bytes(range(3 * channels * depth // 8)) for _ in range(3))
    header = struct.pack(">IIBBBBB", 3, 3, depth, colour, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def tiff_of_16_bits():
    entries = [(256, 3, 1, 3), (257, 3, 1, 3), (258, 3, 3, 122), (259, 3, 1, 1), (262, 3, 1, 2)]
    entries += [(273, 4, 1, 128), (277, 3, 1, 3), (278, 3, 1, 3), (279, 4, 1, 54)]
    text = b"II*\0" + struct.pack("<IH", 8, len(entries))
    text += b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return text + bytes(4) + struct.pack("<HHH", 16, 16, 16) + bytes(range(54))


DEEP = {
    "rgb.png": png(16, 2, 3),
    "rgba.png": png(16, 6, 4),
    "la.png": png(16, 4, 2),
    "rgb.ppm": b"P6\n3 3\n65535\n" + bytes(54),
    "rgb.tif": tiff_of_16_bits(),
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_colours_are_not_cut(tmp_path, name):
    pillow()
    (tmp_path / name).write_bytes(DEEP[name])
    with pytest.raises(ValueError, match=rf"{name}': it has more than 8 bits a channel"):
        load(tmp_path)


def test_images_that_unpack_to_more_than_can_be_meant(tmp_path):
    content = bytearray(png(8, 2, 3))
    content[16:24] = struct.pack(">II", 12_000, 11_000)  # width and height
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    pillow()
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"a.png': it unpacks to 396 MB from 0 kB"):
        load(tmp_path)


@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0\x08\0\0\0\x01\0", b"Exif\0\0II*\0\x08"])
def test_damaged_notes_beside_the_pixels(tmp_path, exif):
    """Which photographs of well-known data sets have: the pixels are read, and no warning of another package is shown."""
    image = pillow().fromarray(np.full((8, 8), 77, np.uint8))
    image.save(tmp_path / "0.jpg", exif=exif, quality=100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load(tmp_path)
    np.testing.assert_allclose(data.points, 77 / 127.5 - 1, atol=0.01)


def test_colours_of_eight_bits_are_read(tmp_path):
    pillow()
    (tmp_path / "a.png").write_bytes(png(8, 2, 3))
    assert load(tmp_path).image_shape == (3, 3, 3)


# --- the order of axes -----------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (2, 3, 8, 12), (2, 3, 4, 4), (2, 1, 8, 9)])
def test_channels_first(tmp_path, shape):
    array = RNG.normal(size=shape).astype(np.float32)
    path = tmp_path / "latents.npy"
    np.save(path, array)
    with pytest.warns(
        UserWarning, match=r"latents.npy'.*looks like channels first.*--layout"
    ) as caught:
        as_rows = load(path)
    assert caught[0].filename == __file__
    assert as_rows.image_shape == shape[1:]
    data = load(path, layout="chw")
    _, channels, height, width = shape
    assert data.image_shape == (height, width, channels)
    np.testing.assert_array_equal(data.points, array.transpose(0, 2, 3, 1).reshape(2, -1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(load(path, layout="hwc").points, as_rows.points)


@pytest.mark.parametrize("shape", [(2, 8, 8, 4), (2, 4, 4, 4), (2, 4, 4, 3), (2, 5, 8, 8)])
def test_channels_last_is_silent(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.zeros(shape, np.float32))
    assert load(tmp_path / "a.npy").image_shape == shape[1:]


def test_layout_of_what_has_none(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 8, 8), np.float32))
    refused(tmp_path / "a.npy", "`layout` is for arrays of four axes", layout="chw")
    with pytest.raises(ValueError, match="`layout` is not an option of the data set 'digits'"):
        load("digits", layout="chw")
    with pytest.raises(ValueError, match="'hwc' or 'chw'; got 'nchw'"):
        load(tmp_path / "a.npy", layout="nchw")  # pyright: ignore[reportArgumentType]


def test_layout_of_arrays_in_memory():
    images = RNG.normal(size=(3, 4, 5, 6)).astype(np.float32)
    last = images.transpose(0, 2, 3, 1).reshape(3, -1)
    for points, shape in ((images, None), (images, (5, 6, 4)), (images.reshape(3, -1), (5, 6, 4))):
        data = Dataset("mine", points, image_shape=shape, layout="chw")
        np.testing.assert_array_equal(data.points, last)
        assert data.image_shape == (5, 6, 4)
    data = Dataset("mine", images.transpose(0, 2, 3, 1), layout="hwc")
    np.testing.assert_array_equal(data.points, last)
    with pytest.raises(ValueError, match=r"`layout` is for images.*got shape \(3, 120\)"):
        Dataset("mine", last, layout="chw")
    with pytest.raises(
        ValueError, match=r"must be that of the points, \(5, 6, 4\); got \(4, 5, 6\)"
    ):
        Dataset("mine", images, image_shape=(4, 5, 6), layout="chw")


def image_denoisers(images, **options):
    return (
        sj.LocalDenoiser(images, 3, **options),
        sj.EquivariantLocalDenoiser(images, 3, **options),
        sj.PatchCompositeDenoiser(images, 3, **options),
        sj.WienerMaskDenoiser(images, **options),
    )


@pytest.mark.slow
def test_denoisers_of_images_with_channels_first():
    """As what they are: the same denoisers, and none of windows across channels without a word."""
    last = RNG.normal(size=(3, 4, 6, 4)).astype(np.float32)
    first, u = last.transpose(0, 3, 1, 2), last[0].ravel()
    pairs = zip(image_denoisers(last), image_denoisers(first, layout="chw"), strict=True)
    for expected, found in pairs:
        assert found.image_shape == (4, 6, 4)
        np.testing.assert_array_equal(found(u, 0.5), expected(u, 0.5))


@pytest.mark.parametrize("kind", ["Local", "EquivariantLocal", "PatchComposite", "WienerMask"])
def test_images_that_look_like_channels_first(kind):
    made = getattr(sj, f"{kind}Denoiser")
    size = () if kind == "WienerMask" else (3,)
    for shape in ((2, 4, 8, 8), (2, 3, 8, 12)):
        images = np.zeros(shape, np.float32)
        with pytest.warns(UserWarning, match=r"`images` of shape .* looks like channels") as caught:
            made(images, *size)
        assert [one.filename for one in caught] == [__file__]
        assert made(images, *size, layout="hwc").image_shape == shape[1:]
    with pytest.raises(ValueError, match=r"channels first.*transpose\(0, 2, 3, 1\).*layout='chw'"):
        made(np.zeros((2, 3, 8, 8), np.float32), *size)
    with pytest.raises(ValueError, match="'hwc' or 'chw'; got 'nchw'"):
        made(np.zeros((2, 3, 8, 8), np.float32), *size, layout="nchw")
    with pytest.raises(ValueError, match="`layout` is for images of four axes"):
        made(np.zeros((2, 8, 8), np.float32), *size, layout="chw")


def test_image_shapes_that_look_like_channels_first():
    points = np.zeros((2, 192), np.float32)
    with pytest.warns(
        UserWarning, match=r"`image_shape` \(3, 8, 8\) looks like channels"
    ) as caught:
        Dataset("mine", points, image_shape=(3, 8, 8))
    assert [one.filename for one in caught] == [__file__]
    for layout in ("hwc", "chw"):
        Dataset("mine", points, image_shape=(3, 8, 8), layout=layout)
    Dataset("mine", points, image_shape=(8, 8, 3))
    # Once said, nothing that is made of the set asks again.
    known = Dataset("mine", points, image_shape=(3, 8, 8), layout="hwc")
    mechanisms.get("local").build(known.split(1)[0], 0)


# --- labels ----------------------------------------------------------------------------------


class Tensor:
    """What PyTorch's tensors and others have in common."""

    dtype = "a dtype of its own"
    shape = (3,)

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        if self.values is None:
            raise TypeError("can't convert a tensor of a GPU\nCall .cpu() first")
        return np.asarray(self.values, dtype)


def test_labels_of_other_libraries():
    data = Dataset("a", np.eye(3), labels=Tensor([2, 0, 1]))
    assert data.labels is not None and data.labels.dtype == jnp.int32
    np.testing.assert_array_equal(data.labels, [2, 0, 1])
    with pytest.raises(ValueError, match=r"`labels` must be integers.*Tensor.*Call \.cpu"):
        Dataset("a", np.eye(3), labels=Tensor(None))
    with pytest.raises(ValueError, match=r"`labels` must be integers or names.*got NoneType, str"):
        Dataset("a", np.eye(2), labels=np.array(["a", None], object))
    with pytest.raises(ValueError, match=r"`labels` must be integers or names.*dtype float64"):
        Dataset("a", np.eye(2), labels=[0.0, 1.0])


@pytest.mark.parametrize(
    "form",
    [
        list,
        np.array,
        lambda x: np.array(x, object),
        lambda x: Tensor(x),
        lambda x: np.array(x, "S"),
    ],
    ids=["list", "array", "objects", "tensor", "bytes"],
)
def test_labels_that_are_names(form):
    data = Dataset("a", np.eye(3), labels=form(["dog", "ant", "dog"]))
    np.testing.assert_array_equal(data.labels, [1, 0, 1])
    assert data.label_names == ("ant", "dog") == data.split(1)[0].label_names
    # Numbered by the names that are given, which may be more.
    names = ["zebra", "dog", "ant"]
    data = Dataset("a", np.eye(3), labels=form(["dog", "ant", "dog"]), label_names=names)
    np.testing.assert_array_equal(data.labels, [1, 2, 1])
    assert data.label_names == ("zebra", "dog", "ant")
    with pytest.raises(ValueError, match=r"among `label_names`, \('dog',\); got 'ant'"):
        Dataset("a", np.eye(3), labels=form(["dog", "ant", "dog"]), label_names=["dog"])
    with pytest.raises(ValueError, match=r"`labels` must have shape \(2,\)"):
        Dataset("a", np.eye(2), labels=form(["dog", "ant", "dog"]))


def test_labels_of_numbers_and_names_mixed():
    with pytest.raises(ValueError, match="`labels` must be integers"):
        Dataset("a", np.eye(3), labels=["dog", 1, "dog"])


def test_labels_beyond_their_names():
    for labels in ([0, 2, 1], [0, -1, 1]):
        with pytest.raises(ValueError, match=r"`label_names` must name every label; got 2 names"):
            Dataset("a", np.eye(3), labels=labels, label_names=["dog", "cat"])


def test_names_of_classes_in_archives(tmp_path):
    np.savez(tmp_path / "a.npz", points=np.eye(3), labels=np.array(["dog", "ant", "dog"]))
    data = load(tmp_path / "a.npz")
    np.testing.assert_array_equal(data.labels, [1, 0, 1])
    assert data.label_names == ("ant", "dog")


def test_labels_of_pandas():
    pandas = pytest.importorskip("pandas")
    names = pandas.Series(["dog", "cat", "dog"], dtype="category")
    for labels in (names, names.array, pandas.Categorical(["dog", "cat", "dog"])):
        data = Dataset("a", np.eye(3), labels=labels)
        np.testing.assert_array_equal(data.labels, [1, 0, 1])
        assert data.label_names == ("cat", "dog")
        assert data.split(2)[0].label_names == ("cat", "dog")
        assert "label_names=('cat', 'dog')" in repr(data)
    for kind in ("int64", "Int64", "uint8"):
        data = Dataset("a", np.eye(3), labels=pandas.Series([1, 0, 2], dtype=kind))
        np.testing.assert_array_equal(data.labels, [1, 0, 2])
        assert data.label_names is None
    with pytest.raises(ValueError, match="row 1 has none"):
        Dataset("a", np.eye(2), labels=pandas.Categorical(["dog", None]))


def test_names_of_classes_in_folders(tmp_path):
    for name in ("zebra", "ant"):
        (tmp_path / name).mkdir()
        pillow().fromarray(GREY[0]).save(tmp_path / name / "0.png")
    data = load(tmp_path)
    assert data.label_names == ("ant", "zebra")
    np.testing.assert_array_equal(data.labels, [0, 1])


@pytest.mark.parametrize("seed", [2**63, 2**70])
def test_seeds_that_no_generator_takes(seed):
    with pytest.raises(ValueError, match=r"`seed` must lie below 2\^63"):
        load("circle", seed=seed)


# --- anything --------------------------------------------------------------------------------


def originals():
    """A small file of every kind that is read."""
    files = {}

    def keep(name, save):
        buffer = io.BytesIO()
        save(buffer)
        files[name] = buffer.getvalue()

    points = RNG.normal(size=(4, 3)).astype(np.float32)
    keep("a.npy", lambda file: np.save(file, points))
    keep("a.npz", lambda file: np.savez(file, points=points, labels=np.arange(4)))
    keep("b.npz", lambda file: np.savez_compressed(file, x=points))
    for name, method in (("c.npz", zipfile.ZIP_LZMA), ("d.npz", zipfile.ZIP_BZIP2)):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            archive.writestr("x.npy", files["a.npy"])
        files[name] = buffer.getvalue()
    files["a-images-idx3-ubyte"] = idx_bytes(GREY)
    files["b.idx.gz"] = gzip.compress(idx_bytes(GREY), mtime=0)
    files["c.idx"] = idx_bytes(points.astype(">f4"), 0x0D)
    files["x.npy"] = lzma.compress(files["a.npy"])
    try:
        from PIL import Image
    except ImportError:
        return files
    grey, colour = Image.fromarray(GREY[0]), Image.fromarray(np.stack([GREY[0]] * 3, -1))
    for name in ("0.png", "0.jpg", "0.bmp", "0.tif", "0.webp", "0.pgm", "0.ppm"):
        image = colour if name in ("0.ppm", "0.webp") else grey
        kind = {"jpg": "JPEG", "tif": "TIFF", "pgm": "PPM"}.get(name[2:], name[2:].upper())
        keep(name, lambda file, i=image, k=kind: i.save(file, format=k))
    return files


ORIGINALS = originals()


SUFFIXES = (".npy", ".npz", ".idx", ".idx.gz", "-images-idx3-ubyte", ".png", ".jpg", ".tif", ".csv")


@st.composite
def damaged(draw):
    """A file with some of its bytes, mostly at the start, changed, taken out or put in; or under a wrong name."""
    name = draw(st.sampled_from(sorted(ORIGINALS)))
    content = bytearray(ORIGINALS[name])
    for _ in range(draw(st.integers(0, 4))):
        end = len(content) if draw(st.booleans()) else min(len(content), 130)
        at = draw(st.integers(0, end))
        cut = draw(st.integers(0, 8))
        content[at : at + cut] = draw(
            st.binary(max_size=8) | st.sampled_from([b"9" * 8, b"\xff" * 4])
        )
    if draw(st.integers(0, 9)) == 0:  # the head of another file
        other = ORIGINALS[draw(st.sampled_from(sorted(ORIGINALS)))]
        length = draw(st.integers(1, 40))
        content[:length] = other[:length]
    if draw(st.integers(0, 4)) == 0:
        del content[draw(st.integers(0, len(content))) :]
    if draw(st.integers(0, 7)) == 0:
        name = name.partition(".")[0].partition("-")[0] + draw(st.sampled_from(SUFFIXES))
    return name, bytes(content)


def as_others_read(name, content):
    """The array in a file by NumPy, Pillow, and the definition of the idx format."""
    if name.endswith(".npy"):
        return np.load(io.BytesIO(content))
    if name.endswith(".npz"):
        archive = np.load(io.BytesIO(content))
        points = [key for key in archive.files if key in ("points", "data", "images", "x")]
        return archive[(points or [key for key in archive.files if key != "labels"])[0]]
    if "idx" in name:
        content = gzip.decompress(content) if name.endswith(".gz") else content
        kinds = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
        shape = struct.unpack_from(f">{content[3]}I", content, 4)
        return np.frombuffer(content[4 + 4 * content[3] :], kinds[content[2]]).reshape(shape)
    with pillow().open(io.BytesIO(content)) as image:
        from PIL import ImageOps

        return np.asarray(ImageOps.exif_transpose(image))[None]


def read_or_refused(folder, name, content):
    """Loads what another reader reads, or says in one line which file is at fault: without a warning of another package."""
    path = folder / name
    path.write_bytes(content)
    is_image = name.endswith((".png", ".jpg", ".bmp", ".tif", ".webp", ".pgm", ".ppm"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            data = load(folder if is_image else path)
        except ValueError as error:
            # In one line, that is without what is no print: a terminal breaks lines at more than one character.
            said = str(error)
            assert str(path if not is_image else folder) in said and len(said.splitlines()) == 1
            data = None
    for warning in caught:
        text = str(warning.message)
        assert name in text and ("channels first" in text or "rounding moves" in text)
    if data is None:
        return
    found = np.asarray(data.points)
    assert np.isfinite(found).all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = as_others_read(name, content)
    is_bytes = expected.dtype == np.uint8
    expected = expected.reshape(len(expected), -1).astype(np.float64)
    if is_bytes:
        expected = expected / 127.5 - 1
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(case=damaged())
@pytest.mark.timeout(120)
def test_any_bytes_are_read_or_refused_by_name(tmp_path_factory, case):
    read_or_refused(tmp_path_factory.mktemp("any"), *case)


def test_every_original_is_read(tmp_path):
    for name, content in ORIGINALS.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_bytes(content)
        if name == "x.npy":
            refused(folder / name, "not an array of numbers")
        else:
            load(folder if name.startswith("0.") else folder / name)


def test_sources_that_are_no_path():
    with pytest.raises(ValueError, match="`source` must be text or a path; got float64") as info:
        load(np.zeros((30, 3)))  # pyright: ignore
    assert "\n" not in str(info.value)


def test_narrow_floats_that_numpy_has_no_name_for(tmp_path):
    np.save(tmp_path / "a.npy", np.asarray(jnp.ones((2, 3), jnp.bfloat16)))
    refused(tmp_path / "a.npy", r"got \|V2, as which bfloat16 is saved: save it as float32")
