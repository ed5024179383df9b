"""streamtrain trains models on data larger than memory, on the CPU, from disk."""

__version__ = "0.1.0"
