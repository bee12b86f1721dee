"""The paths: each asks one question and answers it; no SQL in them.

They are plain functions, asked inline on the loop's thread, which measured twice as fast as any hand-over,
and again in another when that takes long (``lanes``). What waits for something else is a coroutine.
"""
