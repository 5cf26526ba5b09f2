"""The files of a matrix: tables, Markdown, pictures."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mdel_assets.evaluation.matrix import Matrix, Row
from mdel_assets.evaluation.matrix_markdown import matrix_markdown
from mdel_assets.scoring.perplexity import rows_to_table


def write_matrix(matrix: Matrix, folder: Path) -> None:
    """Write ``perplexity.parquet``, ``perplexity_averages.parquet``, ``.md``, and two ``.png``."""
    from mdel_assets.charts import to_png
    from mdel_assets.evaluation.changes import changes_figure
    from mdel_assets.evaluation.heatmap import draw_heatmap

    pq.write_table(rows_to_table(matrix.rows), folder / "perplexity.parquet")
    pq.write_table(averages_table(matrix), folder / "perplexity_averages.parquet")
    (folder / "perplexity.md").write_text(matrix_markdown(matrix), "utf-8")
    (folder / "perplexity.png").write_bytes(draw_heatmap(matrix))
    chart = changes_figure(matrix, matrix.splits[0])
    (folder / "perplexity_changes.png").write_bytes(to_png(chart))


_AVERAGES = (
    *("model", "split", "macro_bits_per_byte", "macro_bits_per_byte_low"),
    *("macro_bits_per_byte_high", "micro_bits_per_byte", "change_from_seed"),
    *("change_from_seed_low", "change_from_seed_high"),
)


def averages_table(matrix: Matrix) -> pa.Table:
    """Return one row per model and split: averages over domains, and the change from the seed."""
    averages: list[Row] = [
        {
            "model": average.model,
            "split": average.split,
            "macro_bits_per_byte": average.macro.value,
            "macro_bits_per_byte_low": average.macro.low,
            "macro_bits_per_byte_high": average.macro.high,
            "micro_bits_per_byte": average.micro,
            "change_from_seed": average.change.value,
            "change_from_seed_low": average.change.low,
            "change_from_seed_high": average.change.high,
        }
        for average in matrix.averages
    ]
    return rows_to_table(averages, names=_AVERAGES)
