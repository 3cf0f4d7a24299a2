"""Broken data files: each is named in one line that says what to do."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from scoresde.data import load
from tests.test_data_files import PIXELS, RANDOM, TABLE, folder, lines, parquet, picture


def cut(path, share=0.6):
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    return path


def png_of(pixels, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


NOISE = RANDOM.integers(0, 256, (40, 40, 3), dtype=np.uint8)


def broken(tmp_path, name):
    """The path of a broken file or folder, and the options to load it with."""
    p = tmp_path / ("t" + name[name.rindex(".") :] if "." in name else "t")
    texts = {
        "nan.csv": ["a,b", "1,2", "", "3,nan"], "inf.csv": ["a,b", "1,2", "-inf,3"],
        "ragged.csv": ["a,b", "1,2", "1,2,3"],
        "words.csv": ["a,city", "1,Rome", "2,Oslo"], "hole.csv": ["a,b", "1,2", "3,"], "header.csv": ["a,b"],
        "constant.csv": ["a,b", "1,2", "3,2"], "twice.csv": ["a,a", "1,2"], "index.csv": [",a", "0,5", "1,7"],
        "blank.csv": ["a,k", "1,x", "2,"], "half.csv": ["a,k", "1,1", "2,0.5"], "quote.csv": ['a,b', '1,"2'],
        "one.csv": ["k", "1", "2"], "levels.csv": ["a,b", "1,2", "3,4"], "parts.csv": ["a,b", "1,2", "3,0.5"],
    }  # fmt: skip
    if name in texts:
        lines(p, *texts[name])
    elif name == "bytes.csv":
        p.write_bytes(b"a,b\n1,\xff\n")
    elif name.startswith("empty"):
        p.touch()
    elif name == "hole.parquet":
        parquet(p, a=[1.0, None], b=[1.0, 2.0])
    elif name == "nan.parquet":
        parquet(p, a=[1.0, 2.0], b=[1.0, float("nan")])
    elif name == "words.parquet":
        parquet(p, a=[1.0, 2.0], city=["Rome", "Oslo"])
    elif name == "cut.parquet":
        cut(parquet(p, a=TABLE[:, 0]))
    elif name.endswith(".npy"):
        arrays = {"nan": np.where(np.eye(3) > 0, np.nan, 1.0), "words": np.array(["a"]), "none": np.zeros((0, 3)),
                  "complex": np.ones(3) * 1j, "flat": np.ones((3, 2, 2)), "cut": TABLE, "huge": TABLE}  # fmt: skip
        np.save(p, arrays[name[:-4]])
        if name == "cut.npy":
            cut(p)
        if name == "huge.npy":
            p.write_bytes(p.read_bytes().replace(b"(20, 3), }           ", b"(20, 30000000000), } "))
    elif name.endswith(".npz"):
        arrays = {"several": {"a": TABLE, "b": TABLE}, "short": {"x": TABLE, "y": np.arange(3)}, "cut": {"x": TABLE}}
        np.savez(p, **arrays[name[:-4]])
        if name == "cut.npz":
            cut(p)
    elif name == "cut.wav":
        wavfile.write(p, 8000, np.arange(1000, dtype=np.int16))
        cut(p)
    elif name in ("rates", "kinds", "short", "stereo"):
        p.mkdir()
        other = {"rates": np.int16, "kinds": np.float32, "short": np.int16, "stereo": np.int16}[name]
        wavfile.write(p / "a.wav", 8000, np.zeros(99, np.int16))
        shape = {"short": 50, "stereo": (99, 2)}.get(name, 99)
        wavfile.write(p / "b.wav", 16000 if name == "rates" else 8000, np.zeros(shape, other))
    elif name == "nan.wav":
        wavfile.write(p, 8000, np.full(9, np.nan, np.float32))
    elif name == "none":
        p.mkdir()
    elif name == "mixed":
        wavfile.write(folder(p) / "a.wav", 8000, np.zeros(9, np.int16))
    elif name == "beside":
        picture(folder(p) / "inner" / "a.png", PIXELS[0])
    elif name == "sizes":
        picture(folder(p) / "9.png", PIXELS[0].transpose(1, 0, 2))
    elif name == "deep":
        picture(p / "a.png", np.arange(20, dtype=np.uint16).reshape(5, 4))
    elif name.startswith("cut "):
        folder(p, [NOISE])
        kind = name.split()[1]
        (p / f"x.{kind}").write_bytes(png_of(NOISE, {"jpg": "JPEG"}.get(kind, kind))[:-900])
    elif name == "text":
        lines(folder(p) / "x.png", "not an image")
    elif name == "one.png":
        picture(p, PIXELS[0])
    elif name == "t.xyz":
        lines(p, "?")
    return p


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("nan.csv", {}, r"t\.csv, line 4: column 'b' is nan: every value must be finite"),
        ("inf.csv", {}, r"t\.csv, line 3: column 'a' is -inf: every value must be finite"),
        ("ragged.csv", {}, r"t\.csv, line 3 has 3 cells instead of 2"),
        ("words.csv", {}, r"line 2: column 'city' holds 'Rome', not a number; write drop=\['city'\], or label='city'"),
        ("words.csv", {"header": False}, r"line 1: column '0' holds 'a', not a number"),
        ("hole.csv", {}, r"line 3: column 'b' is empty; fill it, or leave the line out"),
        ("header.csv", {}, r"t\.csv has a header, but no rows"),
        ("constant.csv", {}, r"column 'b' is 2 in all 2 rows, which has no density; leave it out"),
        ("twice.csv", {}, r"t\.csv has two columns named 'a'; rename one"),
        ("index.csv", {}, r"column 0 has no name \(are these row numbers\?\); name it, or write drop=\[0\]"),
        ("blank.csv", {"label": "k"}, r"t\.csv, line 3 has no label"),
        ("half.csv", {"label": "k"}, None),
        ("quote.csv", {}, r"cannot read .*t\.csv as text in columns: "),
        ("one.csv", {"label": "k"}, r"t\.csv has no columns of values besides k"),
        ("one.csv", {"label": "q"}, r"unknown label in .*t\.csv 'q'; known: k"),
        ("words.csv", {"drop": ["town"]}, r"unknown drop in .*t\.csv 'town'; known: a, city"),
        ("levels.csv", {"levels": 4}, r"line 3: column 'b' is 4: levels must lie in 0..3"),
        ("parts.csv", {"levels": 4}, r"line 3: column 'b' is 0.5: levels must be whole numbers"),
        ("words.csv", {"sise": 4}, r"unknown option 'sise' for .*; it takes label, drop, header, delimiter"),
        ("bytes.csv", {}, r"cannot read .*t\.csv as text in columns: 'utf-8' codec"),
        ("empty.csv", {}, r"t\.csv is empty"),
        ("empty.npy", {}, r"t\.npy is empty"),
        ("empty.wav", {}, r"t\.wav is empty"),
        ("hole.parquet", {}, r"t\.parquet, row 1: column 'a' is empty"),
        ("nan.parquet", {}, r"t\.parquet, row 1: column 'b' is nan"),
        ("words.parquet", {}, r"column 'city' holds string, not numbers; write drop=\['city'\]"),
        ("cut.parquet", {}, r"cannot read .*t\.parquet as Parquet: "),
        ("nan.npy", {}, r"t\.npy, row 0: column '0' is nan"),
        ("words.npy", {}, r"t\.npy holds <U1, not numbers"),
        ("complex.npy", {}, r"t\.npy holds complex128, not numbers"),
        ("none.npy", {}, r"t\.npy holds an array without entries, \(0, 3\)"),
        ("flat.npy", {}, r"every value is 1 in all 3 rows, which has no density"),
        ("flat.npy", {"key": "x"}, r"t\.npy holds one array without a name; leave out key and label"),
        ("cut.npy", {}, r"cannot read .*t\.npy: "),
        ("huge.npy", {}, r"cannot read .*t\.npy: "),
        ("several.npz", {}, r"t\.npz holds 2 arrays \(a, b\); say which: key='a'"),
        ("several.npz", {"key": "c"}, r"unknown key in .*t\.npz 'c'; known: a, b"),
        ("short.npz", {}, r"'y' must have shape \(20,\), a label a row, got \(3,\)"),
        ("cut.npz", {}, r"cannot read .*t\.npz: "),
        ("cut.wav", {}, r"cannot read the sound .*t\.wav \(.*\); remove it or write it anew"),
        ("nan.wav", {}, r"t\.wav holds NaN or infinite samples"),
        ("rates", {}, r"b\.wav has 16000 samples a second, but a\.wav 8000; convert one"),
        ("kinds", {}, r"b\.wav has float32 samples, but a\.wav int16; convert one"),
        ("stereo", {}, r"b\.wav has 2 channels, but a\.wav 1; convert one"),
        ("short", {}, r"b\.wav has 50 samples, not 99; write the shortest file's as length="),
        ("short", {"length": 60}, r"b\.wav has 50 samples, not at least 60"),
        ("none", {}, r"t holds no images \(.*\) and no \.wav files; write a folder of one kind"),
        ("mixed", {}, r"t holds both images and \.wav files"),
        ("beside", {}, r"t has files in subfolders and beside them \(0\.png\); move those"),
        ("sizes", {}, r"9\.png is 4 × 5 pixels, the first 5 × 4; write size=4"),
        ("sizes", {"size": (1, 2, 3)}, r"size must be a side or \(H, W\), got \(1, 2, 3\)"),
        ("sizes", {"size": 2.5}, r"size must be a whole number"),
        ("sizes", {"mode": "L "}, r"unknown mode 'L '; known: RGB, L"),
        ("deep", {}, r"a\.png has more than 8 bits a channel \(I;16\); write 8-bit images, or a \.npy"),
        ("cut png", {}, r"cannot read the image .*x\.png \(.*\); remove it or write it anew"),
        ("cut jpg", {}, r"cannot read the image .*x\.jpg \(.*truncated.*\); remove it or write it anew"),
        ("text", {}, r"cannot read the image .*x\.png \(.*\); remove it or write it anew"),
        ("one.png", {}, r"t\.png is one image; write the folder that it lies in"),
        ("t.xyz", {}, r"t\.xyz has an unknown suffix; known: \.csv"),
        ("missing.csv", {}, r"there is no file or folder '.*t\.csv'"),
    ],
)  # fmt: skip
def test_broken_files_are_named_in_one_line(name, options, words, tmp_path):
    path = broken(tmp_path, name)
    if words is None:
        assert load(path, **options).classes == ("0.5", "1")
        return
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=words) as error:
        load(path, **options)
    assert "\n" not in str(error.value)
