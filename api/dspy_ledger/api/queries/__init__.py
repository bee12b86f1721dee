"""The questions as SQL on the read models: one module per thing asked for, no HTTP in them.

Every list is paged by key, never by offset, so that a page costs the same wherever it lies and inserts
move nothing.
"""
