"""Read a raw table (Parquet, CSV, TSV, JSON lines, Python-dict lines; `.gz` too) into polars."""

import ast
import csv
import difflib
import gzip
import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import Field, model_validator

from dasrec.core.config import StageConfig

Format = Literal["parquet", "csv", "tsv", "jsonl", "python"]

SUFFIXES: dict[str, Format] = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
"""Format of a file by its suffix, `.gz` taken off first."""

# Stands for a delimiter of several characters; polars takes one byte. Text never holds it.
_UNIT_SEPARATOR = "\x1f"
_AS_TEXT = ("user_id", "item_id", "timestamp")


class TableConfig(StageConfig):
    """Where a raw table is and how to read it."""

    path: str
    """File, relative to the data directory. A pattern (`reviews_*_5.json.gz`) must fit one file."""

    format: Format | None = None
    """`tsv` = no quoting; `python` = one Python dict per line (Amazon 2014 metadata). None: by
    suffix."""

    columns: dict[str, str] = Field(default_factory=dict)
    """Our name -> the name in the file. Ours: user_id, item_id, timestamp, label, order; an id or
    timestamp that is not listed keeps its name. In items and users any column can be renamed."""

    keep: tuple[str, ...] | None = None
    """Columns (names in the file) to keep beside the mapped ones; None: all of items and users,
    none of interactions. Those of interactions are the context of an impression (device, page):
    keep only what is known before the label is."""

    delimiter: str | None = None
    """Field delimiter of csv (`,`) and tsv (tab), one or more characters (`::`)."""

    header: tuple[str, ...] | None = None
    """Column names of a csv or tsv without a header row."""

    encoding: Literal["utf-8", "latin-1"] = "utf-8"
    """Of csv and tsv."""

    time: str = "seconds"
    """`seconds` or `milliseconds` since 1970, `iso` (UTC unless an offset is written), or a
    strptime format such as `%m %d, %Y`. Columns of type Date and Datetime need nothing."""

    @model_validator(mode="after")
    def _check(self) -> "TableConfig":
        if self.time not in ("seconds", "milliseconds", "iso") and "%" not in self.time:
            raise ValueError(
                f"time must be seconds, milliseconds, iso or a strptime format, got '{self.time}'"
            )
        if self.delimiter == "":
            raise ValueError("delimiter must not be empty, got ''")
        return self


