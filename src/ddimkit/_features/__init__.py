"""How the feature networks that evaluate images are trained: ``python -m ddimkit._features.train mnist --data DIR``."""
