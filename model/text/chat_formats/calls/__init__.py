"""The ways to write calls: each is read, written and allowed by a grammar."""
