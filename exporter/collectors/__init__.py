"""The sources of metrics, one module each; `exporter.__main__` lists them."""
