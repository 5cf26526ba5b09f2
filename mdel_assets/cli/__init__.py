"""The command `mdel`: one module per command."""