def find_file(config: TableConfig, data_dir: Path) -> Path:
    """The one file that `config.path` names.

    Raises:
        FileNotFoundError: none (the message names a file that looks alike).
        ValueError: a pattern that fits several files.
    """
    if any(sign in config.path for sign in "*?["):
        found = sorted(data_dir.glob(config.path))
        if len(found) > 1:
            fitting = ", ".join(p.relative_to(data_dir).as_posix() for p in found[:5])
            raise ValueError(
                f"{data_dir}: {config.path} fits {len(found)} files ({fitting}); name one of them"
            )
    else:
        found = [p for p in [data_dir / config.path] if p.is_file()]
    if found:
        return found[0]
    folder = (data_dir / config.path).parent
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    near = difflib.get_close_matches(Path(config.path).name, names, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"the folder holds: {', '.join(names[:8])}"
    raise FileNotFoundError(f"{data_dir / config.path}: no such file ({hint})")


def read_table(
    config: TableConfig, data_dir: Path, only: tuple[str, ...] | None = None
) -> pl.DataFrame:
    """Read a table and give its columns our names.

    Ids and timestamps in text formats come as text, so that "007" stays "007". A column that was
    renamed to X takes the place of one that is called X in the file.

    Args:
        config: the table.
        data_dir: what its path is relative to.
        only: our names of the columns to read; None: the mapped ones, and those of `config.keep`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unreadable, no rows, or a missing column (with the nearest name).
    """
    path = find_file(config, data_dir)
    theirs = {name: config.columns.get(name, name) for name in only or config.columns}
    if len(set(theirs.values())) < len(theirs):
        raise ValueError(f"{path}: a column is mapped twice, got columns {theirs}")
    required = [*theirs.values(), *(config.keep or ())]

    def select(present: list[str]) -> list[str]:
        for name in required:
            if name not in present:
                ours = {there: our for our, there in theirs.items() if our != there}.get(name)
                near = difflib.get_close_matches(name, present, n=1)
                hint = f"did you mean '{near[0]}'?" if near else f"it has: {', '.join(present)}"
                raise ValueError(
                    f"{path}: no column '{name}'{f' for {ours}' if ours else ''}; {hint}"
                )
        everything = only is None and config.keep is None
        return list(dict.fromkeys(present if everything else required))

    as_text = {config.columns.get(name, name): pl.String for name in _AS_TEXT}
    try:
        frame = _READERS[_format(config, path)](config, path, select, as_text)
    except (pl.exceptions.PolarsError, OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, pl.exceptions.PolarsError):
            reason = _bad_row(config, path) or reason
        raise ValueError(
            f"{path}: not readable as {_format(config, path)}: {reason}; check the file, its "
            "format, delimiter and encoding"
        ) from None
    if frame.is_empty():
        raise ValueError(f"{path}: holds no rows; give a file with data")
    renamed = {there: our for our, there in theirs.items()}
    replaced = (set(theirs) - set(renamed)) & set(frame.columns)
    return frame.drop(replaced).rename(renamed)


Select = Callable[[list[str]], list[str]]
Schema = dict[str, type[pl.String]]


def _format(config: TableConfig, path: Path) -> Format:
    if config.format is not None:
        return config.format
    suffix = Path(path.name.removesuffix(".gz")).suffix
    if suffix not in SUFFIXES:
        raise ValueError(
            f"{path}: unknown suffix '{suffix}'; set format to one of "
            f"{', '.join(dict.fromkeys(SUFFIXES.values()))}"
        )
    return SUFFIXES[suffix]


def _bad_row(config: TableConfig, path: Path) -> str | None:
    """Where a text file that polars refused is at fault; polars does not say."""
    form = _format(config, path)
    if form == "parquet":
        return None
    lines = _bytes(path).decode(config.encoding, errors="replace").splitlines()
    if form == "jsonl":
        for row, line in enumerate(filter(str.strip, lines), start=1):
            try:
                json.loads(line)
            except ValueError as error:
                return f"row {row}: {error}"
        return None
    delimiter = config.delimiter or ("," if form == "csv" else "\t")
    if len(delimiter) > 1:
        lines = [line.replace(delimiter, _UNIT_SEPARATOR) for line in lines]
        delimiter = _UNIT_SEPARATOR
    options: dict[str, Any] = {"quoting": csv.QUOTE_MINIMAL if form == "csv" else csv.QUOTE_NONE}
    widths = (len(fields) for fields in csv.reader(lines, delimiter=delimiter, **options))
    first = len(config.header) if config.header else next(widths)
    for row, width in enumerate(widths, start=1):
        if width > first:
            return f"row {row}: {width} fields, expected {first}"
    return None


def _bytes(path: Path) -> bytes:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        return file.read()


def _parquet(config: TableConfig, path: Path, select: Select, as_text: Schema) -> pl.DataFrame:
    source = io.BytesIO(_bytes(path)) if path.suffix == ".gz" else path
    return pl.read_parquet(source, columns=select(list(pl.read_parquet_schema(source))))


def _delimited(config: TableConfig, path: Path, select: Select, as_text: Schema) -> pl.DataFrame:
    quoted = _format(config, path) == "csv"
    content = _bytes(path)
    if not content.strip():
        return pl.DataFrame()
    if config.encoding != "utf-8":
        content = content.decode(config.encoding).encode()
    delimiter = config.delimiter or ("," if quoted else "\t")
    if len(delimiter.encode()) > 1:
        content = content.replace(delimiter.encode(), _UNIT_SEPARATOR.encode())
        delimiter = _UNIT_SEPARATOR
    options: dict[str, Any] = {
        "separator": delimiter,
        "quote_char": '"' if quoted else None,
        "has_header": config.header is None,
    }
    raw_names = pl.read_csv(io.BytesIO(content), n_rows=1, infer_schema=False, **options).columns
    names = raw_names if config.header is None else list(config.header)
    if len(names) != len(raw_names):
        raise ValueError(
            f"{path}: header names {len(names)} columns, the file has {len(raw_names)}"
        )
    raw_name = dict(zip(names, raw_names, strict=True))
    picked = select(names)
    frame = pl.read_csv(
        io.BytesIO(content),
        columns=[raw_name[name] for name in picked],
        infer_schema_length=None,
        schema_overrides={raw_name[name]: as_text[name] for name in picked if name in as_text},
        **options,
    )
    return frame.select(pl.col(raw_name[name]).alias(name) for name in picked)


def _jsonl(config: TableConfig, path: Path, select: Select, as_text: Schema) -> pl.DataFrame:
    content = _bytes(path)
    if not content.strip():
        return pl.DataFrame()
    frame = pl.scan_ndjson(io.BytesIO(content), infer_schema_length=None)
    schema = frame.collect_schema()
    picked = select(schema.names())
    # A schema with only these columns spares the parser the others (review texts)
    return pl.read_ndjson(
        io.BytesIO(content), schema={name: as_text.get(name, schema[name]) for name in picked}
    )


def _python(config: TableConfig, path: Path, select: Select, as_text: Schema) -> pl.DataFrame:
    rows = []
    for number, line in enumerate(_bytes(path).decode().splitlines(), start=1):
        try:
            row = ast.literal_eval(line)
        except (ValueError, SyntaxError):
            raise ValueError(f"{path}: row {number}: not a Python dict: {line[:60]}") from None
        rows.append(row)
    picked = select(list(dict.fromkeys(key for row in rows for key in row)))
    columns = {name: [row.get(name) for row in rows] for name in picked}
    return pl.DataFrame({name: pl.Series(values, strict=False) for name, values in columns.items()})


_READERS: dict[Format, Callable[[TableConfig, Path, Select, Schema], pl.DataFrame]] = {
    "parquet": _parquet,
    "csv": _delimited,
    "tsv": _delimited,
    "jsonl": _jsonl,
    "python": _python,
}
