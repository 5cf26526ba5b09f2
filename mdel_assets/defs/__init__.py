"""The Dagster side: the only folder that imports Dagster."""
