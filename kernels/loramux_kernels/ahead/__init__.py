"""Kernels compiled before they are launched, all at the same time.

Triton compiles a kernel when it is first launched, in the thread that launches it: some thirty
kernels one after another. Threads would take turns, for most of that time holds the interpreter.
So the steps are rehearsed without launching anything (``rehearsal``), and a process that was
started early compiles what was asked for into Triton's cache (``compiler``), where the engine
finds it.
"""
