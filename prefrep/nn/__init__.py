"""Parts that learn: backbones, heads, skew operators, losses."""
