"""Tuned tables: which GPU runs which tiles.

Numbers in ``lora``, ``attention`` and ``products`` were measured on an H200 and run on every GPU
of compute capability 9.0 as they stand; ``kernels/NOTES.md`` has the measurements. Other GPUs run
the same tiles as far as they fit, cut by the rule that each file states: made to fit, not measured.

| | 9.0 | 8.x and 12.x | 10.x |
|---|---|---|---|
| LoRA | measured | features of shrink halved until two stages fit | as 9.0 |
| attention | measured | fewer stages, keys, programs, rows: the first that fit | the same rule |
| products of few rows | measured | cuBLAS | cuBLAS |

Of norms, rotation, activation and what only moves data, tiles depend on a model's widths alone.
"""
