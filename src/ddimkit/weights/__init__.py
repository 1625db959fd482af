"""Files of tensors: their format, pieces of large ones, and the hashes of those that lie beside the package."""
