"""The paths: each asks one question and answers it; no SQL in them.

They are coroutines that never await while a question is open: SQLite is asked inline, on the loop's
thread, which measured twice as fast as any hand-over.
"""
