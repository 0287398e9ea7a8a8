"""The compiled drivers: threads and cache blocks in Cython, over the kernels of src_c.

Called by fastconv.nn, and by fastconv.optimizers for the fused steps; nothing here checks its arguments.
"""
