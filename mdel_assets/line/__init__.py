"""The line: kinds of artifacts, what each is made from, and how one is made."""
