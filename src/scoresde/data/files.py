"""Tables and arrays in files: .csv, .tsv, .parquet, .npy and .npz."""

from __future__ import annotations

import csv
import re
from array import array
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde import _checks
from scoresde.data.data import Data, check_values, measure, require
from scoresde.scaling import Scaling

WHOLE = re.compile(r"[+-]?\d+(\.0*)?")


def read_csv(
    path: Path, label: str | int | None = None, drop: Sequence[str | int] = (), header: bool | None = None,
    delimiter: str | None = None, levels: int | None = None,
) -> Data:  # fmt: skip
    """A table of numbers, a sample a line, standardised column by column.

    Args:
        label: the column of labels, numbers or names. drop: columns to leave out. Without a header, columns are
            named by their number from 0.
        header: whether the first line names the columns; None: if nothing in it is a number.
        delimiter: between cells; None: a tab for .tsv, else a comma.
        levels: of columns that hold whole levels 0..levels − 1, not to be standardised.
    """
    numbers, words, lines = array("d"), [], array("q")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter=delimiter or ("\t" if path.suffix == ".tsv" else ","), strict=True)
            rows = (row for row in reader if row)
            if (first := next(rows, None)) is None:
                raise ValueError(f"{path} is empty")
            named = header if header is not None else not any(map(_is_number, first))
            names = [cell.strip() for cell in first] if named else [str(i) for i in range(len(first))]
            kept, at = _columns(path, names, label, drop)
            for row in rows if named else chain([first], rows):
                if len(row) != len(names):
                    raise ValueError(f"{path}, line {reader.line_num} has {len(row)} cells instead of {len(names)}")
                try:
                    numbers.extend([float(row[i]) for i in kept])
                except ValueError:
                    raise _not_a_number(path, reader.line_num, names, kept, row) from None
                if at is not None:
                    words.append(row[at].strip())
                lines.append(reader.line_num)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path} as text in columns: {error}") from None
    if not lines:
        raise ValueError(f"{path} has a header, but no rows")
    values = torch.from_numpy(np.frombuffer(numbers).reshape(len(lines), len(kept)).copy())
    return _table(path, values, [names[i] for i in kept], words if at is not None else None, levels, lines)


def read_parquet(
    path: Path, label: str | int | None = None, drop: Sequence[str | int] = (), levels: int | None = None
) -> Data:
    """A table of numbers, standardised column by column; label, drop and levels as in `read_csv`."""
    parquet, types = require("pyarrow.parquet", "a .parquet file"), require("pyarrow.types", "a .parquet file")
    try:
        found = parquet.ParquetFile(path).read()
    except (ValueError, OSError) as error:
        raise ValueError(f"cannot read {path} as Parquet: {_line(error)}") from None
    names = found.column_names
    index = [name for name in names if re.fullmatch(r"__index_level_\d+__", name)]  # pandas leaves its row names here
    kept, at = _columns(path, names, label, [*drop, *index])
    numeric = types.is_integer, types.is_floating, types.is_boolean, types.is_decimal
    for i in [*kept, *([] if at is None else [at])]:
        column = found.column(i)
        if i != at and not any(test(column.type) for test in numeric):
            raise ValueError(f"{path}: column {names[i]!r} holds {column.type}, not numbers; {_remedy(names[i])}")
        if column.null_count:
            row = column.is_null().to_pylist().index(True)
            raise ValueError(f"{path}, row {row}: column {names[i]!r} is empty; fill it, or leave the row out")
    if not found.num_rows:
        raise ValueError(f"{path} has columns, but no rows")
    columns = [found.column(i).cast("float64", safe=False).to_numpy() for i in kept]
    labels = None if at is None else found.column(at).to_pylist()
    return _table(path, torch.from_numpy(np.stack(columns, 1)), [names[i] for i in kept], labels, levels)


def read_arrays(path: Path, key: str | None = None, label: str | None = None, levels: int | None = None) -> Data:
    """An array (N, *) of numbers in .npy, or in .npz with labels (N,) beside it.

    Bytes are 256 levels and booleans two; other numbers are standardised: tables (N, D) column by column, larger
    samples by one mean and one spread.

    Args:
        key: which array of a .npz holds the samples; None: the only one beside the labels.
        label: which array of a .npz holds the labels; None: labels, label or y, if there is one.
        levels: of whole levels 0..levels − 1.
    """
    arrays = _arrays(path)
    if "" in arrays and (key or label):
        raise ValueError(f"{path} holds one array without a name; leave out key and label, or write a .npz")
    label = label or next((name for name in ("labels", "label", "y") if name in arrays), None)
    if label is not None:
        _checks.choice(f"label in {path}", label, arrays)
    rest = [name for name in arrays if name != label]
    if key is None and len(rest) != 1:
        raise ValueError(f"{path} holds {len(rest)} arrays ({', '.join(rest)}); say which: key={rest[0]!r}" if rest else
                         f"{path} holds no samples")  # fmt: skip
    key = rest[0] if key is None else _checks.choice(f"key in {path}", key, rest)
    values, labels = arrays[key], None if label is None else arrays[label]
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{path} holds {values.dtype}, not numbers")
    if not values.size:
        raise ValueError(f"{path} holds an array without entries, {values.shape}")
    if labels is not None and labels.shape != values.shape[:1]:
        raise ValueError(f"{path}: {label!r} must have shape {values.shape[:1]}, a label a row, got {labels.shape}")
    if levels is None and values.dtype in (np.uint8, np.bool_):
        levels = 2 if values.dtype == np.bool_ else 256
    native = values.dtype.newbyteorder("=")
    values = np.array(values, dtype=native if native in (np.uint8, np.float32) else np.float64, order="C")
    values = torch.from_numpy(values.reshape(-1, 1) if values.ndim < 2 else values)
    names = [str(i) for i in range(values.shape[1])] if values.ndim == 2 else []
    return _table(path, values, names, labels, levels)


