"""Build the kernel tables of the package from raw timings: read, check, compress, document.

Run `make kernels`, or `python benchmarks/kernels.py REFERENCE_FOLDER`.
"""
