"""How networks are trained here, whatever they learn: the trainer, its checkpoints, its pace."""
