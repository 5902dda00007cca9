"""The slow half, done once: W = S + B·A for every Linear, in importance order (CHECKPOINT.md)."""
