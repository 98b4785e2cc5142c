"""Text: BERT, its tokenisers, its data and its objectives."""
