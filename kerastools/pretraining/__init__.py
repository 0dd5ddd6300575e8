"""Learning from data without labels, so that `transfer.reuse_layers` has layers worth reusing."""

from kerastools.pretraining._gan import GAN
from kerastools.pretraining._gaussian_noise import GaussianNoise
from kerastools.pretraining._masked_tokens import MaskedTokens
from kerastools.pretraining._masking_noise import MaskingNoise
from kerastools.pretraining._pretrain_autoencoder import pretrain_autoencoder
from kerastools.pretraining._pretrain_deep_belief import pretrain_deep_belief
from kerastools.pretraining._pretrain_gan import pretrain_gan
from kerastools.pretraining._pretrain_masked_tokens import pretrain_masked_tokens
from kerastools.pretraining._restricted_boltzmann import RestrictedBoltzmann
from kerastools.pretraining._train_tokenizer import train_tokenizer
from kerastools.pretraining._transposed import Transposed

__all__ = [
    "GAN",
    "GaussianNoise",
    "MaskedTokens",
    "MaskingNoise",
    "RestrictedBoltzmann",
    "Transposed",
    "pretrain_autoencoder",
    "pretrain_deep_belief",
    "pretrain_gan",
    "pretrain_masked_tokens",
    "train_tokenizer",
]
