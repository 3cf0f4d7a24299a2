"""Data in files: read back exactly as a test wrote them."""

import os
import pickle
import struct
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import wavfile

from scoresde.data import load

RANDOM = np.random.default_rng(0)
TABLE = RANDOM.normal(size=(20, 3)) * [1e-3, 1.0, 1e4] + [0.0, 5.0, -1e3]
WORDS = ["rose", "iris", "aster", "iris"] * 5
PIXELS = RANDOM.integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)  # (N, H, W, 3)


def everything(found):
    return found.raw(torch.arange(len(found)))


def lines(path, *rows):
    path.write_text("\n".join(rows) + "\n")
    return path


def csv_of(table, header="a,b,c", words=None):
    rows = [",".join(map(repr, row)) for row in table.tolist()]
    return (
        [header] * bool(header) + [f"{row},{word}" for row, word in zip(rows, words or [])]
        if words
        else [header, *rows]
    )


def parquet(path, **columns):
    from pyarrow import parquet, table

    parquet.write_table(table(columns), path)
    return path


def picture(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def folder(path, pixels=PIXELS):
    for i, one in enumerate(pixels):
        picture(path / f"{i}.png", one)
    return path


def channels_first(pixels):
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


# Tables


def test_csv_comes_back_exactly(tmp_path):
    found = load(lines(tmp_path / "table.csv", *csv_of(TABLE)))
    assert np.array_equal(everything(found).numpy(), TABLE) and found.labels is None and found.name == "table"
    x = found.batch(torch.arange(20))[0].double()
    torch.testing.assert_close(x.std(0, correction=0), torch.ones(3).double(), rtol=0, atol=1e-6)
    bare = load(lines(tmp_path / "bare.csv", *csv_of(TABLE)[1:]))
    assert torch.equal(everything(bare), everything(found))
    tabs = lines(tmp_path / "table.tsv", *(row.replace(",", "\t") for row in csv_of(TABLE)))
    assert torch.equal(everything(load(tabs)), everything(found))
    marks = lines(tmp_path / "marks.csv", *(row.replace(",", ";") for row in csv_of(TABLE)), "", "")
    assert torch.equal(everything(load(marks, delimiter=";")), everything(found))


def test_labels_and_dropped_columns_of_csv(tmp_path):
    path = lines(tmp_path / "t.csv", *csv_of(TABLE, "a,b,c,kind", WORDS))
    found = load(path, label="kind", drop=["b"])
    assert np.array_equal(everything(found).numpy(), TABLE[:, [0, 2]])
    assert found.classes == ("aster", "iris", "rose") and [found.classes[k] for k in found.labels] == WORDS
    assert torch.equal(load(path, label=-1, drop="b").labels, found.labels)
    bare = load(lines(tmp_path / "bare.csv", *csv_of(TABLE, "", WORDS)), label=3)
    assert torch.equal(bare.labels, found.labels)


def test_numbers_as_labels_keep_their_order(tmp_path):
    rows = [f"{i / 7},{k}" for i, k in enumerate([10, 2, -1, 2, 9])]
    found = load(lines(tmp_path / "t.csv", "x,k", *rows), label="k")
    assert found.classes == ("2", "9", "10") and found.labels.tolist() == [2, 0, -1, 0, 1]


def test_whole_levels_of_a_table(tmp_path):
    found = load(lines(tmp_path / "t.csv", "a,b", "0,3", "2,1"), levels=4)
    assert found.scaling.levels == 4 and everything(found).tolist() == [[0, 3], [2, 1]]
    assert torch.equal(found.scaling.inverse(found.batch(torch.arange(2))[0]), everything(found))


def test_parquet_comes_back_exactly(tmp_path):
    columns = dict(zip("abc", TABLE.T)) | {"n": np.arange(20), "yes": np.arange(20) % 2 == 0, "kind": WORDS}
    path = parquet(tmp_path / "t.parquet", **columns, __index_level_0__=np.arange(20))
    found = load(path, label="kind")
    assert np.array_equal(everything(found).numpy(), np.stack([*TABLE.T, np.arange(20), np.arange(20) % 2 == 0], 1))
    assert [found.classes[k] for k in found.labels] == WORDS
    assert load(path, label="yes", drop=["kind"]).labels.tolist() == [1, 0] * 10


def test_arrays_come_back_exactly(tmp_path):
    np.save(tmp_path / "t.npy", TABLE)
    assert np.array_equal(everything(load(tmp_path / "t.npy")).numpy(), TABLE)
    np.save(tmp_path / "t.npy", TABLE.astype(">f4"))
    assert everything(load(tmp_path / "t.npy")).dtype == torch.float32
    np.save(tmp_path / "t.npy", TABLE[:, 0])
    assert load(tmp_path / "t.npy").shape == (1,)
    kinds = np.array(WORDS[:6])
    np.savez(tmp_path / "p.npz", x=PIXELS, y=kinds)
    found = load(tmp_path / "p.npz")
    assert found.scaling.levels == 256 and np.array_equal(everything(found).numpy(), PIXELS)
    assert [found.classes[k] for k in found.labels] == WORDS[:6]
    np.savez_compressed(tmp_path / "p.npz", x=PIXELS > 99, other=PIXELS)
    assert load(tmp_path / "p.npz", key="x").scaling.levels == 2
    waves = RANDOM.normal(3, 2, size=(9, 1, 50))
    np.save(tmp_path / "w.npy", waves)
    assert load(tmp_path / "w.npy").scaling.scale == pytest.approx(waves.std(), rel=1e-12)


def test_no_pickle_is_opened(tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    np.save(tmp_path / "a.npy", np.array([Payload()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", x=TABLE, y=np.array([Payload()] * 20, dtype=object))
    (tmp_path / "c.npy").write_bytes(pickle.dumps(Payload()))
    (tmp_path / "d.npz").write_bytes(pickle.dumps(Payload()))
    for name in ("a.npy", "b.npz", "c.npy", "d.npz"):
        with pytest.raises(ValueError, match=rf"{name} holds pickled objects, which may run code; write plain numbers"):
            load(tmp_path / name)
    assert not (tmp_path / "ran").exists()


# Images


def test_images_come_back_exactly_and_lazy_ones_too(tmp_path):
    root = folder(tmp_path / "pictures")
    lines(root / "notes.txt", "not an image")
    (root / ".hidden.png").write_bytes(b"")
    picture(root / ".thumbnails" / "0.png", PIXELS[0])
    eager, lazy = load(root), load(root, lazy=True)
    assert isinstance(eager.values, torch.Tensor) and not isinstance(lazy.values, torch.Tensor)
    assert repr(eager) == "pictures: 6 samples of shape (3, 5, 4), 256 levels" == repr(lazy)
    rows = torch.tensor([4, 0, 0, 5])
    assert torch.equal(eager.raw(rows), channels_first(PIXELS)[rows]) and torch.equal(lazy.raw(rows), eager.raw(rows))
    for part, other in zip(eager.split(2), lazy.split(2)):
        both = [p.batch(torch.arange(len(p)), torch.Generator().manual_seed(0))[0] for p in (part, other)]
        assert torch.equal(*both)
    assert lazy.raw(rows[:0]).shape == (0, 3, 5, 4)


def test_files_are_taken_in_the_order_of_their_names(tmp_path):
    for i in (3, 0, 2, 1):
        picture(tmp_path / f"{i}.png", PIXELS[i])
    assert torch.equal(everything(load(tmp_path)), channels_first(PIXELS[:4]))


def test_subfolders_are_classes(tmp_path):
    for i, kind in enumerate(["10", "9", "9", "10"]):
        picture(tmp_path / kind / "deep" / f"{i}.png", PIXELS[i])
    found = load(tmp_path)
    assert found.classes == ("9", "10") and found.labels.tolist() == [1, 1, 0, 0]
    assert torch.equal(everything(found), channels_first(PIXELS[[0, 3, 1, 2]]))


def test_nothing_but_the_first_image_is_opened_at_load(tmp_path):
    root = folder(tmp_path)
    for i in range(1, 6):
        (root / f"{i}.png").write_bytes(b"broken")
    found = load(root, lazy=True)
    assert torch.equal(found.raw(torch.tensor([0])), channels_first(PIXELS)[:1])
    with pytest.raises(ValueError, match=r"cannot read the image .*3\.png"):
        found.raw(torch.tensor([0, 3]))


def test_images_are_cut_around_the_centre_and_resized(tmp_path):
    flat = np.zeros((8, 24, 3), np.uint8)
    flat[:, 4:20] = 77  # the cut to a square keeps columns 8 to 15, and the interpolation looks 4 further
    picture(tmp_path / "a.png", flat)
    picture(tmp_path / "b.png", np.full((40, 40, 3), 200, np.uint8))
    found = everything(load(tmp_path, size=4))
    assert found.shape == (2, 3, 4, 4)
    assert found[0].unique().tolist() == [77] and found[1].unique().tolist() == [200]
    assert load(tmp_path, size=(2, 6)).shape == (3, 2, 6)
    same = folder(tmp_path / "same")
    assert torch.equal(everything(load(same, size=(5, 4))), channels_first(PIXELS))


def test_modes_are_converted_openly(tmp_path):
    grey = PIXELS[0, :, :, 0]
    picture(tmp_path / "g" / "a.png", grey)
    picture(tmp_path / "g" / "b.png", (grey > 99))  # one bit a pixel
    assert torch.equal(everything(load(tmp_path / "g")), torch.from_numpy(np.stack([grey, 255 * (grey > 99)])[:, None]))
    picture(tmp_path / "c" / "a.png", PIXELS[0])
    picture(tmp_path / "c" / "b.png", grey)
    palette = Image.fromarray(np.zeros((5, 4), np.uint8))
    palette.putpalette([9, 8, 7])
    palette.save(tmp_path / "c" / "c.png")
    clear = np.concatenate([PIXELS[1], np.array([255, 0], np.uint8)[np.arange(20) % 2].reshape(5, 4, 1)], 2)
    picture(tmp_path / "c" / "d.png", clear)
    found = everything(load(tmp_path / "c"))
    assert torch.equal(found[1], torch.from_numpy(grey).expand(3, 5, 4))
    assert found[2].flatten(1).unique(dim=1).flatten().tolist() == [9, 8, 7]
    white = np.where(clear[..., 3:] == 0, 255, PIXELS[1])
    assert torch.equal(found[3], channels_first(white[None].astype(np.uint8))[0])
    luma = torch.from_numpy(np.array(Image.fromarray(PIXELS[0]).convert("L")))
    assert torch.equal(everything(load(tmp_path / "c", mode="L"))[0, 0], luma)
    picture(tmp_path / "g" / "c.png", PIXELS[0])
    with pytest.raises(ValueError, match=r"c\.png has colour, the first image has none; write mode='RGB' or mode='L'"):
        load(tmp_path / "g")
    assert load(tmp_path / "g", mode="RGB").shape == (3, 5, 4)


def test_a_cameras_turn_is_undone(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    for name in "ab":
        picture(tmp_path / f"{name}.png", PIXELS[0], exif=exif)
    assert torch.equal(everything(load(tmp_path))[0], channels_first(np.rot90(PIXELS[0], -1)[None].copy())[0])


# Sound


@pytest.mark.parametrize("dtype, levels, shift", [("int16", 2**16, 2**15), ("uint8", 256, 0)])
def test_sound_keeps_its_bits(tmp_path, dtype, levels, shift):
    ends = np.iinfo(dtype)
    sounds = RANDOM.integers(ends.min, ends.max, (3, 50, 2), dtype=dtype, endpoint=True)
    sounds[0, :2] = ends.min, ends.max
    for i, sound in enumerate(sounds):
        wavfile.write(tmp_path / f"{i}.wav", 8000, sound)
    found, lazy = load(tmp_path, length=20), load(tmp_path, length=20, lazy=True)
    assert (len(found), found.shape, found.rate, found.scaling.levels) == (6, (2, 20), 8000, levels)
    windows = sounds[:, :40].reshape(6, 20, 2).transpose(0, 2, 1)
    rows = torch.tensor([5, 0, 3, 3, 1])
    assert np.array_equal((found.raw(rows) - shift).numpy(), windows[rows]) and torch.equal(
        found.raw(rows), lazy.raw(rows)
    )
    x = lazy.batch(torch.arange(6))[0]
    assert float(x.abs().max()) <= 1 and torch.equal(lazy.scaling.inverse(x), everything(found).long())
    assert torch.equal(lazy.split(2)[1].raw(torch.arange(2)), found.split(2)[1].raw(torch.arange(2)))
    assert lazy.raw(rows[:0]).shape == (0, 2, 20)
    assert load(tmp_path).shape == (2, 50) and len(load(tmp_path / "1.wav", length=10)) == 5


def test_finer_sound_is_numbers(tmp_path):
    floats = RANDOM.uniform(-1, 1, 30).astype(np.float32)
    wavfile.write(tmp_path / "a.wav", 44100, floats)
    found = load(tmp_path / "a.wav", length=30)
    assert found.scaling.levels is None and np.array_equal(everything(found)[0, 0].numpy(), floats)
    wavfile.write(tmp_path / "a.wav", 44100, np.array([-(2**31), 2**30, 0], np.int32))
    assert everything(load(tmp_path / "a.wav"))[0, 0].tolist() == [-1.0, 0.5, 0.0]
    samples = [-(2**23), 2**22, -1]
    data = b"".join(struct.pack("<i", s)[:3] for s in samples) + b"\0"  # chunks have even length
    about = struct.pack("<HHIIHH", 1, 1, 8000, 24000, 3, 24)
    body = b"WAVEfmt " + struct.pack("<I", 16) + about + b"data" + struct.pack("<I", 9) + data
    (tmp_path / "b.wav").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    assert everything(load(tmp_path / "b.wav"))[0, 0].tolist() == [-1.0, 0.5, -(2.0**-23)]


def test_folders_of_sounds_are_classes_of_windows(tmp_path):
    for i, kind in enumerate(("owl", "cat")):
        (tmp_path / kind).mkdir()
        wavfile.write(tmp_path / kind / "a.wav", 8000, np.arange(100 * (i + 1), dtype=np.int16))
    found = load(tmp_path, length=50)
    assert found.classes == ("cat", "owl") and found.labels.tolist() == [0] * 4 + [1] * 2


# Packages


def test_data_sets_of_torchvisions_kind(tmp_path, monkeypatch):
    """On a stand-in for the package, which need not be installed."""

    class Pictures:
        classes = ("x", "y")

        def __init__(self, root, train=True, download=False):
            if not download and not (tmp_path / "pictures").is_dir():
                raise RuntimeError("Dataset not found.")
            if train is not None:
                self.targets = [0, 1, 1, 0, 1, 0] if train else torch.tensor([1, 1, 1, 1, 1, 1])

        def __len__(self):
            return 6

        def __getitem__(self, row):
            return Image.fromarray(PIXELS[row]), "what goes with it"

    package = types.ModuleType("torchvision")
    package.datasets = types.SimpleNamespace(__all__=("Pictures",), Pictures=Pictures)
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", package.datasets)
    with pytest.raises(FileNotFoundError, match=r"Pictures is not in 'data' \(Dataset not found.\); write root="):
        load("torchvision:Pictures")
    for found in (load("torchvision:Pictures", download=True), load("torchvision:Pictures", download=True, lazy=True)):
        assert torch.equal(everything(found), channels_first(PIXELS)) and found.classes == ("x", "y")
        assert found.labels.tolist() == [0, 1, 1, 0, 1, 0]
    assert load("torchvision:Pictures", download=True, train=False, size=2).labels.tolist() == [1] * 6
    plain = load("torchvision:Pictures", download=True, train=None)
    assert plain.labels is None and plain.classes == ()
    with pytest.raises(ValueError, match=r"unknown data set of torchvision 'Picture'.*Did you mean 'Pictures'"):
        load("torchvision:Picture")


def test_torchvision_folders_and_fake_data(tmp_path):
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        pytest.skip("torchvision is not installed, or not for this torch")
    for kind in ("a", "b"):
        folder(tmp_path / kind)
    own, found = load(tmp_path), load("torchvision:ImageFolder", root=tmp_path)
    assert torch.equal(everything(found), everything(own)) and torch.equal(found.labels, own.labels)
    assert found.classes == own.classes == ("a", "b")
    assert load("torchvision:FakeData", image_size=(3, 6, 5)).shape == (3, 6, 5)
    with pytest.raises(FileNotFoundError, match=r"CIFAR10 is not in .*; write root=..., or download=True"):
        load("torchvision:CIFAR10", root=tmp_path)
    with pytest.raises(ValueError, match=r"unknown data set of torchvision 'CIFAR11'.*Did you mean 'CIFAR10"):
        load("torchvision:CIFAR11")


def test_huggingface_folders(tmp_path):
    datasets = pytest.importorskip("datasets")
    kinds = datasets.Features(
        {"img": datasets.Image(), "kind": datasets.ClassLabel(names=["x", "y"]), "n": datasets.Value("int64")}
    )
    columns = {"img": [Image.fromarray(p) for p in PIXELS], "kind": [0, 1, 1, 0, 1, 0], "n": list(range(6))}
    whole = datasets.Dataset.from_dict(columns, features=kinds)
    whole.save_to_disk(tmp_path / "set")
    for lazy in (True, False):
        found = load(f"huggingface:{tmp_path / 'set'}", lazy=lazy)
        assert torch.equal(everything(found), channels_first(PIXELS))
        assert found.labels.tolist() == columns["kind"] and found.classes == ("x", "y") and found.name == "set"
    whole.remove_columns("img").save_to_disk(tmp_path / "plain")
    with pytest.raises(ValueError, match=r"no images among its columns \(kind, n\); write its numbers with to_parquet"):
        load(f"huggingface:{tmp_path / 'plain'}")
    before = datasets.config.HF_HUB_OFFLINE
    with pytest.raises(FileNotFoundError, match=r"is not on this machine .*; write download=True"):
        load("huggingface:nobody/nothing")
    assert before == datasets.config.HF_HUB_OFFLINE


@pytest.mark.parametrize("name, package", [("torchvision:CIFAR10", "torchvision"), ("huggingface:mnist", "datasets")])
def test_a_missing_package_is_named(name, package, monkeypatch):
    for known in [key for key in sys.modules if key == package or key.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, known)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"needs {package}; install {package}"):
        load(name)


def test_a_missing_reader_is_named(tmp_path, monkeypatch):
    path, root = parquet(tmp_path / "t.parquet", a=[1.0, 2.0]), folder(tmp_path / "pictures")
    for module, where, package in (("pyarrow.parquet", path, "pyarrow"), ("PIL.Image", root, "pillow")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            with pytest.raises(ImportError, match=rf"needs {package}; install scoresde\[data\]"):
                load(where)
