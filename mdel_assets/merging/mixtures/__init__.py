"""Mixtures of experts: one model whose feed-forward blocks are those of several experts."""
