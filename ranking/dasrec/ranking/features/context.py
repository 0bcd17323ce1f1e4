"""The context of an impression: columns of the log, and the time."""

import polars as pl

from dasrec.ranking.features.fields import HOUR, WEEKDAY


def with_time(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame, with hour and weekday (UTC) where it has a `timestamp` in seconds."""
    if "timestamp" not in frame.columns:
        return frame
    moment = pl.from_epoch(pl.col("timestamp").cast(pl.Int64), time_unit="s")
    return frame.with_columns(moment.dt.hour().alias(HOUR), moment.dt.weekday().alias(WEEKDAY))
