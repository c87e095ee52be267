"""Build the kernel tables from raw timings: read, check, compress, document.

Run `make kernels`, or `python -m shardwise.kernels.ingest REFERENCE_FOLDER`.
"""