def index(labels: Sequence[Any] | np.ndarray, place: Callable[[int], str]) -> tuple[Tensor, tuple[str, ...]]:
    """Labels as 0..K − 1, (N,), and their names: numbers in their order, −1 for those below zero; words sorted."""
    found = np.asarray(labels)
    if found.dtype.kind in "biuf":
        found = found.astype(np.float64)
        if len(broken := np.flatnonzero(~(np.abs(found) < 2**53) | (found != np.rint(found)))):
            row = int(broken[0])
            raise ValueError(f"{place(row)} has the label {found[row]:g}: labels are whole numbers or words")
        values, at = np.unique(found, return_inverse=True)
        names = [str(int(value)) for value in values]
    else:
        found = np.array([str(label) for label in labels])
        if len(blank := np.flatnonzero(np.isin(found, ("", "nan", "NaN")))):
            raise ValueError(f"{place(int(blank[0]))} has no label")
        values, at = np.unique(found, return_inverse=True)
        names = values.tolist()
    numbers = all(WHOLE.fullmatch(name) for name in names)
    order = sorted(range(len(names)), key=lambda i: float(names[i])) if numbers else range(len(names))
    kept = [i for i in order if not (numbers and float(names[i]) < 0)]
    number = np.full(len(names), -1)
    number[kept] = np.arange(len(kept))
    return torch.from_numpy(number[at]), tuple(names[i] for i in kept)


def classes_of(root: Path, files: Sequence[str]) -> tuple[Tensor | None, tuple[str, ...]]:
    """Labels and classes of files by the subfolders of `root` that they lie in, (None, ()) without subfolders."""
    beside = [file for file in files if "/" not in file]
    if beside and len(beside) < len(files):
        raise ValueError(f"{root} has files in subfolders and beside them ({beside[0]}); move those into a subfolder")
    return (None, ()) if beside else index([file.split("/")[0] for file in files], lambda row: files[row])


def _table(
    path: Path, values: Tensor, names: list[str], labels: Any, levels: int | None, lines: Sequence[int] | None = None
) -> Data:
    def row(at: int) -> str:
        return f"{path}, row {at}" if lines is None else f"{path}, line {lines[at]}"

    def place(at: int, rest: tuple[int, ...]) -> str:
        return f"{row(at)}: column {names[rest[0]]!r}" if names else f"{row(at)}, entry {rest}"

    numbers, classes = (None, ()) if labels is None else index(labels, row)
    if levels is not None:
        scaling = Scaling.of_levels(levels)
        if values.is_floating_point():
            check_values(values, None, place)
            if len(broken := (values != values.round()).nonzero()):
                at, *rest = broken[0].tolist()
                raise ValueError(f"{place(at, tuple(rest))} is {values[(at, *rest)]:g}: levels must be whole numbers")
            values = values.long()
        check_values(values, levels, place)
        return Data(values, numbers, scaling, path.stem, classes)
    check_values(values, None, place)
    constant = (values == values[:1]).flatten(1).all(0) if names else (values == values.flatten()[0]).all()[None]
    if bool(constant.any()):
        at = int(constant.nonzero()[0])
        what, same = (f"column {names[at]!r}", values[0, at]) if names else ("every value", values.flatten()[0])
        raise ValueError(f"{path}: {what} is {same:g} in all {len(values)} rows, which has no density; leave it out")
    return Data(values, numbers, measure(values), path.stem, classes, measured=True)


def _columns(
    path: Path, names: list[str], label: str | int | None, drop: Sequence[str | int]
) -> tuple[list[int], int | None]:
    """The places of the columns of values, and the place of the labels."""
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{path} has two columns named {twice!r}; rename one")

    def find(what: str, column: str | int) -> int:
        if isinstance(column, int) and -len(names) <= column < len(names):
            return column % len(names)
        return names.index(_checks.choice(f"{what} in {path}", column, names))

    at = None if label is None else find("label", label)
    left_out = {find("drop", column) for column in ([drop] if isinstance(drop, str) else drop)} | {at}
    if "" in names and names.index("") not in left_out:
        at = names.index("")
        raise ValueError(f"{path}: column {at} has no name (are these row numbers?); name it, or write drop=[{at}]")
    if not (kept := [i for i in range(len(names)) if i not in left_out]):
        raise ValueError(f"{path} has no columns of values besides {', '.join(names)}")
    return kept, at


def _not_a_number(path: Path, line: int, names: list[str], kept: list[int], row: list[str]) -> ValueError:
    at = next(i for i in kept if not _is_number(row[i]))
    if not row[at].strip():
        return ValueError(f"{path}, line {line}: column {names[at]!r} is empty; fill it, or leave the line out")
    return ValueError(
        f"{path}, line {line}: column {names[at]!r} holds {row[at][:40]!r}, not a number; {_remedy(names[at])}"
    )


def _remedy(column: str) -> str:
    return f"write drop=[{column!r}], or label={column!r} if it names classes"


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """What a .npz holds by name; a .npy's array by the name ""."""
    try:
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            return {"": found} if isinstance(found, np.ndarray) else {name: found[name] for name in found.files}
    except Exception as error:  # numpy, zipfile and zlib raise anything on a broken file
        if "pickle" in str(error):
            raise ValueError(f"{path} holds pickled objects, which may run code; write plain numbers") from None
        raise ValueError(f"cannot read {path}: {_line(error)}") from None
