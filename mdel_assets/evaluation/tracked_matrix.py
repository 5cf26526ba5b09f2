"""The perplexity matrix as Weights & Biases shows it: a table of all rows, and the heatmap."""

import io
from typing import TYPE_CHECKING

from mdel_assets.tracking import Tracker

if TYPE_CHECKING:
    from mdel_assets.evaluation.matrix import Matrix


def track_matrix(tracker: Tracker, matrix: "Matrix", *, fingerprint: str) -> str | None:
    """Log the matrix as a separate run; return the run's address if it is online."""
    name = f"matrix-{fingerprint[:12]}"
    with tracker.run(name, run_id=name, job_type="evaluation") as run:
        if run is None:
            return None
        import wandb
        from PIL import Image

        from mdel_assets.evaluation.heatmap import draw_heatmap

        columns = list(matrix.rows[0])
        data = [[row[column] for column in columns] for row in matrix.rows]
        picture = Image.open(io.BytesIO(draw_heatmap(matrix)))
        averages = {
            f"bits_per_byte/{average.split}/{average.model}": average.macro.value
            for average in matrix.averages
        }
        table = wandb.Table(columns=columns, data=data)
        run.log({"perplexity": table, "heatmap": wandb.Image(picture), **averages})
        return str(run.url) if tracker.mode == "online" else None
