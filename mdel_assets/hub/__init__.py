"""The Hugging Face Hub: credentials, names, sources, retries."""
