"""The reference UNet, the pretrained models and the recipe that trains them."""
