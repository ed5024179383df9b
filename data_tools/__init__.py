"""Reads any source (CSV, ...) and writes a dataset: a client of streamtrain.store."""
