"""Attenzione: «Attention Is All You Need», una sezione per modulo.

Ogni modulo realizza la sezione dell'articolo che porta nel nome, e sta intero sulla pagina dello
stesso nome in `paper_it/`. Da qui si importa ciò che serve per usarlo.
"""

from attention.s3_2_1_scaled_dot_product import (
    attention_weights,
    fused_attention,
    scaled_dot_product_attention,
)
from attention.s3_2_2_multi_head import MultiHeadAttention
from attention.s3_2_3_applications import causal_mask, padding_mask
from attention.s3_3_feed_forward import FeedForward
from attention.s3_4_embeddings_softmax import SharedEmbedding, log_probabilities
from attention.s3_5_positional_encoding import sinusoids
from attention.s3_model_architecture import (
    BASE,
    BIG,
    READER,
    Transformer,
    TransformerConfig,
    shift_right,
)

__all__ = [
    "BASE",
    "BIG",
    "READER",
    "FeedForward",
    "MultiHeadAttention",
    "SharedEmbedding",
    "Transformer",
    "TransformerConfig",
    "attention_weights",
    "causal_mask",
    "fused_attention",
    "log_probabilities",
    "padding_mask",
    "scaled_dot_product_attention",
    "shift_right",
    "sinusoids",
]
